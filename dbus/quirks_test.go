package dbus

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"testing"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// TestAliasesAreLiveObjects: secretstorage, go-keyring, libsecret and Evolution
// use aliases/default as they would the collection itself.
func TestAliasesAreLiveObjects(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	for alias, id := range map[path]string{"default": "login", "login": "login", "session": "session"} {
		at := aliasesPath + "/" + alias
		item := u.create(at, "x", map[string]string{"alias": string(alias)}, false)
		if want := collectionsPath + "/" + path(id) + "/"; item[:len(want)] != want {
			t.Errorf("%s: made %s", alias, item)
		}
		var found []path
		u.ok(u.call(at, collectionInterface+".SearchItems", map[string]string{"alias": string(alias)}), &found)
		if !samePaths(found, item) {
			t.Errorf("%s: found %v, want %s", alias, found, item)
		}
		var here, there map[string]godbus.Variant
		u.ok(u.call(at, propertiesInterface+".GetAll", collectionInterface), &here)
		u.ok(u.call(collectionsPath+"/"+path(id), propertiesInterface+".GetAll", collectionInterface), &there)
		if len(here) != 5 || fmt.Sprint(here) != fmt.Sprint(there) {
			t.Errorf("%s: %v, and the collection %v", alias, here, there)
		}
		var text, itself string
		u.ok(u.call(at, introspectionInterface+".Introspect"), &text)
		u.ok(u.call(collectionsPath+"/"+path(id), introspectionInterface+".Introspect"), &itself)
		if text != itself {
			t.Errorf("%s introspects as another object", alias)
		}
		u.ok(u.call(at, peerInterface+".Ping"))
	}
}

// TestLoginIsAtItsPath: go-keyring looks for the login collection at exactly
// this path, whatever it is called.
func TestLoginIsAtItsPath(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	u.ok(u.call(loginPath, propertiesInterface+".Set", collectionInterface, "Label", godbus.MakeVariant("Anmeldung")))
	if all := u.get(secretsPath, serviceInterface+".Collections").([]path); !samePaths(all, "/org/freedesktop/secrets/collection/login", "/org/freedesktop/secrets/collection/session") {
		t.Errorf("collections %v", all)
	}
	if label := u.get("/org/freedesktop/secrets/collection/login", collectionInterface+".Label"); label != "Anmeldung" {
		t.Errorf("its label is %v", label)
	}
}

// TestUnlockAnswersWithThePathAsked: go-keyring refuses any other answer.
func TestUnlockAnswersWithThePathAsked(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, false)
	for _, asked := range [][]path{{defaultPath}, {loginPath}, {aliasesPath + "/login"}, {item}, {item, defaultPath, loginPath}} {
		if unlocked, prompt := u.unlock(asked...); !samePaths(unlocked, asked...) || prompt != nothing {
			t.Errorf("unlocked already, %v: %v, %s", asked, unlocked, prompt)
		}
		v.lock()
		unlocked, prompt := u.unlock(asked...)
		if len(unlocked) != 0 || prompt == nothing {
			t.Fatalf("locked, %v: %v, %s", asked, unlocked, prompt)
		}
		dismissed, result := u.prompted(prompt)
		if paths, _ := result.Value().([]path); dismissed || !samePaths(paths, asked...) {
			t.Errorf("prompted for %v: %v, %v", asked, dismissed, result)
		}
	}
	if n := len(v.prompter.Questions()); n != 5 {
		t.Errorf("%d questions, want one for each lock", n)
	}
	// What is not there is passed over.
	gone := []path{"/", "/a/b", collectionsPath + "/none", aliasesPath + "/none", loginPath + "/none", loginPath + "/1/2", secretsPath}
	if unlocked, prompt := u.unlock(append(gone, sessionPathOf("session"))...); !samePaths(unlocked, sessionPathOf("session")) || prompt != nothing {
		t.Errorf("%v, %s", unlocked, prompt)
	}
}

func sessionPathOf(id string) path { return collectionsPath + "/" + path(id) }

