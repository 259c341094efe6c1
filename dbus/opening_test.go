package dbus

import (
	"errors"
	"testing"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// TestNameDoesNotWaitForTheStore: programs that come while the store is being
// opened wait for their answers, which are then whole, and D-Bus sessions too.
func TestNameDoesNotWaitForTheStore(t *testing.T) {
	store := keyringtest.NewStore()
	v := &vault{store: store}
	v.house = serveWith(t, func(s *Server) {
		v.secrets = keyring.OpeningSecrets(s.gate)
		s.Secrets = v.secrets
	})
	v.awaitOwner(secretsName)
	c := v.client()
	var pending []*godbus.Call
	for _, call := range []struct {
		at     path
		method string
		args   []any
	}{
		{secretsPath, serviceInterface + ".SearchItems", []any{map[string]string{"a": "b"}}},
		{secretsPath, serviceInterface + ".OpenSession", []any{"plain", godbus.MakeVariant("")}},
		{secretsPath, serviceInterface + ".ReadAlias", []any{"default"}},
		{loginPath, propertiesInterface + ".GetAll", []any{collectionInterface}},
	} {
		pending = append(pending, c.Object(secretsName, call.at).Go(call.method, 0, make(chan *godbus.Call, 1), call.args...))
	}
	// Others are answered.
	if err := c.Object(busName, rootPath).Call(keyringInterface+".Status", 0).Err; err != nil {
		t.Error(err)
	}
	for i, call := range pending {
		select {
		case <-call.Done:
			t.Errorf("call %d was answered: %v", i, call.Err)
		default:
		}
	}
	v.secrets.SetStore(store, nil)
	for i, call := range pending {
		if <-call.Done; call.Err != nil {
			t.Errorf("call %d: %v", i, call.Err)
		}
	}
}

// TestStoreComesLate: a store that another daemon had is there once that one has
// ended, and programs are told.
func TestStoreComesLate(t *testing.T) {
	store := keyringtest.NewStore()
	v := &vault{store: store}
	v.house = serveWith(t, func(s *Server) {
		v.secrets = keyring.OpeningSecrets(s.gate)
		v.secrets.SetStore(nil, errors.New("another one has it"))
		s.Secrets = v.secrets
	})
	v.awaitOwner(secretsName)
	v.answer(keyringtest.Reply{Passphrase: goodPass})
	u := v.user()
	u.listen()
	u.fails(u.call(secretsPath, serviceInterface+".SearchItems", map[string]string{"a": "b"}), standard+"Failed")
	v.secrets.SetStore(store, nil)
	u.signal(func(s *godbus.Signal) bool {
		return s.Name == serviceInterface+".CollectionCreated" && s.Body[0] == path(loginPath)
	})
	v.login()
	v.add("x", map[string]string{"a": "b"})
	if open, _ := u.search(map[string]string{"a": "b"}); len(open) != 1 {
		t.Errorf("found %v", open)
	}
}
