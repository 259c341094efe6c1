package keyring_test

import (
	"context"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

var sshKey = keyring.KeyInfo{
	ID: keyring.KeyID{1}, Label: "mia@desk", Kind: keyring.KindFile, NeedsAuth: true,
	Paths: []string{"/home/mia/.ssh/id_ed25519", "/home/mia/.ssh/work"},
}

// open makes an unlocked login collection with the passphrase "pw".
func (v *vault) open() {
	v.t.Helper()
	v.must(v.Login(v.t.Context(), browser, value(v.t, "pw")))
}

func (v *vault) wantRemembered(want string) {
	v.t.Helper()
	got, ok := v.RememberedPassphrase(v.t.Context(), sshKey)
	defer got.Wipe()
	if ok != (want != "") || ok && !is(got, want) {
		v.t.Errorf("remembered: %v, or not %q", ok, want)
	}
}

func TestPassphraseOfAKeyIsRemembered(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.open()
		v.wantRemembered("")
		v.must(v.RememberPassphrase(t.Context(), browser, sshKey, value(t, "one")))
		v.wantRemembered("one")
		v.must(v.RememberPassphrase(t.Context(), browser, sshKey, value(t, "two")))
		v.wantRemembered("two")
		found, err := v.SearchIn("login", map[string]string{"unique": "ssh-store:/home/mia/.ssh/id_ed25519"})
		v.must(err)
		if len(found) != 1 {
			t.Fatalf("found %v", found)
		}
		if info, err := v.Item(found[0]); err != nil || info.Label != "Unlock password for: mia@desk" {
			t.Errorf("%+v, error %v", info, err)
		}
		v.must(v.ForgetPassphrase(t.Context(), browser, sshKey))
		v.wantRemembered("")
		v.must(v.ForgetPassphrase(t.Context(), browser, sshKey))
		v.asked()
	})
}

func TestPassphraseThatGnomeKeyringKept(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.open()
		v.item("login", "old", "unique", "ssh-store:/home/mia/.ssh/work", "xdg:schema", "org.freedesktop.Secret.Generic", "more", "things")
		v.wantRemembered("old")
		v.must(v.RememberPassphrase(t.Context(), browser, sshKey, value(t, "new")))
		v.wantRemembered("new")
		if items, err := v.Items("login"); err != nil || len(items) != 1 {
			t.Errorf("items %v, error %v", items, err)
		}
	})
}

func TestPassphrasesAreNeverAskedFor(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.wantRemembered("") // there is no login collection
		v.want("remember", v.RememberPassphrase(t.Context(), browser, sshKey, value(t, "x")), keyring.ErrLocked)
		v.open()
		v.must(v.RememberPassphrase(t.Context(), browser, sshKey, value(t, "one")))
		v.must(v.LockForSleep(t.Context(), browser))
		v.wantRemembered("")
		v.want("remember", v.RememberPassphrase(t.Context(), browser, sshKey, value(t, "x")), keyring.ErrLocked)
		v.want("forget", v.ForgetPassphrase(t.Context(), browser, sshKey), keyring.ErrLocked)
		if recall, keep := v.Passphrases(browser, sshKey); recall != nil || keep != nil {
			t.Error("a locked collection offers to keep passphrases")
		}
		v.addTPM("login", "")
		v.wantRemembered("one") // unlocked quietly
		v.must(v.Lock(t.Context(), browser))
		v.wantRemembered("") // but not against the user's wish
		v.asked()
	})
}

func TestPINsAreNeverKept(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.open()
		for _, kind := range []keyring.Kind{keyring.KindTPM, keyring.KindAdded} {
			key := sshKey
			key.Kind = kind
			v.want(string(kind), v.RememberPassphrase(t.Context(), browser, key, value(t, "1234")), keyring.ErrUnsupported)
			if recall, keep := v.Passphrases(browser, key); recall != nil || keep != nil {
				t.Errorf("%s: it is offered", kind)
			}
		}
		v.want("nothing", v.RememberPassphrase(t.Context(), browser, sshKey, secret.Bytes{}), keyring.ErrUnsupported)
		if items, err := v.Items("login"); err != nil || len(items) != 0 {
			t.Errorf("items %v, error %v", items, err)
		}
	})
}

// TestGateKeepsAndRecallsPassphrases goes the way of a signature.
func TestGateKeepsAndRecallsPassphrases(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.open()
		v.gate.Remember = 0
		right := "one"
		sign := func() error {
			use := keyring.Use{ID: sshKey.ID.String(), Subject: sshKey.Label, NeedsAuth: true, Caller: git}
			use.Recall, use.Keep = v.Passphrases(git, sshKey)
			return v.gate.Use(t.Context(), use, func(auth secret.Bytes) error {
				if !is(auth, right) {
					return keyring.ErrAuthFailed
				}
				return nil
			})
		}
		v.user.Script(keyringtest.Reply{Passphrase: "one", Automatic: true})
		v.must(sign())
		v.asked(prompt.Passphrase)
		v.must(sign())
		v.asked()
		right = "two" // ssh-keygen -p
		v.user.Script(keyringtest.Reply{Passphrase: "two", Automatic: true})
		v.must(sign())
		v.asked(prompt.Passphrase)
		v.must(sign())
		v.asked()
	})
}

func TestUnreadablePassphraseIsAskedFor(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.open()
		v.must(v.RememberPassphrase(t.Context(), browser, sshKey, value(t, "one")))
		for _, broken := range []string{"Search", "Item", "Secret"} {
			v.store.Hook = func(_ context.Context, op, _ string) error {
				if op == broken {
					return keyring.ErrUnavailable
				}
				return nil
			}
			v.wantRemembered("")
		}
	})
}
