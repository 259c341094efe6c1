package pinentry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/prompt"
)

var question = prompt.Question{
	Kind: prompt.Passphrase, Subject: "work laptop", Reason: "sign in as mia",
	Caller: "ssh (4711) ← git ← zsh", Warning: "50 % of it", PIN: true, Retry: true, Left: 2, Remember: 10 * time.Minute,
}

func program(t *testing.T, mode string) (*Program, func() string) {
	path, said := fake(t, "pinentry", mode)
	return &Program{Path: path, Environ: os.Environ()}, said
}

func TestPassphrase(t *testing.T) {
	p, said := program(t, "pins:1%2 \\x\n3")
	p.Environ = []string{
		"PATH=" + os.Getenv("PATH"), "DISPLAY=:7", "LC_ALL=de_DE.UTF-8", "TERM=vt100", "FYNE_SCALE=2", "HOME=/home/x",
		"SSH_AUTH_SOCK=/x", "LD_PRELOAD=", "NOTIFY_SOCKET=/y", "SSH_ASKPASS_PROMPT=confirm", "TOKEN=canary",
	}
	a, err := p.Prompt(t.Context(), question)
	if err != nil {
		t.Fatal(err)
	}
	if got := text(a.Passphrase); got != "1%2 \\x\n3" {
		t.Errorf("passphrase %q", got)
	}
	s := said()
	for _, want := range []string{
		"OPTION grab\n", "OPTION display=:7\n", "OPTION ttytype=vt100\n", "OPTION lc-ctype=de_DE.UTF-8\n",
		"OPTION lc-messages=de_DE.UTF-8\n", fmt.Sprintf("OPTION owner=%d/%d ", os.Getpid(), os.Getuid()),
		"OPTION keyringd-kind=passphrase\n", "SETTITLE keyringd\n", "SETTIMEOUT 120\n", "SETPROMPT PIN:\n",
		"SETERROR Wrong PIN. 2 tries left.\n",
		"SETDESC Enter the PIN for:\nwork laptop\n\n50 % of it\nWhat for: sign in as mia\n" +
			"Asked by: ssh (4711) ← git ← zsh\nRemembered for 10 minutes.\nSETPROMPT",
		"GETPIN\n", "FYNE_SCALE=2", "HOME=/home/x",
	} {
		if !strings.Contains(s, want) {
			t.Errorf("the program was not told %q", want)
		}
	}
	for _, not := range []string{"keyringd-subject", "SETKEYINFO", "ttyname", "SSH_AUTH", "PRELOAD", "NOTIFY", "SSH_ASKPASS", "canary"} {
		if strings.Contains(s, not) {
			t.Errorf("the program was told %q", not)
		}
	}
	if t.Failed() {
		t.Log(s)
	}
}