// TestMissingAliasIsAnErrorThatClientsKnow: libsecret makes a default collection
// only after one of a few errors.
func TestMissingAliasIsAnErrorThatClientsKnow(t *testing.T) {
	u := serveLogin(t).user()
	for _, at := range []path{aliasesPath + "/none", collectionsPath + "/none", collectionsPath + "/Login"} {
		u.fails(u.call(at, collectionInterface+".CreateItem", itemProps("x", nil), u.passed("x"), true), noSuchObject)
		u.fails(u.call(at, propertiesInterface+".Get", collectionInterface, "Label"), noSuchObject)
		u.fails(u.call(at, propertiesInterface+".GetAll", collectionInterface), noSuchObject)
		u.fails(u.call(at, introspectionInterface+".Introspect"), noSuchObject)
	}
	for _, at := range []path{loginPath + "/99", loginPath + "/no"} {
		u.fails(u.call(at, itemInterface+".GetSecret", u.session), noSuchObject)
		u.fails(u.call(at, itemInterface+".Delete"), noSuchObject)
		u.fails(u.call(at, propertiesInterface+".GetAll", itemInterface), noSuchObject)
		u.fails(u.call(at, introspectionInterface+".Introspect"), noSuchObject)
	}
}

// TestDefaultIsThereFromTheStart: many programs give up where there is no
// default collection. The first that unlocks it makes it.
func TestDefaultIsThereFromTheStart(t *testing.T) {
	v := serveStore(t)
	u := v.user()
	var at, prompt path
	u.ok(u.call(secretsPath, serviceInterface+".ReadAlias", "default"), &at)
	if at != loginPath {
		t.Errorf("default is %s", at)
	}
	u.ok(u.call(secretsPath, serviceInterface+".CreateCollection", properties{
		collectionInterface + ".Label": godbus.MakeVariant("Default keyring")}, "default"), &at, &prompt)
	if at != loginPath || prompt != nothing {
		t.Errorf("CreateCollection: %s, %s", at, prompt)
	}
	u.get(defaultPath, collectionInterface+".Label")
	if unlocked, locked := u.search(map[string]string{"a": "b"}); len(unlocked)+len(locked) != 0 {
		t.Errorf("found %v, %v", unlocked, locked)
	}
	u.fails(u.call(defaultPath, collectionInterface+".CreateItem", itemProps("x", nil), u.passed("x"), true), isLocked)
	_, prompt = u.unlock(defaultPath)
	if dismissed, result := u.prompted(prompt); dismissed || !samePaths(result.Value().([]path), defaultPath) {
		t.Fatalf("%v, %v", dismissed, result)
	}
	if q := v.prompter.Questions(); len(q) != 1 || q[0].Kind != kindNew {
		t.Errorf("asked %+v", q)
	}
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, true)
	if p := u.secret(item); string(p.Value) != "x" {
		t.Errorf("%+v", p)
	}
	u.ok(u.call(secretsPath, serviceInterface+".ReadAlias", "nothing"), &at)
	if at != "/" {
		t.Errorf("an unknown alias is %s", at)
	}
}

const kindNew = prompt.NewPassphrase

// TestCreateItemOnLockedIsIsLocked: libsecret unlocks and tries again.
func TestCreateItemOnLockedIsIsLocked(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, false)
	v.lock()
	u.fails(u.call(defaultPath, collectionInterface+".CreateItem", itemProps("y", nil), u.passed("y"), false), isLocked)
	u.fails(u.call(item, itemInterface+".GetSecret", u.session), isLocked)
	u.fails(u.call(item, itemInterface+".SetSecret", u.passed("y")), isLocked)
	u.fails(u.call(item, itemInterface+".Delete"), isLocked)
	u.fails(u.call(item, propertiesInterface+".Set", itemInterface, "Label", godbus.MakeVariant("y")), isLocked)
	u.fails(u.call(item, propertiesInterface+".Set", itemInterface, "Attributes", godbus.MakeVariant(map[string]string{})), isLocked)
	u.fails(u.call(loginPath, propertiesInterface+".Set", collectionInterface, "Label", godbus.MakeVariant("y")), isLocked)
	var secrets map[path]passed
	u.ok(u.call(secretsPath, serviceInterface+".GetSecrets", []path{item}, u.session), &secrets)
	if len(secrets) != 0 {
		t.Errorf("%d secrets of a locked collection", len(secrets))
	}
	if n := len(v.prompter.Questions()); n != 0 {
		t.Errorf("%d questions that no prompt was called for", n)
	}
}

