package dbus

import (
	"crypto/x509"
	"encoding/xml"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// TestHandlersFitTheirFiles breaks each rule that the tables are loaded by.
func TestHandlersFitTheirFiles(t *testing.T) {
	if _, err := loadTables(handlers()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		bend func(all map[string]map[string]any)
		want string
	}{
		{"a method without a handler", func(all map[string]map[string]any) { delete(all[keyringInterface], "Lock") }, "Lock has no handler"},
		{"a handler without a method", func(all map[string]map[string]any) { all[keyringInterface]["Eject"] = (*call).lock }, "7 handlers for 6 methods"},
		{"an argument of another type", func(all map[string]map[string]any) {
			all[keyringInterface]["Revoke"] = func(*call, string) error { return nil }
		}, `Revoke: takes "t" in its file and "s" in its handler`},
		{"a result of another type", func(all map[string]map[string]any) {
			all[managerInterface]["GetManagedObjects"] = func(*call) (encoded[map[string]string], error) { return nil, nil }
		}, `GetManagedObjects: returns "a{oa{sa{sv}}}" in its file and "a{ss}"`},
		{"no error", func(all map[string]map[string]any) { all[peerInterface]["Ping"] = func(*call) {} }, "Ping: its handler is a func"},
		{"an interface without a file", func(all map[string]map[string]any) { all["io.github.keyringd.None1"] = nil }, "None1 has no file"},
	} {
		all := handlers()
		c.bend(all)
		if _, err := loadTables(all); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestPropertiesFitTheirFiles compares what nodes say of themselves with what
// the interface files promise.
func TestPropertiesFitTheirFiles(t *testing.T) {
	k := newKey(t, "p256", "k", "/a")
	h := serve(t, k)
	for _, at := range []godbus.ObjectPath{rootPath, pathOf(k)} {
		n, err := h.server.lookup(at)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range n.interfaces {
			declared := map[string]string{}
			for _, p := range h.server.tables[name].Properties {
				declared[p.Name] = p.Type
			}
			actual := map[string]string{}
			for p, v := range n.properties[name] {
				actual[p] = v.Signature().String()
			}
			if !reflect.DeepEqual(declared, actual) {
				t.Errorf("%s at %s: %v in the file, %v in truth", name, at, declared, actual)
			}
		}
	}
}

func TestEverySignalIsDeclared(t *testing.T) {
	k := newKey(t, "p256", "k", "/a")
	h := serve(t)
	empty, _ := h.server.catalog()
	with, err := newCatalog(generation{keys: 1}, []keyring.KeyInfo{k.KeyInfo}, facts{})
	if err != nil {
		t.Fatal(err)
	}
	other := k.KeyInfo
	other.Label = "other"
	renamed, err := newCatalog(generation{keys: 2}, []keyring.KeyInfo{other}, facts{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range slices.Concat(changes(empty, with), changes(with, renamed), changes(renamed, empty)) {
		for _, s := range h.server.tables[c.iface].Signals {
			var sig strings.Builder
			for _, a := range s.Args {
				sig.WriteString(a.Type)
			}
			if s.Name == c.member && sig.String() == godbus.SignatureOf(c.values...).String() {
				seen[s.Name] = true
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("signals that fit their declaration: %v", seen)
	}
}

func TestKeyProperties(t *testing.T) {
	k := newKey(t, "p256", "my key", "/home/mia/.ssh/id\xff", "/b")
	k.KeyInfo.Confirm = true
	h := serve(t, k)
	o := h.client().Object(busName, pathOf(k))
	var all map[string]godbus.Variant
	if err := o.Call(propertiesInterface+".GetAll", 0, keyInterface).Store(&all); err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKIXPublicKey(k.KeyInfo.Public)
	blob := sshBlob(k.KeyInfo.Public)
	want := map[string]any{
		"Label": "my key", "Algorithm": "ecdsa-p256", "PublicKey": blob, "SubjectPublicKeyInfo": der,
		"Fingerprint": fingerprint(blob), "Kind": "tpm", "Paths": []string{"/b", "/home/mia/.ssh/id\uFFFD"},
		"NeedsAuth": false, "Confirm": true, "URI": "", "Certificates": [][]byte{},
	}
	for name, value := range want {
		if got := all[name].Value(); !reflect.DeepEqual(got, value) {
			t.Errorf("%s is %v, want %v", name, got, value)
		}
		v, err := o.GetProperty(keyInterface + "." + name)
		if err != nil || !reflect.DeepEqual(v, all[name]) {
			t.Errorf("Get %s: %v, %v", name, v, err)
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d properties, want %d", len(all), len(want))
	}
}

func TestErrorsHaveStandardNames(t *testing.T) {
	k := newKey(t, "p256", "k")
	h := serve(t, k)
	c := h.client()
	for _, test := range []struct {
		at     godbus.ObjectPath
		method string
		args   []any
		want   string
	}{
		{"/io/github/keyringd/keys/00", keyInterface + ".Sign", nil, "UnknownObject"},
		{"/org/freedesktop/secrets", peerInterface + ".Ping", nil, "UnknownObject"},
		{"/io/github/keyringdx", introspectionInterface + ".Introspect", nil, "UnknownObject"},
		{rootPath, keyInterface + ".Sign", nil, "UnknownInterface"},
		{rootPath, keyringInterface + ".Explode", nil, "UnknownMethod"},
		{pathOf(k), keyInterface + ".Sign", nil, "InvalidArgs"},
		{pathOf(k), keyInterface + ".Sign", []any{"data", "RSA-SHA256", map[string]string{}}, "InvalidArgs"},
		{rootPath, keyringInterface + ".Lock", []any{"now"}, "InvalidArgs"},
		{pathOf(k), propertiesInterface + ".Get", []any{keyInterface, "Secret"}, "UnknownProperty"},
		{pathOf(k), propertiesInterface + ".Get", []any{keyringInterface, "Version"}, "UnknownInterface"},
		{pathOf(k), propertiesInterface + ".Set", []any{keyInterface, "Label", godbus.MakeVariant("x")}, "PropertyReadOnly"},
		{rootPath, keyringInterface + ".Revoke", []any{uint64(7)}, "org.freedesktop.Secret.Error.NoSuchObject"},
		{rootPath, keyringInterface + ".Unlock", []any{[]godbus.ObjectPath{"/x"}}, "org.freedesktop.Secret.Error.NoSuchObject"},
		{rootPath, keyringInterface + ".Unlock", []any{make([]godbus.ObjectPath, 0)}, ""},
		{rootPath, keyringInterface + ".Unlock", []any{slices.Repeat([]godbus.ObjectPath{pathOf(k)}, 1000)}, "LimitsExceeded"},
	} {
		err := c.Object(busName, test.at).Call(test.method, 0, test.args...).Err
		want := test.want
		if want == "" {
			want = "no error"
		} else if !strings.Contains(want, ".") {
			want = "org.freedesktop.DBus.Error." + want
		}
		if errorName(err) != want {
			t.Errorf("%s at %s: %s (%v), want %s", test.method, test.at, errorName(err), err, want)
		}
	}
	// Without an interface, the only method of that name answers.
	reply := make(chan *godbus.Call, 1)
	m := &godbus.Message{Type: godbus.TypeMethodCall, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldDestination: godbus.MakeVariant(busName), godbus.FieldPath: godbus.MakeVariant(rootPath),
		godbus.FieldMember: godbus.MakeVariant("Ping"),
	}}
	c.Send(m, reply)
	if err := (<-reply).Err; err != nil {
		t.Errorf("Ping without an interface: %v", err)
	}
}

func TestEveryErrorHasAName(t *testing.T) {
	for _, err := range keyring.Errors {
		if !slices.ContainsFunc(outcomes, func(o struct {
			err   error
			name  string
			level slogLevel
		}) bool {
			return o.err == err
		}) {
			t.Errorf("%v has no row in outcomes", err)
		}
		name, level := outcome(fmt.Errorf("a: %w", err))
		if !strings.HasPrefix(name, "org.freedesktop.") || level >= 0 {
			t.Errorf("%v: %s at %v", err, name, level)
		}
	}
	if name, level := outcome(fmt.Errorf("a defect")); name != "org.freedesktop.DBus.Error.Failed" || level < 8 {
		t.Errorf("an unknown error: %s at %v", name, level)
	}
}

// TestThousandKeysAreOneTree: all are found, listed and introspected, without
// anything being registered.
func TestThousandKeysAreOneTree(t *testing.T) {
	signer := newSigner(t, "ed25519")
	var keys []keyring.Key
	for i := range 1000 {
		k := keyringtest.NewFakeKey(signer, keyring.KindFile, fmt.Sprint(i), fmt.Sprintf("/k/%d", i))
		k.KeyInfo.ID[0], k.KeyInfo.ID[1] = byte(i), byte(i>>8)
		keys = append(keys, k)
	}
	h := serve(t, keys...)
	c := h.client()
	var managed map[godbus.ObjectPath]map[string]map[string]godbus.Variant
	if err := c.Object(busName, rootPath).Call(managerInterface+".GetManagedObjects", 0).Store(&managed); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := c.Object(busName, keysPath).Call(introspectionInterface+".Introspect", 0).Store(&text); err != nil {
		t.Fatal(err)
	}
	var tree introspect.Node
	if err := xml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	if len(managed) != 1000 || len(tree.Children) != 1000 {
		t.Errorf("%d objects, %d nodes", len(managed), len(tree.Children))
	}
	for _, child := range tree.Children {
		if managed[keysPath+"/"+godbus.ObjectPath(child.Name)] == nil {
			t.Fatalf("%s is not managed", child.Name)
		}
	}
}

// TestSignalsFollowTheKeys: each change is one signal about that key alone.
func TestSignalsFollowTheKeys(t *testing.T) {
	a, b := newKey(t, "p256", "a", "/a"), newKey(t, "p256", "b", "/b")
	h := serve(t, a)
	c := h.client()
	signals := make(chan *godbus.Signal, 10)
	c.Signal(signals)
	if err := c.AddMatchSignal(godbus.WithMatchSender(busName)); err != nil {
		t.Fatal(err)
	}
	next := func() *godbus.Signal {
		t.Helper()
		for {
			select {
			case s := <-signals:
				if s.Name != "org.freedesktop.DBus.NameAcquired" {
					return s
				}
			case <-time.After(time.Minute):
				t.Fatal("no signal")
			}
		}
	}
	h.keys.Replace("test", []keyring.Key{a, b})
	if s := next(); s.Name != managerInterface+".InterfacesAdded" || s.Path != rootPath || s.Body[0] != pathOf(b) ||
		s.Body[1].(map[string]map[string]godbus.Variant)[keyInterface]["Label"].Value() != "b" {
		t.Errorf("added: %+v", s)
	}
	h.keys.Replace("test", []keyring.Key{
		keyringtest.NewFakeKey(signerOf{a.KeyInfo.Public}, keyring.KindTPM, "renamed", "/a"), b})
	if s := next(); s.Name != propertiesInterface+".PropertiesChanged" || s.Path != pathOf(a) ||
		!reflect.DeepEqual(s.Body[1], map[string]godbus.Variant{"Label": godbus.MakeVariant("renamed")}) {
		t.Errorf("changed: %+v", s)
	}
	h.keys.Replace("test", []keyring.Key{b})
	if s := next(); s.Name != managerInterface+".InterfacesRemoved" || s.Body[0] != pathOf(a) ||
		!reflect.DeepEqual(s.Body[1], []string{keyInterface}) {
		t.Errorf("removed: %+v", s)
	}
	select {
	case s := <-signals:
		t.Errorf("one signal too many: %+v", s)
	default:
	}
}

func TestLockUnlockAndApprovals(t *testing.T) {
	k := newKey(t, "p256", "k").Locked("1234", nil)
	k.KeyInfo.Confirm = true
	free := newKey(t, "p256", "free")
	h := serve(t, k, free)
	c := h.client()
	o := c.Object(busName, rootPath)
	h.prompter.Default = func(question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "1234"} }
	var n uint32
	if err := o.Call(keyringInterface+".Unlock", 0, []godbus.ObjectPath{}).Store(&n); err != nil || n != 1 {
		t.Fatalf("unlocked %d: %v", n, err)
	}
	asked := len(h.prompter.Questions())
	if _, err := sign(c, pathOf(k), nil, "ECDSA-SHA256", options()); err != nil {
		t.Fatal(err)
	}
	if now := len(h.prompter.Questions()); now != asked {
		t.Errorf("%d more questions after Unlock", now-asked)
	}
	var list []approval
	if err := o.Call(keyringInterface+".Approvals", 0).Store(&list); err != nil || len(list) != 1 {
		t.Fatalf("approvals %+v: %v", list, err)
	}
	self, _ := os.Executable()
	if list[0].Label != "k" || list[0].Program != self || list[0].Key != k.KeyInfo.ID.String() {
		t.Errorf("approval %+v", list[0])
	}
	var status map[string]godbus.Variant
	if err := o.Call(keyringInterface+".Status", 0).Store(&status); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"Version": "1.2.3", "Keys": uint32(2), "TPMKeys": uint32(2), "Approvals": uint32(1), "Remember": uint64(600), "PID": uint32(os.Getpid())} {
		if status[name].Value() != want {
			t.Errorf("status %s is %v, want %v", name, status[name], want)
		}
	}
	if err := o.Call(keyringInterface+".Revoke", 0, list[0].ID).Err; err != nil {
		t.Error(err)
	}
	if len(h.gate.Approvals()) != 0 {
		t.Error("the approval still stands")
	}
	if err := o.Call(keyringInterface+".Lock", 0).Err; err != nil {
		t.Error(err)
	}
	asked = len(h.prompter.Questions())
	if _, err := sign(c, pathOf(k), nil, "ECDSA-SHA256", options()); err != nil {
		t.Fatal(err)
	}
	if now := len(h.prompter.Questions()); now != asked+2 {
		t.Errorf("%d questions after Lock, want permission and PIN", now-asked)
	}
	// The setting may change while the daemon runs.
	h.gate.SetRemember(0)
	if err := o.Call(keyringInterface+".Status", 0).Store(&status); err != nil || status["Remember"].Value() != uint64(0) {
		t.Errorf("status says that for %v s is remembered, want 0; %v", status["Remember"], err)
	}
	if err := o.Call(keyringInterface+".Unlock", 0, []godbus.ObjectPath{}).Err; err == nil {
		t.Error("keys are unlocked ahead though nothing is remembered")
	}
	h.gate.SetRemember(time.Minute)
	if err := o.Call(keyringInterface+".Unlock", 0, []godbus.ObjectPath{}).Store(&n); err != nil || n != 1 {
		t.Errorf("unlocked %d: %v", n, err)
	}
}

// TestBusctl uses the tools that a person would.
func TestBusctl(t *testing.T) {
	k := newKey(t, "p256", "k", "/home/mia/.ssh/id")
	h := serve(t, k)
	run := func(name string, args ...string) string {
		t.Helper()
		bustest.Need(t, name)
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "DBUS_SESSION_BUS_ADDRESS="+h.bus.Address)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	busctl := func(args ...string) string {
		return run("busctl", append([]string{"--address=" + h.bus.Address}, args...)...)
	}
	if tree := busctl("tree", "--list", busName); !strings.Contains(tree, string(pathOf(k))+"\n") {
		t.Errorf("tree:\n%s", tree)
	}
	text := busctl("introspect", busName, string(pathOf(k)))
	for _, want := range []string{`\.Sign +method +aysa\{sv\} +ay`, `\.Label +property +s +"k"`, `\.Paths +property +as +1 "/home/mia/.ssh/id"`, `\.PropertiesChanged +signal +sa\{sv\}as`} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("introspect does not match %s:\n%s", want, text)
		}
	}
	busctl("introspect", busName, string(rootPath))
	sig := busctl("call", busName, string(pathOf(k)), keyInterface, "Sign", "aysa{sv}", "3", "1", "2", "3", "ECDSA-SHA256", "1", "reason", "s", "a test")
	if !strings.HasPrefix(sig, "ay 7") {
		t.Errorf("signature %q", sig)
	}
	if out := run("gdbus", "introspect", "--session", "--recurse", "--dest", busName, "--object-path", string(rootPath)); !strings.Contains(out, "Fingerprint = 'SHA256:") {
		t.Errorf("gdbus:\n%s", out)
	}
	if out := run("dbus-send", "--session", "--print-reply", "--dest="+busName, string(rootPath), managerInterface+".GetManagedObjects"); !strings.Contains(out, string(pathOf(k))) {
		t.Errorf("dbus-send:\n%s", out)
	}
}

// certs are certificates of one key.
type certs struct {
	key        keyring.KeyID
	list       [][]byte
	generation uint64
}

func (c *certs) Of(key keyring.KeyID) [][]byte {
	if key != c.key {
		return nil
	}
	return c.list
}

func (c *certs) Generation() uint64 { return c.generation }

// TestCertificatesAndURI are told of the key that they belong to, as they are
// now.
func TestCertificatesAndURI(t *testing.T) {
	k, other := newKey(t, "p256", "k", "/k"), newKey(t, "p256", "other", "/o")
	keys := keyring.NewKeys(keyring.NewGate(nil))
	keys.Replace("test", []keyring.Key{other, k})
	s := New(keys, keyring.NewGate(nil), slog.New(slog.DiscardHandler))
	c := &certs{key: k.KeyInfo.ID}
	s.Certificates = []Certificates{c}
	s.URI = func(info keyring.KeyInfo) string { return "pkcs11:object=" + info.Label }
	for i := range 3 {
		c.list, c.generation = append(c.list, []byte{byte(i)}), c.generation+1
		now, err := s.catalog()
		if err != nil {
			t.Fatal(err)
		}
		p := now.byPath[keyPath(k.KeyInfo.ID)].properties
		if got, _ := p["Certificates"].Value().([][]byte); len(got) != i+1 || p["URI"].Value() != "pkcs11:object=k" {
			t.Errorf("%v", p)
		}
		if got, _ := now.byPath[keyPath(other.KeyInfo.ID)].properties["Certificates"].Value().([][]byte); len(got) != 0 {
			t.Errorf("another key has %v", got)
		}
	}
}
