package dbus

import (
	"context"
	"errors"
	"os"
	"testing"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// TestUnreadableStoreIsNotMissing has a store that cannot be opened. Nothing says
// that there is no default collection, which programs would make, or that there
// is nothing to unlock.
func TestUnreadableStoreIsNotMissing(t *testing.T) {
	h := serveWith(t, func(s *Server) {
		s.Secrets = keyring.OpeningSecrets(s.gate)
		s.Secrets.SetStore(nil, errors.New("it is damaged"))
	})
	h.awaitOwner(secretsName)
	u := h.user()
	const failed = standard + "Failed"
	label := properties{collectionInterface + ".Label": godbus.MakeVariant("Default keyring")}
	for what, call := range map[string]*godbus.Call{
		"alias":      u.call(secretsPath, serviceInterface+".ReadAlias", "default"),
		"search":     u.call(secretsPath, serviceInterface+".SearchItems", map[string]string{"a": "b"}),
		"unlock":     u.call(secretsPath, serviceInterface+".Unlock", []path{defaultPath}),
		"create":     u.call(secretsPath, serviceInterface+".CreateCollection", label, "default"),
		"collection": u.call(loginPath, propertiesInterface+".GetAll", collectionInterface),
		"default":    u.call(defaultPath, propertiesInterface+".GetAll", collectionInterface),
		"item":       u.call(loginPath+"/1", propertiesInterface+".GetAll", itemInterface),
		"list":       u.Object(busName, keyringsPath).CallWithContext(t.Context(), keyringsInterface+".Lock", 0, "login"),
	} {
		var answered godbus.Error
		if !errors.As(call.Err, &answered) || answered.Name != failed {
			t.Errorf("%s: %v; want %s", what, call.Err, failed)
		}
	}
	if n := len(h.prompter.Questions()); n != 0 {
		t.Errorf("%d questions", n)
	}
}

// TestDamagedItemIsThere: an item that cannot be read is not one that is gone.
func TestDamagedItemIsThere(t *testing.T) {
	v := &vault{store: keyringtest.NewStore()}
	v.store.Hook = func(_ context.Context, op, _ string) error {
		if op == "Item" && v.broken.Load() {
			return keyring.ErrUnavailable
		}
		return nil
	}
	v.house = serveWith(t, func(s *Server) {
		v.secrets = keyring.NewSecrets(s.gate, v.store)
		s.Secrets = v.secrets
	})
	v.awaitOwner(secretsName)
	v.login()
	item := itemPath(v.add("x", nil))
	v.broken.Store(true)
	u := v.user()
	if unlocked, at := u.unlock(item); len(unlocked) != 1 || unlocked[0] != item || at != nothing {
		t.Errorf("unlocked %v, prompt %s", unlocked, at)
	}
}

// TestDamageIsMendedQuietly: what cannot be searched is unlocked first, where
// that asks nobody, because unlocking puts it right.
func TestDamageIsMendedQuietly(t *testing.T) {
	for _, err := range []error{keyring.ErrLocked, keyring.ErrUnavailable} {
		u := blindLogin{err: err, tpm: true}.serve(t).user()
		u.search(map[string]string{"a": "b"})
		u = blindLogin{err: err, tpm: true}.serve(t).user()
		var found []path
		u.ok(u.call(loginPath, collectionInterface+".SearchItems", map[string]string{"a": "b"}), &found)
	}
}

// TestUnlistableKeyringIsListed: the user sees which one to unlock, and that
// nobody knows how much is in it.
func TestUnlistableKeyringIsListed(t *testing.T) {
	v := blindLogin{err: keyring.ErrUnavailable, tpm: true}.serve(t)
	all, err := v.dial().Keyrings(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, k := range all {
		if want := map[string]int{"login": -1, "session": 0}[k.ID]; k.Items != want {
			t.Errorf("%s: %d items, want %d", k.ID, k.Items, want)
		}
	}
}

// TestPortalFindsKeysOfFormerDefault: an application that was given another key,
// because another keyring is the default now, could not read what it has.
func TestPortalFindsKeysOfFormerDefault(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	retrieve := func() string {
		t.Helper()
		key, call := u.withFile(portalPath, portalInterface+".RetrieveSecret", requestPath, "org.example.App", (*os.File)(nil), properties{})
		var response uint32
		var results properties
		if u.ok(call, &response, &results); response != portalDone || len(key) != appKeySize {
			t.Errorf("response %d, %d bytes", response, len(key))
		}
		return string(key)
	}
	first := retrieve()
	pass := secret.Copy([]byte(goodPass))
	defer pass.Wipe()
	id, err := v.secrets.CreateWith(t.Context(), keyring.Caller{}, "Work", "", keyring.Credential{Kind: keyring.SlotPassphrase, Value: pass})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.secrets.SetAlias("default", id); err != nil {
		t.Fatal(err)
	}
	if retrieve() != first {
		t.Error("it is another key")
	}
	v.lock()
	if retrieve() != first {
		t.Error("locked: it is another key")
	}
}
