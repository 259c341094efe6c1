package keyringtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// TestCollection checks that what newCollection makes keeps the contract of
// keyring.Collection. newCollection is called once for each subtest, and returns
// an unlocked collection without items. What is locked, and how it is unlocked,
// is for TestCollectionStore.
func TestCollection(t *testing.T, newCollection func(t *testing.T) keyring.Collection) {
	t.Helper()
	for _, test := range []struct {
		name string
		f    func(t *testing.T, c keyring.Collection)
	}{
		{"Empty", testEmptyCollection},
		{"WhatIsWrittenIsRead", testItems},
		{"OldestFirst", testOrder},
		{"Search", testSearch},
		{"ReplaceKeepsIDAndBirth", testReplace},
		{"ReplaceWantsExactlyTheAttributes", testReplaceExactly},
		{"Change", testChange},
		{"Delete", testDeleteItem},
		{"NotFound", testNoSuchItem},
		{"Label", testCollectionLabel},
		{"TimesGiven", testTimesGiven},
		{"BorrowsArguments", testBorrowsItem},
		{"SecretIsTheCallers", testSecretIsTheCallers},
		{"Concurrent", testConcurrentItems},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, newCollection(t)) })
	}
}

// newItem returns an item whose secret is wiped after the test.
func newItem(t *testing.T, label, value string, attributes ...string) keyring.NewItem {
	t.Helper()
	item := keyring.NewItem{
		Label: label, ContentType: "text/plain; charset=utf-8",
		Attributes: map[string]string{}, Secret: secret.Copy([]byte(value)),
	}
	for i := 0; i < len(attributes); i += 2 {
		item.Attributes[attributes[i]] = attributes[i+1]
	}
	t.Cleanup(item.Secret.Wipe)
	return item
}

// mustCreate adds an item and returns its ID.
func mustCreate(t *testing.T, c keyring.Collection, item keyring.NewItem) string {
	t.Helper()
	id, replaced, err := c.Create(item, false)
	if err != nil || replaced || id == "" {
		t.Fatalf("create: ID %q, replaced %v, error %v", id, replaced, err)
	}
	return id
}

// wantSecret reads one item's secret.
func wantSecret(t *testing.T, c keyring.Collection, id, want string) {
	t.Helper()
	got, err := c.Secret(id)
	if err != nil {
		t.Fatalf("secret of %s: %v", id, err)
	}
	defer got.Wipe()
	if !holds(got, want) {
		t.Errorf("secret of %s is another one", id)
	}
}

func holds(b secret.Bytes, want string) (same bool) {
	b.Use(func(p []byte) { same = string(p) == want })
	return same
}

func mustItem(t *testing.T, c keyring.Collection, id string) keyring.ItemInfo {
	t.Helper()
	info, err := c.Item(id)
	if err != nil {
		t.Fatalf("item %s: %v", id, err)
	}
	return info
}

// wantIDs compares what Items or Search returned.
func wantIDs(t *testing.T, what string, got []string, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func plain(id string) bool {
	return id != "" && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}

func testEmptyCollection(t *testing.T, c keyring.Collection) {
	info := c.Info()
	if !plain(info.ID) || info.Locked || info.Created.IsZero() || info.Modified.Before(info.Created) {
		t.Errorf("info: %+v", info)
	}
	got, err := c.Items()
	wantIDs(t, "items", got, err)
	got, err = c.Search(map[string]string{"a": "1"})
	wantIDs(t, "search", got, err)
	got, err = c.Search(nil)
	wantIDs(t, "search for anything", got, err)
}

func testItems(t *testing.T, c keyring.Collection) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	values := map[string]string{}
	for i, value := range []string{"", "a", "with\nnewline", "ünïcode \u2028", string(every), strings.Repeat("x", 100_000)} {
		item := newItem(t, fmt.Sprintf("item %d\n[x]", i), value, "n", fmt.Sprint(i), "", "empty name", "empty value", "", "uni ö", "\x01=\n")
		id := mustCreate(t, c, item)
		if !plain(id) {
			t.Errorf("ID is %q", id)
		}
		values[id] = value
		info := mustItem(t, c, id)
		if info.ItemRef != (keyring.ItemRef{Collection: c.Info().ID, Item: id}) || info.Label != item.Label ||
			info.ContentType != item.ContentType || !maps.Equal(info.Attributes, item.Attributes) {
			t.Errorf("written %+v, read %+v", item, info)
		}
		if !info.Created.Equal(info.Modified) || age(info.Created) > time.Hour {
			t.Errorf("created %v, modified %v", info.Created, info.Modified)
		}
	}
	if len(values) != 6 {
		t.Fatalf("%d IDs for 6 items", len(values))
	}
	for id, value := range values {
		before := mustItem(t, c, id)
		wantSecret(t, c, id, value)
		// Chromium takes an item whose time of change moves for a damaged one.
		if after := mustItem(t, c, id); !after.Modified.Equal(before.Modified) {
			t.Errorf("reading %s changed its time", id)
		}
	}
}

