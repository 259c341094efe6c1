package dbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

func containsAll(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// serveSecond serves secrets on the same bus as another daemon.
func serveSecond(t *testing.T, first *vault, replace bool, log *logtest.Buffer) (stop func()) {
	t.Helper()
	gate := keyring.NewGate(nil)
	s := New(keyring.NewKeys(gate), gate, testLog(log))
	s.Secrets, s.Replace = keyring.NewSecrets(gate, keyringtest.NewStore()), replace
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, first.bus.Address) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	}
}

// TestSecretPropertiesFitTheirFiles compares what the objects say with what the
// interface files promise.
func TestSecretPropertiesFitTheirFiles(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, false)
	check := func(at path, in string) {
		t.Helper()
		var all map[string]godbus.Variant
		u.ok(u.call(at, propertiesInterface+".GetAll", in), &all)
		actual, declared := map[string]string{}, map[string]string{}
		for name, value := range all {
			actual[name] = value.Signature().String()
		}
		for _, p := range v.server.tables[in].Properties {
			declared[p.Name] = p.Type
		}
		if !maps.Equal(actual, declared) {
			t.Errorf("%s: %v, declared %v", at, actual, declared)
		}
		var none map[string]godbus.Variant
		u.ok(u.call(at, propertiesInterface+".GetAll", ""), &none)
		if len(none) != len(all) {
			t.Errorf("%s: %v of no interface in particular", at, none)
		}
		u.ok(u.call(at, propertiesInterface+".GetAll", peerInterface), &none)
	}
	for range 2 {
		check(secretsPath, serviceInterface)
		check(loginPath, collectionInterface)
		check(item, itemInterface)
		check(portalPath, portalInterface)
		v.lock()
	}
}

// TestLockedItemsHaveProperties: libsecret gives a search up over an item that
// has none, and keeps what it was told until it is told otherwise.
func TestLockedItemsHaveProperties(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, false)
	v.lock()
	var all map[string]godbus.Variant
	u.ok(u.call(item, propertiesInterface+".GetAll", itemInterface), &all)
	if len(all) != 6 || all["Locked"].Value() != true || all["Label"].Value() != "" || len(all["Attributes"].Value().(map[string]string)) != 0 || all["Created"].Value() != uint64(0) {
		t.Errorf("locked: %v", all)
	}
	u.listen()
	_, prompt := u.unlock(item)
	go u.call(prompt, promptInterface+".Prompt", "")
	u.changed(item, "Label", func(value any) bool { return value == "item x" })
	u.ok(u.call(secretsPath, serviceInterface+".LockService"))
	s := u.signal(func(s *godbus.Signal) bool {
		return s.Path == item && s.Name == propertiesInterface+".PropertiesChanged"
	})
	told := s.Body[1].(map[string]godbus.Variant)
	if len(told) != 6 || told["Locked"].Value() != true || told["Label"].Value() != "" {
		t.Errorf("told %v", told)
	}
}

// TestLabelsAreToldBeforeCompleted: a program that shows what it found once it
// is unlocked has something to show.
func TestLabelsAreToldBeforeCompleted(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, false)
	u.get(item, itemInterface+".Label") // who has not seen it is not told
	u.listen()
	for range 20 {
		v.lock()
		if label := u.get(item, itemInterface+".Label"); label != "" {
			t.Fatalf("locked, its label is %v", label)
		}
		u.changed(item, "Label", func(value any) bool { return value == "" })
		_, prompt := u.unlock(item)
		go u.call(prompt, promptInterface+".Prompt", "")
		s := u.signal(func(s *godbus.Signal) bool {
			if s.Path == item && s.Name == propertiesInterface+".PropertiesChanged" {
				return s.Body[1].(map[string]godbus.Variant)["Label"].Value() == "item x"
			}
			return s.Name == promptInterface+".Completed"
		})
		if s.Path != item {
			t.Fatal("Completed came first")
		}
		u.completed(prompt)
	}
}

