package ask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/keyringd/keyringd/internal/assuan"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

// Settings are what flags set at the start and options may change.
type Settings struct {
	Display    string // X11; "": as in the environment
	TTYName    string
	TTYType    string
	LCCType    string
	LCMessages string
	Timeout    time.Duration // of a question; 0: none
	Grab       bool          // the keyboard
	ParentWID  uint64        // the window that asks; 0: not known
}

// A Server is a pinentry program: it carries out the commands of GnuPG's
// pinentry manual, "Protocol", for as many questions as the client has.
type Server struct {
	Screen   Screen
	Settings Settings // from the command line
	Version  string   // of this program
	PID      int
	// Applied is called with the settings that count before each question is
	// shown; nil: nobody wants to know.
	Applied func(Settings)

	set      Settings
	q        Question // as it has been described so far
	defaults defaults
	parts    Parts
	kind     string // keyringd-kind
	enforce  bool   // constraints-enforce
}

// defaults are the labels that a client sets once, in its user's language.
type defaults struct{ ok, cancel, prompt string }

// Serve carries out commands until BYE or the end of input, where it returns
// nil, or an error of the transport. The end of ctx takes a question off the
// screen.
func (s *Server) Serve(ctx context.Context, r io.Reader, w io.Writer) error {
	s.set = s.Settings
	text := func(field *string) assuan.Handler {
		return func(r *assuan.Request) error {
			*field = r.Arg
			return nil
		}
	}
	// A text that is set empty is shown as a default, as pinentry does.
	or := func(field *string, fallback string) assuan.Handler {
		return func(r *assuan.Request) error {
			if *field = r.Arg; r.Arg == "" {
				*field = fallback
			}
			return nil
		}
	}
	ignore := func(*assuan.Request) error { return nil }
	return assuan.NewServer(r, w, map[string]assuan.Handler{
		"SETDESC":          text(&s.q.Text),
		"SETPROMPT":        text(&s.q.Label),
		"SETTITLE":         text(&s.q.Title),
		"SETERROR":         text(&s.q.Error),
		"SETOK":            text(&s.q.OK),
		"SETNOTOK":         text(&s.q.NotOK),
		"SETCANCEL":        text(&s.q.Cancel),
		"SETREPEAT":        or(&s.q.RepeatLabel, "Repeat:"),
		"SETREPEATERROR":   text(&s.q.RepeatError),
		"SETREPEATOK":      text(&s.q.RepeatOK),
		"SETQUALITYBAR":    or(&s.q.QualityLabel, "Quality:"),
		"SETQUALITYBAR_TT": text(&s.q.QualityHint),
		"SETGENPIN":        or(&s.q.Generate, "Suggest"),
		"SETGENPIN_TT":     text(&s.q.GenerateHint),
		"SETKEYINFO":       ignore, // nothing is remembered from one run to the next
		"CLEARPASSPHRASE":  ignore,
		"SETTIMEOUT":       s.timeout,
		"OPTION":           s.option,
		"GETINFO":          s.info,
		"HELP":             help,
		"RESET":            s.reset,
		"GETPIN":           func(r *assuan.Request) error { return s.pin(ctx, r) },
		"CONFIRM":          func(r *assuan.Request) error { return s.confirm(ctx, r, prompt.Confirm) },
		"MESSAGE":          func(r *assuan.Request) error { return s.confirm(ctx, r, prompt.Notice) },
	}).Serve("Pleased to meet you")
}

func (s *Server) reset(*assuan.Request) error {
	s.q, s.parts, s.kind, s.set.Timeout = Question{}, Parts{}, "", s.Settings.Timeout
	return nil
}

func (s *Server) timeout(r *assuan.Request) error {
	n, err := strconv.ParseUint(strings.TrimSpace(r.Arg), 10, 31)
	if err != nil {
		return assuan.Errorf(assuan.CodeParameter, "not a number of seconds")
	}
	s.set.Timeout = time.Duration(n) * time.Second
	return nil
}

