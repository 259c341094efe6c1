package keyring_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func TestThreeWrongInARowLeaveTheDeviceUnlocked(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3, Recovery: time.Hour}
		b.user.Script(answer("1"), answer("2"), answer("3"))
		err := b.mustFail(keyring.ErrLockedOut, pinUse("k", d), b.check(d))
		var lockout *keyring.LockoutError
		if !errors.As(err, &lockout) || !lockout.Kept || !lockout.Until.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("got %#v", err)
		}
		for i, q := range b.asked(2) {
			if q.Left != 2-i {
				t.Errorf("question %d says %d tries are left", i+1, q.Left)
			}
		}
		if d.Tries().Left != 1 || d.Tried() != 2 {
			t.Fatalf("%d values were spent, %d tries are left", d.Tried(), d.Tries().Left)
		}
		// Neither this key nor another one of the device may spend it now, with
		// or without a question.
		b.mustFail(keyring.ErrLockedOut, pinUse("k", d), never(t))
		b.mustFail(keyring.ErrLockedOut, pinUse("other", d), never(t))
		// A key without a value, and one on another device, are not concerned.
		b.mustUse(keyring.Use{ID: "no PIN"}, b.nothing)
		e := &keyringtest.FakeDevice{Max: 3, Name: "other device"}
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("elsewhere", e), b.check(e))
		b.asked(1)

		time.Sleep(time.Hour)
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("k", d), b.check(d))
		if q := b.asked(1)[0]; q.Left != 1 {
			t.Errorf("with one try given back, the question says %d", q.Left)
		}
	})
}

func TestRememberedValueIsNotTheLastTryAfterWrongOnes(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3}
		b.user.Script(answer("1234"), answer("1"), answer("2"))
		b.mustUse(pinUse("a", d), b.check(d))
		b.mustFail(keyring.ErrLockedOut, pinUse("b", d), b.check(d))
		b.mustFail(keyring.ErrLockedOut, pinUse("a", d), never(t))
		b.asked(3)
	})
}

func TestLockedDeviceIsNotAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3, Recovery: 2 * time.Hour}
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("k", d), b.check(d))
		d.Spoil(3)
		for _, id := range []string{"k", "other"} {
			err := b.mustFail(keyring.ErrLockedOut, pinUse(id, d), never(t))
			var lockout *keyring.LockoutError
			if !errors.As(err, &lockout) || lockout.Kept || !lockout.Until.Equal(time.Now().Add(2*time.Hour)) {
				t.Errorf("got %#v", err)
			}
		}
		b.asked(1)
	})
}

func TestLastTryAfterUncleanResetsIsTheUsersToSpend(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3, Recovery: time.Hour}
		d.Spoil(2)
		u := pinUse("k", d)

		b.user.Script(dismiss())
		b.mustFail(keyring.ErrDenied, u, never(t))
		q := b.asked(1)[0]
		if q.Kind != prompt.Confirm || q.Warning == "" || q.Remember != 0 {
			t.Errorf("the question is %+v", q)
		}

		b.user.Script(keyringtest.Reply{}, answer("1234"))
		b.mustUse(u, b.check(d))
		if q := b.asked(2)[1]; q.Kind != prompt.Passphrase || q.Left != 1 || q.Warning == "" || q.Retry {
			t.Errorf("the second question is %+v", q)
		}

		// The value is remembered, but not used without permission.
		b.user.Script(dismiss())
		b.mustFail(keyring.ErrDenied, u, never(t))
		b.user.Script(keyringtest.Reply{})
		b.mustUse(u, b.check(d))
		for _, q := range b.asked(2) {
			if q.Kind != prompt.Confirm {
				t.Errorf("the question is %+v", q)
			}
		}

		b.Lock()
		b.user.Script(keyringtest.Reply{}, answer("wrong"), answer("1234"))
		var lockout *keyring.LockoutError
		if err := b.mustFail(keyring.ErrLockedOut, u, b.check(d)); !errors.As(err, &lockout) || lockout.Kept {
			t.Errorf("after the last try was wrong: %v", err)
		}
		b.asked(2)
	})
}

func TestRightValueEndsTheRowOfWrongOnes(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 4}
		b.user.Script(answer("1"), answer("2"), answer("1234"))
		b.mustUse(pinUse("k", d), b.check(d))
		b.asked(3)
		d.Spoil(1)
		// Who has just shown to know the value is asked, not refused.
		b.user.Script(dismiss())
		b.mustFail(keyring.ErrDenied, pinUse("k", d), never(t))
		b.asked(1)
	})
}

// TestValueForgottenWhileItWaits has a remembered value forgotten while its use
// waits for the only try that may be spent.
func TestValueForgottenWhileItWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3}
		d.Spoil(1)
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("k", d), b.check(d))
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.Use(t.Context(), pinUse("k", d), func(auth secret.Bytes) error {
				<-release
				return b.check(d)(auth)
			}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if err := b.Use(t.Context(), pinUse("k", d), b.check(d)); err != nil {
				t.Error(err)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- b.Use(ctx, pinUse("k", d), never(t)) }()
		synctest.Wait()
		cancel()
		if err := <-gone; err != context.Canceled {
			t.Errorf("a use that waited for a try and left got %v", err)
		}
		if d.Tried() != 1 {
			t.Errorf("%d values were spent while one had to wait", d.Tried()-1)
		}
		b.Forget("k")
		b.user.Script(answer("1234"))
		close(release)
		wg.Wait()
		b.asked(2)
	})
}