// TestLockedItemsAreFound: Chromium makes itself a new key where it is told of
// no items, and what the old one encrypted is lost.
func TestLockedItemsAreFound(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	attributes := map[string]string{"application": "chrome", "xdg:schema": "chrome_libsecret_os_crypt_password_v2"}
	item := u.create(defaultPath, "key", attributes, true)
	if unlocked, locked := u.search(attributes); !samePaths(unlocked, item) || len(locked) != 0 {
		t.Errorf("unlocked: %v, %v", unlocked, locked)
	}
	v.lock()
	for _, by := range []map[string]string{attributes, {"application": "chrome"}, {}} {
		if unlocked, locked := u.search(by); len(unlocked) != 0 || !samePaths(locked, item) {
			t.Errorf("locked, by %v: %v, %v", by, unlocked, locked)
		}
	}
	if unlocked, locked := u.search(map[string]string{"application": "chromium"}); len(unlocked)+len(locked) != 0 {
		t.Errorf("another one's: %v, %v", unlocked, locked)
	}
	// A search that goes wrong is an error, and not an answer without items.
	v.broken.Store(true)
	u.fails(u.call(secretsPath, serviceInterface+".SearchItems", attributes), "Failed")
}

// TestQuietUnlockNeedsNoPrompt: where the TPM does it, programs never see a
// lock, and where the user locked it by hand, they do.
func TestQuietUnlockNeedsNoPrompt(t *testing.T) {
	v := serveStore(t)
	v.store.TPM = &keyringtest.FakeSealer{}
	login, err := v.store.Create(t.Context(), keyring.LoginCollection, "Login", keyring.Credential{Kind: keyring.SlotTPM})
	if err != nil {
		t.Fatal(err)
	}
	u := v.user()
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, false)
	for name, use := range map[string]func(){
		"search": func() {
			if unlocked, locked := u.search(map[string]string{"a": "b"}); !samePaths(unlocked, item) || len(locked) != 0 {
				t.Errorf("search: %v, %v", unlocked, locked)
			}
		},
		"secret": func() { u.secret(item) },
		"create": func() { u.create(defaultPath, "y", map[string]string{"a": "c"}, true) },
		"unlock": func() {
			if unlocked, prompt := u.unlock(item); !samePaths(unlocked, item) || prompt != nothing {
				t.Errorf("unlock: %v, %s", unlocked, prompt)
			}
		},
	} {
		login.Lock()
		if use(); v.locked() {
			t.Errorf("%s: still locked", name)
		}
	}
	v.lock()
	u.fails(u.call(item, itemInterface+".GetSecret", u.session), isLocked)
	if n := len(v.prompter.Questions()); n != 0 {
		t.Errorf("%d questions", n)
	}
}

// TestReadingDoesNotModify: Chromium compares the two times.
func TestReadingDoesNotModify(t *testing.T) {
	u := serveLogin(t).user()
	item := u.create(defaultPath, "x", nil, false)
	before := u.get(item, itemInterface+".Modified")
	if created := u.get(item, itemInterface+".Created"); created != before || created == uint64(0) {
		t.Errorf("created %v, modified %v", created, before)
	}
	u.secret(item)
	u.search(map[string]string{})
	if after := u.get(item, itemInterface+".Modified"); after != before {
		t.Errorf("modified %v and then %v", before, after)
	}
}

// TestContentTypeRoundTrips: zalando/go-keyring sends one with a parameter.
func TestContentTypeRoundTrips(t *testing.T) {
	u := serveLogin(t).user()
	for sent, want := range map[string]string{
		"text/plain; charset=utf-8": "text/plain; charset=utf-8", "application/octet-stream": "application/octet-stream",
		`a/b; c="d e"; f=g`: `a/b; c="d e"; f=g`, "": "text/plain",
	} {
		p := u.passed("x")
		p.ContentType = sent
		var item, prompt path
		u.ok(u.call(defaultPath, collectionInterface+".CreateItem", itemProps("x", map[string]string{"type": sent}), p, false), &item, &prompt)
		if got := u.secret(item); got.ContentType != want {
			t.Errorf("%q came back as %q", sent, got.ContentType)
		}
		p.ContentType, p.Value = "x/y", []byte("z")
		u.ok(u.call(item, itemInterface+".SetSecret", p))
		if got := u.secret(item); got.ContentType != "x/y" || string(got.Value) != "z" {
			t.Errorf("after SetSecret: %+v", got)
		}
	}
}

