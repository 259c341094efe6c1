package keyringtest

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// TestCollectionStore checks that what newStore makes keeps the contract of
// keyring.CollectionStore, and its collections that of keyring.Lockable and
// keyring.Collection. newStore is called once for each subtest and returns an
// empty store, whose TPM slots are sealed by tpm; nil: there is no TPM.
func TestCollectionStore(t *testing.T, newStore func(t *testing.T, tpm keyring.Sealer) keyring.CollectionStore) {
	t.Helper()
	t.Run("Collection", func(t *testing.T) {
		// One store for all: a slot may take its time to be made.
		s := newStore(t, nil)
		TestCollection(t, func(t *testing.T) keyring.Collection {
			c, err := s.Create(t.Context(), "", "test", passphrase(t, "pw"))
			if err != nil {
				t.Fatal(err)
			}
			return c
		})
	})
	for _, test := range []struct {
		name string
		f    func(t *testing.T, s keyring.CollectionStore, tpm *FakeSealer)
	}{
		{"Empty", testEmptyStore},
		{"Create", testCreateCollection},
		{"Delete", testDeleteCollection},
		{"Aliases", testAliases},
		{"LockedItemsAreFound", testLocked},
		{"Passphrase", testPassphraseSlot},
		{"Recovery", testRecoverySlot},
		{"TPM", testTPMSlot},
		{"TPMWithPIN", testPINSlot},
		{"FirstSlotIsTheTPM", testOnlyTPM},
		{"SlotsOfLockedCollection", testSlotsWhileLocked},
		{"LastSlotStays", testLastSlot},
		{"ReplaceSlot", testReplaceSlot},
		{"Cancelled", testUnlockCancelled},
	} {
		t.Run(test.name, func(t *testing.T) {
			tpm := &FakeSealer{Device: &FakeDevice{Max: 10}}
			test.f(t, newStore(t, tpm), tpm)
		})
	}
	t.Run("NoTPM", func(t *testing.T) { testNoTPM(t, newStore(t, nil)) })
}

// passphrase returns a credential that is wiped after the test.
func passphrase(t *testing.T, value string) keyring.Credential {
	return credential(t, keyring.SlotPassphrase, value)
}

func credential(t *testing.T, kind keyring.SlotKind, value string) keyring.Credential {
	c := keyring.Credential{Kind: kind, Value: secret.Copy([]byte(value))}
	t.Cleanup(c.Value.Wipe)
	return c
}

// mustMake makes a collection with the passphrase "pw".
func mustMake(t *testing.T, s keyring.CollectionStore) keyring.Lockable {
	t.Helper()
	c, err := s.Create(t.Context(), "", "test", passphrase(t, "pw"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantUnlock tries a credential on the collection, locked before.
func wantUnlock(t *testing.T, c keyring.Lockable, cr keyring.Credential, want error) {
	t.Helper()
	c.Lock()
	err := c.Unlock(t.Context(), cr)
	if !errors.Is(err, want) {
		t.Errorf("unlock with a %s: %v; want %v", cr.Kind, err, want)
	}
	if locked := c.Info().Locked; locked != (want != nil) {
		t.Errorf("after unlock with a %s: locked %v", cr.Kind, locked)
	}
}

func wantKinds(t *testing.T, c keyring.Lockable, want ...keyring.SlotKind) {
	t.Helper()
	var kinds []keyring.SlotKind
	ids := map[string]bool{}
	for _, s := range c.Slots() {
		kinds = append(kinds, s.Kind)
		if s.ID == "" || ids[s.ID] || s.Created.IsZero() {
			t.Errorf("slot %+v", s)
		}
		ids[s.ID] = true
	}
	if !slices.Equal(kinds, want) {
		t.Errorf("slots are %q, want %q", kinds, want)
	}
}

func testEmptyStore(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	if n := len(s.Collections()); n != 0 {
		t.Errorf("%d collections", n)
	}
	if n := len(s.Aliases()); n != 0 {
		t.Errorf("%d aliases", n)
	}
}

func testCreateCollection(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	login, err := s.Create(t.Context(), "login", "Login", passphrase(t, "pw"))
	if err != nil {
		t.Fatal(err)
	}
	if info := login.Info(); info.ID != "login" || info.Label != "Login" || info.Locked {
		t.Errorf("info: %+v", info)
	}
	wantKinds(t, login, keyring.SlotPassphrase)
	other := mustMake(t, s).Info()
	third := mustMake(t, s).Info()
	if !plain(other.ID) || other.ID == third.ID || other.ID == "login" {
		t.Errorf("IDs are %q and %q", other.ID, third.ID)
	}
	var ids []string
	for _, c := range s.Collections() {
		if _, ok := c.(keyring.Lockable); !ok {
			t.Errorf("%s is a %T, which cannot be unlocked", c.Info().ID, c)
		}
		ids = append(ids, c.Info().ID)
	}
	if !slices.Equal(ids, []string{"login", other.ID, third.ID}) {
		t.Errorf("collections are %q, want the oldest first", ids)
	}
	if _, err := s.Create(t.Context(), "login", "Again", passphrase(t, "other")); !errors.Is(err, keyring.ErrUnsupported) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one of the same ID: %v; want ErrUnsupported and fs.ErrExist", err)
	}
	wantUnlock(t, login, passphrase(t, "other"), keyring.ErrAuthFailed)
	wantUnlock(t, login, passphrase(t, "pw"), nil)
}

func testDeleteCollection(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c, kept := mustMake(t, s), mustMake(t, s)
	item := mustCreate(t, c, newItem(t, "x", "v"))
	if err := s.Delete(c.Info().ID); err != nil {
		t.Fatal(err)
	}
	if list := s.Collections(); len(list) != 1 || list[0].Info().ID != kept.Info().ID {
		t.Errorf("%d collections are left", len(list))
	}
	// Who has it in hand still cannot do anything with it.
	_, err1 := c.Search(nil)
	_, _, err2 := c.Create(newItem(t, "x", "v"), false)
	_, err3 := c.Secret(item)
	for i, err := range []error{err1, err2, err3, c.Delete(item), c.Unlock(t.Context(), passphrase(t, "pw")), s.Delete(c.Info().ID)} {
		if !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("use %d of a deleted collection: %v; want ErrNotFound", i, err)
		}
	}
	if err := s.Delete("nosuchcollection"); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("delete of none: %v", err)
	}
}

