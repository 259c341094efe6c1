package pinentry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/keyringd/keyringd/internal/assuan"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/prompt"
)

// A Program is a [prompt.Prompter] that runs a pinentry program for each
// question. Its fields may not be changed once it is used.
//
// A program that knows an option "keyringd-kind" is given the question's parts
// as further options, keyringd-subject, -fingerprint, -host, -host-warning,
// -through, -reason, -caller, -warning, -retry, -left, -pin, -remember (in
// seconds), -terms and -automatic, beside the texts every pinentry gets. It may
// say before its answer, on status lines, KEYRINGD_TERM with once, for-a-while or
// until-lock, and KEYRINGD_AUTOMATIC, where that was offered.
//
// A program that cannot be started, dies, talks nonsense, or finds no place to
// show a question is an [prompt.ErrUnavailable]; a question that was closed,
// refused or not answered in time an [prompt.ErrDismissed].
type Program struct {
	Path    string        // the executable
	Args    []string      // further arguments
	Environ []string      // the environment to take the child's from, as os.Environ returns it
	TTY     string        // a terminal that the program may use; "": none
	Timeout time.Duration // how long a question stays; 0: DefaultTimeout
	Log     *slog.Logger  // what a failing program said on standard error; nil: nowhere

	Starter spawn.Starter // who starts it; nil: this process

	standby *standby // keeps it ready between questions; nil: it is started for each
}

var (
	errNotReady  = fmt.Errorf("%w: the program did not get ready in time", prompt.ErrUnavailable)
	errNoAnswer  = fmt.Errorf("%w: not answered in time", prompt.ErrDismissed)
	errOutOfStep = fmt.Errorf("%w: the program answers what it was not asked", prompt.ErrUnavailable)
	errNeverSame = fmt.Errorf("%w: repeated wrongly %d times", prompt.ErrDismissed, maxRounds)
)

// Prompt implements [prompt.Prompter].
func (p *Program) Prompt(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	restore := func() {}
	if p.TTY != "" {
		var err error
		if restore, err = keepTTY(p.TTY); err != nil {
			return prompt.Answer{}, fmt.Errorf("%w: terminal: %w", prompt.ErrUnavailable, err)
		}
	} else if needsTTY(p.Path) {
		// pinentry-tty would take the protocol itself for the user's typing.
		return prompt.Answer{}, fmt.Errorf("%w: %s needs a terminal", prompt.ErrUnavailable, p.Path)
	}
	a, err := p.ask(ctx, q)
	restore()
	if !errors.Is(err, prompt.ErrUnavailable) {
		p.standby.prepare(p)
	}
	return a, err
}

// Close ends what is kept ready for the next question. It is not needed where
// the process ends.
func (p *Program) Close() error {
	p.standby.close()
	return nil
}

// ask puts q to the program that waits for it, if there is one, and to a new one
// if that cannot show it.
func (p *Program) ask(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	if w := p.standby.take(p); w != nil {
		a, err := p.talk(q, standbyReadyWithin, func(talk func(*child) error) (string, error) { return w.run(ctx, talk) })
		if !errors.Is(err, prompt.ErrUnavailable) {
			return a, err
		}
	}
	return p.talk(q, readyWithin, func(talk func(*child) error) (string, error) {
		return run(ctx, p.Starter, p.command(), true, talk)
	})
}

// command is what runs the program.
func (p *Program) command(flags ...string) spawn.Command {
	return spawn.Command{Kind: KindPinentry, Path: p.Path, Args: append(flags, p.Args...), Env: filter(p.Environ)}
}

// talk puts q to a program that run runs.
func (p *Program) talk(q prompt.Question, ready time.Duration, run func(func(*child) error) (string, error)) (prompt.Answer, error) {
	var a prompt.Answer
	stderr, err := run(func(c *child) error {
		d := dialog{p: p, c: c, q: q, ready: ready, cl: assuan.NewClient(c.stdout, c.stdin)}
		defer d.cl.Close()
		defer func() { a = d.answer }()
		var err error
		d.answer.Passphrase, err = d.run()
		return err
	})
	if err != nil {
		a.Passphrase.Wipe()
		report(p.Log, p.Path, stderr, err)
		return prompt.Answer{}, err
	}
	return a, nil
}

// report logs what a program that could not ask said about it.
func report(log *slog.Logger, path, stderr string, err error) {
	if log != nil && stderr != "" && errors.Is(err, prompt.ErrUnavailable) {
		log.Warn("prompt program failed", "program", path, "stderr", fmt.Sprintf("%q", stderr))
	}
}

func (p *Program) timeout() time.Duration {
	if p.Timeout > 0 {
		return p.Timeout
	}
	return DefaultTimeout
}