func TestRichProgramGetsTheParts(t *testing.T) {
	p, said := program(t, "rich")
	q := question
	q.Fingerprint, q.Host, q.HostWarning, q.Through = "SHA256:abc", "git.example.org", "not verified", "gw → build7"
	q.Terms, q.Automatic = true, true
	if _, err := p.Prompt(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	want := "OPTION keyringd-kind=passphrase\nOPTION keyringd-subject=work laptop\n" +
		"OPTION keyringd-fingerprint=SHA256:abc\nOPTION keyringd-host=git.example.org\nOPTION keyringd-host-warning=not verified\n" +
		"OPTION keyringd-through=gw → build7\nOPTION keyringd-reason=sign in as mia\n" +
		"OPTION keyringd-caller=ssh (4711) ← git ← zsh\nOPTION keyringd-warning=50 % of it\nOPTION keyringd-retry=1\n" +
		"OPTION keyringd-left=2\nOPTION keyringd-pin=1\nOPTION keyringd-remember=600\n" +
		"OPTION keyringd-terms=1\nOPTION keyringd-automatic=1\n"
	if s := said(); !strings.Contains(s, want) {
		t.Errorf("told:\n%s", s)
	}
}

// What the user chose beside the answer comes on status lines. A program that
// never heard of the choice has made none, whatever it says.
func TestTerms(t *testing.T) {
	for _, kind := range []prompt.Kind{prompt.Passphrase, prompt.NewPassphrase, prompt.Confirm} {
		for _, c := range []struct {
			mode      string
			offered   bool
			term      prompt.Term
			chosen    bool
			automatic bool
		}{
			{"rich:once", true, prompt.Once, true, true},
			{"rich:for-a-while", true, prompt.ForAWhile, true, true},
			{"rich:until-lock", true, prompt.UntilLock, true, true},
			{"rich:for ever", true, prompt.Once, false, true},
			{"rich:until-lock", false, prompt.Once, false, false},
			{"poor:until-lock", true, prompt.Once, false, false},
			{"rich", true, prompt.Once, false, false},
		} {
			p, _ := program(t, c.mode)
			a, err := p.Prompt(t.Context(), prompt.Question{Kind: kind, Subject: "x", Terms: c.offered, Automatic: c.offered})
			a.Passphrase.Wipe()
			if err != nil || a.Term != c.term || a.Chosen != c.chosen || a.Automatic != c.automatic {
				t.Errorf("%s, %s, offered %v: %+v %v", kindName(kind), c.mode, c.offered, a, err)
			}
		}
	}
}

// A program that knows next to nothing still asks.
func TestPlainProgram(t *testing.T) {
	p, _ := program(t, "plain")
	a, err := p.Prompt(t.Context(), question)
	if got := text(a.Passphrase); err != nil || got != "1234" {
		t.Errorf("%q %v", got, err)
	}
}

func TestOutcomes(t *testing.T) {
	for _, kind := range []prompt.Kind{prompt.Passphrase, prompt.NewPassphrase, prompt.Confirm, prompt.Notice} {
		for mode, want := range map[string]error{
			"repeat": nil, "no-message": nil, "cancel": prompt.ErrDismissed, "not-confirmed": prompt.ErrDismissed,
			"timeout": prompt.ErrDismissed, "enotty": prompt.ErrUnavailable, "no-desc": prompt.ErrUnavailable,
		} {
			p, said := program(t, mode)
			q := prompt.Question{Kind: kind, Subject: "x"}
			a, err := p.Prompt(t.Context(), q)
			if kind == prompt.Notice && want == prompt.ErrDismissed {
				want = nil // however it was closed, it was seen
			}
			if !errors.Is(err, want) {
				t.Errorf("%s %s: error %v, want %v", kindName(kind), mode, err, want)
			}
			wantPIN := ""
			if err == nil && (kind == prompt.Passphrase || kind == prompt.NewPassphrase) {
				wantPIN = "1234"
			}
			if got := text(a.Passphrase); got != wantPIN {
				t.Errorf("%s %s: passphrase %q", kindName(kind), mode, got)
			}
			s := said()
			switch {
			case mode == "no-message" && kind == prompt.Notice && !strings.Contains(s, "CONFIRM --one-button\n"),
				mode == "repeat" && kind == prompt.Notice && !strings.Contains(s, "MESSAGE\n"),
				mode == "repeat" && kind == prompt.Confirm && !strings.Contains(s, "SETOK _Allow\nSETCANCEL _Deny\nCONFIRM\n"),
				mode == "repeat" && kind == prompt.NewPassphrase && strings.Count(s, "GETPIN") != 1,
				mode == "no-desc" && strings.Contains(s, "GETPIN"):
				t.Errorf("%s %s: told\n%s", kindName(kind), mode, s)
			}
		}
	}
}

func TestNewPassphraseIsAskedTwice(t *testing.T) {
	q := prompt.Question{Kind: prompt.NewPassphrase, Subject: "login"}
	p, said := program(t, "pins:one,two,same,same")
	a, err := p.Prompt(t.Context(), q)
	if got := text(a.Passphrase); err != nil || got != "same" {
		t.Errorf("%q %v", got, err)
	}
	want := "GETPIN\nSETDESC Repeat the new passphrase for:\nlogin\nGETPIN\nSETDESC Choose a new passphrase for:\nlogin\n" +
		"SETERROR The two were not the same passphrase.\n"
	if !strings.Contains(said(), want) {
		t.Errorf("told\n%s", said())
	}
	p, said = program(t, "pins:1,2")
	if a, err := p.Prompt(t.Context(), q); !errors.Is(err, prompt.ErrDismissed) || a.Passphrase.Len() != 0 {
		t.Errorf("never the same: %v", err)
	}
	if n := strings.Count(said(), "GETPIN"); n != 2*maxRounds {
		t.Errorf("asked %d times", n)
	}
}

// Whatever a program does instead of asking, the user can be asked otherwise:
// quickly, and with nothing left behind.
func TestProgramsThatMisbehave(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), countFDs(t)
	for _, mode := range []string{
		"start-exit", "start-segv", "start-garbage", "start-flood", "start-err", "orphan",
		"segv", "exit", "garbage", "flood", "flood-data", "flood-line",
	} {
		t.Run(mode, func(t *testing.T) {
			p, said := program(t, mode)
			for range 20 {
				start := time.Now()
				a, err := p.Prompt(t.Context(), question)
				if !errors.Is(err, prompt.ErrUnavailable) || errors.Is(err, prompt.ErrDismissed) || a.Passphrase.Len() > 0 {
					t.Fatalf("error %v", err)
				}
				if d := time.Since(start); d > within {
					t.Errorf("took %v", d)
				}
				if n := pid(t, said); alive(n) {
					t.Errorf("process %d is still there", n)
				}
			}
		})
	}
	until(t, "goroutines gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := countFDs(t); n > fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestFloodedStderr(t *testing.T) {
	p, _ := program(t, "flood-stderr")
	var log bytes.Buffer
	p.Log = slog.New(slog.NewTextHandler(&log, nil))
	if _, err := p.Prompt(t.Context(), question); !errors.Is(err, prompt.ErrUnavailable) {
		t.Fatal(err)
	}
	if s := log.String(); !strings.Contains(s, "it is raining") || len(s) > 3*maxStderr {
		t.Errorf("logged %d bytes: %.200s", len(s), s)
	}
}

func TestProgramThatIsNotThere(t *testing.T) {
	for _, path := range []string{"/nonexistent/pinentry", "/etc/passwd", "/"} {
		p := Program{Path: path}
		if _, err := p.Prompt(t.Context(), question); !errors.Is(err, prompt.ErrUnavailable) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A question that nobody needs answered any more goes at once, however deaf
// the program is.
func TestHangUp(t *testing.T) {
	for _, mode := range []string{"start-hang", "hang", "deaf"} {
		t.Run(mode, func(t *testing.T) {
			p, said := program(t, mode)
			for range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				before := strings.Count(said(), "pid ")
				go func() {
					_, err := p.Prompt(ctx, question)
					done <- err
				}()
				until(t, "question shown", func() bool {
					s := said()
					if mode == "hang" {
						return strings.Count(s, "GETPIN") > before
					}
					return strings.Count(s, "env ") > before
				})
				cancel()
				select {
				case err := <-done:
					if !errors.Is(err, context.Canceled) {
						t.Fatalf("error %v", err)
					}
				case <-time.After(within):
					t.Fatal("the question stays")
				}
				if n := pid(t, said); alive(n) {
					t.Fatalf("process %d is still there", n)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p, said := program(t, "hang")
	if _, err := p.Prompt(ctx, question); !errors.Is(err, context.Canceled) || said() != "" {
		t.Errorf("asked for one who has gone: %v %s", err, said())
	}
}

func TestUnansweredQuestionGoes(t *testing.T) {
	p, said := program(t, "hang")
	p.Timeout = 50 * time.Millisecond
	if _, err := p.Prompt(t.Context(), question); !errors.Is(err, prompt.ErrDismissed) {
		t.Errorf("error %v", err)
	}
	if n := pid(t, said); alive(n) {
		t.Error("the program is still there")
	}
}

func TestProgramThatDoesNotGetReady(t *testing.T) {
	_, err := run(t.Context(), nil, spawn.Command{Path: "/bin/sleep", Args: []string{"1000"}}, true, func(c *child) error {
		defer c.within(time.Millisecond, errNotReady)()
		_, err := c.stdout.Read(make([]byte, 1))
		return err
	})
	if !errors.Is(err, prompt.ErrUnavailable) || !errors.Is(err, errNotReady) {
		t.Errorf("error %v", err)
	}
}

// An answer counts even if the program does not know how to go.
func TestProgramThatStays(t *testing.T) {
	p, said := program(t, "stay")
	a, err := p.Prompt(t.Context(), question)
	if got := text(a.Passphrase); err != nil || got != "1234" {
		t.Errorf("%q %v", got, err)
	}
	if n := pid(t, said); alive(n) {
		t.Error("the program is still there")
	}
}

func TestProgramDiesWithUs(t *testing.T) {
	path, said := fake(t, "pinentry", "hang")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(exe, "fake-daemon", path, "x")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "question shown", func() bool { return strings.Contains(said(), "GETPIN") })
	n := pid(t, said)
	if !alive(n) {
		t.Fatal("the program is not there")
	}
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	gone(t, n)
}

func TestManyAtOnce(t *testing.T) {
	p, _ := program(t, "pins:1234")
	done := make(chan string)
	for range 8 {
		go func() {
			a, err := p.Prompt(t.Context(), question)
			done <- fmt.Sprint(text(a.Passphrase), err)
		}()
	}
	for range 8 {
		if got := <-done; got != "1234<nil>" {
			t.Error(got)
		}
	}
}

// A program that once said more than it was asked for is a reply ahead: what
// comes first after the question is no answer to it.
func TestProgramThatIsAReplyAhead(t *testing.T) {
	for _, mode := range []string{"early-not-confirmed", "early-cancel", "early-segv", "early-pins:1234"} {
		for _, kind := range []prompt.Kind{prompt.Confirm, prompt.Passphrase} {
			if kind == prompt.Confirm && mode == "early-pins:1234" {
				continue // it is allowed, if late
			}
			for range 5 { // who comes first is a race
				p, _ := program(t, mode)
				a, err := p.Prompt(t.Context(), prompt.Question{Kind: kind, Subject: "key"})
				if err == nil {
					t.Errorf("%s, kind %d: answered", mode, kind)
				}
				a.Passphrase.Wipe()
			}
		}
	}
}
