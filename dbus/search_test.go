package dbus

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// serveBlind serves a login collection with one item, which cannot be searched
// until it is unlocked with the passphrase.
func serveBlind(t *testing.T, wait time.Duration) *vault {
	t.Helper()
	v := &vault{store: keyringtest.NewStore()}
	pass := secret.Copy([]byte(goodPass))
	defer pass.Wipe()
	l, err := v.store.Create(t.Context(), keyring.LoginCollection, "Login", keyring.Credential{Kind: keyring.SlotPassphrase, Value: pass})
	if err == nil {
		_, _, err = l.Create(keyring.NewItem{Label: "x", Attributes: map[string]string{"a": "b"}, Secret: pass}, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Lock()
	var blind atomic.Bool
	blind.Store(true)
	v.store.Hook = func(_ context.Context, op, collection string) error {
		switch {
		case collection != keyring.LoginCollection:
		case op == "Unlock":
			blind.Store(false)
		case (op == "Items" || op == "Search") && blind.Load():
			return keyring.ErrLocked
		}
		return nil
	}
	v.house = serveWith(t, func(s *Server) {
		v.secrets = keyring.NewSecrets(s.gate, v.store)
		s.Secrets, s.searchWait = v.secrets, wait
	})
	v.awaitOwner(secretsName)
	return v
}

// TestBlindSearchAsks: a program cannot be told to unlock a collection before it
// searches, so that the search asks.
func TestBlindSearchAsks(t *testing.T) {
	wanted := map[string]string{"a": "b"}
	v := serveBlind(t, time.Minute)
	v.answer(keyringtest.Reply{Passphrase: goodPass})
	if open, locked := v.user().search(wanted); len(open) != 1 || len(locked) != 0 {
		t.Errorf("found %v, locked %v", open, locked)
	}

	v = serveBlind(t, time.Minute)
	v.answer(keyringtest.Reply{Passphrase: goodPass})
	u := v.user()
	var found []path
	if u.ok(u.call(loginPath, collectionInterface+".SearchItems", wanted), &found); len(found) != 1 {
		t.Errorf("found %v", found)
	}
}

// TestBlindSearchHasAnEnd: the user takes longer than programs wait. The question
// stays, and who searches again finds.
func TestBlindSearchHasAnEnd(t *testing.T) {
	v := serveBlind(t, time.Millisecond)
	answered := make(chan struct{})
	v.answer(keyringtest.Reply{Passphrase: goodPass, When: answered})
	u := v.user()
	u.fails(u.call(secretsPath, serviceInterface+".SearchItems", map[string]string{"a": "b"}), isLocked)
	u.fails(u.call(loginPath, collectionInterface+".SearchItems", map[string]string{"a": "b"}), isLocked)
	u.listen()
	close(answered)
	u.changed(loginPath, "Locked", func(value any) bool { return value == false })
	if open, _ := u.search(map[string]string{"a": "b"}); len(open) != 1 {
		t.Errorf("found %v", open)
	}
	if n := len(v.prompter.Questions()); n != 1 {
		t.Errorf("%d questions", n)
	}
}

// TestBlindSearchFindsTheRest: what other collections have is found beside one
// that the user will not unlock; nothing is no answer.
func TestBlindSearchFindsTheRest(t *testing.T) {
	v := serveBlind(t, time.Minute)
	v.answer(keyringtest.Reply{Err: prompt.ErrDismissed})
	u := v.user()
	made := u.create(collectionsPath+"/session", "y", map[string]string{"a": "b"}, false)
	for range 2 {
		if open, locked := u.search(map[string]string{"a": "b"}); !samePaths(open, made) || len(locked) != 0 {
			t.Errorf("found %v, locked %v", open, locked)
		}
		u.fails(u.call(secretsPath, serviceInterface+".SearchItems", map[string]string{"a": "c"}), isLocked)
	}
	if n := len(v.prompter.Questions()); n != 1 {
		t.Errorf("%d questions", n)
	}
}
