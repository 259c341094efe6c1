package dbus

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// withFile calls a method that takes a file, and returns what was written to
// the other end of a pipe.
func (u *user) withFile(at path, method string, args ...any) (written []byte, call *godbus.Call) {
	u.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		u.t.Fatal(err)
	}
	defer r.Close()
	for i, a := range args {
		if a == (*os.File)(nil) {
			args[i] = godbus.UnixFD(w.Fd())
		}
	}
	call = u.call(at, method, args...)
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	written, err = io.ReadAll(r)
	if err != nil {
		u.t.Fatalf("%s: %v: the file was not closed", method, err)
	}
	return written, call
}

const requestPath = requestsPath + "/1_2/t"

// TestPortalKeepsEachApplicationsKey: the same each time, another for each, and
// found where gnome-keyring keeps it.
func TestPortalKeepsEachApplicationsKey(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	retrieve := func(app string) []byte {
		t.Helper()
		var response uint32
		var results properties
		key, call := u.withFile(portalPath, portalInterface+".RetrieveSecret", requestPath, app, (*os.File)(nil), properties{"token": godbus.MakeVariant("x")})
		if u.ok(call, &response, &results); response != portalDone {
			t.Errorf("%s: response %d", app, response)
		}
		return key
	}
	first, other := retrieve("org.example.One"), retrieve("org.example.Two")
	if again := retrieve("org.example.One"); !bytes.Equal(first, again) || len(first) != 64 || bytes.Equal(first, other) {
		t.Errorf("%x, %x, %x", first, again, other)
	}
	unlocked, _ := u.search(map[string]string{"app_id": "org.example.One", "xdg:schema": "org.freedesktop.portal.Secret"})
	if len(unlocked) != 1 || !bytes.Equal(u.secret(unlocked[0]).Value, first) {
		t.Errorf("items %v", unlocked)
	}
	if label := u.get(unlocked[0], itemInterface+".Label"); label != "Application key for org.example.One" {
		t.Errorf("label %v", label)
	}
	// While it is locked, the user is asked, and told for whom.
	v.lock()
	if again := retrieve("org.example.One"); !bytes.Equal(first, again) {
		t.Errorf("unlocked: %x", again)
	}
	if q := v.prompter.Questions(); len(q) != 1 || !strings.HasPrefix(q[0].Caller, "org.example.One ← ") {
		t.Errorf("asked %+v", q)
	}
	// An item that only looks like it is not taken for it.
	u.create(defaultPath, "mine", map[string]string{"app_id": "org.example.Three"}, false)
	if key := retrieve("org.example.Three"); string(key) == "mine" {
		t.Error("it got a foreign secret")
	}
	if got := u.get(portalPath, portalInterface+".version"); got != uint32(1) {
		t.Errorf("version %v", got)
	}
}

