package keyring_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func chosen(term prompt.Term) keyringtest.Reply {
	return keyringtest.Reply{Passphrase: "1234", Term: term, Chosen: true}
}

func TestTermOfAnApproval(t *testing.T) {
	for _, c := range []struct {
		name  string
		reply keyringtest.Reply
		lasts time.Duration // 0: not at all, -1: until Lock
	}{
		{"not chosen", yes(), 10 * time.Minute}, // by a prompter that could not show the choice
		{"once", chosen(prompt.Once), 0},
		{"for a while", chosen(prompt.ForAWhile), 10 * time.Minute},
		{"until lock", chosen(prompt.UntilLock), -1},
		{"of the future", chosen(99), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				u := confirmUse()
				b.user.Script(c.reply)
				b.mustUse(u, b.nothing)
				if q := b.asked(1)[0]; !q.Terms || q.Remember != 10*time.Minute {
					t.Errorf("asked %+v", q)
				}
				list := b.Approvals()
				if c.lasts == 0 {
					if len(list) != 0 {
						t.Errorf("approvals %+v", list)
					}
					b.user.Script(dismiss())
					b.mustFail(keyring.ErrDenied, u, never(t))
					return
				}
				if len(list) != 1 || list[0].Until.IsZero() != (c.lasts < 0) {
					t.Fatalf("approvals %+v", list)
				}
				time.Sleep(10*time.Minute - time.Nanosecond)
				b.mustUse(u, b.nothing)
				time.Sleep(time.Nanosecond)
				if c.lasts > 0 {
					b.user.Script(dismiss())
					b.mustFail(keyring.ErrDenied, u, never(t))
					return
				}
				time.Sleep(1000 * time.Hour)
				b.mustUse(u, b.nothing)
				b.asked(0)
				if err := b.Revoke(b.Approvals()[0].ID); err != nil {
					t.Error(err)
				}
				b.user.Script(chosen(prompt.UntilLock))
				b.mustUse(u, b.nothing)
				b.asked(1)
				b.Lock()
				b.user.Script(dismiss())
				b.mustFail(keyring.ErrDenied, u, never(t))
			})
		})
	}
}

func TestTermOfAValue(t *testing.T) {
	for _, c := range []struct {
		name string
		keyringtest.Reply
		lasts time.Duration
	}{
		{"not chosen", answer("1234"), 10 * time.Minute},
		{"once", chosen(prompt.Once), 0},
		{"for a while", chosen(prompt.ForAWhile), 10 * time.Minute},
		{"until lock", chosen(prompt.UntilLock), 10 * time.Minute}, // never longer than the setting
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				forgotten := 0
				u := pinUse("k", nil)
				u.Forget = func() { forgotten++ }
				b.user.Script(c.Reply)
				b.mustUse(u, b.check(nil))
				if q := b.asked(1)[0]; !q.Terms || q.Remember != 10*time.Minute {
					t.Errorf("asked %+v", q)
				}
				if n := len(b.Remembered()); (n == 1) != (c.lasts > 0) || (forgotten == 1) != (c.lasts == 0) {
					t.Errorf("%d remembered, forgotten %d times", n, forgotten)
				}
				if c.lasts > 0 {
					time.Sleep(c.lasts - 1)
					b.mustUse(u, b.check(nil))
				}
				b.Lock()
			})
		})
	}
	// A later answer is not bound by an earlier one.
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(keyringtest.Reply{Passphrase: "1", Term: prompt.Once, Chosen: true}, chosen(prompt.ForAWhile))
		b.mustUse(pinUse("k", nil), b.check(nil))
		if len(b.Remembered()) != 1 {
			t.Error("the wish that came with a wrong value counts")
		}
		b.Lock()
	})
}

// What comes from another machine is asked about each time, and leaves nothing
// behind that would answer for it, or for others.
func TestForwardedUsesAskEachTime(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		local, forwarded := confirmUse(), confirmUse()
		forwarded.Forwarded = true
		b.user.Script(chosen(prompt.UntilLock))
		b.mustUse(local, b.nothing)
		b.asked(1)
		for range 3 {
			b.user.Script(chosen(prompt.UntilLock))
			b.mustUse(forwarded, b.nothing)
			if q := b.asked(1)[0]; q.Terms || q.Remember != 0 {
				t.Errorf("offered to remember: %+v", q)
			}
		}
		if n := len(b.Approvals()); n != 1 {
			t.Errorf("%d approvals", n)
		}
	})
}