// TestEveryChangeIsTold: with values, which libsecret keeps.
func TestEveryChangeIsTold(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	u.listen()
	told := func(member string, at, about path) {
		t.Helper()
		u.signal(func(s *godbus.Signal) bool {
			return s.Path == at && strings.HasSuffix(s.Name, "."+member) && s.Body[0] == about
		})
	}
	has := func(paths ...path) func(any) bool {
		return func(value any) bool { return samePaths(value.([]path), paths...) }
	}
	item := u.create(defaultPath, "x", map[string]string{"a": "b"}, true)
	told("ItemCreated", loginPath, item)
	u.changed(loginPath, "Items", has(item))
	u.create(defaultPath, "y", map[string]string{"a": "b"}, true)
	told("ItemChanged", loginPath, item) // and not created
	u.changed(item, "Label", func(value any) bool { return value == "item y" })
	u.ok(u.call(item, propertiesInterface+".Set", itemInterface, "Attributes", godbus.MakeVariant(map[string]string{"c": "d"})))
	u.changed(item, "Attributes", func(value any) bool { return value.(map[string]string)["c"] == "d" })
	u.ok(u.call(loginPath, propertiesInterface+".Set", collectionInterface, "Label", godbus.MakeVariant("New")))
	told("CollectionChanged", secretsPath, loginPath)
	u.changed(loginPath, "Label", func(value any) bool { return value == "New" })
	v.lock()
	told("CollectionChanged", secretsPath, loginPath)
	u.changed(loginPath, "Locked", func(value any) bool { return value == true })
	_, prompt := u.unlock(loginPath)
	u.ok(u.call(prompt, promptInterface+".Prompt", ""))
	u.changed(loginPath, "Locked", func(value any) bool { return value == false })
	u.ok(u.call(item, itemInterface+".Delete"), &prompt)
	told("ItemDeleted", loginPath, item)
	u.changed(loginPath, "Items", has())

	id, err := v.secrets.CreateCollection(t.Context(), keyring.Caller{}, "Work", "")
	if err != nil {
		t.Fatal(err)
	}
	told("CollectionCreated", secretsPath, collectionPath(id))
	u.changed(secretsPath, "Collections", has(loginPath, sessionPathOf("session"), collectionPath(id)))
	if err := v.secrets.DeleteCollection(t.Context(), keyring.Caller{}, id); err != nil {
		t.Fatal(err)
	}
	told("CollectionDeleted", secretsPath, collectionPath(id))
	u.changed(secretsPath, "Collections", has(loginPath, sessionPathOf("session")))
}

// TestEverySecretSignalIsDeclared: each has the arguments of its file.
func TestEverySecretSignalIsDeclared(t *testing.T) {
	v := serveLogin(t)
	declared := map[string]string{}
	for _, in := range []string{serviceInterface, collectionInterface, promptInterface} {
		for _, s := range v.server.tables[in].Signals {
			for _, a := range s.Args {
				declared[in+"."+s.Name] += a.Type
			}
		}
	}
	u, other := v.user(), v.user()
	other.listen()
	seen := map[string]bool{promptInterface + ".Completed": true}
	// What comes and goes at once may never be told of, so each is waited for.
	wants := func(name string) {
		t.Helper()
		for !seen[name] {
			s := other.signal(func(s *godbus.Signal) bool { return declared[s.Name] != "" })
			if got := godbus.SignatureOf(s.Body...).String(); got != declared[s.Name] {
				t.Errorf("%s has %s, declared %s", s.Name, got, declared[s.Name])
			}
			seen[s.Name] = true
		}
	}
	item := u.create(defaultPath, "x", nil, false)
	wants(collectionInterface + ".ItemCreated")
	u.ok(u.call(item, itemInterface+".SetSecret", u.passed("y")))
	wants(collectionInterface + ".ItemChanged")
	u.ok(u.call(item, itemInterface+".Delete"), new(path))
	wants(collectionInterface + ".ItemDeleted")
	var made, at path
	u.ok(u.call(secretsPath, serviceInterface+".CreateCollection", properties{}, ""), &made, &at)
	_, result := u.prompted(at)
	wants(serviceInterface + ".CollectionCreated")
	u.ok(u.call(result.Value().(path), collectionInterface+".Delete"), &at)
	v.lock()
	wants(serviceInterface + ".CollectionChanged")
	u.ok(u.call(at, promptInterface+".Prompt", ""))
	for name := range declared {
		wants(name)
	}
}

// TestLongListsAreToldOnce: a thousand items are not a thousand lists of a
// thousand, and what is told in the end is all of them.
func TestLongListsAreToldOnce(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	const items = 600
	for i := range items - 100 {
		v.add("x", map[string]string{"n": fmt.Sprint(i)})
	}
	u.listen()
	for i := range 100 {
		v.add("x", map[string]string{"m": fmt.Sprint(i)})
	}
	lists, created := 0, 0
	timeout := time.After(time.Minute)
	// The list may be ahead of the signals, and who falls behind is told no more of
	// each item.
	for last := 0; last != items; {
		select {
		case s := <-u.signals:
			if strings.HasSuffix(s.Name, ".ItemCreated") {
				created++
			}
			if strings.HasSuffix(s.Name, ".PropertiesChanged") && s.Path == loginPath {
				if list, ok := s.Body[1].(map[string]godbus.Variant)["Items"]; ok {
					lists++
					last = len(list.Value().([]path))
				}
			}
		case <-timeout:
			t.Fatalf("the last of %d lists has %d items", lists, last)
		}
	}
	if lists > 30 {
		t.Errorf("%d lists for %d items", lists, created)
	}
	t.Logf("%d lists for %d items", lists, created)
}