func testAliases(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	a, b := mustMake(t, s).Info().ID, mustMake(t, s).Info().ID
	set := func(name, id string) {
		t.Helper()
		if err := s.SetAlias(name, id); err != nil {
			t.Fatal(err)
		}
	}
	set("default", a)
	set("work", a)
	set("default", b)
	s.Aliases()["work"] = "changed by a reader"
	if got := s.Aliases(); len(got) != 2 || got["default"] != b || got["work"] != a {
		t.Errorf("aliases: %v", got)
	}
	set("default", "")
	set("never set", "")
	if got := s.Aliases(); len(got) != 1 || got["work"] != a {
		t.Errorf("aliases: %v", got)
	}
}

func testLocked(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c := mustMake(t, s)
	first := mustCreate(t, c, newItem(t, "first", "1", "a", "1", "b", "2"))
	second := mustCreate(t, c, newItem(t, "second", "2", "a", "1"))
	c.Lock()
	if !c.Info().Locked {
		t.Fatal("not locked")
	}
	c.Lock() // once more is nothing
	got, err := c.Items()
	wantIDs(t, "items", got, err, first, second)
	for _, search := range []struct {
		attributes map[string]string
		want       []string
	}{
		{nil, []string{second, first}},
		{map[string]string{"a": "1"}, []string{second, first}},
		{map[string]string{"a": "1", "b": "2"}, []string{first}},
		{map[string]string{"a": "2"}, nil},
	} {
		got, err = c.Search(search.attributes)
		wantIDs(t, "search", got, err, search.want...)
	}
	_, err1 := c.Item(first)
	_, err2 := c.Secret(first)
	_, _, err3 := c.Create(newItem(t, "x", "v"), true)
	label := "l"
	for i, err := range []error{err1, err2, err3, c.Change(first, keyring.ItemChange{Label: &label}), c.Delete(first), c.SetLabel("l")} {
		if !errors.Is(err, keyring.ErrLocked) {
			t.Errorf("use %d of a locked collection: %v; want ErrLocked", i, err)
		}
	}
	wantUnlock(t, c, passphrase(t, "pw"), nil)
	wantSecret(t, c, first, "1")
	wantSecret(t, c, second, "2")
	if info := mustItem(t, c, first); info.Label != "first" || c.Info().Label != "test" {
		t.Errorf("what a locked collection refused was done: %+v", info)
	}
}

