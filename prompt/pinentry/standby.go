package pinentry

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// DefaultStandby is how long keyring-ui is kept ready after a question. A
	// person who signs one thing often signs the next within minutes; after that
	// its hundred megabytes are of more use to others.
	DefaultStandby = 5 * time.Minute

	// standbyReadyWithin is how long a program that has been waiting may take
	// until it can show a question. If it does not, another one is started.
	standbyReadyWithin = 2 * time.Second
)

// A standby keeps one program started between questions, with its toolkit
// loaded and its window made, but nothing shown and nothing asked. It serves one
// question and is replaced: what has held a passphrase is not kept.
//
// A program that waits is never needed: where it has died, or does not get
// ready, the question goes to a new one.
type standby struct {
	lasts time.Duration

	mu      sync.Mutex
	waiting *idle // whoever takes it out of here sees to its end
	coming  bool  // one is being started
	closed  bool

	choosing bool      // what to start for a question that is likely
	pause    time.Time // until then nothing is started for a likely question

	quit chan struct{}
	wg   sync.WaitGroup
}

// An idle is a program that waits.
type idle struct {
	program Program
	c       *child
	errs    *tail
	lasts   time.Duration
	guess   bool          // no question was asked before it was started
	taken   chan struct{} // closed when somebody has taken it
}

func newStandby(lasts time.Duration) *standby {
	if lasts == 0 {
		lasts = DefaultStandby
	}
	return &standby{lasts: lasts, quit: make(chan struct{})}
}

// prepare starts the program that p would, if none waits. It does not wait for
// it. A nil standby, or one that keeps nothing, starts none.
func (s *standby) prepare(p *Program) {
	if s == nil || s.lasts < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause = time.Time{}
	s.prepareLocked(p, s.lasts, false)
}

func (s *standby) prepareLocked(p *Program, lasts time.Duration, guess bool) {
	if s.closed || s.coming || s.waiting != nil {
		return
	}
	s.coming = true
	w := &idle{program: *p, lasts: lasts, guess: guess, taken: make(chan struct{})}
	s.wg.Go(func() { s.keep(w) })
}

// keep starts w and stays until it is gone.
func (s *standby) keep(w *idle) {
	var err error
	w.c, w.errs, err = start(w.program.Starter, w.program.command("--standby"), true)
	s.mu.Lock()
	s.coming = false
	if err == nil && !s.closed {
		s.waiting = w
	}
	if w.guess {
		s.pause = time.Now().Add(guessPause) // for as long as no question comes
	}
	s.mu.Unlock()
	if err != nil {
		return
	}
	limit := time.NewTimer(w.lasts)
	defer limit.Stop()
	select {
	case <-w.taken:
	case <-w.c.process.Done():
	case <-limit.C:
	case <-s.quit:
	}
	s.mu.Lock()
	mine := s.waiting == w || s.closed
	if s.waiting == w {
		s.waiting = nil
	}
	s.mu.Unlock()
	select {
	case <-w.taken:
	default:
		if mine {
			w.discard()
		}
	}
	<-w.c.process.Done()
}

// discard ends a program that nobody needs.
func (w *idle) discard() {
	w.c.end(nil)
	w.c.closePipes()
	w.errs.close()
}

// take returns the program that waits, if it is what p would start and is alive,
// or nil. It is the caller's to run.
func (s *standby) take(p *Program) *idle {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	w := s.waiting
	s.waiting = nil
	if w != nil {
		close(w.taken)
	}
	s.mu.Unlock()
	if w == nil {
		return nil
	}
	select {
	case <-w.c.process.Done():
	default:
		if o := w.program; o.Path == p.Path && slices.Equal(o.Args, p.Args) && slices.Equal(filter(o.Environ), filter(p.Environ)) {
			return w
		}
	}
	w.discard()
	return nil
}

// run is the function run for a program that waits.
func (w *idle) run(ctx context.Context, talk func(*child) error) (stderr string, err error) {
	if err := ctx.Err(); err != nil {
		w.discard()
		return "", err
	}
	return converse(ctx, w.c, w.errs, talk)
}

// close ends the program that waits, and returns when it is gone. None is
// started afterwards.
func (s *standby) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.quit)
	}
	s.mu.Unlock()
	s.wg.Wait()
}