// option keeps what is of use here. Options that only concern terminals, or a
// password store of the desktop, which is not used, are known and do nothing.
func (s *Server) option(r *assuan.Request) error {
	name, value := splitOption(r.Arg)
	if part, ok := strings.CutPrefix(name, "keyringd-"); ok {
		return s.part(part, value)
	}
	switch name {
	case "grab":
		s.set.Grab = true
	case "no-grab":
		s.set.Grab = false
	case "display":
		s.set.Display = value
	case "ttyname":
		s.set.TTYName = value
	case "ttytype":
		s.set.TTYType = value
	case "lc-ctype":
		s.set.LCCType = value
	case "lc-messages":
		s.set.LCMessages = value
	case "parent-wid":
		wid, err := strconv.ParseUint(value, 0, 64)
		if err != nil {
			return assuan.Errorf(assuan.CodeParameter, "not a window")
		}
		s.set.ParentWID = wid
	case "default-ok":
		s.defaults.ok = value
	case "default-cancel":
		s.defaults.cancel = value
	case "default-prompt":
		s.defaults.prompt = value
	case "constraints-enforce":
		s.enforce = true
	case "constraints-hint-short":
		s.q.Hint = value
	case "constraints-hint-long":
		s.q.HintLong = value
	case "constraints-error-title":
		s.q.ErrorTitle = value
	case "debug-wait", "owner", "ttyalert", "touch-file", "invisible-char", "default-pwmngr", "default-cf-visi",
		"default-tt-visi", "default-tt-hide", "default-capshint", "allow-external-password-cache",
		"allow-emacs-prompt", "formatted-passphrase", "formatted-passphrase-hint":
	default:
		return assuan.Errorf(assuan.CodeUnknownOption, "unknown option")
	}
	return nil
}

// splitOption splits "name = value" and "--name value".
func splitOption(arg string) (name, value string) {
	arg = strings.TrimPrefix(strings.TrimLeft(arg, " \t"), "--")
	if i := strings.IndexAny(arg, "= \t"); i >= 0 {
		name, value = arg[:i], strings.TrimLeft(arg[i:], " \t")
		value = strings.TrimLeft(strings.TrimPrefix(value, "="), " \t")
		return name, value
	}
	return arg, ""
}

// part keeps one of the facts that keyringd tells. One that this version does
// not know is no error: the text that every pinentry gets says it as well.
func (s *Server) part(name, value string) error {
	p := &s.parts
	switch name {
	case "kind":
		s.kind, s.parts = value, Parts{Known: true}
	case "subject":
		p.Subject = value
	case "host":
		p.Host = value
	case "host-warning":
		p.HostWarning = value
	case "through":
		p.Through = value
	case "fingerprint":
		p.Fingerprint = value
	case "reason":
		p.Reason = value
	case "caller":
		p.Caller = value
	case "warning":
		p.Warning = value
	case "retry":
		p.Retry = value == "1"
	case "pin":
		p.PIN = value == "1"
	case "terms":
		p.Terms = value == "1"
	case "automatic":
		p.Automatic = value == "1"
	case "left", "remember":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return assuan.Errorf(assuan.CodeParameter, "not a number")
		}
		if name == "left" {
			p.Left = int(n)
		} else {
			p.Remember = time.Duration(n) * time.Second
		}
	}
	return nil
}

func (s *Server) info(r *assuan.Request) error {
	dash := func(text string) string {
		if text == "" {
			return "-"
		}
		return text
	}
	switch strings.TrimSpace(r.Arg) {
	case "version":
		return say(r, s.Version)
	case "pid":
		return say(r, strconv.Itoa(s.PID))
	case "flavor":
		return say(r, "keyring-ui")
	case "ttyinfo":
		// Terminal, its type, display, and modes that only a terminal has.
		return say(r, fmt.Sprintf("%s %s %s - - -", dash(s.set.TTYName), dash(s.set.TTYType), dash(s.set.Display)))
	}
	return assuan.Errorf(assuan.CodeParameter, "unknown item")
}

func help(r *assuan.Request) error {
	for _, c := range []string{
		"NOP", "OPTION", "BYE", "RESET", "HELP", "SETDESC", "SETPROMPT", "SETKEYINFO", "SETREPEAT", "SETREPEATOK",
		"SETREPEATERROR", "SETERROR", "SETOK", "SETNOTOK", "SETCANCEL", "GETPIN", "CONFIRM", "MESSAGE",
		"SETQUALITYBAR", "SETQUALITYBAR_TT", "SETGENPIN", "SETGENPIN_TT", "GETINFO", "SETTITLE", "SETTIMEOUT",
		"CLEARPASSPHRASE",
	} {
		if err := r.Comment(c); err != nil {
			return err
		}
	}
	return nil
}

