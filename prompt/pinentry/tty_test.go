package pinentry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/prompt"
)

// realProgram returns the path of an installed program; without it the test is
// skipped, or fails where all programs are required.
func realProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		bustest.Missing(t, name)
	}
	return path
}

// terminal is a pseudo-terminal: the test is the user who looks and types.
type terminal struct {
	master *os.File
	path   string

	mu   sync.Mutex
	seen strings.Builder
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		bustest.Missing(t, err.Error())
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty := &terminal{master: master, path: fmt.Sprintf("/dev/pts/%d", n)}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	// Without an open other end, reading the master fails between programs.
	slave, err := os.OpenFile(tty.path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			tty.mu.Lock()
			tty.seen.Write(buf[:n])
			tty.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { slave.Close(); <-done })
	return tty
}

func (tty *terminal) screen() string {
	tty.mu.Lock()
	defer tty.mu.Unlock()
	return tty.seen.String()
}

func (tty *terminal) shows(t *testing.T, want string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("screen: %q", tty.screen())
		}
	}()
	until(t, "terminal shows "+want, func() bool { return strings.Contains(tty.screen(), want) })
}

func (tty *terminal) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := tty.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

func (tty *terminal) echoes(t *testing.T) bool {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(tty.master.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode.Lflag&unix.ECHO != 0 && mode.Lflag&unix.ICANON != 0
}

type result struct {
	passphrase string
	err        error
}

func promptOn(ctx context.Context, tty *terminal, path string, q prompt.Question) <-chan result {
	p := Program{Path: path, TTY: tty.path, Environ: []string{
		"PATH=" + os.Getenv("PATH"), "TERM=vt100", "LC_ALL=C.UTF-8",
	}}
	done := make(chan result, 1)
	go func() {
		a, err := p.Prompt(ctx, q)
		done <- result{text(a.Passphrase), err}
	}()
	return done
}

func TestRealPrograms(t *testing.T) {
	passphrase := prompt.Question{Subject: "work laptop", Caller: "ssh (4711)", PIN: true, Retry: true, Left: 2}
	confirm := prompt.Question{Kind: prompt.Confirm, Subject: "work laptop", Caller: "ssh (4711)"}
	for _, test := range []struct {
		program, name string
		q             prompt.Question
		show, keys    string
		want          result
	}{
		{"pinentry-tty", "passphrase", passphrase, "PIN:", "12 %34\r", result{"12 %34", nil}},
		{"pinentry-tty", "empty", passphrase, "PIN:", "\r", result{"", nil}},
		{"pinentry-tty", "cancel", passphrase, "PIN:", "\x04", result{"", prompt.ErrDismissed}},
		{"pinentry-tty", "allow", confirm, "Allow", "a", result{"", nil}},
		{"pinentry-tty", "deny", confirm, "eny", "d", result{"", prompt.ErrDismissed}},
		{"pinentry-curses", "passphrase", passphrase, "PIN:", "12 %34\r", result{"12 %34", nil}},
		{"pinentry-curses", "cancel", passphrase, "PIN:", "\t\t\r", result{"", prompt.ErrDismissed}},
		{"pinentry-curses", "allow", confirm, "Allow", "\r", result{"", nil}},
		{"pinentry-curses", "deny", confirm, "Deny", "\t\r", result{"", prompt.ErrDismissed}},
		{"pinentry-tty", "notice", prompt.Question{Kind: prompt.Notice, Subject: "work laptop", Caller: "ssh (4711)"},
			"Please note", "\r", result{"", nil}},
	} {
		t.Run(test.program+"/"+test.name, func(t *testing.T) {
			path := realProgram(t, test.program)
			tty := newTerminal(t)
			done := promptOn(t.Context(), tty, path, test.q)
			tty.shows(t, test.show)
			tty.shows(t, "work laptop")
			tty.shows(t, "ssh (4711)")
			if test.q.Retry {
				tty.shows(t, "2 tries left")
			}
			until(t, "program reads keys", func() bool { return !tty.echoes(t) })
			tty.types(t, test.keys)
			got := <-done
			if got.passphrase != test.want.passphrase || !errors.Is(got.err, test.want.err) {
				t.Errorf("got %q, %v\n%q", got.passphrase, got.err, tty.screen())
			}
			if !tty.echoes(t) {
				t.Error("the terminal is left without echo")
			}
		})
	}
}

func TestNewPassphraseOnATerminal(t *testing.T) {
	tty := newTerminal(t)
	done := promptOn(t.Context(), tty, realProgram(t, "pinentry-tty"), prompt.Question{Kind: prompt.NewPassphrase, Subject: "login"})
	tty.shows(t, "Choose a new passphrase")
	until(t, "program reads keys", func() bool { return !tty.echoes(t) })
	tty.types(t, "one\r")
	until(t, "asked again", func() bool { return strings.Count(tty.screen(), "epeat") > 0 })
	tty.types(t, "one\r")
	if got := <-done; got != (result{"one", nil}) {
		t.Errorf("%q %v\n%q", got.passphrase, got.err, tty.screen())
	}
}

// A program that is killed does not leave the terminal without echo.
func TestHangUpRestoresTheTerminal(t *testing.T) {
	for _, name := range []string{"pinentry-tty", "pinentry-curses"} {
		t.Run(name, func(t *testing.T) {
			path := realProgram(t, name)
			tty := newTerminal(t)
			ctx, cancel := context.WithCancel(t.Context())
			done := promptOn(ctx, tty, path, prompt.Question{Subject: "x", PIN: true})
			tty.shows(t, "PIN:")
			until(t, "program reads keys", func() bool { return !tty.echoes(t) })
			cancel()
			if got := <-done; !errors.Is(got.err, context.Canceled) {
				t.Errorf("error %v", got.err)
			}
			if !tty.echoes(t) {
				t.Error("the terminal is left without echo")
			}
		})
	}
}

// Without a terminal pinentry-tty would read the protocol as the user's answer.
func TestTerminalProgramWithoutTerminal(t *testing.T) {
	for _, name := range []string{"pinentry-tty", "pinentry-curses"} {
		p := Program{Path: realProgram(t, name)}
		for _, tty := range []string{"", "/dev/pts/99999", "/dev/null"} {
			p.TTY = tty
			if _, err := p.Prompt(t.Context(), prompt.Question{}); !errors.Is(err, prompt.ErrUnavailable) {
				t.Errorf("%s on %q: %v", name, tty, err)
			}
		}
	}
}

// In the daemon's own session: a helper with the terminal as its controlling
// one is in the foreground there, and says so.
func TestForegroundTTY(t *testing.T) {
	if path, err := ForegroundTTY(); err == nil && !strings.HasPrefix(path, "/dev/") {
		t.Errorf("terminal %q", path)
	}
	tty := newTerminal(t)
	slave, err := os.OpenFile(tty.path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []bool{true, false} {
		cmd := exec.Command(exe, "fake-tty", "x", "x")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, nil, nil
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: own}
		out, err := cmd.Output()
		want := ""
		if own {
			want = tty.path
		}
		if err != nil || string(out) != want {
			t.Errorf("controlling %v: %q %v", own, out, err)
		}
	}
}