// TestLargeAndBinarySecrets: what goes in comes out, byte for byte. It speaks
// through our own codec, as godbus is slow with so many bytes.
func TestLargeAndBinarySecrets(t *testing.T) {
	v := serveLogin(t)
	u, r := v.user(), v.raw()
	var session path
	r.take(t, secretsPath, serviceInterface, "OpenSession", "sv", []any{"plain", godbus.MakeVariant("")}, func(f *wire.Frame, body []byte) error {
		return wire.Unmarshal(f.Order, body, new(godbus.Variant), &session)
	})
	send := func(value []byte, read func(*wire.Frame, []byte) error) {
		t.Helper()
		r.take(t, defaultPath, collectionInterface, "CreateItem", "a{sv}(oayays)b",
			[]any{itemProps("x", map[string]string{"n": fmt.Sprint(len(value))}), passed{session, []byte{}, value, ""}, false}, read)
	}
	for _, n := range []int{0, 1, 15, 16, 10_000, 3 << 20, maxSecretSize} {
		value := make([]byte, n)
		_, _ = rand.Read(value)
		var item, prompt path
		send(value, func(f *wire.Frame, body []byte) error { return wire.Unmarshal(f.Order, body, &item, &prompt) })
		var got passed
		r.take(t, item, itemInterface, "GetSecret", "o", []any{session}, func(f *wire.Frame, body []byte) error {
			return wire.Unmarshal(f.Order, body, &got)
		})
		if !bytes.Equal(got.Value, value) {
			t.Errorf("%d bytes came back as %d others", n, len(got.Value))
		}
	}
	for _, n := range []int{maxSecretSize + 1, maxSecretSize + maxArguments} {
		send(make([]byte, n), func(f *wire.Frame, _ []byte) error {
			if f.ErrorName != standard+"LimitsExceeded" {
				t.Errorf("%d bytes: %q", n, f.ErrorName)
			}
			return nil
		})
	}
	large := map[string]string{"a": string(bytes.Repeat([]byte("x"), maxArguments))}
	u.fails(u.call(defaultPath, collectionInterface+".CreateItem", itemProps("x", large), u.passed("x"), false), "LimitsExceeded")
}

// TestReplaceKeepsThePath: the item that is replaced is the one with exactly
// these attributes.
func TestReplaceKeepsThePath(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	first := u.create(defaultPath, "1", map[string]string{"a": "b"}, true)
	more := u.create(defaultPath, "2", map[string]string{"a": "b", "c": "d"}, true)
	second := u.create(defaultPath, "3", map[string]string{"a": "b"}, true)
	third := u.create(defaultPath, "4", map[string]string{"a": "b"}, false)
	if first != second || first == more || third == first {
		t.Errorf("%s, %s, %s, %s", first, more, second, third)
	}
	if p := u.secret(first); string(p.Value) != "3" {
		t.Errorf("replaced by %q", p.Value)
	}
}