func age(at time.Time) time.Duration { return time.Since(at).Abs() }

func testOrder(t *testing.T, c keyring.Collection) {
	var want []string
	for i := range 40 {
		want = append(want, mustCreate(t, c, newItem(t, fmt.Sprint(i), "v", "n", fmt.Sprint(i%3))))
	}
	got, err := c.Items()
	wantIDs(t, "items", got, err, want...)
	got, err = c.Search(map[string]string{})
	wantIDs(t, "search for anything", got, err, backwards(want)...)
	var third []string
	for i := 1; i < len(want); i += 3 {
		third = append(third, want[i])
	}
	got, err = c.Search(map[string]string{"n": "1"})
	wantIDs(t, "search", got, err, backwards(third)...)

	// Programs take the first: what is written again is that.
	if id, replaced, err := c.Create(newItem(t, "new", "v", "n", "2"), true); err != nil || !replaced || id != want[38] {
		t.Fatalf("ID %q, replaced %v, error %v", id, replaced, err)
	}
	label := "label"
	for _, n := range []int{1, 4} {
		if err := c.Change(want[n], keyring.ItemChange{Label: &label}); err != nil {
			t.Fatal(err)
		}
	}
	got, err = c.Search(map[string]string{"n": "1"})
	wantIDs(t, "search after changes", got, err, append([]string{third[1], third[0]}, backwards(third[2:])...)...)
	got, err = c.Search(nil)
	if len(got) != len(want) || !slices.Equal(got[:4], []string{want[4], want[1], want[38], want[39]}) {
		t.Errorf("search for anything after changes: %q, %v", got, err)
	}
	got, err = c.Items()
	wantIDs(t, "items after changes", got, err, want...)
}

func backwards(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Reverse(ids)
	return ids
}

func testSearch(t *testing.T, c keyring.Collection) {
	one := mustCreate(t, c, newItem(t, "one", "v", "site", "a", "user", "mia"))
	two := mustCreate(t, c, newItem(t, "two", "v", "site", "a", "user", "ben"))
	three := mustCreate(t, c, newItem(t, "three", "v", "site", "b", "empty", ""))
	four := mustCreate(t, c, newItem(t, "four", "v"))
	for _, s := range []struct {
		attributes map[string]string
		want       []string
	}{
		{nil, []string{four, three, two, one}},
		{map[string]string{"site": "a"}, []string{two, one}},
		{map[string]string{"site": "a", "user": "ben"}, []string{two}},
		{map[string]string{"site": "b"}, []string{three}},
		{map[string]string{"empty": ""}, []string{three}},
		{map[string]string{"user": ""}, nil},
		{map[string]string{"site": "a", "user": "eve"}, nil},
		{map[string]string{"site": "A"}, nil},
		{map[string]string{"sit": "ea"}, nil},
		{map[string]string{"missing": ""}, nil},
	} {
		got, err := c.Search(s.attributes)
		wantIDs(t, fmt.Sprintf("search for %v", s.attributes), got, err, s.want...)
	}
}

