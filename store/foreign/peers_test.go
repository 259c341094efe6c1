package foreign

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/bustest"
)

// within is how long an event may take that comes at once on an idle machine.
const within = 30 * time.Second

// A gnomeKeyring is a running gnome-keyring-daemon on a bus of its own, with
// folders of its own.
type gnomeKeyring struct {
	t       *testing.T
	dir     string // keyrings
	conn    *dbus.Conn
	service dbus.BusObject
	session dbus.ObjectPath
}

// startGnomeKeyring starts the daemon over a folder that may have keyrings in
// it already. With a password it makes and unlocks the login keyring.
func startGnomeKeyring(t *testing.T, data, password string) *gnomeKeyring {
	t.Helper()
	bustest.Need(t, "gnome-keyring-daemon")
	bus := bustest.Start(t)
	run, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	args := []string{"--foreground", "--components=secrets", "--control-directory=" + run}
	if password != "" {
		args = append(args, "--unlock")
	}
	cmd := exec.Command("gnome-keyring-daemon", args...)
	cmd.Env = append(os.Environ(), "DBUS_SESSION_BUS_ADDRESS="+bus.Address, "XDG_DATA_HOME="+data, "XDG_RUNTIME_DIR="+run, "HOME="+run, "DISPLAY=", "WAYLAND_DISPLAY=")
	cmd.Stdin = bytes.NewReader([]byte(password))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })

	g := &gnomeKeyring{t: t, dir: filepath.Join(data, "keyrings")}
	if g.conn, err = dbus.Connect(bus.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.conn.Close() })
	g.service = g.conn.Object("org.freedesktop.secrets", "/org/freedesktop/secrets")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for {
		var out dbus.Variant
		err := g.service.Call("org.freedesktop.Secret.Service.OpenSession", dbus.FlagNoAutoStart, "plain", dbus.MakeVariant("")).Store(&out, &g.session)
		if err == nil {
			return g
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("gnome-keyring-daemon ended: %s", said.String())
		case <-deadline:
			t.Fatalf("gnome-keyring-daemon does not answer: %v", err)
		}
	}
}

type wireSecret struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

func (g *gnomeKeyring) secret(value string) wireSecret {
	return wireSecret{g.session, []byte{}, []byte(value), "text/plain"}
}

// create makes a keyring with a password, which may be blank.
func (g *gnomeKeyring) create(label, password string) dbus.ObjectPath {
	g.t.Helper()
	var path dbus.ObjectPath
	props := map[string]dbus.Variant{"org.freedesktop.Secret.Collection.Label": dbus.MakeVariant(label)}
	err := g.service.Call("org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface.CreateWithMasterPassword", 0, props, g.secret(password)).Store(&path)
	if err != nil {
		g.t.Fatalf("create %q: %v", label, err)
	}
	return path
}

func (g *gnomeKeyring) store(collection dbus.ObjectPath, label, value string, attributes map[string]string) {
	g.t.Helper()
	props := map[string]dbus.Variant{
		"org.freedesktop.Secret.Item.Label":      dbus.MakeVariant(label),
		"org.freedesktop.Secret.Item.Attributes": dbus.MakeVariant(attributes),
	}
	call := g.conn.Object("org.freedesktop.secrets", collection).Call("org.freedesktop.Secret.Collection.CreateItem", 0, props, g.secret(value), false)
	if call.Err != nil {
		g.t.Fatalf("store %q: %v", label, call.Err)
	}
}

const loginPath = dbus.ObjectPath("/org/freedesktop/secrets/collection/login")

// want is what the tests put into keyrings, and want back.
type want struct {
	label, secret string
	attributes    map[string]string
}

func wants() []want {
	return []want{
		{"My mail", "correct horse", map[string]string{"server": "mail.example.org", "user": "mia", schemaName: "org.gnome.keyring.NetworkPassword"}},
		{"Several\nlines", "line one\nline=two\n[three]\n\n[4]\nmtime=5\nend ", map[string]string{"kind": "a note", schemaName: "org.gnome.keyring.Note"}},
		{"Backslash", `back\nslash\q `, map[string]string{"path": ` C:\new `}},
		{"Bytes", "\xff\x00\x01bin", map[string]string{"é": "ü\tv"}},
		{"Empty", "", map[string]string{"empty": ""}},
		{"Spaces", "  in front", map[string]string{"port": "143"}},
		{"Newlines", "\n\nfirst\r\nlast\n", map[string]string{"n": "7"}},
	}
}

// fill stores all of wants.
func (g *gnomeKeyring) fill(collection dbus.ObjectPath) {
	g.t.Helper()
	for _, w := range wants() {
		g.store(collection, w.label, w.secret, w.attributes)
	}
}

