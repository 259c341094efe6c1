package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// A bench is a Gate with a scripted user, and things behind it that need the
// value "1234".
type bench struct {
	*keyring.Gate
	t    *testing.T
	user *keyringtest.FakePrompter
}

// inBubble runs f with a bench in a synctest bubble, and checks at the end what
// is true after every test: nothing is held, and no answer is left readable.
func inBubble(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		user := &keyringtest.FakePrompter{}
		b := &bench{keyring.NewGate(user), t, user}
		f(t, b)
		synctest.Wait()
		if !b.Idle() {
			t.Error("the gate still holds something")
		}
		if n := user.Unwiped(); n != 0 {
			t.Errorf("%d answers were not wiped", n)
		}
	})
}

func answer(s string) keyringtest.Reply { return keyringtest.Reply{Passphrase: s} }

func dismiss() keyringtest.Reply {
	return keyringtest.Reply{Err: fmt.Errorf("cancel was pressed: %w", prompt.ErrDismissed)}
}

var git = keyring.Caller{FrontEnd: "ssh-agent", PID: 7, Program: "/usr/bin/git", Process: "git (7)"}

func pinUse(id string, d *keyringtest.FakeDevice) keyring.Use {
	u := keyring.Use{ID: id, Subject: "key " + id, NeedsAuth: true, PIN: true, Caller: git, Reason: "sign in as mia"}
	if d != nil {
		u.Guard = guardOf{d}
	}
	return u
}

type guardOf struct{ d *keyringtest.FakeDevice }

func (g guardOf) Tries(context.Context) (keyring.Tries, error) { return g.d.Tries(), nil }

// check returns a do that spends its value on d and wants "1234". It sees to it
// that what do was lent is wiped after Use.
func (b *bench) check(d *keyringtest.FakeDevice) func(secret.Bytes) error {
	if d == nil {
		d = &keyringtest.FakeDevice{}
	}
	return func(auth secret.Bytes) error {
		b.t.Cleanup(func() {
			if auth.Len() > 0 {
				b.t.Error("a value that was lent to do was not wiped")
			}
		})
		return d.Try(is(auth, "1234"))
	}
}

func is(auth secret.Bytes, want string) (ok bool) {
	auth.Use(func(p []byte) { ok = string(p) == want })
	return ok
}

// asked checks how many questions there were since the last call, and returns
// them.
func (b *bench) asked(want int) []prompt.Question {
	b.t.Helper()
	q := b.user.Questions()
	b.user.Reset()
	if len(q) != want {
		b.t.Fatalf("the user was asked %d times, want %d: %+v", len(q), want, q)
	}
	return q
}

func (b *bench) mustUse(u keyring.Use, do func(secret.Bytes) error) {
	b.t.Helper()
	if err := b.Use(b.t.Context(), u, do); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) mustFail(want error, u keyring.Use, do func(secret.Bytes) error) error {
	b.t.Helper()
	err := b.Use(b.t.Context(), u, do)
	if !errors.Is(err, want) {
		b.t.Fatalf("got %v, want %v", err, want)
	}
	if errors.Is(err, keyring.ErrTryWithheld) {
		b.t.Fatalf("ErrTryWithheld left the gate: %v", err)
	}
	return err
}

func (b *bench) nothing(secret.Bytes) error { return nil }

func never(t *testing.T) func(secret.Bytes) error {
	return func(secret.Bytes) error {
		t.Error("do was called")
		return nil
	}
}

func TestUseWithoutNeedsAsksNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.mustUse(keyring.Use{ID: "k"}, func(auth secret.Bytes) error {
			if auth.Len() != 0 {
				t.Error("do got a value")
			}
			return nil
		})
		b.mustFail(keyring.ErrUnsupported, keyring.Use{ID: "k"}, func(secret.Bytes) error {
			return keyring.ErrUnsupported
		})
		b.asked(0)
	})
}

func TestQuestionSaysWhoAndWhy(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		u.Confirm = true
		b.user.Script(keyringtest.Reply{}, answer("1234"))
		b.mustUse(u, b.check(nil))
		q := b.asked(2)
		want := prompt.Question{Kind: prompt.Confirm, Subject: "key k", Reason: "sign in as mia", Caller: "git (7)", Remember: 10 * time.Minute, Terms: true}
		if q[0] != want {
			t.Errorf("first question\n got %+v\nwant %+v", q[0], want)
		}
		want.Kind, want.Left, want.PIN = prompt.Passphrase, 3, true
		if q[1] != want {
			t.Errorf("second question\n got %+v\nwant %+v", q[1], want)
		}
	})
}