func testReplace(t *testing.T, c keyring.Collection) {
	first := mustCreate(t, c, newItem(t, "first", "1", "a", "1"))
	second := mustCreate(t, c, newItem(t, "second", "2", "a", "1"))
	before := mustItem(t, c, second)
	item := newItem(t, "new", "3", "a", "1")
	item.ContentType = "application/x-new"
	id, replaced, err := c.Create(item, true)
	if err != nil || !replaced || id != second {
		t.Fatalf("ID %q, replaced %v, error %v; want the newest, %q", id, replaced, err, second)
	}
	after := mustItem(t, c, second)
	if after.Label != "new" || after.ContentType != item.ContentType || !after.Created.Equal(before.Created) || after.Modified.Before(before.Modified) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	wantSecret(t, c, second, "3")
	wantSecret(t, c, first, "1")
	got, err := c.Items()
	wantIDs(t, "items", got, err, first, second)
}

func testReplaceExactly(t *testing.T, c keyring.Collection) {
	more := mustCreate(t, c, newItem(t, "more", "m", "a", "1", "b", "2"))
	for _, attributes := range [][]string{{"a", "1"}, {}, {"a", "1", "b", "3"}} {
		item := newItem(t, "new", "n", attributes...)
		id, replaced, err := c.Create(item, true)
		if err != nil || replaced || id == more {
			t.Errorf("with %v: ID %q, replaced %v, error %v", attributes, id, replaced, err)
		}
		again, replaced, err := c.Create(item, true)
		if err != nil || !replaced || again != id {
			t.Errorf("again with %v: ID %q for %q, replaced %v, error %v", attributes, again, id, replaced, err)
		}
	}
	wantSecret(t, c, more, "m")
}

func testChange(t *testing.T, c keyring.Collection) {
	id := mustCreate(t, c, newItem(t, "label", "value", "a", "1"))
	bystander := mustCreate(t, c, newItem(t, "other", "untouched", "a", "1"))
	born := mustItem(t, c, id)
	label, kind, value := "other label", "application/octet-stream", secret.Copy([]byte("other\x00value"))
	defer value.Wipe()

	must := func(change keyring.ItemChange) keyring.ItemInfo {
		t.Helper()
		if err := c.Change(id, change); err != nil {
			t.Fatal(err)
		}
		info := mustItem(t, c, id)
		if !info.Created.Equal(born.Created) || info.Modified.Before(born.Modified) {
			t.Errorf("born %+v, now %+v", born, info)
		}
		return info
	}
	if info := must(keyring.ItemChange{Label: &label}); info.Label != label || info.Attributes["a"] != "1" || info.ContentType != born.ContentType {
		t.Errorf("after a new label: %+v", info)
	}
	wantSecret(t, c, id, "value")
	if info := must(keyring.ItemChange{Secret: &value, ContentType: &kind}); info.ContentType != kind || info.Label != label {
		t.Errorf("after a new secret: %+v", info)
	}
	wantSecret(t, c, id, "other\x00value")
	if info := must(keyring.ItemChange{Attributes: map[string]string{"b": "2"}}); !maps.Equal(info.Attributes, map[string]string{"b": "2"}) {
		t.Errorf("after new attributes: %+v", info)
	}
	wantSecret(t, c, id, "other\x00value")
	got, err := c.Search(map[string]string{"a": "1"})
	wantIDs(t, "search for the old attributes", got, err, bystander)
	got, err = c.Search(map[string]string{"b": "2"})
	wantIDs(t, "search for the new attributes", got, err, id)
	if info := must(keyring.ItemChange{Attributes: map[string]string{}}); len(info.Attributes) != 0 {
		t.Errorf("after no attributes: %+v", info)
	}
	got, err = c.Search(map[string]string{"b": "2"})
	wantIDs(t, "search for attributes that were taken away", got, err)
	wantSecret(t, c, bystander, "untouched")
}

func testDeleteItem(t *testing.T, c keyring.Collection) {
	seen := map[string]bool{}
	var kept string
	for i := range 3 {
		id := mustCreate(t, c, newItem(t, "x", fmt.Sprint(i), "a", "1"))
		if seen[id] {
			t.Errorf("ID %s was used before", id)
		}
		seen[id] = true
		if i == 1 {
			kept = id
			continue
		}
		if err := c.Delete(id); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Item(id); !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("a deleted item: %v", err)
		}
	}
	got, err := c.Items()
	wantIDs(t, "items", got, err, kept)
	got, err = c.Search(map[string]string{"a": "1"})
	wantIDs(t, "search", got, err, kept)
	wantSecret(t, c, kept, "1")
}

