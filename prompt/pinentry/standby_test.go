package pinentry

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/prompt"
)

// kept is a Program that is kept ready, for as long as the test.
func kept(t *testing.T, mode string) (*Program, func() string) {
	p, said := program(t, mode)
	p.standby = newStandby(time.Hour)
	t.Cleanup(func() { _ = p.Close() })
	return p, said
}

// asks puts the question, which is to be answered.
func asks(t *testing.T, p *Program) {
	t.Helper()
	a, err := p.Prompt(t.Context(), question)
	if got := text(a.Passphrase); err != nil || got != "1234" {
		t.Fatalf("%q %v", got, err)
	}
}

// waiting returns the process that waits for the next question, the nth that
// was started.
func waiting(t *testing.T, said func() string, nth int) int {
	t.Helper()
	until(t, "program waits", func() bool { return strings.Count(said(), "pid ") == nth && strings.Count(said(), "env ") == nth })
	return pid(t, said)
}

// known waits until the program that waits is one that we know of. It says that
// it waits before that, and one that we do not know yet is not asked.
func known(t *testing.T, p *Program) {
	t.Helper()
	until(t, "it is kept", func() bool {
		p.standby.mu.Lock()
		defer p.standby.mu.Unlock()
		return p.standby.waiting != nil
	})
}

// pids are all processes that were started, in order.
func pids(said func() string) (all []int) {
	for line := range strings.Lines(said()) {
		n := 0
		if scan(line, "pid %d", &n) {
			all = append(all, n)
		}
	}
	return all
}

func TestStandbyServesOneQuestion(t *testing.T) {
	p, said := kept(t, "pins:1234")
	asks(t, p)
	if n := pids(said); alive(n[0]) {
		t.Error("what was started for the question is kept")
	}
	for nth := 2; nth < 6; nth++ {
		n := waiting(t, said, nth)
		known(t, p)
		if s := said(); strings.Count(s, "waits\n") != nth-1 || strings.Count(s, "GETPIN") != nth-1 {
			t.Fatalf("before question %d:\n%s", nth, s)
		}
		asks(t, p)
		if alive(n) {
			t.Error("what has held a passphrase is kept")
		}
	}
	// Dismissed or given up, it is replaced all the same.
	waiting(t, said, 6)
}

// Whatever has become of the program that waits, the user is asked.
func TestStandbyIsNotNeeded(t *testing.T) {
	for _, mode := range []string{"start-exit", "start-segv", "start-garbage", "start-hang", "start-err", "deaf", "segv", "exit", "garbage", "flood", "enotty", "no-desc"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p, said := kept(t, "standby:"+mode)
			asks(t, p)
			n := waiting(t, said, 2)
			// It says that it waits before we know it, and one that we do not know
			// yet is not asked, but the next time.
			until(t, "the other is gone", func() bool { asks(t, p); return !alive(n) })
		})
	}
	for name, harm := range map[string]unix.Signal{"killed": unix.SIGKILL, "stopped": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, said := kept(t, "pins:1234")
			asks(t, p)
			n := waiting(t, said, 2)
			known(t, p)
			if err := unix.Kill(n, harm); err != nil {
				t.Fatal(err)
			}
			asks(t, p)
			until(t, "it is gone", func() bool { return !alive(n) })
		})
	}
}