// TestTypeIsTheSchemaAttribute: old programs set the one, new ones the other.
func TestTypeIsTheSchemaAttribute(t *testing.T) {
	u := serveLogin(t).user()
	plain := u.create(defaultPath, "x", map[string]string{"a": "b"}, false)
	attributes := func(at path) map[string]string { return u.get(at, itemInterface+".Attributes").(map[string]string) }
	if got := attributes(plain); !maps.Equal(got, map[string]string{"a": "b", "xdg:schema": "org.freedesktop.Secret.Generic"}) {
		t.Errorf("attributes %v", got)
	}
	props := itemProps("x", map[string]string{"a": "c"})
	props[itemInterface+".Type"] = godbus.MakeVariant("org.example.Type")
	var typed, prompt path
	u.ok(u.call(defaultPath, collectionInterface+".CreateItem", props, u.passed("x"), false), &typed, &prompt)
	if got := attributes(typed)["xdg:schema"]; got != "org.example.Type" || u.get(typed, itemInterface+".Type") != got {
		t.Errorf("schema %q", got)
	}
	set := func(property string, value any) {
		t.Helper()
		u.ok(u.call(typed, propertiesInterface+".Set", itemInterface, property, godbus.MakeVariant(value)))
	}
	set("Attributes", map[string]string{"x": "y"})
	if got := attributes(typed); !maps.Equal(got, map[string]string{"x": "y", "xdg:schema": "org.example.Type"}) {
		t.Errorf("attributes %v", got)
	}
	set("Type", "org.example.Other")
	if got := attributes(typed); !maps.Equal(got, map[string]string{"x": "y", "xdg:schema": "org.example.Other"}) {
		t.Errorf("attributes %v", got)
	}
	set("Label", "another label")
	if got := u.get(typed, itemInterface+".Label"); got != "another label" {
		t.Errorf("label %v", got)
	}
	if found, _ := u.search(map[string]string{"xdg:schema": "org.example.Other"}); !samePaths(found, typed) {
		t.Errorf("found %v", found)
	}
	for property, value := range map[string]any{"Locked": true, "Created": uint64(1)} {
		u.fails(u.call(typed, propertiesInterface+".Set", itemInterface, property, godbus.MakeVariant(value)), "PropertyReadOnly")
	}
	u.fails(u.call(typed, propertiesInterface+".Set", itemInterface, "Label", godbus.MakeVariant(1)), "InvalidArgs")
	u.fails(u.call(defaultPath, collectionInterface+".CreateItem", properties{itemInterface + ".Label": godbus.MakeVariant(1)}, u.passed("x"), false), "InvalidArgs")
}

// TestLockNamesWhatIsLocked, and leaves the session collection open.
func TestLockNamesWhatIsLocked(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", nil, false)
	var locked []path
	var prompt path
	asked := []path{item, defaultPath, sessionPathOf("session"), aliasesPath + "/none"}
	u.ok(u.call(secretsPath, serviceInterface+".Lock", asked), &locked, &prompt)
	if !samePaths(locked, item, defaultPath) || prompt != nothing || !v.locked() {
		t.Errorf("%v, %s, %v", locked, prompt, v.locked())
	}
	_, prompt = u.unlock(defaultPath)
	u.prompted(prompt)
	u.ok(u.call(secretsPath, serviceInterface+".LockService"))
	if !v.locked() {
		t.Error("LockService left it open")
	}
	u.create(sessionPathOf("session"), "x", nil, false)
}

// TestAliasesCanBeSet: and say who they are after that.
func TestAliasesCanBeSet(t *testing.T) {
	u := serveLogin(t).user()
	var at, prompt path
	u.ok(u.call(secretsPath, serviceInterface+".CreateCollection", properties{collectionInterface + ".Label": godbus.MakeVariant("Work")}, "work"), &at, &prompt)
	dismissed, result := u.prompted(prompt)
	work, _ := result.Value().(path)
	if dismissed || at != nothing || work == nothing || slices.Contains([]path{loginPath, ""}, work) {
		t.Fatalf("%s, %v, %v", at, dismissed, result)
	}
	if label := u.get(aliasesPath+"/work", collectionInterface+".Label"); label != "Work" {
		t.Errorf("label %v", label)
	}
	u.ok(u.call(secretsPath, serviceInterface+".SetAlias", "default", work))
	u.ok(u.call(secretsPath, serviceInterface+".ReadAlias", "default"), &at)
	if at != work {
		t.Errorf("default is %s, want %s", at, work)
	}
	u.ok(u.call(secretsPath, serviceInterface+".SetAlias", "default", nothing))
	u.ok(u.call(secretsPath, serviceInterface+".ReadAlias", "default"), &at)
	if at != loginPath {
		t.Errorf("default is %s", at)
	}
	for name, want := range map[string]string{"": "InvalidArgs", "a/b": "InvalidArgs", "ü": "InvalidArgs", "login": "NotSupported"} {
		u.fails(u.call(secretsPath, serviceInterface+".SetAlias", name, work), want)
	}
	u.fails(u.call(secretsPath, serviceInterface+".SetAlias", "x", collectionsPath+"/none"), noSuchObject)
}
