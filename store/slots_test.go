package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/store"
)

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

// Slots come and go while the items stay as they are, byte for byte.
func TestSlots(t *testing.T) {
	dir := t.TempDir()
	sealer := &keyringtest.FakeSealer{}
	o := options(dir)
	o.TPM = sealer
	s := openWith(t, o)
	c := login(t, s)
	id := create(t, c, "x", "y", "a", "1")
	before := store.RecordBytes(t, s, "login", 1)

	wantError(t, "the last slot", c.RemoveSlot("1"), keyring.ErrUnsupported)
	second, _, err := c.AddSlot(t.Context(), passphrase(t, "second"))
	must(t, err)
	tpm, _, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotTPM})
	must(t, err)
	pin, _, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotTPM, Value: value(t, "1234")})
	must(t, err)
	recovery, code, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotRecovery})
	must(t, err)
	t.Cleanup(code.Wipe)
	if !pin.PIN || tpm.PIN || len(c.Slots()) != 5 {
		t.Errorf("slots: %+v", c.Slots())
	}
	shown := text(code)
	try := func(kind keyring.SlotKind, v string) error {
		c.Lock()
		err := c.Unlock(t.Context(), keyring.Credential{Kind: kind, Value: value(t, v)})
		if err == nil && reveal(t, c, id) != "y" {
			t.Error("another secret")
		}
		return err
	}
	must(t, try(keyring.SlotPassphrase, "pass"))
	must(t, try(keyring.SlotPassphrase, "second"))
	must(t, try(keyring.SlotTPM, ""))
	must(t, try(keyring.SlotTPM, "1234"))
	must(t, try(keyring.SlotRecovery, shown))
	must(t, try(keyring.SlotRecovery, strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(shown, "-", " "), "0", "o"), "1", "l"))))
	wantError(t, "wrong passphrase", try(keyring.SlotPassphrase, "wrong"), keyring.ErrAuthFailed)
	wantError(t, "wrong PIN", try(keyring.SlotTPM, "4321"), keyring.ErrAuthFailed)
	wantError(t, "half a code", try(keyring.SlotRecovery, shown[:20]), keyring.ErrAuthFailed)
	wantError(t, "no such kind", try("fingerprint", ""), keyring.ErrNotFound)

	must(t, try(keyring.SlotPassphrase, "pass"))
	wantError(t, "PCRs", second2(c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotTPM, PCRs: "sha256:7"})), keyring.ErrUnsupported)
	changed, err := c.ReplaceSlot(t.Context(), second.ID, passphrase(t, "third"))
	must(t, err)
	wantError(t, "the replaced passphrase", try(keyring.SlotPassphrase, "second"), keyring.ErrAuthFailed)
	must(t, try(keyring.SlotPassphrase, "third"))
	must(t, c.RemoveSlot(recovery.ID))
	wantError(t, "the removed code", try(keyring.SlotRecovery, shown), keyring.ErrNotFound)
	must(t, try(keyring.SlotPassphrase, "pass"))
	again, code2, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotRecovery})
	must(t, err)
	code2.Wipe()
	ids := []string{"1", second.ID, tpm.ID, pin.ID, recovery.ID, changed.ID, again.ID}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 7 {
		t.Errorf("an ID was used twice: %v", ids)
	}
	if after := store.RecordBytes(t, s, "login", 1); string(before) != string(after) {
		t.Error("slots rewrote an item")
	}
}

func second2(_ keyring.SlotInfo, _ secret.Bytes, err error) error { return err }

