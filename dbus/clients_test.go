package dbus

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/prompt"
)

// python is Debian's, which has the modules that Debian packages.
const python = "/usr/bin/python3"

// needPython skips or fails the test if there is no Python with that module.
func needPython(t *testing.T, module string) {
	t.Helper()
	cmd := exec.Command(python, "-c", module)
	if out, err := cmd.CombinedOutput(); err != nil {
		bustest.Missing(t, fmt.Sprintf("%s: %v: %s", module, err, out))
	}
}

// TestSecretTool stores, finds and clears with libsecret's own tool, unlocked
// and locked.
func TestSecretTool(t *testing.T) {
	bustest.Need(t, "secret-tool")
	v := serveStore(t)
	tool := func(stdin string, args ...string) string {
		t.Helper()
		out, err := v.run(stdin, append([]string{"secret-tool"}, args...)...)
		if err != nil {
			t.Fatalf("secret-tool %s: %v\n%s", args, err, out)
		}
		return out
	}
	// The first use makes the login collection.
	tool("swordfish", "store", "--label=My mail", "server", "mail.example.org", "user", "mia")
	if q := v.prompter.Questions(); len(q) != 1 || q[0].Kind != prompt.NewPassphrase {
		t.Errorf("asked %+v", q)
	}
	if out := tool("", "lookup", "user", "mia"); out != "swordfish" {
		t.Errorf("lookup: %q", out)
	}
	tool("second", "store", "--label=My mail", "server", "mail.example.org", "user", "mia")
	if out := tool("", "search", "--all", "server", "mail.example.org"); !containsAll(out, "label = My mail", "secret = second", "attribute.user = mia") || strings.Count(out, "label =") != 1 {
		t.Errorf("search: %s", out)
	}
	v.lock()
	if out := tool("", "lookup", "user", "mia"); out != "second" || v.locked() {
		t.Errorf("lookup while locked: %q", out)
	}
	v.lock()
	if out := tool("", "search", "--all", "--unlock", "user", "mia"); !containsAll(out, "secret = second") {
		t.Errorf("search while locked: %s", out)
	}
	v.lock()
	tool("third", "store", "--label=Other", "user", "mia")
	if out, err := v.run("", "secret-tool", "lookup", "user", "nobody"); err == nil || out != "" {
		t.Errorf("lookup of nobody: %q, %v", out, err)
	}
	tool("", "clear", "user", "mia") // of unlocked items: libsecret leaves locked ones alone
	if out, err := v.run("", "secret-tool", "lookup", "user", "mia"); err == nil || out != "" {
		t.Errorf("lookup of what was cleared: %q, %v", out, err)
	}
	v.lock()
	// The user's no is an answer, and a quick one.
	v.answer(reply(prompt.ErrDismissed))
	if out, err := v.run("x", "secret-tool", "store", "--label=x", "a", "b"); err == nil {
		t.Errorf("stored in spite of a no: %q", out)
	}
}

