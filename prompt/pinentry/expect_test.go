package pinentry

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/prompt"
)

// What was started because a question was likely serves it, however often it was
// said to be.
func TestExpectedQuestion(t *testing.T) {
	p, said := kept(t, "pins:1234")
	for range 10 {
		p.Expect()
	}
	n := waiting(t, said, 1)
	known(t, p)
	p.Expect()
	asks(t, p)
	if s := said(); pids(said)[0] != n || strings.Count(s, "GETPIN") != 1 || alive(n) {
		t.Errorf("one is alive after its question (%v), or another was asked:\n%s", alive(n), s)
	}
	waiting(t, said, 2) // and is replaced like any
}

// A guess that was wrong is not made again before something was asked: what
// lists keys all day does not have programs started all day.
func TestWrongGuess(t *testing.T) {
	p, said := kept(t, "pins:1234")
	p.standby.lasts = time.Millisecond
	gone := func() {
		t.Helper()
		until(t, "it has come and gone", func() bool {
			p.standby.mu.Lock()
			defer p.standby.mu.Unlock()
			return !p.standby.choosing && !p.standby.coming && p.standby.waiting == nil && !p.standby.pause.IsZero()
		})
		for range 10 {
			p.Expect()
		}
		p.standby.mu.Lock()
		defer p.standby.mu.Unlock()
		if p.standby.choosing || p.standby.coming {
			t.Error("it is guessed again")
		}
	}
	p.Expect()
	gone()
	asks(t, p)
	p.standby.mu.Lock()
	if !p.standby.pause.IsZero() {
		t.Error("a question came, and the guess still counts as wrong")
	}
	p.standby.mu.Unlock()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for _, n := range pids(said) {
		if alive(n) {
			t.Errorf("process %d is left", n)
		}
	}
	p.Expect() // after the end
}

// Without a standby, nothing is started.
func TestExpectWithoutStandby(t *testing.T) {
	p, said := program(t, "pins:1234")
	p.Expect()
	q, saidQ := kept(t, "pins:1234")
	q.standby.lasts = -1
	q.Expect()
	asks(t, p)
	asks(t, q)
	if s := said() + saidQ(); strings.Contains(s, "waits\n") {
		t.Errorf("told\n%s", s)
	}
}

// Where another one would be asked first, keyring-ui is not started; and whoever
// takes long to say who that is holds up neither the caller nor the end.
func TestAutoExpectsWhoWouldAsk(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keyring-ui"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	env := Env{Environ: []string{"DISPLAY=:99", "PATH=" + dir, "XDG_CURRENT_DESKTOP=GNOME"}, System: func(bool) prompt.Prompter { return prompt.None{} }}
	asked := make(chan struct{})
	env.ScreenReader = func(ctx context.Context) bool {
		close(asked)
		<-ctx.Done()
		return false
	}
	p, err := New("auto", env)
	if err != nil {
		t.Fatal(err)
	}
	p.(prompt.Expecter).Expect()
	p.(prompt.Expecter).Expect()
	<-asked
	a := p.(auto)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if s := a.env.standby; s.coming || s.waiting != nil || !s.pause.IsZero() {
		t.Error("keyring-ui was started where GNOME would ask")
	}
}
