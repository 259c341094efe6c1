package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// A vault is a user's secrets in a store, with a scripted user and a TPM.
type vault struct {
	*keyring.Secrets
	t      *testing.T
	gate   *keyring.Gate
	user   *keyringtest.FakePrompter
	store  *keyringtest.Store
	tpm    *keyringtest.FakeSealer
	events <-chan keyring.SecretsEvent
}

// inVault runs f with a vault in a synctest bubble, and checks at the end that
// nothing is asked and no answer is left readable.
func inVault(t *testing.T, f func(t *testing.T, v *vault)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := newVault(t)
		f(t, v)
		synctest.Wait()
		if !v.gate.Idle() || v.user.Open() != 0 {
			t.Error("something is still asked")
		}
		if n := v.user.Unwiped(); n != 0 {
			t.Errorf("%d answers were not wiped", n)
		}
	})
}

func newVault(t *testing.T) *vault {
	v := &vault{t: t, user: &keyringtest.FakePrompter{}, store: keyringtest.NewStore(), tpm: &keyringtest.FakeSealer{}}
	v.tpm.Device = &keyringtest.FakeDevice{}
	v.store.TPM = v.tpm
	v.gate = keyring.NewGate(v.user)
	v.Secrets = keyring.NewSecrets(v.gate, v.store)
	v.events = v.Watch(t.Context())
	return v
}

var browser = keyring.Caller{FrontEnd: "D-Bus", PID: 9, Program: "/usr/bin/browser", Process: "browser (9)"}

func value(t *testing.T, text string) secret.Bytes {
	b := secret.Copy([]byte(text))
	t.Cleanup(b.Wipe)
	return b
}

func (v *vault) credential(kind keyring.SlotKind, text string) keyring.Credential {
	return keyring.Credential{Kind: kind, Value: value(v.t, text)}
}

func (v *vault) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

// want checks which sentinel an error wraps; nil: none.
func (v *vault) want(what string, err, sentinel error) {
	v.t.Helper()
	if !errors.Is(err, sentinel) {
		v.t.Errorf("%s: %v; want %v", what, err, sentinel)
	}
}

// asked checks what the user was asked since the last time.
func (v *vault) asked(want ...prompt.Kind) []prompt.Question {
	v.t.Helper()
	questions := v.user.Questions()
	var kinds []prompt.Kind
	for _, q := range questions {
		kinds = append(kinds, q.Kind)
	}
	if !slices.Equal(kinds, want) {
		v.t.Errorf("asked kinds %v, want %v: %+v", kinds, want, questions)
	}
	v.user.Reset()
	return questions
}

// made returns a locked collection with the passphrase "pw" and one item, which
// nobody was asked about. Its events are gone.
func (v *vault) made(alias string) keyring.ItemRef {
	v.t.Helper()
	id, err := v.CreateWith(v.t.Context(), browser, "Mine", alias, v.credential(keyring.SlotPassphrase, "pw"))
	v.must(err)
	r := v.item(id, "v", "a", "1")
	v.must(v.LockForSleep(v.t.Context(), browser, id))
	v.told()
	return r
}

func (v *vault) item(collection, text string, attributes ...string) keyring.ItemRef {
	v.t.Helper()
	item := keyring.NewItem{Label: "label of " + text, Attributes: map[string]string{}, ContentType: "text/plain", Secret: value(v.t, text)}
	for i := 0; i < len(attributes); i += 2 {
		item.Attributes[attributes[i]] = attributes[i+1]
	}
	r, err := v.CreateItem(v.t.Context(), browser, collection, item, false)
	v.must(err)
	return r
}

// addTPM adds a TPM slot, with a PIN or without, and locks the collection again.
func (v *vault) addTPM(collection, pin string) {
	v.t.Helper()
	v.must(v.UnlockWith(v.t.Context(), browser, collection, v.credential(keyring.SlotPassphrase, "pw")))
	for _, c := range v.store.Collections() {
		if c.Info().ID == collection {
			_, _, err := c.(keyring.Lockable).AddSlot(v.t.Context(), v.credential(keyring.SlotTPM, pin))
			v.must(err)
		}
	}
	v.must(v.LockForSleep(v.t.Context(), browser, collection))
	v.told()
}

// told returns what was told since the last time, as "kind collection/item".
func (v *vault) told() []string {
	names := map[keyring.SecretsEventKind]string{
		keyring.Everything: "everything", keyring.CollectionCreated: "created", keyring.CollectionDeleted: "deleted",
		keyring.CollectionChanged: "changed", keyring.ItemCreated: "item created", keyring.ItemDeleted: "item deleted", keyring.ItemChanged: "item changed",
	}
	var list []string
	for {
		select {
		case e := <-v.events:
			text := names[e.Kind]
			if e.Collection != "" {
				text += " " + e.Collection
			}
			if e.Item != "" {
				text += "/" + e.Item
			}
			list = append(list, text)
		default:
			return list
		}
	}
}

