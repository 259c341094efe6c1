package pinentry

import (
	"context"
	"time"

	"github.com/keyringd/keyringd/prompt"
)

const (
	// guessLasts is how long a program waits that was started because a question
	// was likely. One that comes does so within seconds.
	guessLasts = time.Minute
	// guessPause is how long it takes until the next guess after one that was
	// wrong: a program that lists keys all the time and uses none costs a start
	// every ten minutes. A question ends the pause.
	guessPause = 10 * time.Minute
)

// Expect implements [prompt.Expecter].
func (p *Program) Expect() {
	p.standby.expect(func(context.Context) *Program { return p })
}

// Expect implements [prompt.Expecter].
func (a auto) Expect() {
	a.env.standby.expect(func(ctx context.Context) *Program {
		for _, c := range a.env.candidates(ctx) {
			p, _ := c.(*Program)
			return p // the first is who would be asked
		}
		return nil
	})
}

var (
	_ prompt.Expecter = (*Program)(nil)
	_ prompt.Expecter = auto{}
)

// expect starts, for a short time, the program that choose returns, if it is one
// that can wait, none waits, and the last guess was not wrong just now.
func (s *standby) expect(choose func(context.Context) *Program) {
	if s == nil || s.lasts < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.coming || s.choosing || s.waiting != nil || time.Now().Before(s.pause) {
		return
	}
	s.choosing = true
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), guessLasts)
		defer cancel()
		defer s.whenClosed(cancel)()
		p := choose(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.choosing = false
		if p != nil && p.standby == s {
			s.prepareLocked(p, min(s.lasts, guessLasts), true)
		}
	})
}

// whenClosed calls fn when s is closed, or never once the returned function was
// called.
func (s *standby) whenClosed(fn func()) (stop func()) {
	done := make(chan struct{})
	s.wg.Go(func() {
		select {
		case <-s.quit:
			fn()
		case <-done:
		}
	})
	return func() { close(done) }
}
