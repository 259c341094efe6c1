package ask

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

// user is a Screen that answers as the test says.
type user struct {
	seen   []Question
	answer func(ctx context.Context, q Question, h Helpers) (Answer, error)
}

func (u *user) Show(ctx context.Context, q Question, h Helpers) (Answer, error) {
	u.seen = append(u.seen, q)
	return u.answer(ctx, q, h)
}

func types(pin string) func(context.Context, Question, Helpers) (Answer, error) {
	return func(_ context.Context, q Question, _ Helpers) (Answer, error) {
		return Answer{Action: Accepted, Passphrase: secret.Copy([]byte(pin)), Repeated: q.Kind == prompt.NewPassphrase}, nil
	}
}

func does(a Action) func(context.Context, Question, Helpers) (Answer, error) {
	return func(context.Context, Question, Helpers) (Answer, error) { return Answer{Action: a}, nil }
}

// dialogue sends the lines and returns all that came back after the greeting,
// without the plain OK of commands that only set something.
func dialogue(t *testing.T, u *user, lines ...string) []string {
	t.Helper()
	s := &Server{Screen: u, Settings: Settings{Grab: true}, Version: "1.2", PID: 7}
	var out bytes.Buffer
	if err := s.Serve(t.Context(), strings.NewReader(strings.Join(lines, "\n")+"\n"), &out); err != nil {
		t.Fatal(err)
	}
	var said []string
	for line := range strings.Lines(out.String()) {
		if line = strings.TrimSuffix(line, "\n"); line != "OK" && !strings.HasPrefix(line, "OK ") {
			said = append(said, line)
		}
	}
	return said
}