// TestSecretStorage uses the whole of python3-secretstorage.
func TestSecretStorage(t *testing.T) {
	needPython(t, "import secretstorage")
	v := serveStore(t)
	v.script(`
import secretstorage as s
c = s.dbus_init()
assert s.check_service_availability(c)
d = s.get_default_collection(c)
assert d.collection_path in ('/org/freedesktop/secrets/aliases/default', '/org/freedesktop/secrets/collection/login'), d.collection_path
assert d.is_locked() and not d.unlock() and not d.is_locked()
i = d.create_item('Label', {'application': 'test', 'n': '1'}, b'pass\x00word', content_type='text/x; a=b')
assert i.get_secret() == b'pass\x00word' and i.get_secret_content_type() == 'text/x; a=b'
assert i.get_label() == 'Label' and i.get_attributes() == {'application': 'test', 'n': '1', 'xdg:schema': 'org.freedesktop.Secret.Generic'}
assert i.get_created() == i.get_modified() > 0
j = d.create_item('Other', {'application': 'test', 'n': '1'}, 'new', replace=True)
assert i.item_path == j.item_path and i.get_secret() == b'new' and i.get_label() == 'Other'
i.set_label('Third'); i.set_attributes({'x': 'y'}); i.set_secret(b'z' * 100000)
assert [k.get_label() for k in d.search_items({'x': 'y'})] == ['Third'] and i.get_secret() == b'z' * 100000
assert len(list(d.get_all_items())) == 1 and len(list(s.search_items(c, {}))) == 1
d.lock()
assert d.is_locked() and i.is_locked()
assert [k.item_path for k in s.search_items(c, {'x': 'y'})] == [i.item_path]
try: i.get_secret(); assert False
except s.LockedException: pass
assert not i.unlock() and i.get_secret() == b'z' * 100000
assert any(k.collection_path.endswith('/login') for k in s.get_all_collections(c))
n = s.create_collection(c, 'Work', 'work')
assert s.get_collection_by_alias(c, 'work').get_label() == 'Work'
n.set_label('Home'); assert n.get_label() == 'Home'
n.create_item('x', {}, b'x'); n.delete()
try: s.Collection(c, n.collection_path); assert False
except s.ItemNotFoundException: pass
i.delete()
try: i.get_label(); assert False
except s.ItemNotFoundException: pass
m = s.get_any_collection(c)
assert m.get_label() == d.get_label()
assert not list(s.search_items(c, {'x': 'y'}))
`)
	v.lock()
	v.answer(reply(prompt.ErrUnavailable))
	v.script(`
import secretstorage as s
c = s.dbus_init()
d = s.get_default_collection(c)
assert d.is_locked() and d.unlock() and d.is_locked()
`)
}

// script runs a Python script on the vault's bus.
func (v *vault) script(text string) {
	v.Helper()
	if out, err := v.run("", python, "-c", text); err != nil {
		v.Errorf("%v\n%s", err, out)
	}
}

// TestPythonKeyring uses python3-keyring's back end.
func TestPythonKeyring(t *testing.T) {
	needPython(t, "import keyring, secretstorage")
	v := serveStore(t)
	const begin = `
import keyring, keyring.backends.SecretService as b
keyring.set_keyring(b.Keyring())
`
	v.script(begin + `
assert keyring.get_password('system', 'mia') is None
keyring.set_password('system', 'mia', 'pässword')
assert keyring.get_password('system', 'mia') == 'pässword'
keyring.set_password('system', 'mia', 'other')
keyring.set_password('system', 'ben', 'his')
assert keyring.get_password('system', 'mia') == 'other' and keyring.get_password('system', 'ben') == 'his'
assert keyring.get_credential('system', 'ben').password == 'his'
`)
	v.lock()
	v.script(begin + `
assert keyring.get_password('system', 'mia') == 'other'
keyring.delete_password('system', 'mia')
assert keyring.get_password('system', 'mia') is None
try: keyring.delete_password('system', 'mia'); assert False
except keyring.errors.PasswordDeleteError: pass
`)
}