// The user's no is an answer: nobody else asks again.
func TestStandbyThatIsRefused(t *testing.T) {
	p, said := kept(t, "standby:cancel")
	asks(t, p)
	waiting(t, said, 2)
	known(t, p)
	if _, err := p.Prompt(t.Context(), question); !errors.Is(err, prompt.ErrDismissed) {
		t.Errorf("error %v", err)
	}
	waiting(t, said, 3)
	if n := strings.Count(said(), "GETPIN"); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestStandbyIsHungUpOn(t *testing.T) {
	p, said := kept(t, "standby:hang")
	asks(t, p)
	n := waiting(t, said, 2)
	known(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := p.Prompt(ctx, question)
		done <- err
	}()
	until(t, "question shown", func() bool { return strings.Count(said(), "GETPIN") == 2 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || alive(n) {
		t.Errorf("error %v, alive %v", err, alive(n))
	}
}

// It is for the program, arguments and environment that it was started with.
func TestStandbyOfAnotherKind(t *testing.T) {
	p, said := kept(t, "pins:1234")
	asks(t, p)
	n := waiting(t, said, 2)
	known(t, p)
	other := &Program{Path: p.Path, Environ: append(os.Environ(), "DISPLAY=:99"), standby: p.standby}
	asks(t, other)
	until(t, "it is gone", func() bool { return !alive(n) })
	if s := said(); strings.Count(s, "GETPIN") != 2 || !strings.Contains(s, "OPTION display=:99") {
		t.Errorf("told\n%s", s)
	}
}

func TestStandbyLeaves(t *testing.T) {
	p, said := kept(t, "pins:1234")
	p.standby.lasts = time.Millisecond
	asks(t, p)
	until(t, "it has come and gone", func() bool {
		p.standby.mu.Lock()
		defer p.standby.mu.Unlock()
		return !p.standby.coming && p.standby.waiting == nil
	})
	asks(t, p) // and is not missed
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for _, n := range pids(said) {
		if alive(n) {
			t.Errorf("process %d is left", n)
		}
	}
}

func TestStandbyIsClosed(t *testing.T) {
	p, said := kept(t, "pins:1234")
	asks(t, p)
	n := waiting(t, said, 2)
	for range 2 {
		if err := p.Close(); err != nil || alive(n) {
			t.Errorf("after Close: alive %v, %v", alive(n), err)
		}
	}
	asks(t, p)
	asks(t, p)
	if n := strings.Count(said(), "waits\n"); n != 1 {
		t.Errorf("%d were started to wait", n)
	}
	for _, n := range pids(said) {
		if alive(n) {
			t.Errorf("process %d is left", n)
		}
	}
}

func TestNoStandby(t *testing.T) {
	// Not for a program that finds nothing to show a window on,
	p, said := kept(t, "start-exit")
	if _, err := p.Prompt(t.Context(), question); !errors.Is(err, prompt.ErrUnavailable) {
		t.Error(err)
	}
	// not where it is not wanted,
	q, saidQ := kept(t, "pins:1234")
	q.standby.lasts = -1
	asks(t, q)
	// and not of a program that is not keyring-ui.
	env := Env{Environ: []string{"PATH=" + install(t, "keyring-ui", "pinentry-qt", "mine"), "DISPLAY=:0"}}
	mine, err := New("pinentry:mine", env)
	if err != nil || mine.(*Program).standby != nil {
		t.Errorf("pinentry:mine: %v", err)
	}
	for _, spec := range []string{"ui", "auto"} {
		p, err := New(spec, env)
		if err != nil {
			t.Fatal(err)
		}
		var programs []*Program
		switch p := p.(type) {
		case *Program:
			programs = []*Program{p}
		case auto:
			for _, c := range p.env.candidates(t.Context())[:2] {
				programs = append(programs, c.(*Program))
			}
		}
		for i, p := range programs {
			if (p.standby != nil) != (i == 0) {
				t.Errorf("%s, %s: standby %v", spec, p.Path, p.standby)
			}
		}
		if err := p.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	}
	if s := said() + saidQ(); strings.Contains(s, "waits") {
		t.Errorf("started:\n%s", s)
	}
}

func TestStandbyDiesWithUs(t *testing.T) {
	path, said := fake(t, "pinentry", "pins:1234")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(exe, "fake-daemon", path, "standby")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	n := waiting(t, said, 2)
	// Even if it cannot hear that nobody talks to it any more.
	if err := unix.Kill(n, unix.SIGSTOP); err != nil {
		t.Error(err)
	}
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	gone(t, n)
}

func TestStandbyLeavesNothingBehind(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), countFDs(t)
	p, said := kept(t, "standby:exit")
	done := make(chan error)
	for range 4 {
		go func() {
			var err error
			for range 8 {
				a, err2 := p.Prompt(t.Context(), question)
				a.Passphrase.Wipe()
				err = errors.Join(err, err2)
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for _, n := range pids(said) {
		if alive(n) {
			t.Errorf("process %d is left", n)
		}
	}
	until(t, "goroutines gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := countFDs(t); n > fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
}