func TestPortalRequestsCanBeTakenBack(t *testing.T) {
	v := serveLogin(t)
	v.lock()
	v.answer(keyringtest.Reply{When: make(chan struct{})})
	u, other := v.user(), v.user()
	done := make(chan uint32, 1)
	go func() {
		written, call := u.withFile(portalPath, portalInterface+".RetrieveSecret", requestPath, "org.example", (*os.File)(nil), properties{})
		response, _ := call.Body[0].(uint32)
		done <- response + uint32(len(written))
	}()
	if err := v.prompter.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	other.fails(other.call(requestPath, requestInterface+".Close"), "UnknownObject")
	u.ok(u.call(requestPath, requestInterface+".Close"))
	if response := <-done; response != portalCancelled {
		t.Errorf("response %d", response)
	}
	if err := v.prompter.Await(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	u.fails(u.call(requestPath, requestInterface+".Close"), "UnknownObject")
	// The user's no, and nobody to ask.
	for err, want := range map[error]uint32{prompt.ErrDismissed: portalCancelled, prompt.ErrUnavailable: portalOther} {
		v.answer(reply(err))
		_, call := u.withFile(portalPath, portalInterface+".RetrieveSecret", requestPath, "org.example", (*os.File)(nil), properties{})
		var response uint32
		if u.ok(call, &response, &properties{}); response != want {
			t.Errorf("%v: response %d, want %d", err, response, want)
		}
	}
	for _, args := range [][]any{
		{path("/a"), "org.example", (*os.File)(nil), properties{}}, {requestPath, "", (*os.File)(nil), properties{}},
		{requestPath, strings.Repeat("x", 300), (*os.File)(nil), properties{}}, {requestPath, "org.example", godbus.UnixFDIndex(0), properties{}},
	} {
		_, call := u.withFile(portalPath, portalInterface+".RetrieveSecret", args...)
		u.fails(call, "InvalidArgs")
	}
}

// TestHandOverNeverWaitsForever: whatever it is that a program gave us.
func TestHandOverNeverWaitsForever(t *testing.T) {
	value := secret.Copy([]byte("sixty-four bytes"))
	defer value.Wipe()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("before "); err != nil {
		t.Fatal(err)
	}
	if err := handOver(file, value); err != nil {
		t.Errorf("a file: %v", err)
	}
	if got, _ := os.ReadFile(file.Name()); string(got) != "before sixty-four bytes" {
		t.Errorf("a file: %q", got)
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	got := make([]byte, 100)
	if err := handOver(ours, value); err != nil {
		t.Errorf("a socket: %v", err)
	}
	if n, err := theirs.Read(got); err != nil || string(got[:n]) != "sixty-four bytes" {
		t.Errorf("a socket: %q, %v", got[:n], err)
	}
	_ = theirs.Close()
	if handOver(ours, value) == nil {
		t.Error("a socket without another end")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := handOver(r, value); err == nil {
		t.Error("the wrong end of a pipe")
	}
	_ = r.Close()
	if err := handOver(w, value); err == nil {
		t.Error("a pipe without another end")
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if handOver(dir, value) == nil {
		t.Error("a folder")
	}
}

// TestMasterPasswords: scripts without anybody to ask make, unlock and change
// keyrings with passphrases that they know.
func TestMasterPasswords(t *testing.T) {
	v := serveLogin(t)
	u := v.user()
	call := func(method string, args ...any) *godbus.Call {
		return u.call(secretsPath, guiltRiddenInterface+"."+method, args...)
	}
	const denied = "org.gnome.keyring.Error.Denied"
	var made path
	u.ok(call("CreateWithMasterPassword", properties{collectionInterface + ".Label": godbus.MakeVariant("CI")}, u.passed("one")), &made)
	item := u.create(made, "x", nil, false)
	lock := func() { u.ok(u.call(secretsPath, serviceInterface+".Lock", []path{made}), new([]path), new(path)) }
	lock()
	u.fails(call("UnlockWithMasterPassword", made, u.passed("two")), denied)
	u.ok(call("UnlockWithMasterPassword", made, u.passed("one")))
	u.secret(item)
	u.fails(call("ChangeWithMasterPassword", made, u.passed("two"), u.passed("three")), denied)
	u.ok(call("ChangeWithMasterPassword", made, u.passed("one"), u.passed("three")))
	lock()
	u.fails(call("UnlockWithMasterPassword", made, u.passed("one")), denied)
	u.ok(call("UnlockWithMasterPassword", made, u.passed("three")))
	u.secret(item)
	none := u.passed("x")
	none.Session = sessionsPath + "/s0"
	u.fails(call("UnlockWithMasterPassword", made, none), noSession)
	u.fails(call("UnlockWithMasterPassword", collectionsPath+"/none", u.passed("x")), noSuchObject)
	u.fails(call("ChangeWithMasterPassword", made, none, u.passed("x")), noSession)
	u.fails(call("ChangeWithMasterPassword", made, u.passed("three"), none), noSession)
	if n := len(v.prompter.Questions()); n != 0 {
		t.Errorf("%d questions", n)
	}
}

// TestKeyringsAreLookedAfter: what keyringctl and the manager do.
func TestKeyringsAreLookedAfter(t *testing.T) {
	v := serveLogin(t)
	v.store.TPM = &keyringtest.FakeSealer{}
	u := v.user()
	call := func(method string, args ...any) *godbus.Call {
		return u.Object(busName, keyringsPath).CallWithContext(t.Context(), keyringsInterface+"."+method, 0, args...)
	}
	var work string
	u.ok(call("CreateKeyring", "Work"), &work)
	u.create(collectionPath(work), "x", nil, false)
	var list []properties
	u.ok(call("ListKeyrings"), &list)
	var ids []string
	for _, k := range list {
		ids = append(ids, k["ID"].Value().(string))
		if k["ID"].Value() == work && (k["Label"].Value() != "Work" || k["Items"].Value() != uint32(1) || k["Locked"].Value() != false || k["Path"].Value() != collectionPath(work)) {
			t.Errorf("%v", k)
		}
		if aliases := k["Aliases"].Value().([]string); k["ID"].Value() == "login" && !slices.Equal(aliases, []string{"default", "login"}) {
			t.Errorf("login is %v", aliases)
		}
	}
	if slices.Sort(ids); !slices.Contains(ids, work) || len(ids) != 3 {
		t.Errorf("keyrings %v", ids)
	}
	u.ok(call("Lock", ""))
	if !v.locked() {
		t.Error("not locked")
	}
	u.ok(call("Unlock", "default"))
	u.ok(call("Lock", "login"))
	u.ok(call("Unlock", "login"))
	u.ok(call("ChangePassphrase", "login"))

	var slot string
	u.ok(call("AddSlot", "login", "tpm", properties{"pin": godbus.MakeVariant(true)}), &slot)
	code, added := u.withRecovery("login")
	u.ok(added, new(string))
	if len(code) < 20 {
		t.Errorf("recovery code %q", code)
	}
	var slots []properties
	u.ok(call("ListSlots", "login"), &slots)
	kinds := map[string]bool{}
	for _, s := range slots {
		kinds[s["Kind"].Value().(string)] = s["PIN"].Value().(bool)
	}
	if len(slots) != 3 || !kinds["tpm"] || kinds["recovery"] || kinds["passphrase"] {
		t.Errorf("slots %v", slots)
	}
	u.ok(call("RemoveSlot", "login", slot))
	u.fails(call("RemoveSlot", "login", slot), noSuchObject)
	// The code opens it.
	typed := secret.Copy(code)
	defer typed.Wipe()
	v.lock()
	if err := v.secrets.UnlockWith(t.Context(), keyring.Caller{}, "login", keyring.Credential{Kind: keyring.SlotRecovery, Value: typed}); err != nil {
		t.Errorf("the recovery code: %v", err)
	}
	for _, c := range []struct {
		method string
		args   []any
		want   string
	}{
		{"Unlock", []any{"none"}, noSuchObject}, {"Lock", []any{"none"}, noSuchObject}, {"ListSlots", []any{"none"}, noSuchObject},
		{"CreateKeyring", []any{""}, "InvalidArgs"}, {"CreateKeyring", []any{"a\nb"}, "InvalidArgs"}, {"CreateKeyring", []any{strings.Repeat("x", 256)}, "InvalidArgs"},
		{"AddSlot", []any{"login", "recovery", properties{}}, "InvalidArgs"}, {"AddSlot", []any{"login", "tpm", properties{"pim": godbus.MakeVariant(true)}}, "InvalidArgs"},
		{"AddSlot", []any{"login", "passphrase", properties{"pin": godbus.MakeVariant(true)}}, "InvalidArgs"}, {"ListSlots", []any{"session"}, "NotSupported"},
		{"AddRecoverySlot", []any{"login", godbus.UnixFDIndex(3)}, "InvalidArgs"},
	} {
		u.fails(call(c.method, c.args...), c.want)
	}
}

func (u *user) withRecovery(keyring string) ([]byte, *godbus.Call) {
	u.t.Helper()
	return u.withFile(keyringsPath, keyringsInterface+".AddRecoverySlot", keyring, (*os.File)(nil))
}

// TestNoSecretsNoService: without a core there is neither the name nor an
// object.
func TestNoSecretsNoService(t *testing.T) {
	h := serve(t)
	c := h.client()
	var has bool
	if err := c.BusObject().Call(driver+".NameHasOwner", 0, secretsName).Store(&has); err != nil || has {
		t.Errorf("%v, %v", has, err)
	}
	for _, at := range []path{secretsPath, loginPath, portalPath, keyringsPath, "/org"} {
		if err := c.Object(busName, at).Call(introspectionInterface+".Introspect", 0).Err; errorName(err) != standard+"UnknownObject" {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// TestSandboxesLookAfterNoKeyrings: nor do they say for which application a key
// is.
func TestSandboxesLookAfterNoKeyrings(t *testing.T) {
	v := serveLogin(t)
	c := &call{bus: &bus{server: v.server}, ctx: t.Context(), sender: &sender{app: "org.example.App"}}
	_, create := c.createKeyring("x")
	_, add := c.addSlot("login", "passphrase", nil)
	_, recovery := c.addRecoverySlot("login", 0)
	_, _, portal := c.retrieveSecret(requestPath, "org.example.Other", 0, nil)
	for name, err := range map[string]error{
		"create": create, "add": add, "recovery": recovery, "portal": portal,
		"unlock": c.unlockKeyring("login"), "passphrase": c.changePassphrase("login"), "remove": c.removeSlot("login", "1"),
	} {
		if got, _ := outcome(err); got != standard+"AccessDenied" || !strings.Contains(err.Error(), "org.example.App") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.listKeyrings(); err != nil {
		t.Error(err)
	}
}