// A folder on another machine stays locked, and opens with the passphrase; what
// is locked there is not said to be empty.
func TestAnotherTPM(t *testing.T) {
	dir := t.TempDir()
	first := &keyringtest.FakeSealer{}
	o := options(dir)
	o.TPM, o.Index = first, first
	s := openWith(t, o)
	c := login(t, s)
	id := create(t, c, "x", "y", "a", "1")
	_, _, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotTPM})
	must(t, err)
	must(t, s.Close())

	other := &keyringtest.FakeSealer{}
	o.TPM, o.Index = other, other
	s = openWith(t, o)
	c = collection(t, s, "login")
	err = c.Unlock(t.Context(), keyring.Credential{Kind: keyring.SlotTPM})
	if !errors.Is(err, keyring.ErrUnavailable) && !errors.Is(err, keyring.ErrAuthFailed) {
		t.Errorf("the TPM slot: %v", err)
	}
	for _, attributes := range []map[string]string{{"a": "1"}, nil} {
		_, err := c.Search(attributes)
		wantError(t, "locked search without the index key", err, keyring.ErrLocked)
	}
	_, err = c.Items()
	wantError(t, "items without the index key", err, keyring.ErrLocked)
	unlock(t, s, "login")
	if reveal(t, c, id) != "y" || c.Info().Label != "Login" {
		t.Error("unlocked, it is another")
	}
	must(t, s.Close())

	// It was unlocked once, and is found from then on.
	s = openWith(t, o)
	c = collection(t, s, "login")
	if ids, err := c.Search(map[string]string{"a": "1"}); err != nil || !slices.Equal(ids, []string{id}) || !c.Info().Locked {
		t.Errorf("locked search: %v, %v", ids, err)
	}
	if len(s.Damage()) > 0 {
		t.Error(s.Damage())
	}
}

// The index key's file may be gone altogether.
func TestLostIndexKey(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	id := create(t, login(t, s), "x", "y", "a", "1")
	must(t, s.Close())
	must(t, os.Remove(filepath.Join(dir, "index.key")))
	s = open(t, dir)
	c := collection(t, s, "login")
	_, err := c.Search(map[string]string{"a": "1"})
	wantError(t, "locked search", err, keyring.ErrLocked)
	unlock(t, s, "login")
	must(t, s.Close())
	s = open(t, dir)
	if ids, err := collection(t, s, "login").Search(map[string]string{"a": "1"}); err != nil || !slices.Equal(ids, []string{id}) {
		t.Errorf("locked search: %v, %v", ids, err)
	}
}

// A plain index key is sealed as soon as there is a TPM, and no plain copy stays.
func TestIndexKeyIsSealedLater(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	id := create(t, login(t, s), "x", "y", "a", "1")
	must(t, s.Close())
	plain, err := os.ReadFile(filepath.Join(dir, "index.key"))
	must(t, err)
	o := options(dir)
	o.Index = &keyringtest.FakeSealer{}
	for range 2 {
		s = openWith(t, o)
		if ids, err := collection(t, s, "login").Search(map[string]string{"a": "1"}); err != nil || !slices.Equal(ids, []string{id}) {
			t.Errorf("locked search: %v, %v", ids, err)
		}
		must(t, s.Close())
	}
	sealed, err := os.ReadFile(filepath.Join(dir, "index.key"))
	must(t, err)
	if string(sealed) == string(plain) {
		t.Error("it is still plain")
	}
	if _, err := os.Stat(filepath.Join(dir, "index.key.old")); err == nil {
		t.Error("a plain one is kept beside")
	}
}

// An unlock that nobody waits for any more ends.
func TestUnlockCancelled(t *testing.T) {
	s := open(t, t.TempDir())
	c := login(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Lock()
	if err := c.Unlock(ctx, passphrase(t, "wrong")); err == nil {
		t.Error("it opened")
	}
}

// A wrong passphrase is tried on every slot, so that there is an end to them.
func TestSlotsHaveAnEnd(t *testing.T) {
	s := openWith(t, options(t.TempDir()))
	c := login(t, s)
	for len(c.Slots()) < store.MaxSlots {
		_, _, err := c.AddSlot(t.Context(), passphrase(t, "another"))
		must(t, err)
	}
	_, _, err := c.AddSlot(t.Context(), passphrase(t, "one more"))
	wantError(t, "one more", err, keyring.ErrUnsupported)
	if n := len(c.Slots()); n != store.MaxSlots {
		t.Errorf("%d slots", n)
	}
}

// A verboseSealer returns more than a TPM would.
type verboseSealer struct {
	keyringtest.FakeSealer
	size int
}

func (v *verboseSealer) Seal(context.Context, secret.Bytes, secret.Bytes) ([]byte, error) {
	return make([]byte, v.size), nil
}

// What could not be read again is not written.
func TestSealedHasAnEnd(t *testing.T) {
	o := options(t.TempDir())
	sealer := &verboseSealer{}
	o.TPM = sealer
	c := login(t, openWith(t, o))
	for _, size := range []int{0, store.MaxSealed + 1} {
		sealer.size = size
		_, _, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotTPM})
		wantError(t, "a slot", err, keyring.ErrUnsupported)
	}
	if n := len(c.Slots()); n != 1 {
		t.Errorf("%d slots", n)
	}
}
