package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func TestUsesShareOneQuestion(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		release := make(chan struct{})
		b.user.Script(keyringtest.Reply{Passphrase: "1234", When: release})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := b.Use(t.Context(), pinUse("k", nil), b.check(nil)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		// Another key does not wait for this one's answer.
		b.mustUse(keyring.Use{ID: "other"}, b.nothing)
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("another", nil), b.check(nil))
		close(release)
		wg.Wait()
		b.asked(2)
	})
}

func TestUsesShareNothingAtZero(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.Remember = 0
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			b.user.Script(keyringtest.Reply{Passphrase: "1234", When: release})
			wg.Go(func() {
				if err := b.Use(t.Context(), pinUse("k", nil), b.check(nil)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if b.user.Open() != 3 {
			t.Errorf("%d questions are open, want 3", b.user.Open())
		}
		close(release)
		wg.Wait()

		// Nor is a no to one confirmation a no to the next.
		release = make(chan struct{})
		b.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed, When: release}, keyringtest.Reply{When: release})
		var denied atomic.Int32
		for range 2 {
			wg.Go(func() {
				if err := b.Use(t.Context(), confirmUse(), b.nothing); errors.Is(err, keyring.ErrDenied) {
					denied.Add(1)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if denied.Load() != 1 {
			t.Errorf("%d of 2 confirmations were denied, want 1", denied.Load())
		}
	})
}

func TestNextWaiterAsksWhenTheAskerGoesAway(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(keyringtest.Reply{Passphrase: "1234", When: make(chan struct{})})
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { first <- b.Use(ctx, pinUse("k", nil), never(t)) }()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := b.Use(t.Context(), pinUse("k", nil), b.check(nil)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		b.asked(1)
		b.user.Script(answer("1234"))
		cancel()
		if err := <-first; err != context.Canceled {
			t.Errorf("the asker that left got %v", err)
		}
		wg.Wait()
		b.asked(1)
	})
}

func TestWaiterCanGoAway(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		release := make(chan struct{})
		b.user.Script(keyringtest.Reply{Passphrase: "1234", When: release})
		first := make(chan error, 1)
		go func() { first <- b.Use(t.Context(), pinUse("k", nil), b.check(nil)) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Use(ctx, pinUse("k", nil), never(t)); err != context.DeadlineExceeded {
			t.Errorf("the waiter got %v", err)
		}
		close(release)
		if err := <-first; err != nil {
			t.Error(err)
		}
		b.asked(1)
	})
}

func TestNoCountsForWaitersOfTheSameProgram(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		release := make(chan struct{})
		b.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed, When: release}, answer("1234"))
		first := make(chan error, 1)
		go func() { first <- b.Use(t.Context(), pinUse("k", nil), never(t)) }()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := b.Use(t.Context(), pinUse("k", nil), never(t)); !errors.Is(err, keyring.ErrDenied) {
					t.Errorf("a waiter of the same program got %v", err)
				}
			})
		}
		wg.Go(func() {
			u := pinUse("k", nil)
			u.Caller.Program = "/usr/bin/rsync"
			if err := b.Use(t.Context(), u, b.check(nil)); err != nil {
				t.Errorf("another program got %v", err)
			}
		})
		synctest.Wait()
		close(release)
		wg.Wait()
		if err := <-first; !errors.Is(err, keyring.ErrDenied) {
			t.Errorf("the asker got %v", err)
		}
		b.asked(2)
	})
}

func TestCoolDownAfterTwoUnanswered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		b.user.Script(dismiss(), keyringtest.Reply{When: make(chan struct{})})
		b.mustFail(keyring.ErrDenied, u, never(t))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.Use(ctx, u, never(t)); err != context.DeadlineExceeded {
			t.Errorf("not answered in time: %v", err)
		}
		b.asked(2)
		b.mustFail(keyring.ErrDenied, u, never(t))
		time.Sleep(29 * time.Second)
		b.mustFail(keyring.ErrDenied, u, never(t))
		b.asked(0)

		// Neither another program nor another key suffers.
		other := u
		other.Caller.Program = "/usr/bin/ssh"
		b.user.Script(answer("1234"), answer("1234"))
		b.mustUse(other, b.check(nil))
		b.mustUse(pinUse("other", nil), b.check(nil))
		b.asked(2)
		// Nor does a use that needs no question.
		b.mustUse(u, b.check(nil))
		b.asked(0)

		b.Lock()
		time.Sleep(time.Second)
		b.user.Script(dismiss())
		b.mustFail(keyring.ErrDenied, u, never(t))
		b.asked(1)
		// Three in a row now.
		b.mustFail(keyring.ErrDenied, u, never(t))
		b.asked(0)
		// An answer ends the row.
		time.Sleep(30 * time.Second)
		b.user.Script(answer("1234"))
		b.mustUse(u, b.check(nil))
		b.Lock()
		b.user.Script(dismiss(), answer("1234"))
		b.mustFail(keyring.ErrDenied, u, never(t))
		b.mustUse(u, b.check(nil))
		b.asked(3)
	})
}

func TestHangingUpIsNotANo(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		for range 4 {
			b.user.Script(keyringtest.Reply{When: make(chan struct{})})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- b.Use(ctx, pinUse("k", nil), never(t)) }()
			synctest.Wait()
			cancel()
			if err := <-done; err != context.Canceled {
				t.Error(err)
			}
		}
		b.asked(4)
	})
}

// TestManyUsesAtOnceNeverLockTheDevice mixes right, wrong and absent answers
// for several keys of one device.
func TestManyUsesAtOnceNeverLockTheDevice(t *testing.T) {
	for _, remember := range []time.Duration{0, time.Second} {
		t.Run(remember.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.Remember = remember
				d := &keyringtest.FakeDevice{Max: 4, Recovery: 700 * time.Millisecond}
				b.user.Default = func(q prompt.Question) keyringtest.Reply {
					if q.Kind == prompt.Confirm {
						return dismiss()
					}
					thinking := make(chan struct{})
					time.AfterFunc(rand.N(50*time.Millisecond), func() { close(thinking) })
					return keyringtest.Reply{Passphrase: []string{"1234", "4321"}[rand.N(2)], When: thinking}
				}
				good, refused := 0, 0
				var mu sync.Mutex
				var wg sync.WaitGroup
				for i := range 300 {
					wg.Go(func() {
						time.Sleep(rand.N(10 * time.Second))
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						defer cancel()
						u := pinUse(fmt.Sprint(i%4), d)
						u.Caller.Program = fmt.Sprint(i)
						err := b.Use(ctx, u, func(auth secret.Bytes) error {
							ok := is(auth, "1234")
							time.Sleep(rand.N(20 * time.Millisecond))
							err := d.Try(ok)
							if left := d.Tries().Left; left < 1 {
								t.Errorf("the device is locked")
							}
							return err
						})
						mu.Lock()
						defer mu.Unlock()
						switch {
						case err == nil:
							good++
						case errors.Is(err, keyring.ErrLockedOut):
							refused++
						}
					})
				}
				wg.Wait()
				if good == 0 || refused == 0 {
					t.Errorf("%d uses went through and %d were refused; the test tests nothing", good, refused)
				}
			})
		})
	}
}