func testNoSuchItem(t *testing.T, c keyring.Collection) {
	gone := mustCreate(t, c, newItem(t, "x", "v"))
	if err := c.Delete(gone); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{gone, "nosuchitem", "", "../x", "\x00"} {
		_, err := c.Item(id)
		_, err2 := c.Secret(id)
		label := "l"
		for name, err := range map[string]error{
			"item": err, "secret": err2, "change": c.Change(id, keyring.ItemChange{Label: &label}), "delete": c.Delete(id),
		} {
			if !errors.Is(err, keyring.ErrNotFound) {
				t.Errorf("%s of %q: %v; want ErrNotFound", name, id, err)
			}
		}
	}
	got, err := c.Items()
	wantIDs(t, "items", got, err)
}

func testCollectionLabel(t *testing.T, c keyring.Collection) {
	id := c.Info().ID
	if err := c.SetLabel("Börse\n/etc"); err != nil {
		t.Fatal(err)
	}
	if info := c.Info(); info.Label != "Börse\n/etc" || info.ID != id {
		t.Errorf("info: %+v", info)
	}
}

func testTimesGiven(t *testing.T, c keyring.Collection) {
	item := newItem(t, "moved here", "v")
	item.Created = time.Date(2011, 2, 3, 4, 5, 6, 0, time.UTC)
	item.Modified = time.Date(2015, 6, 7, 8, 9, 10, 0, time.UTC)
	info := mustItem(t, c, mustCreate(t, c, item))
	if !info.Created.Equal(item.Created) || !info.Modified.Equal(item.Modified) {
		t.Errorf("created %v, modified %v; want what was given", info.Created, info.Modified)
	}
}

func testBorrowsItem(t *testing.T, c keyring.Collection) {
	item := newItem(t, "x", "mine", "a", "1")
	id := mustCreate(t, c, item)
	if !holds(item.Secret, "mine") {
		t.Fatal("the secret was changed or wiped, which is the caller's")
	}
	item.Attributes["a"] = "2"
	item.Secret.Wipe()
	wantSecret(t, c, id, "mine")
	if info := mustItem(t, c, id); info.Attributes["a"] != "1" {
		t.Error("the map of attributes was kept, which is the caller's")
	}
	value := secret.Copy([]byte("also mine"))
	if err := c.Change(id, keyring.ItemChange{Secret: &value}); err != nil {
		t.Fatal(err)
	}
	if !holds(value, "also mine") {
		t.Error("Change changed or wiped the secret, which is the caller's")
	}
	value.Wipe()
	wantSecret(t, c, id, "also mine")
}

func testSecretIsTheCallers(t *testing.T, c keyring.Collection) {
	id := mustCreate(t, c, newItem(t, "x", "value"))
	first, err := c.Secret(id)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Secret(id)
	if err != nil {
		t.Fatal(err)
	}
	first.Wipe()
	if !holds(second, "value") {
		t.Error("two readers share one secret")
	}
	second.Wipe()
	wantSecret(t, c, id, "value")
}

func testConcurrentItems(t *testing.T, c keyring.Collection) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			value := bytes.Repeat([]byte{byte('a' + i)}, 100)
			for round := range 3 {
				item := keyring.NewItem{
					Label: "x", Attributes: map[string]string{"n": fmt.Sprint(i), "round": fmt.Sprint(round)}, Secret: secret.Copy(value),
				}
				id, _, err := c.Create(item, true)
				item.Secret.Wipe()
				if err != nil {
					t.Error(err)
					return
				}
				found, err := c.Search(map[string]string{"n": fmt.Sprint(i)})
				if err != nil || !slices.Contains(found, id) {
					t.Errorf("what was written is not found: %q in %q, error %v", id, found, err)
				}
				if got, err := c.Secret(id); err != nil || !holds(got, string(value)) {
					t.Errorf("secret of %s: error %v, or another one", id, err)
				} else {
					got.Wipe()
				}
				if round == 2 {
					if err := c.Delete(id); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if left, err := c.Items(); err != nil || len(left) != 16 {
		t.Errorf("%d items are left, error %v; want 16", len(left), err)
	}
}