func want(t *testing.T, got []string, lines ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(lines, "\n") {
		t.Errorf("said\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

func TestPIN(t *testing.T) {
	u := &user{answer: types("a%b \\é1😀")}
	want(t, dialogue(t, u, "SETDESC Line one%0Aline%20two", "SETPROMPT PIN:", "SETERROR Bad", "SETTITLE T", "SETOK _Go", "GETPIN"),
		"D a%25b %5Cé1😀")
	q := Question{Kind: prompt.Passphrase, Text: "Line one\nline two", Label: "PIN:", Error: "Bad", Title: "T", OK: "_Go"}
	if !reflect.DeepEqual(u.seen, []Question{q}) {
		t.Errorf("asked %+v, want %+v", u.seen, q)
	}
}

// A passphrase that needs more than one line of the protocol.
func TestLongPassphrase(t *testing.T) {
	pass := strings.Repeat("%", 700)
	var got string
	for _, line := range dialogue(t, &user{answer: types(pass)}, "GETPIN") {
		if len(line) > 1000 {
			t.Errorf("a line of %d bytes", len(line))
		}
		got += strings.TrimPrefix(line, "D ")
	}
	if got != strings.Repeat("%25", 700) {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestSeveralQuestions(t *testing.T) {
	n := 0
	u := &user{answer: func(ctx context.Context, q Question, h Helpers) (Answer, error) {
		n++
		return types(fmt.Sprint("pin", n))(ctx, q, h)
	}}
	want(t, dialogue(t, u, "SETDESC one", "SETERROR wrong", "SETREPEAT", "SETQUALITYBAR", "GETPIN", "GETPIN", "RESET", "GETPIN"),
		"S PIN_REPEATED", "D pin1", "D pin2", "D pin3")
	first, second, third := u.seen[0], u.seen[1], u.seen[2]
	if first.Kind != prompt.NewPassphrase || first.RepeatLabel != "Repeat:" || first.QualityLabel != "Quality:" || first.Error != "wrong" {
		t.Errorf("first %+v", first)
	}
	if second.Kind != prompt.Passphrase || second.RepeatLabel+second.QualityLabel+second.Error != "" || second.Text != "one" {
		t.Errorf("what is for one question stayed: %+v", second)
	}
	if third.Text != "" {
		t.Errorf("RESET kept %+v", third)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		command string
		action  Action
		want    []string
	}{
		{"GETPIN", Cancelled, []string{"ERR 83886179 Operation cancelled <keyring-ui>"}},
		{"GETPIN", Closed, []string{"S BUTTON_INFO close", "ERR 83886179 Operation cancelled <keyring-ui>"}},
		{"CONFIRM", Accepted, nil},
		{"CONFIRM", Refused, []string{"ERR 83886194 Not confirmed <keyring-ui>"}},
		{"CONFIRM", Cancelled, []string{"ERR 83886179 Operation cancelled <keyring-ui>"}},
		{"CONFIRM --one-button", Closed, nil},
		{"MESSAGE", Cancelled, nil},
	} {
		t.Run(fmt.Sprint(c.command, c.action), func(t *testing.T) {
			want(t, dialogue(t, &user{answer: does(c.action)}, c.command), c.want...)
		})
	}
}

// No screen is not the same as a user who says no.
func TestNoScreen(t *testing.T) {
	u := &user{answer: func(context.Context, Question, Helpers) (Answer, error) {
		return Answer{}, fmt.Errorf("%w: no display", ErrNoScreen)
	}}
	for _, command := range []string{"GETPIN", "CONFIRM", "MESSAGE"} {
		want(t, dialogue(t, u, command), "ERR 83886081 cannot open a window: no display <keyring-ui>")
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &user{answer: func(ctx context.Context, _ Question, _ Helpers) (Answer, error) {
			<-ctx.Done()
			return Answer{}, ctx.Err()
		}}
		start := time.Now()
		want(t, dialogue(t, u, "SETTIMEOUT 30", "GETPIN"), "ERR 83886142 Timeout <keyring-ui>")
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestInfoAndErrors(t *testing.T) {
	want(t, dialogue(t, &user{}, "GETINFO version", "GETINFO pid", "GETINFO flavor",
		"OPTION ttyname=/dev/pts/1", "OPTION ttytype xterm", "OPTION --display = :5", "GETINFO ttyinfo",
		"GETINFO nothing", "OPTION nothing", "OPTION parent-wid=x", "SETTIMEOUT soon", "NONSENSE", "SETDESC %zz",
		"OPTION keyringd-left=many", "OPTION keyringd-of-the-future=1", "OPTION no-grab", "OPTION owner=1/2 host", "SETKEYINFO u/X", "CLEARPASSPHRASE", "NOP"),
		"D 1.2", "D 7", "D keyring-ui", "D /dev/pts/1 xterm :5 - - -",
		"ERR 83886360 unknown item", "ERR 83886254 unknown option", "ERR 83886360 not a window", "ERR 83886360 not a number of seconds",
		"ERR 83886355 unknown command", "ERR 83886360 malformed command", "ERR 83886360 not a number")
	if lines := dialogue(t, &user{}, "HELP"); len(lines) < 20 || lines[0] != "# NOP" {
		t.Errorf("help: %q", lines)
	}
}

func TestSettings(t *testing.T) {
	var got Settings
	s := &Server{Screen: &user{answer: does(Cancelled)}, Settings: Settings{Grab: true, Display: ":1", Timeout: time.Minute},
		Applied: func(set Settings) { got = set }}
	if err := s.Serve(t.Context(), strings.NewReader("OPTION no-grab\nOPTION lc-messages=de_DE.UTF-8\nOPTION parent-wid=0x20\nGETPIN\n"), io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := (Settings{Display: ":1", Timeout: time.Minute, LCMessages: "de_DE.UTF-8", ParentWID: 32}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// What keyringd tells is for the kind of question that it told it of.
func TestFacts(t *testing.T) {
	u := &user{answer: types("1")}
	dialogue(t, u, "OPTION keyringd-kind=passphrase", "OPTION keyringd-subject=my key", "OPTION keyringd-caller=ssh (1) ← git",
		"OPTION keyringd-host=h", "OPTION keyringd-fingerprint=SHA256:x", "OPTION keyringd-reason=sign in", "OPTION keyringd-warning=w",
		"OPTION keyringd-retry=1", "OPTION keyringd-left=2", "OPTION keyringd-pin=1", "OPTION keyringd-remember=600",
		"OPTION keyringd-host-warning=hw", "OPTION keyringd-through=gw", "OPTION keyringd-terms=1", "OPTION keyringd-automatic=1",
		"GETPIN", "CONFIRM", "OPTION keyringd-kind=confirm", "CONFIRM")
	full := Parts{Known: true, Subject: "my key", Caller: "ssh (1) ← git", Host: "h", Fingerprint: "SHA256:x", Reason: "sign in",
		Warning: "w", Retry: true, Left: 2, PIN: true, Remember: 10 * time.Minute, HostWarning: "hw", Through: "gw", Terms: true, Automatic: true}
	for i, want := range []Parts{full, {}, {Known: true}} {
		if u.seen[i].Parts != want {
			t.Errorf("question %d: %+v, want %+v", i, u.seen[i].Parts, want)
		}
	}
}

// What was chosen beside the answer goes before it, to an asker that offered the
// choice and to no other.
func TestWishes(t *testing.T) {
	chooses := func(term prompt.Term, automatic bool) *user {
		return &user{answer: func(context.Context, Question, Helpers) (Answer, error) {
			return Answer{Action: Accepted, Passphrase: secret.Copy([]byte("1")), Term: term, Automatic: automatic}, nil
		}}
	}
	pass := []string{"OPTION keyringd-kind=passphrase", "OPTION keyringd-terms=1", "OPTION keyringd-automatic=1"}
	confirm := []string{"OPTION keyringd-kind=confirm", "OPTION keyringd-terms=1"}
	want(t, dialogue(t, chooses(prompt.ForAWhile, true), append(pass, "GETPIN")...), "S KEYRINGD_TERM for-a-while", "S KEYRINGD_AUTOMATIC", "D 1")
	want(t, dialogue(t, chooses(prompt.Once, false), append(pass, "GETPIN")...), "S KEYRINGD_TERM once", "D 1")
	want(t, dialogue(t, chooses(prompt.UntilLock, true), append(confirm, "CONFIRM")...), "S KEYRINGD_TERM until-lock")
	want(t, dialogue(t, chooses(prompt.UntilLock, true), append(confirm, "GETPIN")...), "D 1")
	want(t, dialogue(t, chooses(prompt.UntilLock, true), "CONFIRM", "GETPIN"), "D 1")
	for _, command := range []string{"CONFIRM", "GETPIN"} {
		u := &user{answer: does(Refused)}
		want(t, dialogue(t, u, append(append(confirm, pass...), command)...), "ERR 83886194 Not confirmed <keyring-ui>")
	}
}

func TestDefaultLabels(t *testing.T) {
	u := &user{answer: types("1")}
	dialogue(t, u, "OPTION default-ok=_Ja", "OPTION default-cancel=_Nein", "OPTION default-prompt=PIN:", "GETPIN", "SETOK x", "GETPIN")
	if q := u.seen[0]; q.OK != "_Ja" || q.Cancel != "_Nein" || q.Label != "PIN:" {
		t.Errorf("%+v", q)
	}
	if q := u.seen[1]; q.OK != "x" {
		t.Errorf("%+v", q)
	}
}

// talk is a client that also answers inquiries.
func talk(t *testing.T, u *user, answers map[string]string, lines ...string) []string {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() {
		s := &Server{Screen: u}
		err := s.Serve(t.Context(), inR, outW)
		outW.Close()
		done <- err
	}()
	scan := bufio.NewScanner(outR)
	scan.Scan()
	var said []string
	for _, line := range append(lines, "BYE") {
		fmt.Fprintf(inW, "%s\n", line)
		for scan.Scan() {
			reply := scan.Text()
			if reply == "OK" || strings.HasPrefix(reply, "OK ") {
				break
			}
			said = append(said, reply)
			if inquiry, ok := strings.CutPrefix(reply, "INQUIRE "); ok {
				word, _, _ := strings.Cut(inquiry, " ")
				fmt.Fprint(inW, answers[word])
			} else if strings.HasPrefix(reply, "ERR") {
				break
			}
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return said
}

func TestInquiries(t *testing.T) {
	var late Helpers
	u := &user{answer: func(ctx context.Context, q Question, h Helpers) (Answer, error) {
		late = h
		p := secret.Copy([]byte("a+b %\n"))
		defer p.Wipe()
		if n, err := h.Quality(p); n != -40 || err != nil {
			t.Errorf("quality %d, %v", n, err)
		}
		if s, err := h.Check(p); s != "too short" || err != nil {
			t.Errorf("check %q, %v", s, err)
		}
		b, err := h.Generate()
		if err != nil {
			t.Error(err)
		}
		return Answer{Action: Accepted, Passphrase: b, Repeated: true}, nil
	}}
	got := talk(t, u, map[string]string{"QUALITY": "D -40\nEND\n", "CHECKPIN": "D too short\nEND\n", "GENPIN": "D x%25y\nEND\n"},
		"SETQUALITYBAR", "SETGENPIN Suggest", "SETREPEAT", "OPTION constraints-enforce", "OPTION constraints-hint-short=8 or more", "GETPIN")
	want(t, got, "INQUIRE QUALITY a%2Bb+%25%0A", "INQUIRE CHECKPIN a%2Bb+%25%0A", "INQUIRE GENPIN ", "S PIN_REPEATED", "D x%25y")
	if u.seen[0].Hint != "8 or more" {
		t.Errorf("hint %q", u.seen[0].Hint)
	}
	if _, err := late.Quality(secret.Bytes{}); err == nil {
		t.Error("asked the client after the answer, in the middle of what comes next")
	}
	u.answer = func(_ context.Context, _ Question, h Helpers) (Answer, error) {
		if h.Quality != nil || h.Generate != nil || h.Check != nil {
			t.Error("offered what the client did not announce")
		}
		return Answer{}, nil
	}
	talk(t, u, nil, "GETPIN")
}

func TestAskpass(t *testing.T) {
	for _, c := range []struct {
		name, text, hint string
		answer           Answer
		err              error
		kind             prompt.Kind
		visible          bool
		status           int
		out              string
	}{
		{"passphrase", "Enter passphrase for key '/x': ", "", Answer{Action: Accepted, Passphrase: secret.Copy([]byte("p%w"))}, nil, prompt.Passphrase, false, 0, "p%w\n"},
		{"empty passphrase", "Enter", "", Answer{Action: Accepted}, nil, prompt.Passphrase, false, 0, "\n"},
		{"cancelled", "Enter", "", Answer{}, nil, prompt.Passphrase, false, 1, ""},
		{"new host", "Are you sure (yes/no/[fingerprint])? ", "", Answer{Action: Accepted, Passphrase: secret.Copy([]byte("yes"))}, nil, prompt.Passphrase, true, 0, "yes\n"},
		{"allowed", "Allow use of key x?", "confirm", Answer{Action: Accepted}, nil, prompt.Confirm, false, 0, ""},
		{"denied", "Allow use of key x?", "confirm", Answer{Action: Cancelled}, nil, prompt.Confirm, false, 1, ""},
		{"touch", "Confirm user presence", "none", Answer{Action: Closed}, nil, prompt.Notice, false, 0, ""},
		{"no display", "Enter", "", Answer{}, ErrNoScreen, prompt.Passphrase, false, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &user{answer: func(context.Context, Question, Helpers) (Answer, error) { return c.answer, c.err }}
			var out bytes.Buffer
			status, err := Askpass(t.Context(), u, &out, c.text, c.hint)
			if status != c.status || out.String() != c.out || !errors.Is(err, c.err) {
				t.Errorf("status %d, %q, %v", status, out.String(), err)
			}
			if q := u.seen[0]; q.Kind != c.kind || q.Visible != c.visible || q.Text != c.text {
				t.Errorf("asked %+v", q)
			}
			if c.answer.Passphrase.Len() != 0 {
				t.Error("the answer was not wiped")
			}
		})
	}
}