// A dialog is one question put to one run of a program.
type dialog struct {
	p        *Program
	c        *child
	q        prompt.Question
	cl       *assuan.Client
	ready    time.Duration // it may take to get ready
	rich     bool          // the program knows a question's parts
	repeated bool          // the program itself asked for the passphrase twice
	answer   prompt.Answer
}

func (d *dialog) run() (secret.Bytes, error) {
	stop := d.c.within(d.ready, errNotReady)
	d.cl.Status = d.status
	err := d.prepare()
	stop()
	if err != nil {
		return secret.Bytes{}, outcome(err)
	}
	t := d.p.timeout()
	stop = d.c.within(t+min(t, timeoutGrace), errNoAnswer)
	defer stop()
	pin, err := d.ask()
	if err != nil {
		return secret.Bytes{}, outcome(err)
	}
	if err := d.bye(); err != nil {
		pin.Wipe()
		return secret.Bytes{}, err
	}
	return pin, nil
}

// bye ends the conversation. How a program that has answered says goodbye is its
// own affair. But one that once said more than it was asked for is a reply ahead:
// then what looked like the user's answer was none, and that comes only now.
func (d *dialog) bye() error {
	data, err := d.cl.Do("BYE")
	late := data.Len() > 0
	data.Wipe()
	var e *assuan.Error
	switch {
	case errors.As(err, &e):
		if err := outcome(err); errors.Is(err, prompt.ErrDismissed) {
			return err
		}
	case late || errors.Is(err, assuan.ErrProtocol):
		return errOutOfStep
	case err != nil && d.c.crashed():
		return fmt.Errorf("%w: the program crashed", prompt.ErrUnavailable)
	}
	return nil
}

// status takes what a program says beside its answer. What it was not offered,
// it cannot choose.
func (d *dialog) status(keyword, text string) {
	switch keyword {
	case "PIN_REPEATED":
		d.repeated = true
	case "KEYRINGD_TERM":
		if term, ok := terms()[text]; ok && d.rich && d.q.Terms {
			d.answer.Term, d.answer.Chosen = term, true
		}
	case "KEYRINGD_AUTOMATIC":
		d.answer.Automatic = d.rich && d.q.Automatic
	}
}

// terms are the words for a term on a status line.
func terms() map[string]prompt.Term {
	return map[string]prompt.Term{"once": prompt.Once, "for-a-while": prompt.ForAWhile, "until-lock": prompt.UntilLock}
}