// TestKeyThatWithholdsTheLastTry is a key that looks at its device by itself,
// and finds what nobody had looked at before.
func TestKeyThatWithholdsTheLastTry(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3}
		u := pinUse("k", nil)
		looked := &lateGuard{d: d}
		u.Guard = looked
		withholds := func(auth secret.Bytes) error {
			if !looked.fresh {
				looked.fresh = true
				return keyring.ErrTryWithheld
			}
			return b.check(d)(auth)
		}
		d.Spoil(2)
		b.user.Script(answer("1234"), keyringtest.Reply{})
		b.mustUse(u, withholds)
		if q := b.asked(2); q[0].Kind != prompt.Passphrase || q[1].Kind != prompt.Confirm {
			t.Errorf("asked %+v", q)
		}
		if d.Tried() != 1 {
			t.Errorf("%d values were spent", d.Tried())
		}

		// The same with a remembered value.
		looked.fresh = false
		b.user.Script(dismiss())
		b.mustFail(keyring.ErrDenied, u, withholds)
		b.asked(1)

		// A key that does not let go of it has the last word.
		b.Lock()
		d.Spoil(-2)
		b.user.Script(answer("1234"))
		b.mustFail(keyring.ErrLockedOut, u, func(secret.Bytes) error { return keyring.ErrTryWithheld })
		b.asked(1)
		b.mustFail(keyring.ErrLockedOut, keyring.Use{ID: "k"}, func(secret.Bytes) error { return keyring.ErrTryWithheld })
	})
}

// A lateGuard answers from an old memory until it is fresh.
type lateGuard struct {
	d     *keyringtest.FakeDevice
	fresh bool
}

func (g *lateGuard) Tries(context.Context) (keyring.Tries, error) {
	if !g.fresh {
		return keyring.Tries{Limited: true, Left: 3}, nil
	}
	return g.d.Tries(), nil
}

// TestQuestionsOpenAtOnceDoNotShareATry has two keys of one device answered
// wrongly when only one wrong answer is affordable.
func TestQuestionsOpenAtOnceDoNotShareATry(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3}
		d.Spoil(1)
		release := make(chan struct{})
		var wg sync.WaitGroup
		for _, id := range []string{"a", "b", "c"} {
			b.user.Script(keyringtest.Reply{Passphrase: "wrong", When: release})
			wg.Go(func() {
				err := b.Use(t.Context(), pinUse(id, d), func(auth secret.Bytes) error {
					time.Sleep(time.Second) // the others arrive meanwhile
					return b.check(d)(auth)
				})
				if !errors.Is(err, keyring.ErrLockedOut) {
					t.Errorf("%s: %v", id, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if d.Tried() != 1 || d.Tries().Left != 1 {
			t.Errorf("%d values were spent, %d tries are left", d.Tried(), d.Tries().Left)
		}
		b.asked(3)
	})
}

// TestUsesRunSideBySide is the other half: with tries enough, nothing waits.
func TestUsesRunSideBySide(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 32}
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("k", d), b.check(d))
		var wg sync.WaitGroup
		start := time.Now()
		for range 20 {
			wg.Go(func() {
				if err := b.Use(t.Context(), pinUse("k", d), func(auth secret.Bytes) error {
					time.Sleep(time.Second)
					return b.check(d)(auth)
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("20 uses of one second took %v", took)
		}
		b.asked(1)
	})
}

func TestUnreadableCounterStopsTheUse(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		u.Guard = brokenGuard{}
		b.mustFail(keyring.ErrUnavailable, u, never(t))
		b.asked(0)
	})
}

type brokenGuard struct{}

func (brokenGuard) Tries(context.Context) (keyring.Tries, error) {
	return keyring.Tries{}, keyring.ErrUnavailable
}

func TestLockoutErrorSaysWhen(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		err  keyring.LockoutError
		want []string
		not  string
	}{
		{keyring.LockoutError{Until: now}, []string{"refuses", now.Format("15:04")}, " on "},
		{keyring.LockoutError{Until: now.AddDate(0, 0, 3)}, []string{now.AddDate(0, 0, 3).Format("15:04 on 2 January")}, "kept"},
		{keyring.LockoutError{}, []string{"refuses"}, "00:00"},
		{keyring.LockoutError{Kept: true}, []string{"one try is left", "kept"}, "00:00"},
		{keyring.LockoutError{Kept: true, Until: now}, []string{"one try is left", "kept", now.Format("15:04")}, "refuses"},
	} {
		text := c.err.Error()
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%q lacks %q", text, w)
			}
		}
		if strings.Contains(text, c.not) {
			t.Errorf("%q says %q", text, c.not)
		}
		if !errors.Is(&c.err, keyring.ErrLockedOut) {
			t.Errorf("%q is not ErrLockedOut", text)
		}
	}
}