// TestLibsecret uses libsecret itself, whose objects keep what they were told.
func TestLibsecret(t *testing.T) {
	needPython(t, "import gi; gi.require_version('Secret', '1'); from gi.repository import Secret")
	v := serveStore(t)
	const begin = `
import gi
gi.require_version('Secret', '1')
from gi.repository import Secret, GLib
loop = GLib.MainContext.default()
def until(cond):
    stop = []
    GLib.timeout_add_seconds(20, lambda: stop.append(1))
    while not cond():
        assert not stop, 'not within 20 s'
        loop.iteration(True)
schema = Secret.Schema.new('org.example.Test', Secret.SchemaFlags.NONE, {'n': Secret.SchemaAttributeType.INTEGER, 's': Secret.SchemaAttributeType.STRING})
`
	v.script(begin + `
assert Secret.password_store_sync(schema, {'n': '1', 's': 'x'}, Secret.COLLECTION_DEFAULT, 'Label', 'pass', None)
assert Secret.password_lookup_sync(schema, {'n': '1'}, None) == 'pass'
assert Secret.password_store_sync(schema, {'n': '2'}, Secret.COLLECTION_SESSION, 'In memory', 'short', None)
s = Secret.Service.get_sync(Secret.ServiceFlags.OPEN_SESSION | Secret.ServiceFlags.LOAD_COLLECTIONS, None)
assert s.get_session_algorithms() == 'dh-ietf1024-sha256-aes128-cbc-pkcs7'
d = Secret.Collection.for_alias_sync(s, 'default', Secret.CollectionFlags.LOAD_ITEMS, None)
assert d.get_object_path() == '/org/freedesktop/secrets/collection/login' and len(d.get_items()) == 1
assert sorted(c.get_object_path().split('/')[-1] for c in s.get_collections()) == ['login', 'session']
i = d.get_items()[0]
assert i.get_label() == 'Label' and i.get_schema_name() == 'org.example.Test' and i.get_attributes()['n'] == '1'

# Changes arrive without being asked for.
v = Secret.Value.new('new', -1, 'text/plain; charset=utf-8')
j = Secret.Item.create_sync(d, schema, {'n': '3'}, 'Third', v, Secret.ItemCreateFlags.NONE, None)
until(lambda: len(d.get_items()) == 2)
j.set_label_sync('Renamed', None)
j.set_attributes_sync(schema, {'n': '4'}, None)
k = [k for k in d.get_items() if k.get_object_path() == j.get_object_path()][0]
until(lambda: k.get_label() == 'Renamed' and k.get_attributes()['n'] == '4')
k.load_secret_sync(None)
assert bytes(k.get_secret().get()) == b'new' and k.get_secret().get_content_type() == 'text/plain; charset=utf-8'

# A lock takes labels away, and unlocking brings them back.
n, locked = s.lock_sync([d], None)
assert n == 1, (n, locked)
until(lambda: d.get_locked() and k.get_locked() and k.get_label() == '')
found = s.search_sync(schema, {'n': '4'}, Secret.SearchFlags.ALL, None)
assert [(i.get_locked(), i.get_label()) for i in found] == [(True, '')], [(i.get_locked(), i.get_label()) for i in found]
found = s.search_sync(schema, {'n': '4'}, Secret.SearchFlags.ALL | Secret.SearchFlags.UNLOCK | Secret.SearchFlags.LOAD_SECRETS, None)
assert len(found) == 1 and bytes(found[0].get_secret().get()) == b'new'
until(lambda: not d.get_locked() and found[0].get_label() == 'Renamed' and found[0].get_attributes()['n'] == '4' and k.get_label() == 'Renamed')

j.delete_sync(None)
until(lambda: len(d.get_items()) == 1)
w = Secret.Collection.create_sync(s, 'Work', 'work', Secret.CollectionCreateFlags.NONE, None)
until(lambda: len(s.get_collections()) == 3)
assert w.get_label() == 'Work'
w.set_label_sync('Home', None)
until(lambda: w.get_label() == 'Home')
w.delete_sync(None)
until(lambda: len(s.get_collections()) == 2)
`)
	// Long lists are told later, and whole.
	for i := range 3 * longList {
		v.add("x", map[string]string{"xdg:schema": "org.example.Test", "n": fmt.Sprint(i)})
	}
	v.script(begin + fmt.Sprintf(`
s = Secret.Service.get_sync(Secret.ServiceFlags.OPEN_SESSION | Secret.ServiceFlags.LOAD_COLLECTIONS, None)
d = Secret.Collection.for_alias_sync(s, 'default', Secret.CollectionFlags.LOAD_ITEMS, None)
assert len(d.get_items()) == %[1]d + 1, len(d.get_items())
assert Secret.password_store_sync(schema, {'n': '-1'}, Secret.COLLECTION_DEFAULT, 'One more', 'pass', None)
until(lambda: len(d.get_items()) == %[1]d + 2)
assert len(s.search_sync(schema, {}, Secret.SearchFlags.ALL | Secret.SearchFlags.LOAD_SECRETS, None)) == %[1]d + 3
assert Secret.password_clear_sync(schema, {'n': '-1'}, None)
until(lambda: len(d.get_items()) == %[1]d + 1)
`, 3*longList))
}
