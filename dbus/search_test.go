package dbus

import (
	"testing"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// TestBlindSearchAsks: a program cannot be told to unlock a collection before it
// searches, so that the search asks.
func TestBlindSearchAsks(t *testing.T) {
	wanted := map[string]string{"a": "b"}
	v := blindLogin{err: keyring.ErrLocked, item: true, wait: time.Minute}.serve(t)
	v.answer(keyringtest.Reply{Passphrase: goodPass})
	if open, locked := v.user().search(wanted); len(open) != 1 || len(locked) != 0 {
		t.Errorf("found %v, locked %v", open, locked)
	}

	v = blindLogin{err: keyring.ErrLocked, item: true, wait: time.Minute}.serve(t)
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
	v := blindLogin{err: keyring.ErrLocked, item: true, wait: time.Millisecond}.serve(t)
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
	v := blindLogin{err: keyring.ErrLocked, item: true, wait: time.Minute}.serve(t)
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
