package keyring_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func TestFirstUseMakesTheLoginCollection(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		// There seems to be one, so that programs do what they do with one.
		info, err := v.Collection("login")
		if err != nil || info.Label != "Login" || !info.Locked {
			t.Errorf("%+v, error %v", info, err)
		}
		if list := v.Collections(); len(list) != 2 || list[0] != info || list[1].ID != "session" {
			t.Errorf("collections: %+v", list)
		}
		if refs, err := v.Items("login"); err != nil || len(refs) != 0 {
			t.Errorf("items %v, error %v", refs, err)
		}
		if refs, err := v.SearchIn("login", nil); err != nil || len(refs) != 0 {
			t.Errorf("found %v, error %v", refs, err)
		}
		if slots, err := v.Slots("login"); err != nil || len(slots) != 0 {
			t.Errorf("slots %v, error %v", slots, err)
		}
		_, err = v.CreateItem(t.Context(), browser, "login", keyring.NewItem{}, true)
		v.want("create", err, keyring.ErrLocked)
		_, err = v.Item(keyring.ItemRef{Collection: "login", Item: "1"})
		v.want("item", err, keyring.ErrNotFound)
		v.want("label", v.SetCollectionLabel(t.Context(), browser, "login", "x"), keyring.ErrLocked)
		v.want("delete", v.DeleteCollection(t.Context(), browser, "login"), keyring.ErrNotFound)
		v.want("with a password", v.UnlockWith(t.Context(), browser, "login", v.credential(keyring.SlotPassphrase, "x")), keyring.ErrNotFound)
		v.must(v.Lock(t.Context(), browser, "login"))
		v.wantTold()

		v.user.Script(dismiss())
		v.want("dismissed", v.Unlock(t.Context(), browser, "login"), keyring.ErrDenied)
		if n := len(v.store.Collections()); n != 0 {
			t.Fatalf("%d collections were made", n)
		}
		v.user.Script(answer("chosen"))
		v.must(v.Unlock(t.Context(), browser, "login"))
		if q := v.asked(prompt.NewPassphrase, prompt.NewPassphrase); q[0].Subject != "keyring “Login”" || q[0].Caller != "browser (9)" {
			t.Errorf("asked %+v", q[0])
		}
		v.wantTold("created login", "changed login")
		v.item("login", "v")
		if list := v.Collections(); len(list) != 2 || list[0].Locked {
			t.Errorf("collections: %+v", list)
		}
		v.must(v.Lock(t.Context(), browser))
		v.user.Script(answer("chosen"))
		v.must(v.Unlock(t.Context(), browser, "login"))
	})
}

func TestFirstUseByManyAsksOnce(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		release := make(chan struct{})
		v.user.Script(keyringtest.Reply{Passphrase: "chosen", When: release})
		errs := make(chan error)
		for range 10 {
			go func() { errs <- v.Unlock(t.Context(), browser, "login") }()
			go func() {
				id, err := v.CreateCollection(t.Context(), browser, "Default keyring", "default")
				if err == nil && id != "login" {
					err = errors.New("it made " + id)
				}
				errs <- err
			}()
		}
		synctest.Wait()
		close(release)
		for range 20 {
			v.must(<-errs)
		}
		v.asked(prompt.NewPassphrase)
		if n := len(v.store.Collections()); n != 1 {
			t.Errorf("%d collections", n)
		}
	})
}

func TestFirstUseCanBeAutomatic(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.TPM = true
		v.user.Script(keyringtest.Reply{Passphrase: "chosen", Automatic: true})
		v.must(v.Unlock(t.Context(), browser, "login"))
		v.must(v.LockForSleep(t.Context(), browser))
		v.must(v.Unlock(t.Context(), browser, "login"))
		if q := v.asked(prompt.NewPassphrase); !q[0].Automatic {
			t.Error("that was not offered")
		}
	})
}