func (v *vault) wantTold(want ...string) {
	v.t.Helper()
	if got := v.told(); !slices.Equal(got, want) {
		v.t.Errorf("told %q, want %q", got, want)
	}
}

func (v *vault) wantLocked(collection string, want bool) {
	v.t.Helper()
	info, err := v.Collection(collection)
	if err != nil || info.Locked != want {
		v.t.Errorf("%s: locked %v, error %v; want locked %v", collection, info.Locked, err, want)
	}
}

func (v *vault) wantSecret(r keyring.ItemRef, want string) {
	v.t.Helper()
	got, _, err := v.Secret(v.t.Context(), browser, r)
	v.must(err)
	defer got.Wipe()
	if !is(got, want) {
		v.t.Errorf("secret of %v is another one", r)
	}
}

func TestSessionCollectionIsAlwaysThere(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		for _, s := range []*keyring.Secrets{v.Secrets, keyring.NewSecrets(v.gate, nil)} {
			if id, ok := s.Alias("session"); !ok || id != "session" {
				t.Errorf("alias session is %q, %v", id, ok)
			}
			r, err := s.CreateItem(t.Context(), browser, "session", keyring.NewItem{Secret: value(t, "v"), ContentType: "text/plain; charset=utf-8"}, false)
			v.must(err)
			v.must(s.Unlock(t.Context(), browser, "session"))
			v.must(s.Lock(t.Context(), browser)) // all of the store's
			v.want("lock", s.Lock(t.Context(), browser, "session"), keyring.ErrUnsupported)
			v.want("delete", s.DeleteCollection(t.Context(), browser, "session"), keyring.ErrUnsupported)
			v.want("label", s.SetCollectionLabel(t.Context(), browser, "session", "x"), keyring.ErrUnsupported)
			_, err = s.Slots("session")
			v.want("slots", err, keyring.ErrUnsupported)
			got, kind, err := s.Secret(t.Context(), browser, r)
			v.must(err)
			if !is(got, "v") || kind != "text/plain; charset=utf-8" {
				t.Errorf("the secret is another one, or of type %q", kind)
			}
			got.Wipe()
		}
		v.asked()
	})
}

func TestWithoutAStoreThereIsNoLogin(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		s := keyring.NewSecrets(v.gate, nil)
		if list := s.Collections(); len(list) != 1 || list[0].ID != "session" {
			t.Errorf("collections: %+v", list)
		}
		if id, ok := s.Alias("default"); ok {
			t.Errorf("default is %q", id)
		}
		v.want("unlock", s.Unlock(t.Context(), browser, "login"), keyring.ErrNotFound)
		_, err := s.CreateCollection(t.Context(), browser, "x", "default")
		v.want("create", err, keyring.ErrUnsupported)
		v.want("login", s.Login(t.Context(), browser, value(t, "pw")), keyring.ErrNotFound)
		v.want("alias", s.SetAlias("work", "login"), keyring.ErrNotFound)
		v.asked()
	})
}

func TestUnreadableStoreIsNotAnEmptyOne(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		s := keyring.OpeningSecrets(v.gate)
		s.SetStore(nil, errors.New("it is damaged"))
		_, _, err := s.Search(map[string]string{"a": "1"})
		v.want("search", err, keyring.ErrUnavailable)
		_, err = s.SearchIn("login", nil)
		v.want("search in login", err, keyring.ErrUnavailable)
		_, err = s.CreateCollection(t.Context(), browser, "x", "default")
		v.want("create", err, keyring.ErrUnavailable)
		_, err = s.CreateWith(t.Context(), browser, "x", "default", v.credential(keyring.SlotPassphrase, "pw"))
		v.want("create with", err, keyring.ErrUnavailable)
		v.want("unlock", s.Unlock(t.Context(), browser, "login"), keyring.ErrUnavailable)
		v.want("login", s.Login(t.Context(), browser, value(t, "pw")), keyring.ErrUnavailable)
		v.want("alias", s.SetAlias("default", ""), keyring.ErrUnavailable)
		// A default that is said to be missing is one to be made.
		for _, name := range []string{"default", "login"} {
			if id, ok := s.Alias(name); id != "login" || !ok {
				t.Errorf("%s is %q, %v", name, id, ok)
			}
		}
		_, err = s.Collection("login")
		v.want("collection", err, keyring.ErrUnavailable)
		v.must(s.Lock(t.Context(), browser))
		v.asked()
	})
}

