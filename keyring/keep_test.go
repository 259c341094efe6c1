package keyring_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func TestOnceIsNeverRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		b.user.Script(answer("1234"))
		b.mustUse(u, b.check(nil)) // another use remembers, and that is not for this one
		b.asked(1)
		once, forgotten := u, 0
		once.Once, once.Forget = true, func() { forgotten++ }
		once.Recall = func(context.Context) (secret.Bytes, bool) {
			t.Error("a value for once was fetched")
			return secret.Bytes{}, false
		}
		for range 2 {
			b.user.Script(answer("1234"))
			b.mustUse(once, b.check(nil))
			if q := b.asked(1)[0]; q.Remember != 0 || q.Terms {
				t.Errorf("the question promises to remember: %+v", q)
			}
		}
		if n := len(b.Remembered()); n != 1 {
			t.Errorf("%d values, want that of the other use", n)
		}
		b.Lock()
		b.user.Script(answer("1234"))
		b.mustUse(once, b.check(nil))
		if n := len(b.Remembered()); n != 0 || forgotten != 1 {
			t.Errorf("%d values, Forget called %d times", n, forgotten)
		}
	})
}

// The wish to be asked no more is passed on after the value has worked, and not
// before.
func TestAutomatic(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		worked, called := false, 0
		u.Automatic = func() {
			if called++; !worked {
				t.Error("called before do succeeded")
			}
		}
		do := func(auth secret.Bytes) error {
			if !is(auth, "1234") {
				return keyring.ErrAuthFailed
			}
			worked = true
			return nil
		}
		// A wish that came with a wrong value is asked for again.
		b.user.Script(keyringtest.Reply{Passphrase: "1", Automatic: true}, answer("1234"))
		b.mustUse(u, do)
		for _, q := range b.asked(2) {
			if !q.Automatic {
				t.Error("it was not offered")
			}
		}
		if called != 0 {
			t.Error("called without being wished for")
		}
		b.Lock()
		b.user.Script(keyringtest.Reply{Passphrase: "1234", Automatic: true})
		b.mustUse(u, do)
		b.mustUse(u, do) // remembered
		if called != 1 {
			t.Errorf("called %d times", called)
		}
		b.Lock()
		u.Automatic = nil
		b.user.Reset()
		b.user.Script(keyringtest.Reply{Passphrase: "1234", Automatic: true})
		b.mustUse(u, do)
		if q := b.asked(1)[0]; q.Automatic {
			t.Error("offered though nobody wants to know")
		}
	})
}

func TestAutomaticForAChosenValue(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		called := 0
		u := keyring.Use{ID: "c", Subject: "Login keyring", Caller: git, Automatic: func() { called++ }}
		b.user.Script(keyringtest.Reply{Automatic: true}, keyringtest.Reply{Passphrase: "new", Automatic: true})
		got, err := b.Choose(t.Context(), u, 20)
		if err != nil || !is(got, "new") {
			t.Fatal(err)
		}
		got.Wipe()
		if q := b.asked(2)[1]; !q.Automatic || called != 1 {
			t.Errorf("offered: %v; called %d times", q.Automatic, called)
		}
	})
}

// A box keeps one passphrase.
type box struct {
	held    secret.Bytes
	recalls int
	kept    []keyring.KeyID
	fails   error

	strangers int // wishes of somebody else's
}

func (x *box) hooks(c keyring.Caller, key keyring.KeyInfo) (func(context.Context) (secret.Bytes, bool), func(context.Context, secret.Bytes)) {
	recall := func(context.Context) (secret.Bytes, bool) {
		x.recalls++
		return x.held.Clone(), x.held.Len() > 0
	}
	keep := func(_ context.Context, auth secret.Bytes) {
		if x.fails != nil {
			return
		}
		x.held.Wipe()
		x.held, x.kept = auth.Clone(), append(x.kept, key.ID)
		if c != git {
			x.strangers++
		}
	}
	return recall, keep
}