func TestValueIsRememberedFromWhenItWasEntered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		var forgotten atomic.Int32 // a timer counts too
		u.Forget = func() { forgotten.Add(1) }
		b.user.Script(answer("1234"))
		b.mustUse(u, b.check(nil))
		stored := b.Remembered()
		if len(stored) != 1 || !is(stored[0], "1234") {
			t.Fatal("the value is not remembered")
		}
		// Use does not prolong it.
		for range 3 {
			time.Sleep(3 * time.Minute)
			b.mustUse(u, b.check(nil))
		}
		b.asked(1)
		if forgotten.Load() != 0 {
			t.Errorf("Forget was called %d times while the value stands", forgotten.Load())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if stored[0].Len() != 0 || len(b.Remembered()) != 0 || forgotten.Load() != 1 {
			t.Errorf("ten minutes later: %d bytes left, %d values, Forget called %d times",
				stored[0].Len(), len(b.Remembered()), forgotten.Load())
		}
		b.user.Script(answer("1234"))
		b.mustUse(u, b.check(nil))
		b.asked(1)
	})
}

func TestSlowWorkDoesNotProlong(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		for work, kept := range map[time.Duration]time.Duration{8 * time.Minute: 2 * time.Minute, time.Hour: 0} {
			b.user.Script(answer("1234"))
			b.mustUse(pinUse("k", nil), func(secret.Bytes) error {
				time.Sleep(work)
				return nil
			})
			if got := len(b.Remembered()) == 1; got != (kept > 0) {
				t.Errorf("after %v of work: remembered is %v", work, got)
			}
			time.Sleep(kept)
			synctest.Wait()
			if len(b.Remembered()) != 0 {
				t.Errorf("%v after %v of work the value is still there", kept, work)
			}
		}
	})
}

func TestValuesAreOnesOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(answer("1234"), answer("1234"))
		b.mustUse(pinUse("a", nil), b.check(nil))
		b.mustUse(pinUse("b", nil), b.check(nil))
		b.asked(2)
	})
}

func TestNothingIsRememberedAtZero(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.Remember = 0
		u := pinUse("k", nil)
		u.Confirm = true
		forgotten := 0
		u.Forget = func() { forgotten++ }
		for range 2 {
			b.user.Script(keyringtest.Reply{}, answer("1234"))
			b.mustUse(u, b.check(nil))
			for _, q := range b.asked(2) {
				if q.Remember != 0 {
					t.Errorf("the question promises to remember for %v", q.Remember)
				}
			}
		}
		if forgotten != 2 || len(b.Remembered()) != 0 || len(b.Approvals()) != 0 {
			t.Errorf("Forget called %d times of 2, %d values, %d approvals", forgotten, len(b.Remembered()), len(b.Approvals()))
		}
	})
}

func TestWrongValuesAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(answer("1"), answer("2"), answer("3"))
		b.mustFail(keyring.ErrAuthFailed, pinUse("k", nil), b.check(nil))
		for i, q := range b.asked(3) {
			if q.Left != 3-i || q.Retry != (i > 0) {
				t.Errorf("question %d: Left %d, Retry %v", i+1, q.Left, q.Retry)
			}
		}
		if len(b.Remembered()) != 0 {
			t.Error("a wrong value is remembered")
		}
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("k", nil), b.check(nil))
		if q := b.asked(1)[0]; q.Left != 3 || q.Retry {
			t.Errorf("the next use begins with %+v", q)
		}
	})
}

func TestOtherErrorsAreNotRetriedAndNotRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(answer("1234"))
		forgotten := 0
		u := pinUse("k", nil)
		u.Forget = func() { forgotten++ }
		b.mustFail(keyring.ErrUnavailable, u, func(secret.Bytes) error {
			return fmt.Errorf("device: %w", keyring.ErrUnavailable)
		})
		b.asked(1)
		if len(b.Remembered()) != 0 || forgotten != 1 {
			t.Errorf("%d values remembered, Forget called %d times", len(b.Remembered()), forgotten)
		}
	})
}

func TestRememberedValueThatIsWrongIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 5}
		b.user.Script(answer("1234"), answer("5678"))
		b.mustUse(pinUse("k", d), b.check(d))
		changed := func(auth secret.Bytes) error { return d.Try(is(auth, "5678")) }
		b.mustUse(pinUse("k", d), changed)
		q := b.asked(2)[1]
		if q.Retry || q.Warning == "" || q.Left != 2 {
			t.Errorf("after the PIN changed elsewhere: %+v", q)
		}
		if d.Tried() != 3 {
			t.Errorf("%d values were spent, want 3", d.Tried())
		}
		b.mustUse(pinUse("k", d), changed)
		b.asked(0)
	})
}