func testPassphraseSlot(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c := mustMake(t, s)
	item := mustCreate(t, c, newItem(t, "x", "v"))
	for _, wrong := range []string{"", "PW", "pw ", "p"} {
		wantUnlock(t, c, passphrase(t, wrong), keyring.ErrAuthFailed)
	}
	wantUnlock(t, c, credential(t, keyring.SlotRecovery, "pw"), keyring.ErrNotFound)
	wantUnlock(t, c, credential(t, keyring.SlotTPM, ""), keyring.ErrNotFound)
	right := passphrase(t, "pw")
	wantUnlock(t, c, right, nil)
	if !holds(right.Value, "pw") {
		t.Error("the value was changed or wiped, which is the caller's")
	}
	// An unlocked one checks the value all the same, and stays unlocked.
	if err := c.Unlock(t.Context(), passphrase(t, "wrong")); !errors.Is(err, keyring.ErrAuthFailed) {
		t.Errorf("wrong value for an unlocked collection: %v", err)
	}
	if err := c.Unlock(t.Context(), right); err != nil {
		t.Error(err)
	}
	wantSecret(t, c, item, "v")
}

func testRecoverySlot(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c := mustMake(t, s)
	item := mustCreate(t, c, newItem(t, "x", "v"))
	info, code, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotRecovery})
	if err != nil {
		t.Fatal(err)
	}
	defer code.Wipe()
	if info.Kind != keyring.SlotRecovery || code.Len() < 20 {
		t.Errorf("slot %+v with a code of %d characters", info, code.Len())
	}
	wantKinds(t, c, keyring.SlotPassphrase, keyring.SlotRecovery)
	wantUnlock(t, c, keyring.Credential{Kind: keyring.SlotRecovery, Value: code}, nil)
	wantSecret(t, c, item, "v")
	wantUnlock(t, c, credential(t, keyring.SlotRecovery, "AAAAAAAAAAAAAAAAAAAAAAAAAA"), keyring.ErrAuthFailed)
	wantUnlock(t, c, keyring.Credential{Kind: keyring.SlotPassphrase, Value: code}, keyring.ErrAuthFailed)
	wantUnlock(t, c, passphrase(t, "pw"), nil)
	if err := c.RemoveSlot(info.ID); err != nil {
		t.Fatal(err)
	}
	wantUnlock(t, c, keyring.Credential{Kind: keyring.SlotRecovery, Value: code}, keyring.ErrNotFound)
}

func testTPMSlot(t *testing.T, s keyring.CollectionStore, tpm *FakeSealer) {
	c := mustMake(t, s)
	item := mustCreate(t, c, newItem(t, "x", "v"))
	info, code, err := c.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotTPM})
	if err != nil || code.Len() > 0 || info.PIN {
		t.Fatalf("slot %+v, code of %d, error %v", info, code.Len(), err)
	}
	wantUnlock(t, c, keyring.Credential{Kind: keyring.SlotTPM}, nil)
	wantSecret(t, c, item, "v")

	// A TPM that is not there leaves the other slots alone.
	broken := true
	tpm.Hook = func(context.Context) error {
		if broken {
			return keyring.ErrUnavailable
		}
		return nil
	}
	wantUnlock(t, c, keyring.Credential{Kind: keyring.SlotTPM}, keyring.ErrUnavailable)
	wantUnlock(t, c, passphrase(t, "pw"), nil)
	wantSecret(t, c, item, "v")
	broken = false
	wantUnlock(t, c, keyring.Credential{Kind: keyring.SlotTPM}, nil)
}

func testPINSlot(t *testing.T, s keyring.CollectionStore, tpm *FakeSealer) {
	c := mustMake(t, s)
	item := mustCreate(t, c, newItem(t, "x", "v"))
	info, _, err := c.AddSlot(t.Context(), credential(t, keyring.SlotTPM, "1234"))
	if err != nil || !info.PIN {
		t.Fatalf("slot %+v, error %v", info, err)
	}
	// Who has no PIN to offer spends none of the TPM's tries.
	before := tpm.Device.Tried()
	c.Lock()
	if err := c.Unlock(t.Context(), keyring.Credential{Kind: keyring.SlotTPM}); err == nil || !c.Info().Locked {
		t.Errorf("unlocked without the PIN, error %v", err)
	}
	wantUnlock(t, c, passphrase(t, "wrong"), keyring.ErrAuthFailed)
	if n := tpm.Device.Tried() - before; n != 0 {
		t.Errorf("%d tries were spent without a PIN", n)
	}
	wantUnlock(t, c, credential(t, keyring.SlotTPM, "4321"), keyring.ErrAuthFailed)
	wantUnlock(t, c, credential(t, keyring.SlotTPM, "1234"), nil)
	wantSecret(t, c, item, "v")
	tpm.Device.Spoil(10)
	wantUnlock(t, c, credential(t, keyring.SlotTPM, "1234"), keyring.ErrLockedOut)
	wantUnlock(t, c, passphrase(t, "pw"), nil)
}

