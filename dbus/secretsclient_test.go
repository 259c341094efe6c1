package dbus

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// dial connects with the client of our own programs.
func (h *house) dial() *client.Client {
	h.Helper()
	c, err := client.Dial(h.Context(), h.bus.Address)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(c.Close)
	return c
}

func reveal(t *testing.T, s *client.Secrets, item string) string {
	t.Helper()
	value, kind, err := s.Secret(t.Context(), item)
	if err != nil {
		t.Fatal(err)
	}
	defer value.Wipe()
	if kind != "text/plain" {
		t.Errorf("content type %q", kind)
	}
	var text string
	value.Use(func(b []byte) { text = string(b) })
	return text
}

// TestClientLooksAfterItems: what the manager does with a keyring's items.
func TestClientLooksAfterItems(t *testing.T) {
	v := serveLogin(t)
	c := v.dial()
	s, ctx := client.NewSecrets(c), t.Context()
	put := func(text string, do func(secret.Bytes) error) {
		t.Helper()
		b := secret.Copy([]byte(text))
		defer b.Wipe()
		if err := do(b); err != nil {
			t.Fatal(err)
		}
	}
	var at string
	put("pa55 é", func(b secret.Bytes) (err error) {
		at, err = s.Create(ctx, string(loginPath), "Mail", map[string]string{"user": "mia"}, b)
		return err
	})
	put("b", func(b secret.Bytes) error {
		_, err := s.Create(ctx, string(loginPath), "Another", nil, b)
		return err
	})
	items, err := s.Items(ctx, string(loginPath))
	if err != nil || len(items) != 2 || items[0].Label != "Another" || items[1].Label != "Mail" || items[1].Path != at {
		t.Fatalf("%+v, %v", items, err)
	}
	if items[1].Attributes["user"] != "mia" || items[1].Locked || items[1].Created.IsZero() {
		t.Errorf("%+v", items[1])
	}
	if got := reveal(t, s, at); got != "pa55 é" {
		t.Errorf("secret %q", got)
	}
	put("new", func(b secret.Bytes) error { return s.SetSecret(ctx, at, b) })
	if got := reveal(t, s, at); got != "new" {
		t.Errorf("secret %q", got)
	}
	if err := s.SetLabel(ctx, at, "Post"); err != nil {
		t.Error(err)
	}
	if err := s.SetAttributes(ctx, at, map[string]string{"server": "x"}); err != nil {
		t.Error(err)
	}
	items, err = s.Items(ctx, string(loginPath))
	want := map[string]string{"server": "x", schemaAttribute: genericSchema}
	if err != nil || len(items) != 2 || items[1].Label != "Post" || !maps.Equal(items[1].Attributes, want) {
		t.Errorf("%+v, %v", items, err)
	}
	v.lock()
	if items, err = s.Items(ctx, string(loginPath)); err != nil || len(items) != 2 || !items[0].Locked || items[0].Label != "" {
		t.Errorf("locked: %+v, %v", items, err)
	}
	var answered *client.Error
	if _, _, err := s.Secret(ctx, at); !errors.As(err, &answered) || answered.Name != secretService+"IsLocked" {
		t.Errorf("secret of a locked item: %v", err)
	}
	v.login()
	if err := s.Delete(ctx, at); err != nil {
		t.Error(err)
	}
	if err := s.SetKeyringLabel(ctx, string(loginPath), "Mine"); err != nil {
		t.Error(err)
	}
	if info, err := v.secrets.Collection("login"); err != nil || info.Label != "Mine" {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestClientMakesItsSessionAnew: the daemon was started again meanwhile.
func TestClientMakesItsSessionAnew(t *testing.T) {
	v := serveLogin(t)
	item := string(itemPath(v.add("x", nil)))
	c := v.dial()
	first := client.NewSecrets(c)
	reveal(t, first, item)
	// Of a program with too many sessions, the daemon forgets the oldest.
	for range maxSessions {
		reveal(t, client.NewSecrets(c), item)
	}
	if got := reveal(t, first, item); got != "x" {
		t.Errorf("secret %q", got)
	}
}

// TestClientDeletesAKeyring: not before the user has said so, and not if whoever
// wanted it gives up.
func TestClientDeletesAKeyring(t *testing.T) {
	v := serveLogin(t)
	c := v.dial()
	s := client.NewSecrets(c)
	id, err := c.CreateKeyring(t.Context(), "Work")
	if err != nil {
		t.Fatal(err)
	}
	at := string(collectionPath(id))
	v.answer(keyringtest.Reply{Err: keyring.ErrDenied})
	if err := s.DeleteKeyring(t.Context(), at); !errors.Is(err, client.ErrDismissed) {
		t.Errorf("dismissed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	v.answerWith(func(question) keyringtest.Reply {
		cancel()
		return keyringtest.Reply{Err: context.Canceled}
	})
	if err := s.DeleteKeyring(ctx, at); !errors.Is(err, context.Canceled) && !errors.Is(err, client.ErrDismissed) {
		t.Errorf("given up: %v", err)
	}
	if _, err := v.secrets.Collection(id); err != nil {
		t.Fatal(err)
	}
	v.answer(keyringtest.Reply{})
	if err := s.DeleteKeyring(t.Context(), at); err != nil {
		t.Error(err)
	}
	if _, err := v.secrets.Collection(id); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("still there: %v", err)
	}
}

// TestClientHearsOfChanges: to keys, keyrings, items and to the daemon itself.
func TestClientHearsOfChanges(t *testing.T) {
	v := serveLogin(t)
	c := v.dial()
	type heard struct {
		what client.Change
		at   string
	}
	changes := make(chan heard, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Watch(ctx, func(what client.Change, at string) { changes <- heard{what, at} }); err != nil {
		t.Fatal(err)
	}
	wants := func(want heard) {
		t.Helper()
		timeout := time.After(time.Minute)
		for {
			select {
			case got := <-changes:
				if got == want {
					return
				}
			case <-timeout:
				t.Fatalf("%+v was not told", want)
			}
		}
	}
	v.keys.Replace("test", []keyring.Key{newKey(t, "p256", "work")})
	wants(heard{client.KeysChanged, ""})
	v.add("x", nil)
	wants(heard{client.ItemsChanged, string(loginPath)})
	v.lock()
	wants(heard{client.KeyringsChanged, ""})
	u := v.user()
	if _, err := u.RequestName("io.github.keyringd.other", 0); err != nil {
		t.Fatal(err)
	}
	cancel()
	await(t, "nobody is told any more", func() bool {
		for len(changes) > 0 {
			<-changes
		}
		v.login()
		v.lock()
		_, err := c.Keyrings(t.Context()) // what was told before has arrived
		return err == nil && len(changes) == 0
	})
}
