package keyring

import (
	"context"
	"errors"
)

// A flight is work on a collection that several callers wait for: one question
// is enough for all of them.
type flight struct {
	done    chan struct{} // closed at the end; err is valid then
	err     error
	program string // who began it, and whom the question names

	waiting int // guarded by Secrets.mu
	cancel  context.CancelFunc
}

var errFlightEnded = errors.New("the work ended without a result")

// share runs work, unless somebody runs work of that name already: then it waits
// for that one's end, and returns what came of it. What the user refused one
// program is not refused to another, which begins anew. work is cancelled when
// all who wait for it are gone, and runs on the goroutine of who began it.
func (s *Secrets) share(ctx context.Context, c Caller, name string, work func(ctx context.Context) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.mu.Lock()
		f := s.flights[name]
		if f == nil {
			f = &flight{done: make(chan struct{}), program: c.Program, waiting: 1, err: errFlightEnded}
			var workCtx context.Context
			workCtx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
			s.flights[name] = f
			s.mu.Unlock()
			return s.fly(ctx, workCtx, name, f, work)
		}
		f.waiting++
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			s.leave(name, f)
			return ctx.Err()
		}
		switch {
		case errors.Is(f.err, ErrDenied) && (c.Program == "" || c.Program != f.program):
		case errors.Is(f.err, errFlightEnded):
		default:
			return f.err
		}
	}
}

// fly does the work of f. Its end is told however it ends.
func (s *Secrets) fly(ctx, workCtx context.Context, name string, f *flight, work func(ctx context.Context) error) error {
	stop := context.AfterFunc(ctx, func() { s.leave(name, f) })
	defer func() {
		stop()
		f.cancel()
		s.mu.Lock()
		s.removeLocked(name, f)
		s.mu.Unlock()
		close(f.done)
	}()
	f.err = work(workCtx)
	if f.err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return f.err
}

// leave takes one from those who wait for f, which is cancelled when it was the
// last: nobody joins it from then on.
func (s *Secrets) leave(name string, f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		s.removeLocked(name, f)
		f.cancel()
	}
}

func (s *Secrets) removeLocked(name string, f *flight) {
	if s.flights[name] == f {
		delete(s.flights, name)
	}
}

// settled ends the question how to unlock a collection, which was just unlocked
// by other means.
func (s *Secrets) settled(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[unlocking(id)]; f != nil {
		s.removeLocked(unlocking(id), f)
		f.cancel()
	}
}

func unlocking(id string) string { return "unlock " + id }