func TestForgetAndLock(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		forgotten := map[string]int{}
		enter := func(id string) {
			u := pinUse(id, nil)
			u.Confirm = true
			u.Forget = func() { forgotten[id]++ }
			b.user.Script(keyringtest.Reply{}, answer("1234"))
			b.mustUse(u, b.check(nil))
			b.asked(2)
		}
		enter("a")
		enter("b")
		stored := b.Remembered()
		b.Forget("a")
		if n := len(b.Approvals()); n != 1 || len(b.Remembered()) != 1 || forgotten["a"] != 1 || forgotten["b"] != 0 {
			t.Errorf("after Forget: %d approvals, %d values, Forget calls %v", n, len(b.Remembered()), forgotten)
		}
		enter("a")
		stored = append(stored, b.Remembered()...)
		b.Lock()
		if n := len(b.Approvals()); n != 0 || len(b.Remembered()) != 0 || forgotten["a"] != 2 || forgotten["b"] != 1 {
			t.Errorf("after Lock: %d approvals, %d values, Forget calls %v", n, len(b.Remembered()), forgotten)
		}
		for _, s := range stored {
			if s.Len() != 0 {
				t.Error("a forgotten value was not wiped")
			}
		}
		enter("b")
	})
}

func TestValueForgottenWhileAtWorkStaysForgotten(t *testing.T) {
	for name, forget := range map[string]func(*keyring.Gate){
		"Lock":   (*keyring.Gate).Lock,
		"Forget": func(g *keyring.Gate) { g.Forget("k") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				forgotten := 0
				u := pinUse("k", nil)
				u.Forget = func() { forgotten++ }
				work := func(auth secret.Bytes) error {
					forget(b.Gate)
					if !is(auth, "1234") {
						t.Error("the value was taken from under do")
					}
					return nil
				}
				b.user.Script(answer("1234"))
				b.mustUse(u, work)
				if len(b.Remembered()) != 0 || forgotten == 0 {
					t.Errorf("just typed: %d values, Forget called %d times", len(b.Remembered()), forgotten)
				}
				b.user.Script(answer("1234"))
				b.mustUse(u, b.check(nil))
				forgotten = 0
				b.mustUse(u, work)
				// Once by the gate, and again for what do derived after that.
				if len(b.Remembered()) != 0 || forgotten != 2 {
					t.Errorf("remembered: %d values, Forget called %d times", len(b.Remembered()), forgotten)
				}
			})
		})
	}
}

func TestNobodyToAsk(t *testing.T) {
	for name, p := range map[string]prompt.Prompter{
		"none":        nil,
		"unavailable": scripted(keyringtest.Reply{Err: prompt.ErrUnavailable}),
		"broken":      scripted(keyringtest.Reply{Err: errors.New("pinentry crashed")}),
	} {
		t.Run(name, func(t *testing.T) {
			g := keyring.NewGate(p)
			err := g.Use(t.Context(), pinUse("k", nil), never(t))
			if !errors.Is(err, keyring.ErrUnavailable) || errors.Is(err, keyring.ErrDenied) ||
				!strings.Contains(err.Error(), "hint: ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func scripted(r ...keyringtest.Reply) *keyringtest.FakePrompter {
	p := &keyringtest.FakePrompter{}
	p.Script(r...)
	return p
}

func TestCancelledUseDoesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, u := range []keyring.Use{{ID: "k"}, {ID: "k", Confirm: true}, pinUse("k", nil)} {
			if err := b.Use(ctx, u, never(t)); err != context.Canceled {
				t.Errorf("got %v", err)
			}
		}
		b.asked(0)
	})
}

func TestPanicAndGoexitLeaveNothingHeld(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 3}
		var told []error
		b.Notify = func(_ keyring.Use, err error) { told = append(told, err) }
		for _, end := range []func(){func() { panic("key") }, runtime.Goexit} {
			b.user.Script(answer("1234"))
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = recover() }()
				_ = b.Use(t.Context(), pinUse("k", d), func(auth secret.Bytes) error {
					end()
					return nil
				})
				t.Error("Use returned")
			}()
			<-done
			if !b.Idle() || len(b.Remembered()) != 0 || b.user.Unwiped() != 0 {
				t.Error("something is still held")
			}
		}
		if len(told) != 2 || told[0] == nil || told[1] == nil {
			t.Errorf("reported as %v", told)
		}
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("k", d), b.check(d))
		b.asked(3)
	})
}

func TestOneLogLineForEachUseAndNoSecret(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var out bytes.Buffer
		b.Log = slog.New(slog.NewTextHandler(&out, nil))
		const canary = "canary-5309"
		b.user.Script(answer(canary), answer("1234"), dismiss())
		b.mustUse(pinUse("k", nil), b.check(nil))
		b.mustUse(pinUse("k", nil), b.check(nil))
		b.mustFail(keyring.ErrDenied, pinUse("j", nil), never(t))
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d lines for 3 uses:\n%s", len(lines), out.String())
		}
		for i, want := range []string{
			`level=INFO msg="key used" caller="git (7)" key="key k"`,
			`level=INFO msg="key used" caller="git (7)" key="key k"`,
			`level=INFO msg="key not used" caller="git (7)" key="key j" err="refused by the user`,
		} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("line %d is %s\nwant %s", i+1, lines[i], want)
			}
		}
		if strings.Contains(out.String(), canary) || strings.Contains(out.String(), "1234") {
			t.Errorf("a secret is in the log:\n%s", out.String())
		}
	})
}