func TestLoginDuringTheFirstQuestion(t *testing.T) {
	for name, login := range map[string]func(v *vault) error{
		"login": func(v *vault) error { return v.Login(v.t.Context(), browser, value(v.t, "pw")) },
		"script": func(v *vault) error {
			_, err := v.CreateWith(v.t.Context(), browser, "x", "default", v.credential(keyring.SlotPassphrase, "pw"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inVault(t, func(t *testing.T, v *vault) {
				v.user.Script(keyringtest.Reply{When: make(chan struct{})})
				done := make(chan error, 1)
				go func() { done <- v.Unlock(t.Context(), browser, "login") }()
				synctest.Wait()
				v.must(login(v))
				v.must(<-done)
				v.asked(prompt.NewPassphrase)
				v.wantTold("created login", "changed login")
			})
		})
	}
}

func TestLoginMadeWhileItIsBeingChosen(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		// Somebody else's login keyring appears between the answer and the making.
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if op == "Create" {
				v.store.Hook = nil
				_, err := v.store.Create(t.Context(), "login", "Login", v.credential(keyring.SlotPassphrase, "pw"))
				v.must(err)
				for _, c := range v.store.Collections() {
					c.Lock()
				}
			}
			return nil
		}
		v.user.Script(answer("chosen"), answer("chosen"), answer("pw"))
		v.must(v.Unlock(t.Context(), browser, "login"))
		v.asked(prompt.NewPassphrase, prompt.Passphrase, prompt.Passphrase)
	})
}

func TestLogin(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		pam := keyring.Caller{FrontEnd: "control"}
		v.want("nothing", v.Login(t.Context(), pam, value(t, "")), keyring.ErrAuthFailed)
		if n := len(v.store.Collections()); n != 0 {
			t.Fatalf("an empty password made %d collections", n)
		}
		v.must(v.Login(t.Context(), pam, value(t, "pw")))
		v.wantLocked("login", false)
		r := v.item("login", "v")
		v.must(v.Login(t.Context(), pam, value(t, "pw")))
		v.must(v.Lock(t.Context(), browser))
		v.want("another password", v.Login(t.Context(), pam, value(t, "other")), keyring.ErrAuthFailed)
		v.wantLocked("login", true)
		v.want("nothing", v.Login(t.Context(), pam, value(t, "")), keyring.ErrAuthFailed)
		v.must(v.Login(t.Context(), pam, value(t, "pw")))
		v.wantSecret(r, "v")

		v.must(v.ChangeLogin(t.Context(), pam, value(t, "pw"), value(t, "new")))
		v.must(v.Lock(t.Context(), browser))
		v.want("the old password", v.Login(t.Context(), pam, value(t, "pw")), keyring.ErrAuthFailed)
		v.must(v.Login(t.Context(), pam, value(t, "new")))
		v.wantSecret(r, "v")
		v.must(v.Lock(t.Context(), browser))
		v.must(v.ChangeLogin(t.Context(), pam, value(t, "pw"), value(t, "new"))) // it was changed already
		v.wantSecret(r, "v")
		v.must(v.Lock(t.Context(), browser))
		v.want("neither", v.ChangeLogin(t.Context(), pam, value(t, "x"), value(t, "y")), keyring.ErrAuthFailed)
		v.want("to nothing", v.ChangeLogin(t.Context(), pam, value(t, "new"), value(t, "")), keyring.ErrAuthFailed)
		v.wantLocked("login", true)
		v.must(v.Login(t.Context(), pam, value(t, "new")))
		if slots, _ := v.Slots("login"); len(slots) != 1 {
			t.Errorf("slots: %+v", slots)
		}
		v.asked()
	})
}

func TestChangeLoginMakesTheCollection(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		pam := keyring.Caller{FrontEnd: "control"}
		v.must(v.ChangeLogin(t.Context(), pam, value(t, "old"), value(t, "new")))
		v.wantLocked("login", false)
		v.must(v.Lock(t.Context(), browser))
		v.must(v.Login(t.Context(), pam, value(t, "new")))
		v.asked()
	})
}

func TestLoginWithoutAPassphraseSlot(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		pam := keyring.Caller{FrontEnd: "control"}
		_, err := v.CreateWith(t.Context(), browser, "Login", "login", keyring.Credential{Kind: keyring.SlotTPM})
		v.must(err)
		v.must(v.Lock(t.Context(), browser))
		v.want("locked by hand", v.Login(t.Context(), pam, value(t, "pw")), keyring.ErrAuthFailed)
		v.user.Script(keyringtest.Reply{})
		v.must(v.Unlock(t.Context(), browser, "login"))
		v.must(v.LockForSleep(t.Context(), browser))
		v.must(v.Login(t.Context(), pam, value(t, "pw")))
		slots, err := v.Slots("login")
		v.must(err)
		if len(slots) != 2 || slots[1].Kind != keyring.SlotPassphrase {
			t.Errorf("slots: %+v", slots)
		}
		v.must(v.UnlockWith(t.Context(), browser, "login", v.credential(keyring.SlotPassphrase, "pw")))
	})
}

