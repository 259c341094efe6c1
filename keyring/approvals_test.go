package keyring_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

func confirmUse() keyring.Use {
	return keyring.Use{ID: "k", Subject: "key k", Confirm: true, Caller: git, Scope: "git.example.org"}
}

func yes() keyringtest.Reply { return keyringtest.Reply{} }

func TestRefusedConfirmationIsDenied(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(dismiss())
		b.mustFail(keyring.ErrDenied, confirmUse(), never(t))
		if len(b.Approvals()) != 0 {
			t.Error("a refusal is listed as an approval")
		}
		b.asked(1)
	})
}

func TestApprovalIsForOneKeyProgramAndScope(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(yes())
		b.mustUse(confirmUse(), b.nothing)
		b.mustUse(confirmUse(), b.nothing)
		b.asked(1)
		for name, change := range map[string]func(*keyring.Use){
			"key":     func(u *keyring.Use) { u.ID = "other" },
			"program": func(u *keyring.Use) { u.Caller.Program = "/tmp/git" },
			"scope":   func(u *keyring.Use) { u.Scope = "elsewhere" },
		} {
			u := confirmUse()
			change(&u)
			b.user.Script(yes())
			b.mustUse(u, b.nothing)
			if n := len(b.user.Questions()); n != 1 {
				t.Errorf("another %s: asked %d times", name, n)
			}
			b.user.Reset()
		}
		// A use does not prolong it.
		time.Sleep(9 * time.Minute)
		b.mustUse(confirmUse(), b.nothing)
		b.asked(0)
		time.Sleep(time.Minute)
		b.user.Script(yes())
		b.mustUse(confirmUse(), b.nothing)
		b.asked(1)
	})
}

func TestUnknownProgramIsAskedEachTime(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := confirmUse()
		u.Caller = keyring.Caller{FrontEnd: "ssh-agent"}
		for range 2 {
			b.user.Script(yes())
			b.mustUse(u, b.nothing)
			if q := b.asked(1)[0]; q.Remember != 0 || q.Caller != "an unknown program (ssh-agent)" {
				t.Errorf("asked %+v", q)
			}
		}
		if len(b.Approvals()) != 0 {
			t.Error("an approval for nobody is listed")
		}
	})
}

func TestConfirmationIsShared(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		for _, reply := range []keyringtest.Reply{dismiss(), yes()} {
			release := make(chan struct{})
			want := reply.Err != nil
			reply.When = release
			b.user.Script(reply)
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					if err := b.Use(t.Context(), confirmUse(), b.nothing); errors.Is(err, keyring.ErrDenied) != want {
						t.Errorf("got %v", err)
					}
				})
			}
			synctest.Wait()
			close(release)
			wg.Wait()
			b.asked(1)
		}
	})
}

func TestApprovalsAreListedAndRevoked(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(yes(), yes())
		b.mustUse(confirmUse(), b.nothing)
		given := time.Now()
		time.Sleep(time.Minute)
		u := confirmUse()
		u.Scope = "elsewhere"
		b.mustUse(u, b.nothing)
		b.asked(2)
		list := b.Approvals()
		want := keyring.Approval{
			ID: list[0].ID, Key: "k", Subject: "key k", Program: "/usr/bin/git", Scope: "git.example.org",
			Given: given, Until: given.Add(10 * time.Minute),
		}
		if len(list) != 2 || list[0] != want || list[1].Scope != "elsewhere" {
			t.Fatalf("approvals: %+v\nfirst should be %+v", list, want)
		}
		if err := b.Revoke(list[0].ID); err != nil {
			t.Fatal(err)
		}
		if err := b.Revoke(list[0].ID); !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("revoked twice: %v", err)
		}
		b.mustUse(u, b.nothing)
		b.user.Script(yes())
		b.mustUse(confirmUse(), b.nothing)
		b.asked(1)
		time.Sleep(10 * time.Minute)
		if list := b.Approvals(); len(list) != 0 {
			t.Errorf("still listed: %+v", list)
		}
	})
}

func TestCallerIsAlwaysSomebody(t *testing.T) {
	for want, c := range map[string]keyring.Caller{
		"ssh (7) ← git":                {FrontEnd: "ssh-agent", PID: 7, Program: "/usr/bin/ssh", Process: "ssh (7) ← git"},
		"/usr/bin/ssh (7)":             {PID: 7, Program: "/usr/bin/ssh"},
		"/usr/bin/ssh":                 {Program: "/usr/bin/ssh"},
		"an unknown program (PKCS#11)": {FrontEnd: "PKCS#11", PID: 7},
		"an unknown program":           {},
	} {
		if got := c.String(); got != want {
			t.Errorf("%+v is %q, want %q", c, got, want)
		}
	}
}