// pin is GETPIN.
func (s *Server) pin(ctx context.Context, r *assuan.Request) error {
	q := s.question(prompt.Passphrase)
	a, err := s.show(ctx, r, q)
	// pinentry's manual: these are for one GETPIN.
	s.q.Error, s.q.RepeatLabel, s.q.QualityLabel, s.q.Generate = "", "", "", ""
	if err != nil {
		return err
	}
	defer a.Passphrase.Wipe()
	if a.Action != Accepted {
		return refusal(r, a.Action)
	}
	if err := wishes(r, q, a); err != nil {
		return err
	}
	if a.Repeated {
		if err := r.Status("PIN_REPEATED", ""); err != nil {
			return err
		}
	}
	return r.Data(a.Passphrase)
}

// confirm is CONFIRM and MESSAGE.
func (s *Server) confirm(ctx context.Context, r *assuan.Request, kind prompt.Kind) error {
	q := s.question(kind)
	q.OneButton = kind == prompt.Notice || strings.Contains(r.Arg, "--one-button")
	if q.OneButton {
		q.Kind = prompt.Notice
	}
	a, err := s.show(ctx, r, q)
	s.q.Error = ""
	a.Passphrase.Wipe()
	switch {
	case err != nil:
		return err
	case q.OneButton: // however it is closed, it was seen
		return nil
	case a.Action == Accepted:
		return wishes(r, q, a)
	}
	return refusal(r, a.Action)
}

// wishes tells keyringd what was chosen beside the answer, on status lines. An
// asker that offered nothing hears nothing.
func wishes(r *assuan.Request, q Question, a Answer) error {
	if q.Terms {
		term := [...]string{prompt.Once: "once", prompt.ForAWhile: "for-a-while", prompt.UntilLock: "until-lock"}[a.Term]
		if err := r.Status("KEYRINGD_TERM", term); err != nil {
			return err
		}
	}
	if q.Automatic && a.Automatic {
		return r.Status("KEYRINGD_AUTOMATIC", "")
	}
	return nil
}

// refusal is the error for a question that was not accepted.
func refusal(r *assuan.Request, a Action) error {
	switch a {
	case Refused:
		return assuan.Errorf(assuan.CodeNotConfirmed, "Not confirmed <keyring-ui>")
	case Closed:
		if err := r.Status("BUTTON_INFO", "close"); err != nil {
			return err
		}
	}
	return assuan.Errorf(assuan.CodeCanceled, "Operation cancelled <keyring-ui>")
}

// question puts together what was said for a command.
func (s *Server) question(kind prompt.Kind) Question {
	q := s.q
	q.Kind = kind
	if q.OK == "" {
		q.OK = s.defaults.ok
	}
	if q.Cancel == "" {
		q.Cancel = s.defaults.cancel
	}
	if q.Label == "" {
		q.Label = s.defaults.prompt
	}
	if kind == prompt.Passphrase && q.RepeatLabel != "" {
		q.Kind = prompt.NewPassphrase
	}
	// The facts are those of one kind of question. A client that asks for
	// something else has told them of another one.
	if s.parts.Known && s.kind == kindName(q.Kind) {
		q.Parts = s.parts
	}
	return q
}

// kindName is a kind's name in the option keyringd-kind.
func kindName(k prompt.Kind) string {
	return [...]string{"passphrase", "new-passphrase", "confirm", "notice"}[k]
}

// show shows q for as long as it may stay.
func (s *Server) show(ctx context.Context, r *assuan.Request, q Question) (Answer, error) {
	if s.Applied != nil {
		s.Applied(s.set)
	}
	within := ctx
	if s.set.Timeout > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, s.set.Timeout)
		defer cancel()
	}
	h := helper{r: r}
	defer h.close()
	a, err := s.Screen.Show(within, q, h.offer(q, s.enforce))
	if err == nil {
		return a, nil
	}
	a.Passphrase.Wipe()
	switch {
	case errors.Is(err, ErrNoScreen):
		// A client that hears "cancelled" would not ask anybody else.
		return Answer{}, assuan.Errorf(assuan.CodeGeneral, "%v <keyring-ui>", err)
	case errors.Is(err, context.DeadlineExceeded):
		return Answer{}, assuan.Errorf(assuan.CodeTimeout, "Timeout <keyring-ui>")
	}
	return Answer{}, assuan.Errorf(assuan.CodeCanceled, "Operation cancelled <keyring-ui>")
}

// say replies with a text that is no secret.
func say(r *assuan.Request, text string) error {
	b := secret.Copy([]byte(text))
	defer b.Wipe()
	return r.Data(b)
}