func TestAliases(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		is := func(name, want string) {
			t.Helper()
			if id, ok := v.Alias(name); id != want || ok != (want != "") {
				t.Errorf("%s is %q, %v; want %q", name, id, ok, want)
			}
		}
		is("default", "login") // before there is one
		is("login", "login")
		is("work", "")
		is("", "")
		work := v.made("work").Collection
		is("work", work)
		v.must(v.SetAlias("default", work))
		is("default", work)
		is("login", "login")
		v.must(v.SetAlias("default", ""))
		is("default", "login")
		v.must(v.SetAlias("default", work))
		v.must(v.SetAlias("default", "login"))
		is("default", "login")
		v.want("login cannot be set", v.SetAlias("login", work), keyring.ErrUnsupported)
		v.want("session cannot be set", v.SetAlias("session", work), keyring.ErrUnsupported)
		v.want("what is gone with the session is no default", v.SetAlias("default", "session"), keyring.ErrUnsupported)
		v.want("none of that ID", v.SetAlias("default", "nosuchthing"), keyring.ErrNotFound)

		// What an alias stood for is deleted.
		v.must(v.SetAlias("default", work))
		v.user.Script(keyringtest.Reply{})
		v.must(v.DeleteCollection(t.Context(), browser, work))
		is("work", "")
		is("default", "login")
		if left := v.store.Aliases(); len(left) != 0 {
			t.Errorf("aliases that are left: %v", left)
		}
	})
}

func TestItemsOfLockedCollectionsAreFound(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		locked := v.made("")
		open := v.item("session", "s", "a", "1")
		unlockedRefs, lockedRefs, err := v.Search(map[string]string{"a": "1"})
		v.must(err)
		if !slices.Equal(unlockedRefs, []keyring.ItemRef{open}) || !slices.Equal(lockedRefs, []keyring.ItemRef{locked}) {
			t.Errorf("unlocked %v, locked %v", unlockedRefs, lockedRefs)
		}
		items, err := v.Items(locked.Collection)
		v.must(err)
		if !slices.Equal(items, []keyring.ItemRef{locked}) {
			t.Errorf("items: %v", items)
		}
		_, err = v.Item(locked)
		v.want("item", err, keyring.ErrLocked)
		_, _, err = v.Secret(t.Context(), browser, locked)
		v.want("secret", err, keyring.ErrLocked)
		_, err = v.CreateItem(t.Context(), browser, locked.Collection, keyring.NewItem{}, true)
		v.want("create", err, keyring.ErrLocked)
		v.want("change", v.ChangeItem(t.Context(), browser, locked, keyring.ItemChange{}), keyring.ErrLocked)
		v.want("delete", v.DeleteItem(t.Context(), browser, locked), keyring.ErrLocked)
		v.want("label", v.SetCollectionLabel(t.Context(), browser, locked.Collection, "x"), keyring.ErrLocked)
		v.asked()
	})
}

func TestFailedSearchIsNotAnEmptyOne(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		r := v.made("")
		v.item("session", "s", "a", "1")
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if op == "Search" {
				return fmt.Errorf("index: %w", keyring.ErrUnavailable)
			}
			return nil
		}
		unlockedRefs, lockedRefs, err := v.Search(map[string]string{"a": "1"})
		v.want("search", err, keyring.ErrUnavailable)
		if unlockedRefs != nil || lockedRefs != nil {
			t.Errorf("and yet it found %v and %v", unlockedRefs, lockedRefs)
		}
		_, err = v.SearchIn(r.Collection, nil)
		v.want("search in one", err, keyring.ErrUnavailable)

		// One that was deleted meanwhile has no items; that is no error.
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if op == "Search" {
				return keyring.ErrNotFound
			}
			return nil
		}
		if unlockedRefs, _, err := v.Search(nil); err != nil || len(unlockedRefs) != 1 {
			t.Errorf("found %v, error %v", unlockedRefs, err)
		}
	})
}

func TestDamagedItemDoesNotHideOthers(t *testing.T) {
	inVault(t, func(t *testing.T, v *vault) {
		bad := v.made("")
		v.must(v.UnlockWith(t.Context(), browser, bad.Collection, v.credential(keyring.SlotPassphrase, "pw")))
		good := v.item(bad.Collection, "good", "a", "1")
		reads := 0
		v.store.Hook = func(_ context.Context, op, _ string) error {
			if reads++; op == "Item" && reads == 2 { // after Search
				return fmt.Errorf("record: %w", keyring.ErrUnavailable)
			}
			return nil
		}
		found, _, err := v.Search(map[string]string{"a": "1"})
		v.must(err)
		if len(found) != 2 {
			t.Fatalf("found %v", found)
		}
		_, err = v.Item(bad)
		v.want("the damaged one", err, keyring.ErrUnavailable)
		if info, err := v.Item(good); err != nil || info.Label != "label of good" {
			t.Errorf("%+v, error %v", info, err)
		}
		v.wantSecret(good, "good")
	})
}