// outcome says what a failed command means.
func outcome(err error) error {
	var e *assuan.Error
	if errors.As(err, &e) {
		switch e.Reason() {
		case assuan.CodeCanceled, assuan.CodeFullyCanceled, assuan.CodeNotConfirmed:
			return prompt.ErrDismissed
		case assuan.CodeTimeout:
			return errNoAnswer
		}
	}
	if errors.Is(err, prompt.ErrDismissed) || errors.Is(err, prompt.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: prompt program: %w", prompt.ErrUnavailable, err)
}

// try sends a command that the program need not know.
func (d *dialog) try(command string) (known bool, err error) {
	data, err := d.cl.Do(command)
	data.Wipe()
	var e *assuan.Error
	if errors.As(err, &e) {
		return false, nil
	}
	return err == nil, err
}

// tryAll sends commands that the program need not know.
func (d *dialog) tryAll(commands ...string) error {
	for _, c := range commands {
		if _, err := d.try(c); err != nil {
			return err
		}
	}
	return nil
}

// set returns a command that sets a text, and is never too long.
func set(command, text string) string {
	return command + " " + assuan.Escape(fit(text, assuan.MaxLine-len(command)-1))
}

// prepare tells the program all but the question itself.
func (d *dialog) prepare() error {
	if err := d.cl.Greeting(); err != nil {
		return err
	}
	if err := d.options(); err != nil {
		return err
	}
	var err error
	d.rich, err = d.try(set("OPTION", "keyringd-kind="+kindName(d.q.Kind)))
	if err == nil && d.rich {
		err = d.parts()
	}
	if err != nil {
		return err
	}
	if err := d.tryAll(
		"SETTITLE keyringd",
		fmt.Sprintf("SETTIMEOUT %d", int(max(d.p.timeout(), time.Second)/time.Second)),
	); err != nil {
		return err
	}
	// A program that cannot say what is asked for must not ask.
	if _, err := d.cl.Do(set("SETDESC", describe(d.q))); err != nil {
		return fmt.Errorf("SETDESC: %v: %w", err, prompt.ErrUnavailable)
	}
	switch d.q.Kind {
	case prompt.Confirm:
		return d.tryAll("SETOK _Allow", "SETCANCEL _Deny")
	case prompt.Notice:
		return nil
	}
	if err := d.tryAll(set("SETPROMPT", label(d.q))); err != nil {
		return err
	}
	if s := d.q.Wrong(); s != "" {
		return d.tryAll(set("SETERROR", s))
	}
	return nil
}

// options tells the program where it is.
func (d *dialog) options() error {
	env := d.p.Environ
	opts := [][2]string{
		{"grab", ""},
		{"display", lookup(env, "DISPLAY")},
		{"ttyname", d.p.TTY},
		{"ttytype", lookup(env, "TERM")},
		{"lc-ctype", locale(env, "LC_CTYPE")},
		{"lc-messages", locale(env, "LC_MESSAGES")},
		{"default-ok", "_OK"},
		{"default-cancel", "_Cancel"},
		{"default-prompt", label(d.q)},
	}
	if host, err := os.Hostname(); err == nil {
		opts = append(opts, [2]string{"owner", fmt.Sprintf("%d/%d %s", os.Getpid(), os.Getuid(), host)})
	}
	for _, o := range opts {
		text := o[0]
		switch {
		case o[1] != "":
			text += "=" + o[1]
		case o[0] != "grab":
			continue
		}
		if _, err := d.try(set("OPTION", text)); err != nil {
			return err
		}
	}
	return nil
}

// locale returns a locale category as setlocale(3) finds it.
func locale(environ []string, category string) string {
	for _, name := range []string{"LC_ALL", category, "LANG"} {
		if v := lookup(environ, name); v != "" {
			return v
		}
	}
	return ""
}

// kindName is a kind's name in the option keyringd-kind.
func kindName(k prompt.Kind) string {
	switch k {
	case prompt.NewPassphrase:
		return "new-passphrase"
	case prompt.Confirm:
		return "confirm"
	case prompt.Notice:
		return "notice"
	}
	return "passphrase"
}

// parts sends the question's parts to a program that wants them.
func (d *dialog) parts() error {
	flag := func(b bool) string {
		if b {
			return "1"
		}
		return ""
	}
	number := func(n int) string {
		if n > 0 {
			return strconv.Itoa(n)
		}
		return ""
	}
	for _, o := range [][2]string{
		{"subject", d.q.Subject},
		{"fingerprint", d.q.Fingerprint},
		{"host", d.q.Host},
		{"host-warning", d.q.HostWarning},
		{"through", d.q.Through},
		{"reason", d.q.Reason},
		{"caller", d.q.Caller},
		{"warning", d.q.Warning},
		{"retry", flag(d.q.Retry)},
		{"left", number(d.q.Left)},
		{"pin", flag(d.q.PIN)},
		{"remember", number(int(d.q.Remember / time.Second))},
		{"terms", flag(d.q.Terms)},
		{"automatic", flag(d.q.Automatic)},
	} {
		if o[1] == "" {
			continue
		}
		if _, err := d.try(set("OPTION", "keyringd-"+o[0]+"="+o[1])); err != nil {
			return err
		}
	}
	return nil
}

// ask shows the question and waits for its answer.
func (d *dialog) ask() (secret.Bytes, error) {
	switch d.q.Kind {
	case prompt.Confirm:
		data, err := d.cl.Do("CONFIRM")
		data.Wipe()
		return secret.Bytes{}, err
	case prompt.Notice:
		return secret.Bytes{}, d.notice()
	case prompt.NewPassphrase:
		return d.choose()
	}
	return d.cl.Do("GETPIN")
}

// notice shows the question. However it is closed, it was seen.
func (d *dialog) notice() error {
	var e *assuan.Error
	for _, command := range []string{"MESSAGE", "CONFIRM --one-button"} {
		data, err := d.cl.Do(command)
		data.Wipe()
		if errors.As(err, &e) && e.Reason() == assuan.CodeUnknownCommand {
			continue
		}
		if err != nil && errors.Is(outcome(err), prompt.ErrDismissed) {
			return nil
		}
		return err
	}
	return e
}

// choose lets the user choose a passphrase and repeat it.
func (d *dialog) choose() (secret.Bytes, error) {
	for range maxRounds {
		if err := d.tryAll("SETREPEAT Repeat:", set("SETREPEATERROR", unequal(d.q))); err != nil {
			return secret.Bytes{}, err
		}
		first, err := d.cl.Do("GETPIN")
		if err != nil || d.repeated {
			return first, err
		}
		// A program that does not know SETREPEAT asks again.
		again, err := d.repeat()
		if err == nil && again.Equal(first) {
			again.Wipe()
			return first, nil
		}
		again.Wipe()
		first.Wipe()
		if err != nil {
			return secret.Bytes{}, err
		}
		if err := d.tryAll(set("SETDESC", describe(d.q)), set("SETERROR", unequal(d.q))); err != nil {
			return secret.Bytes{}, err
		}
	}
	return secret.Bytes{}, errNeverSame
}

func (d *dialog) repeat() (secret.Bytes, error) {
	if err := d.tryAll(set("SETDESC", "Repeat the new "+d.q.Word()+" for:\n"+fit(d.q.Subject, maxFields[0]))); err != nil {
		return secret.Bytes{}, err
	}
	return d.cl.Do("GETPIN")
}