func TestLoginOfAFullDisk(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if op == "Create" {
				return keyring.ErrUnavailable
			}
			return nil
		}
		v.want("login", v.Login(t.Context(), browser, value(t, "pw")), keyring.ErrUnavailable)
		v.user.Script(answer("chosen"))
		v.want("unlock", v.Unlock(t.Context(), browser, "login"), keyring.ErrUnavailable)
		v.wantLocked("login", true)
		v.wantTold()
		v.asked(prompt.NewPassphrase)
	})
}

func TestCreateCollection(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.user.Script(answer("chosen"))
		id, err := v.CreateCollection(t.Context(), browser, "Work\n\u202eNot", "work")
		v.must(err)
		if q := v.asked(prompt.NewPassphrase); q[0].Subject != "keyring “Work  Not”" {
			t.Errorf("asked about %q", q[0].Subject)
		}
		v.wantLocked(id, false)
		if a, ok := v.Alias("work"); !ok || a != id || id == "login" {
			t.Errorf("alias is %q, made %q", a, id)
		}
		v.wantTold("created " + id)
		v.must(v.UnlockWith(t.Context(), browser, id, v.credential(keyring.SlotPassphrase, "chosen")))

		// One that exists is returned, as it is.
		v.must(v.Lock(t.Context(), browser))
		again, err := v.CreateCollection(t.Context(), browser, "Other", "work")
		if err != nil || again != id {
			t.Errorf("made %q, error %v", again, err)
		}
		v.wantLocked(id, true)
		again, err = v.CreateWith(t.Context(), browser, "Other", "work", v.credential(keyring.SlotPassphrase, "chosen"))
		if err != nil || again != id {
			t.Errorf("made %q, error %v", again, err)
		}
		v.wantLocked(id, false)
		if s, err := v.CreateCollection(t.Context(), browser, "x", "session"); err != nil || s != "session" {
			t.Errorf("made %q, error %v", s, err)
		}
		v.asked()

		v.user.Script(dismiss())
		_, err = v.CreateCollection(t.Context(), browser, "Third", "")
		v.want("dismissed", err, keyring.ErrDenied)
		_, err = v.CreateWith(t.Context(), browser, "Third", "", v.credential(keyring.SlotPassphrase, ""))
		v.want("without a passphrase", err, keyring.ErrUnsupported)
		if n := len(v.store.Collections()); n != 1 {
			t.Errorf("%d collections", n)
		}
	})
}

func TestCollectionWhoseAliasFailsIsNotMade(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if op == "SetAlias" {
				return keyring.ErrUnavailable
			}
			return nil
		}
		_, err := v.CreateWith(t.Context(), browser, "Work", "work", v.credential(keyring.SlotPassphrase, "pw"))
		v.want("create", err, keyring.ErrUnavailable)
		if n := len(v.store.Collections()); n != 0 {
			t.Errorf("%d collections", n)
		}
		v.wantTold()
	})
}

func TestDeleteCollectionAsks(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("default")
		v.user.Script(dismiss(), keyringtest.Reply{})
		v.want("dismissed", v.DeleteCollection(t.Context(), browser, r.Collection), keyring.ErrDenied)
		if _, err := v.Items(r.Collection); err != nil {
			t.Fatal(err)
		}
		v.must(v.DeleteCollection(t.Context(), browser, r.Collection))
		if q := v.asked(prompt.Confirm, prompt.Confirm); q[0].Warning != "The secret in it is lost for ever." {
			t.Errorf("warned %q", q[0].Warning)
		}
		v.wantTold("deleted " + r.Collection)
		v.want("again", v.DeleteCollection(t.Context(), browser, "nosuchthing"), keyring.ErrNotFound)
		v.asked()
		v.wantLocked("login", true) // to be made anew
	})
}
