package dbus

import (
	"testing"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// TestUnlistableCanBeUnlocked has a collection whose items cannot be listed while
// it is locked, as on another machine than the one that it was made on: no answer
// says that there are none, and it shows all that unlocking it takes.
func TestUnlistableCanBeUnlocked(t *testing.T) {
	v := blindLogin{err: keyring.ErrLocked}.serve(t)
	v.answer(keyringtest.Reply{Err: prompt.ErrDismissed})

	u := v.user()
	u.listen()
	var all map[string]godbus.Variant
	for _, at := range []path{loginPath, defaultPath} {
		u.ok(u.call(at, propertiesInterface+".GetAll", collectionInterface), &all)
		if _, has := all["Items"]; has || all["Locked"].Value() != true || all["Label"].Value() != "Login" {
			t.Errorf("%s: %v", at, all)
		}
		u.fails(u.call(at, propertiesInterface+".Get", collectionInterface, "Items"), isLocked)
		u.fails(u.call(at, collectionInterface+".SearchItems", map[string]string{"a": "b"}), isLocked)
		if u.get(at, collectionInterface+".Locked") != true {
			t.Errorf("%s is not locked", at)
		}
	}
	u.fails(u.call(secretsPath, serviceInterface+".SearchItems", map[string]string{"a": "b"}), isLocked)
	// The first search has asked, and no other.
	if n := len(v.prompter.Questions()); n != 1 {
		t.Errorf("%d questions", n)
	}
	v.answer(keyringtest.Reply{Passphrase: goodPass})
	_, at := u.unlock(loginPath)
	u.ok(u.call(at, promptInterface+".Prompt", ""))
	// Who waits for the end knows the list by then.
	u.changed(loginPath, "Items", func(any) bool { return true })
	if dismissed, _ := u.completed(at); dismissed {
		t.Fatal("dismissed")
	}
	if found, locked := u.search(map[string]string{"a": "b"}); len(found)+len(locked) != 0 {
		t.Errorf("found %v %v", found, locked)
	}
}