// check wants all of wants, and nothing else.
func check(t *testing.T, k *Keyring, since time.Time) {
	t.Helper()
	if len(k.Items) != len(wants()) {
		t.Errorf("%d items, want %d", len(k.Items), len(wants()))
	}
	got := map[string]Item{}
	for _, i := range k.Items {
		got[i.Label] = i
	}
	for _, w := range wants() {
		i, ok := got[w.label]
		if !ok {
			t.Errorf("%q is not there", w.label)
			continue
		}
		if s := reveal(i.Secret); s != w.secret {
			t.Errorf("%q: secret %q, want %q", w.label, s, w.secret)
		}
		if w.attributes[schemaName] == "" {
			w.attributes[schemaName] = "org.freedesktop.Secret.Generic"
		}
		if len(i.Attributes) != len(w.attributes) {
			t.Errorf("%q: attributes %q, want %q", w.label, i.Attributes, w.attributes)
		}
		for name, value := range w.attributes {
			if i.Attributes[name] != value {
				t.Errorf("%q: attribute %q is %q, want %q", w.label, name, i.Attributes[name], value)
			}
		}
		kind := contentText
		if w.label == "Bytes" {
			kind = contentBinary
		}
		if i.ContentType != kind {
			t.Errorf("%q: content type %q, want %q", w.label, i.ContentType, kind)
		}
		if i.Created.Before(since) || i.Modified.Before(i.Created) {
			t.Errorf("%q: created %v, modified %v, want after %v", w.label, i.Created, i.Modified, since)
		}
	}
}

// read reads a keyring that the daemon wrote.
func (g *gnomeKeyring) read(name, password string) *Keyring {
	g.t.Helper()
	data, err := os.ReadFile(filepath.Join(g.dir, name+extension))
	if err != nil {
		g.t.Fatal(err)
	}
	k, err := Read(data, bytesOf(password))
	if err != nil {
		g.t.Fatalf("%s: %v", name, err)
	}
	return k
}

// The real daemon writes; we read all of it.
func TestGnomeKeyringEncrypted(t *testing.T) {
	since := time.Now().Truncate(time.Second)
	g := startGnomeKeyring(t, t.TempDir(), "sesame")
	g.fill(loginPath)
	k := g.read("login", "sesame")
	check(t, k, since)
	if k.Label != "Login" || k.Modified.Before(since) || len(k.Notes) > 0 {
		t.Errorf("label %q, modified %v, notes %q", k.Label, k.Modified, k.Notes)
	}
}

// The real daemon writes what it cannot read any more; we read all of it.
func TestGnomeKeyringPlaintextThatItBroke(t *testing.T) {
	since := time.Now().Truncate(time.Second)
	data := t.TempDir()
	g := startGnomeKeyring(t, data, "")
	collection := g.create("Blank one", "")
	g.fill(collection)
	k := g.read("Blank_one", "")
	check(t, k, since)
	if k.Label != "Blank one" || len(k.Notes) != 3 {
		t.Errorf("label %q, notes %q", k.Label, k.Notes)
	}
	t.Run("it is lost to its writer", func(t *testing.T) {
		g := startGnomeKeyring(t, data, "")
		v, err := g.service.GetProperty("org.freedesktop.Secret.Service.Collections")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range v.Value().([]dbus.ObjectPath) {
			if path == collection {
				t.Skip("this gnome-keyring reads what it wrote")
			}
		}
	})
}

// A whole folder as gnome-keyring keeps it: the password of one keyring lies in
// another.
func TestGnomeKeyringFolder(t *testing.T) {
	data := t.TempDir()
	g := startGnomeKeyring(t, data, "sesame")
	other := g.create("Other", "its own")
	g.store(other, "in the other", "deep", map[string]string{"a": "b"})
	g.store(loginPath, "Unlock password for: Other", "its own", map[string]string{"keyring": "LOCAL:/keyrings/Other.keyring"})
	g.store(g.create("Blank", ""), "in the blank", "shallow", map[string]string{"a": "b"})
	if err := os.WriteFile(filepath.Join(g.dir, "default"), []byte("Other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	checkFolder(t, g.dir)
}

// libsecret's file backend writes the format that oo7 shares.
func TestLibsecretFile(t *testing.T) {
	bustest.Need(t, "secret-tool")
	since := time.Now().Truncate(time.Second)
	dir := t.TempDir()
	path := filepath.Join(dir, "default"+extension)
	stored := map[string]string{"First": "correct horse", "Second, of ä longer label": string(bytes.Repeat([]byte("long "), 60)), "Third": "x"}
	for label, value := range stored {
		cmd := exec.Command("secret-tool", "store", "--label="+label, "label", label, "user", "mia")
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SECRET_BACKEND=file", "SECRET_FILE_TEST_PATH="+path, "SECRET_FILE_TEST_PASSWORD=sesame", "HOME="+dir)
		cmd.Stdin = bytes.NewReader([]byte(value))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("secret-tool: %v\n%s", err, out)
		}
	}
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		t.Skip("this libsecret has no file backend")
	}
	if err != nil {
		t.Fatal(err)
	}
	if Detect(data) != Portable || !NeedsPassword(data) {
		t.Errorf("format %v, needs password %v", Detect(data), NeedsPassword(data))
	}
	k, err := Read(data, bytesOf("sesame"))
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Items) != len(stored) || len(k.Notes) > 0 || k.Modified.Before(since) {
		t.Errorf("%d items, modified %v, notes %q", len(k.Items), k.Modified, k.Notes)
	}
	for _, i := range k.Items {
		if got := reveal(i.Secret); got != stored[i.Label] || i.Attributes["label"] != i.Label || i.Attributes["user"] != "mia" {
			t.Errorf("%q: secret %q, attributes %q", i.Label, got, i.Attributes)
		}
		if i.Created.Before(since) || i.Modified.Before(since) || i.ContentType != contentText {
			t.Errorf("%q: created %v, modified %v, content type %q", i.Label, i.Created, i.Modified, i.ContentType)
		}
	}
	if _, err := Read(data, bytesOf("other")); !isPassword(err) {
		t.Errorf("a wrong password: %v", err)
	}
}