func testOnlyTPM(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c, err := s.Create(t.Context(), "", "test", keyring.Credential{Kind: keyring.SlotTPM})
	if err != nil {
		t.Fatal(err)
	}
	item := mustCreate(t, c, newItem(t, "x", "v"))
	wantKinds(t, c, keyring.SlotTPM)
	wantUnlock(t, c, passphrase(t, "pw"), keyring.ErrNotFound)
	wantUnlock(t, c, keyring.Credential{Kind: keyring.SlotTPM}, nil)
	wantSecret(t, c, item, "v")
}

func testSlotsWhileLocked(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c := mustMake(t, s)
	c.Lock()
	wantKinds(t, c, keyring.SlotPassphrase)
	if _, _, err := c.AddSlot(t.Context(), passphrase(t, "other")); !errors.Is(err, keyring.ErrLocked) {
		t.Errorf("add to a locked collection: %v; want ErrLocked", err)
	}
	if _, err := c.ReplaceSlot(t.Context(), c.Slots()[0].ID, passphrase(t, "other")); !errors.Is(err, keyring.ErrLocked) {
		t.Errorf("replace in a locked collection: %v; want ErrLocked", err)
	}
	wantUnlock(t, c, passphrase(t, "other"), keyring.ErrAuthFailed)
	wantUnlock(t, c, passphrase(t, "pw"), nil)
}

func testLastSlot(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c := mustMake(t, s)
	first := c.Slots()[0].ID
	if err := c.RemoveSlot(first); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("the last slot: %v; want ErrUnsupported", err)
	}
	if err := c.RemoveSlot("nosuchslot"); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("a slot that is not there: %v; want ErrNotFound", err)
	}
	info, _, err := c.AddSlot(t.Context(), credential(t, keyring.SlotTPM, ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveSlot(first); err != nil {
		t.Fatal(err)
	}
	wantUnlock(t, c, passphrase(t, "pw"), keyring.ErrNotFound)
	if err := c.RemoveSlot(info.ID); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("the last slot: %v; want ErrUnsupported", err)
	}
	wantUnlock(t, c, credential(t, keyring.SlotTPM, ""), nil)
	again, _, err := c.AddSlot(t.Context(), passphrase(t, "new"))
	if err != nil || again.ID == first || again.ID == info.ID {
		t.Errorf("a new slot: %+v, error %v; its ID was used before", again, err)
	}
}

func testReplaceSlot(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c := mustMake(t, s)
	item := mustCreate(t, c, newItem(t, "x", "v"))
	info, err := c.ReplaceSlot(t.Context(), c.Slots()[0].ID, passphrase(t, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if slots := c.Slots(); len(slots) != 1 || slots[0] != info || info.Kind != keyring.SlotPassphrase {
		t.Errorf("slots %+v, returned %+v", slots, info)
	}
	wantUnlock(t, c, passphrase(t, "pw"), keyring.ErrAuthFailed)
	wantUnlock(t, c, passphrase(t, "new"), nil)
	wantSecret(t, c, item, "v")
	if _, err := c.ReplaceSlot(t.Context(), "nosuchslot", passphrase(t, "x")); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("a slot that is not there: %v; want ErrNotFound", err)
	}
	wantUnlock(t, c, passphrase(t, "new"), nil)
}

func testUnlockCancelled(t *testing.T, s keyring.CollectionStore, _ *FakeSealer) {
	c := mustMake(t, s)
	c.Lock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Unlock(ctx, passphrase(t, "pw")); !errors.Is(err, context.Canceled) || !c.Info().Locked {
		t.Errorf("with a cancelled context: %v; want context.Canceled", err)
	}
	wantUnlock(t, c, passphrase(t, "pw"), nil)
}

func testNoTPM(t *testing.T, s keyring.CollectionStore) {
	c := mustMake(t, s)
	if _, _, err := c.AddSlot(t.Context(), credential(t, keyring.SlotTPM, "")); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("a TPM slot without a TPM: %v; want ErrUnavailable", err)
	}
	wantKinds(t, c, keyring.SlotPassphrase)
	if _, err := s.Create(t.Context(), "", "x", credential(t, keyring.SlotTPM, "")); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("a collection for a TPM without one: %v; want ErrUnavailable", err)
	}
	if n := len(s.Collections()); n != 1 {
		t.Errorf("%d collections; want 1", n)
	}
}
