package dbus

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// A blindLogin is a login collection that tells of no items while it is locked, as one on
// another machine than that which it was made on.
type blindLogin struct {
	err  error         // of its lists and searches
	item bool          // it has one, with the attribute a=b
	tpm  bool          // it has a TPM slot, too
	wait time.Duration // for the user, of a search; 0: the usual
}

// serve serves it, locked with the passphrase.
func (b blindLogin) serve(t *testing.T) *vault {
	t.Helper()
	v := &vault{store: keyringtest.NewStore()}
	pass := secret.Copy([]byte(goodPass))
	defer pass.Wipe()
	if b.tpm {
		v.store.TPM = &keyringtest.FakeSealer{}
	}
	l, err := v.store.Create(t.Context(), keyring.LoginCollection, "Login", keyring.Credential{Kind: keyring.SlotPassphrase, Value: pass})
	if err == nil && b.tpm {
		_, _, err = l.AddSlot(t.Context(), keyring.Credential{Kind: keyring.SlotTPM})
	}
	if err == nil && b.item {
		_, _, err = l.Create(keyring.NewItem{Label: "x", Attributes: map[string]string{"a": "b"}, Secret: pass}, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Lock()
	var sees atomic.Bool
	v.store.Hook = func(_ context.Context, op, collection string) error {
		switch {
		case collection != keyring.LoginCollection:
		case op == "Unlock":
			sees.Store(true)
		case (op == "Items" || op == "Search") && !sees.Load():
			return b.err
		}
		return nil
	}
	v.house = serveWith(t, func(s *Server) {
		v.secrets = keyring.NewSecrets(s.gate, v.store)
		s.Secrets = v.secrets
		if b.wait != 0 {
			s.searchWait = b.wait
		}
	})
	v.awaitOwner(secretsName)
	return v
}
