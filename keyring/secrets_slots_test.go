package keyring_test

import (
	"strings"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func (v *vault) addSlot(collection string, kind keyring.SlotKind, o keyring.SlotOptions) (keyring.SlotInfo, error) {
	info, code, err := v.AddSlot(v.t.Context(), browser, collection, kind, o)
	code.Wipe()
	return info, err
}

func TestAddSlotUnlocksFirstAndAsks(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.user.Script(answer("pw"), answer("1234"))
		info, err := v.addSlot(r.Collection, keyring.SlotTPM, keyring.SlotOptions{PIN: true, PCRs: "sha256:7"})
		v.must(err)
		if !info.PIN || info.PCRs != "sha256:7" || info.Kind != keyring.SlotTPM {
			t.Errorf("slot: %+v", info)
		}
		if q := v.asked(prompt.Passphrase, prompt.NewPassphrase); !q[1].PIN {
			t.Errorf("asked %+v", q[1])
		}
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotTPM, "1234")))

		// What a program could use on its own later is asked about.
		v.user.Script(dismiss(), dismiss(), keyringtest.Reply{}, keyringtest.Reply{})
		_, err = v.addSlot(r.Collection, keyring.SlotTPM, keyring.SlotOptions{})
		v.want("TPM, dismissed", err, keyring.ErrDenied)
		_, err = v.addSlot(r.Collection, keyring.SlotRecovery, keyring.SlotOptions{})
		v.want("recovery, dismissed", err, keyring.ErrDenied)
		_, err = v.addSlot(r.Collection, keyring.SlotTPM, keyring.SlotOptions{})
		v.want("pestering", err, keyring.ErrDenied)
		v.asked(prompt.Confirm, prompt.Confirm)
		slots, err := v.Slots(r.Collection)
		v.must(err)
		if len(slots) != 2 {
			t.Errorf("slots: %+v", slots)
		}
		_, err = v.addSlot(r.Collection, keyring.SlotPassphrase, keyring.SlotOptions{})
		v.want("a second passphrase", err, keyring.ErrUnsupported)
		_, err = v.addSlot(r.Collection, "seven seals", keyring.SlotOptions{})
		v.want("a kind that is none", err, keyring.ErrUnsupported)
		_, err = v.addSlot("session", keyring.SlotPassphrase, keyring.SlotOptions{})
		v.want("in memory", err, keyring.ErrUnsupported)
		v.asked()
	})
}

func TestAddSlotWithoutATPM(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.store.TPM = nil
		v.user.Script(answer("pw"), keyringtest.Reply{})
		_, err := v.addSlot(r.Collection, keyring.SlotTPM, keyring.SlotOptions{})
		v.want("add", err, keyring.ErrUnavailable)
	})
}

func TestRemoveSlotAsksButNeverTheLast(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		slots, err := v.Slots(r.Collection)
		v.must(err)
		v.want("the last", v.RemoveSlot(t.Context(), browser, r.Collection, slots[0].ID), keyring.ErrUnsupported)
		v.want("none", v.RemoveSlot(t.Context(), browser, r.Collection, "x"), keyring.ErrNotFound)
		v.asked()
		v.addTPM(r.Collection, "")
		v.user.Script(dismiss(), keyringtest.Reply{})
		v.want("dismissed", v.RemoveSlot(t.Context(), browser, r.Collection, slots[0].ID), keyring.ErrDenied)
		v.wantTold()
		v.must(v.RemoveSlot(t.Context(), browser, r.Collection, slots[0].ID))
		v.wantTold("changed " + r.Collection)
		if q := v.asked(prompt.Confirm, prompt.Confirm); !strings.Contains(q[0].Warning, "its passphrase") || !strings.Contains(q[0].Warning, "is lost") {
			t.Errorf("warned %q", q[0].Warning)
		}
		v.must(v.Unlock(t.Context(), browser, r.Collection))
		v.wantSecret(r, "v")
	})
}

func TestChangePassphrase(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw")))
		// Even of an unlocked one the old passphrase is asked for.
		v.user.Script(answer("wrong"), answer("pw"), answer("new"))
		v.must(v.ChangePassphrase(t.Context(), browser, r.Collection))
		v.asked(prompt.Passphrase, prompt.Passphrase, prompt.NewPassphrase)
		v.want("the old one", v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "pw")), keyring.ErrAuthFailed)
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "new")))

		v.user.Script(answer("new"), dismiss())
		v.want("dismissed", v.ChangePassphrase(t.Context(), browser, r.Collection), keyring.ErrDenied)
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "new")))
		v.asked(prompt.Passphrase, prompt.NewPassphrase)

		v.must(v.ChangeWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "new"), v.credential(keyring.SlotPassphrase, "third")))
		v.want("the old one", v.ChangeWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "new"), v.credential(keyring.SlotPassphrase, "x")), keyring.ErrAuthFailed)
		v.want("to nothing", v.ChangeWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "third"), v.credential(keyring.SlotPassphrase, "")), keyring.ErrUnsupported)
		v.want("in memory", v.ChangePassphrase(t.Context(), browser, "session"), keyring.ErrUnsupported)
		v.asked()
		v.must(v.Lock(t.Context(), browser))
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "third")))
		v.wantSecret(r, "v")
	})
}

func TestChangePassphraseWhereThereIsNone(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		id, err := v.CreateWith(t.Context(), browser, "Mine", "", keyring.Credential{Kind: keyring.SlotTPM})
		v.must(err)
		v.must(v.LockForSleep(t.Context(), browser))
		v.user.Script(answer("new"))
		v.must(v.ChangePassphrase(t.Context(), browser, id))
		v.asked(prompt.NewPassphrase)
		v.must(v.UnlockWith(t.Context(), browser, id, v.credential(keyring.SlotPassphrase, "new")))

		v.user.Script(answer("of the login"))
		v.must(v.ChangePassphrase(t.Context(), browser, "login"))
		v.asked(prompt.NewPassphrase)
		v.must(v.UnlockWith(t.Context(), browser, "login", v.credential(keyring.SlotPassphrase, "of the login")))
	})
}

func TestChangeOfOneOfSeveralIsRefused(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		l := v.store.Collections()[0].(keyring.Lockable)
		v.must(l.Unlock(t.Context(), v.credential(keyring.SlotPassphrase, "pw")))
		_, _, err := l.AddSlot(t.Context(), v.credential(keyring.SlotPassphrase, "second"))
		v.must(err)
		old, new := v.credential(keyring.SlotPassphrase, "pw"), v.credential(keyring.SlotPassphrase, "new")
		v.want("change", v.ChangeWith(t.Context(), browser, r.Collection, old, new), keyring.ErrUnsupported)
		v.must(v.UnlockWith(t.Context(), browser, r.Collection, v.credential(keyring.SlotPassphrase, "second")))
	})
}
