package dbus

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// A worn store has collections in which the items of one number are damaged.
type worn struct {
	*keyringtest.Store
	item string
}

type wornCollection struct {
	keyring.Lockable
	item string
}

func (w worn) Collections() []keyring.Collection {
	list := w.Store.Collections()
	for i, c := range list {
		list[i] = wornCollection{c.(keyring.Lockable), w.item}
	}
	return list
}

func (w wornCollection) damage(id string) error {
	if id != w.item {
		return nil
	}
	return fmt.Errorf("item %s: %w", id, keyring.ErrDamaged)
}

func (w wornCollection) Item(id string) (keyring.ItemInfo, error) {
	info, err := w.Lockable.Item(id)
	if damaged := w.damage(id); err == nil && damaged != nil {
		return keyring.ItemInfo{}, damaged
	}
	return info, err
}

func (w wornCollection) Secret(id string) (secret.Bytes, error) {
	if damaged := w.damage(id); damaged != nil {
		return secret.Bytes{}, damaged
	}
	return w.Lockable.Secret(id)
}

// serveWorn serves three items, of which the second is damaged.
func serveWorn(t *testing.T) (v *vault, all []path) {
	t.Helper()
	v = &vault{store: keyringtest.NewStore()}
	v.house = serveWith(t, func(s *Server) {
		v.secrets = keyring.NewSecrets(s.gate, worn{v.store, "2"})
		v.secrets.Log = s.log
		s.Secrets = v.secrets
	})
	v.answer(keyringtest.Reply{Passphrase: goodPass})
	v.awaitOwner(secretsName)
	v.login()
	for _, value := range []string{"one", "two", "three"} {
		all = append(all, itemPath(v.add(value, map[string]string{"a": "b", "n": value})))
	}
	return v, all
}

// TestDamagedItemCostsNoOther: who asks for several secrets is given all that
// can be read, and who asks for the damaged one alone hears that it is damaged,
// not that there is none.
func TestDamagedItemCostsNoOther(t *testing.T) {
	v, all := serveWorn(t)
	u := v.user()
	if open, _ := u.search(map[string]string{"a": "b"}); !samePaths(open, all...) {
		t.Errorf("found %v of %v", open, all)
	}
	var got map[path]passed
	for range 2 {
		u.ok(u.call(secretsPath, serviceInterface+".GetSecrets", all, u.session), &got)
		if len(got) != 2 || string(got[all[0]].Value) != "one" || string(got[all[2]].Value) != "three" {
			t.Errorf("%d secrets: %v", len(got), got)
		}
		clear(got)
	}
	if n := strings.Count(v.log.String(), "a secret cannot be read"); n != 1 {
		t.Errorf("%d lines in the journal, want 1:\n%s", n, v.log)
	}
	u.fails(u.call(secretsPath, serviceInterface+".GetSecrets", all[1:2], u.session), standard+"Failed")
	u.fails(u.call(all[1], itemInterface+".GetSecret", u.session), standard+"Failed")
}

// TestLibsecretSearchesBesideDamage: libsecret asks for all properties of each
// item it finds, and gives up everything over one that fails.
func TestLibsecretSearchesBesideDamage(t *testing.T) {
	needPython(t, "import gi; gi.require_version('Secret', '1'); from gi.repository import Secret")
	v, _ := serveWorn(t)
	v.script(`
import gi
gi.require_version('Secret', '1')
from gi.repository import Secret
s = Secret.Service.get_sync(Secret.ServiceFlags.OPEN_SESSION | Secret.ServiceFlags.LOAD_COLLECTIONS, None)
found = s.search_sync(None, {'a': 'b'}, Secret.SearchFlags.ALL | Secret.SearchFlags.UNLOCK | Secret.SearchFlags.LOAD_SECRETS, None)
values = [i.get_secret() and i.get_secret().get_text() for i in found]
assert values == ['three', None, 'one'], values
d = Secret.Collection.for_alias_sync(s, 'default', Secret.CollectionFlags.LOAD_ITEMS, None)
assert sorted(i.get_label() for i in d.get_items()) == ['', 'item one', 'item three']
`)
}