func TestKeptPassphrase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		user, b := &keyringtest.FakePrompter{}, &box{}
		g := keyring.NewGate(user)
		keys := keyring.NewKeys(g)
		keys.Passphrases = b.hooks
		key := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "file", "/a")
		key.Locked("1234", nil)
		keys.Replace("files", []keyring.Key{key})
		sign := func(questions int) {
			t.Helper()
			if _, err := keys.Sign(t.Context(), request(key)); err != nil {
				t.Fatal(err)
			}
			if n := len(user.Questions()); n != questions {
				t.Fatalf("%d questions, want %d", n, questions)
			}
			user.Reset()
		}
		user.Script(keyringtest.Reply{Passphrase: "1234", Automatic: true})
		sign(1)
		if len(b.kept) != 1 || b.kept[0] != key.Info().ID || b.recalls != 1 || b.strangers != 0 {
			t.Fatalf("kept %v, recalled %d times", b.kept, b.recalls)
		}
		sign(0) // remembered: the box is left alone
		g.Lock()
		sign(0)
		if b.recalls != 2 || len(b.kept) != 1 {
			t.Errorf("recalled %d times, kept %d times", b.recalls, len(b.kept))
		}

		// The file has another passphrase now. The user learns so, has all tries,
		// and the box is asked but once.
		key.Locked("5678", nil)
		g.Lock()
		user.Script(answer("1"), answer("2"), keyringtest.Reply{Passphrase: "5678", Automatic: true})
		if _, err := keys.Sign(t.Context(), request(key)); err != nil {
			t.Fatal(err)
		}
		q := user.Questions()
		user.Reset()
		if len(q) != 3 || q[0].Left != 3 || q[0].Retry || q[0].Warning == "" || !q[1].Retry {
			t.Errorf("asked %+v", q)
		}
		if b.recalls != 3 || len(b.kept) != 2 || !is(b.held, "5678") {
			t.Errorf("recalled %d times, kept %d times", b.recalls, len(b.kept))
		}

		// A box that is full is no reason to fail.
		b.held.Wipe()
		b.fails = keyring.ErrLocked
		g.Lock()
		user.Script(keyringtest.Reply{Passphrase: "5678", Automatic: true})
		sign(1)
		g.Lock()
		if user.Unwiped() != 0 || len(g.Remembered()) != 0 {
			t.Error("a value is left")
		}
	})
}

// A PIN is never kept, and a key that is not locked needs no box.
func TestPINsAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		user, b := &keyringtest.FakePrompter{}, &box{}
		keys := keyring.NewKeys(keyring.NewGate(user))
		keys.Passphrases = b.hooks
		pin := keyringtest.NewFakeKey(newSigner(t), keyring.KindTPM, "tpm", "/a")
		pin.Locked("1234", nil)
		open := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "open", "/b")
		keys.Replace("files", []keyring.Key{pin, open})
		user.Script(keyringtest.Reply{Passphrase: "1234", Automatic: true})
		for _, k := range []keyring.Key{pin, open} {
			if _, err := keys.Sign(t.Context(), request(k)); err != nil {
				t.Fatal(err)
			}
		}
		if b.recalls != 0 || len(b.kept) != 0 || user.Questions()[0].Automatic {
			t.Errorf("recalled %d times, kept %d times", b.recalls, len(b.kept))
		}
	})
}

// A fetched value that a device counts is a try like any other.
func TestFetchedValueIsCountedByTheDevice(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		d := &keyringtest.FakeDevice{Max: 5}
		u := pinUse("k", d)
		u.Recall = func(context.Context) (secret.Bytes, bool) { return secret.Copy([]byte("0000")), true }
		b.user.Script(answer("1234"))
		b.mustUse(u, b.check(d))
		if q := b.asked(1)[0]; q.Left != 2 || d.Tried() != 2 {
			t.Errorf("left %d, %d tried", q.Left, d.Tried())
		}
	})
}

// TestRememberChanges while the Gate is in use, for what is remembered already
// as well.
func TestRememberChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		user := &keyringtest.FakePrompter{Default: func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "x"} }}
		g := keyring.NewGate(user)
		use := func() {
			t.Helper()
			err := g.Use(t.Context(), keyring.Use{ID: "k", NeedsAuth: true, Caller: git}, func(secret.Bytes) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		asked := func(want int) {
			t.Helper()
			if n := len(user.Questions()); n != want {
				t.Errorf("asked %d times, want %d", n, want)
			}
		}
		use()
		use()
		asked(1)
		time.Sleep(time.Minute)
		g.SetRemember(time.Minute)
		use()
		asked(2)
		g.SetRemember(0)
		use()
		asked(3)
		g.SetRemember(time.Hour)
		use()
		time.Sleep(59 * time.Minute)
		use()
		asked(4)
	})
}