func TestForwardedUsesOfAPIN(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		u.Forwarded = true
		kinds := func(want ...prompt.Kind) {
			t.Helper()
			var got []prompt.Kind
			for _, q := range b.asked(len(want)) {
				if got = append(got, q.Kind); q.Remember != 0 || q.Terms {
					t.Errorf("offered to remember: %+v", q)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("asked %v, want %v", got, want)
			}
		}
		// Nothing is remembered: the PIN itself is the permission.
		for range 2 {
			b.user.Script(chosen(prompt.ForAWhile))
			b.mustUse(u, b.check(nil))
			kinds(prompt.Passphrase)
		}
		if len(b.Remembered()) != 0 {
			t.Error("a PIN that was typed for another machine is remembered")
		}
		b.user.Script(answer("1234"))
		b.mustUse(pinUse("k", nil), b.check(nil))
		b.asked(1)
		// It is remembered now: permission is asked for, each time.
		for range 2 {
			b.user.Script(yes())
			b.mustUse(u, b.check(nil))
			kinds(prompt.Confirm)
		}
		b.user.Script(dismiss())
		b.mustFail(keyring.ErrDenied, u, never(t))
		kinds(prompt.Confirm)
		// A key that wants permission anyway asks for it once.
		u.Confirm = true
		b.user.Script(yes())
		b.mustUse(u, b.check(nil))
		kinds(prompt.Confirm)
		// What is kept elsewhere is no permission either.
		b.Lock()
		u.Confirm = false
		u.Recall = func(context.Context) (secret.Bytes, bool) { return secret.Copy([]byte("1234")), true }
		b.user.Script(yes())
		b.mustUse(u, b.check(nil))
		kinds(prompt.Confirm)
		if len(b.Remembered()) != 0 {
			t.Error("a value is left behind")
		}
	})
}

func TestForwardedUsesOfAPlainKey(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := keyring.Use{ID: "k", Subject: "key k", Caller: git, Purpose: keyring.Purpose{Forwarded: true}}
		b.mustUse(u, b.nothing)
		b.asked(0)
		b.ConfirmForwarded = true
		for range 2 {
			b.user.Script(yes())
			b.mustUse(u, b.nothing)
			b.asked(1)
		}
		u.Forwarded = false
		b.mustUse(u, b.nothing)
		b.asked(0)
	})
}

func TestPurposeIsShownAndKept(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		key := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "file", "/a")
		key.Locked("1234", nil)
		key.KeyInfo.Confirm = true
		keys.Replace("files", []keyring.Key{key})
		r := request(key)
		r.Purpose = keyring.Purpose{Host: "git.example.org", HostWarning: "not verified", Through: "gw → build7"}
		b.user.Script(yes(), answer("1234"))
		if _, err := keys.Sign(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		for _, q := range b.asked(2) {
			if q.Host != r.Host || q.HostWarning != r.HostWarning || q.Through != r.Through ||
				q.Fingerprint != keyring.Fingerprint(key.Info().Public) || q.Fingerprint == "" {
				t.Errorf("asked %+v", q)
			}
		}
		if past := b.History(); len(past) != 1 || past[0].Purpose != r.Purpose {
			t.Errorf("kept %+v", past)
		}
		b.Lock()
	})
}

// The user's setting is like a wish of the key's own.
func TestDemandedConfirmation(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		keys.Demand = func(i keyring.KeyInfo) bool { return slices.Contains(i.Paths, "/b") }
		one := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "one", "/a")
		two := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "two", "/b")
		keys.Replace("files", []keyring.Key{one, two})
		if l := keys.List(); l[0].Confirm || !l[1].Confirm {
			t.Errorf("listed as %+v", l)
		}
		if _, err := keys.Sign(t.Context(), request(one)); err != nil {
			t.Error(err)
		}
		b.user.Script(yes())
		if _, err := keys.Sign(t.Context(), request(two)); err != nil {
			t.Error(err)
		}
		b.asked(1)
	})
}
