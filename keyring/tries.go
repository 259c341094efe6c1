package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyringd/keyringd/prompt"
)

// A counter is what the Gate knows of one device's counter of wrong tries,
// which it shares with other keys and other programs.
type counter struct {
	// wrong is how many wrong values went through this Gate since the last right
	// one, for any key. The device counts more than that: a power cut looks to
	// a TPM like a wrong try.
	wrong int
	// spending is who is about to try a value, in the order they came. A try is
	// only begun if, even with all before it wrong, one would be left.
	spending []*attempt
	// changed is closed, and made anew, when spending gets shorter.
	changed chan struct{}
}

func (g *Gate) counterLocked(name string) *counter {
	c := g.counters[name]
	if c == nil {
		c = &counter{changed: make(chan struct{})}
		g.counters[name] = c
	}
	return c
}

// scarce reports whether a wrong value would lock the device.
func (t Tries) scarce() bool { return t.Limited && t.Left <= 1 }

// until turns a wait into a time; not known stays not known.
func until(wait time.Duration) time.Time {
	if wait <= 0 {
		return time.Time{}
	}
	return time.Now().Add(wait)
}

// tries looks at the device's counter. A locked device is an error.
func (a *attempt) tries(ctx context.Context) (Tries, error) {
	if a.use.Guard == nil {
		return Tries{}, nil
	}
	t, err := a.use.Guard.Tries(ctx)
	if err != nil {
		return Tries{}, fmt.Errorf("tries left: %w", err)
	}
	if t.Limited && t.Left <= 0 {
		return t, &LockoutError{Until: until(t.Wait)}
	}
	return t, nil
}

// judge decides whether the last try may be spent. After wrong answers it may
// not: a person who is guessing would lock out every key of the device, and
// perhaps the disk. Where the counter climbed for another reason the user
// decides, and no is the default.
func (a *attempt) judge(ctx context.Context, t Tries) error {
	if !t.scarce() || a.agreed {
		return nil
	}
	a.gate.mu.Lock()
	wrong := a.gate.counterLocked(t.Counter).wrong
	a.gate.mu.Unlock()
	if wrong > 0 {
		return &LockoutError{Until: until(t.Wait), Kept: true}
	}
	warning := fmt.Sprintf("Only one try is left before the TPM locks. A wrong %s now locks every key that has one", a.word())
	if t.Wait > 0 {
		warning += fmt.Sprintf("; the TPM gives another try back at %s", until(t.Wait).Format("15:04"))
	}
	_, err := a.gate.ask(ctx, a.use, prompt.Question{Kind: prompt.Confirm, Warning: warning + "."})
	if err != nil {
		return err
	}
	a.agreed = true
	a.warning = "This is the last try before the TPM locks."
	return nil
}

// spend calls do with the value in hand, and keeps the books: the counter's, and
// what is remembered. Besides do's errors it returns ErrTryWithheld if only one
// try is left by now and the user has not agreed, and errForgotten if a
// remembered value was forgotten meanwhile.
//
// t is the counter as it was looked at before the value came into hand.
func (a *attempt) spend(ctx context.Context, t Tries) error {
	if t.Limited {
		if err := a.reserve(ctx, t.Counter); err != nil {
			return err
		}
		defer a.release(t.Counter)
	}
	// Whatever becomes of do, nothing derived from a value outlives it.
	defer a.settle()
	if err := a.current(ctx); err != nil {
		return err
	}
	err := a.do(a.auth)
	if t.Limited {
		a.gate.mu.Lock()
		c := a.gate.counterLocked(t.Counter)
		switch {
		case err == nil:
			c.wrong = 0
		case errors.Is(err, ErrAuthFailed):
			c.wrong++
		}
		a.gate.mu.Unlock()
	}
	if err == nil {
		a.gate.remember(a)
	}
	return err
}

// current checks, right before a value is spent, that the asker is still there
// and that the value was not forgotten while it waited.
func (a *attempt) current(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.gate.mu.Lock()
	defer a.gate.mu.Unlock()
	if a.from != nil && a.gate.values[a.use.ID] != a.from {
		return errForgotten
	}
	return nil
}

// errForgotten says that a value in hand is not to be used any more.
var errForgotten = errors.New("forgotten meanwhile")

// reserve waits until a wrong value cannot take the last try, counting all
// others that may turn out wrong before it. With enough tries it never waits.
// After it succeeded, release is due.
func (a *attempt) reserve(ctx context.Context, name string) error {
	g := a.gate
	g.mu.Lock()
	c := g.counterLocked(name)
	c.spending = append(c.spending, a)
	g.mu.Unlock()
	ok := false
	defer func() {
		if !ok {
			a.release(name)
		}
	}()
	need := 2
	if a.agreed {
		need = 1
	}
	for {
		// Who is before us is looked up before the counter is read, so that a
		// try which fails in between is counted twice rather than not at all.
		g.mu.Lock()
		before, changed := slices.Index(c.spending, a), c.changed
		g.mu.Unlock()
		t, err := a.tries(ctx)
		switch {
		case err != nil:
			return err
		case !t.Limited || t.Left-before >= need:
			ok = true
			return nil
		case before == 0:
			return ErrTryWithheld
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// release ends a reservation.
func (a *attempt) release(name string) {
	a.gate.mu.Lock()
	defer a.gate.mu.Unlock()
	c := a.gate.counterLocked(name)
	c.spending = slices.DeleteFunc(c.spending, func(other *attempt) bool { return other == a })
	close(c.changed)
	c.changed = make(chan struct{})
}
