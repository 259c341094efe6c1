package dbus

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// A fakeMaker implements all that makes keys: it keeps the request, tells of its
// steps, waits if it is to, and answers.
type fakeMaker struct {
	hold  bool // wait until ctx ends
	ended chan error

	mu   sync.Mutex
	got  any
	made keyring.Made
	err  error
}

func (f *fakeMaker) do(ctx context.Context, r any, progress func(keyring.Progress)) (keyring.Made, error) {
	f.mu.Lock()
	f.got = r
	made, err := f.made, f.err
	f.mu.Unlock()
	if progress != nil {
		progress(keyring.ProgressAsking)
		progress(keyring.ProgressMaking)
	}
	if f.hold {
		<-ctx.Done()
		f.ended <- ctx.Err()
		return keyring.Made{}, ctx.Err()
	}
	return made, err
}

// answer sets what comes of the requests from now on.
func (f *fakeMaker) answer(made keyring.Made, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made, f.err = made, err
}

// last returns the request that came last, without what cannot be compared.
func (f *fakeMaker) last() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.got
}

func (f *fakeMaker) Create(ctx context.Context, r keyring.CreateRequest) (keyring.Made, error) {
	p := r.Progress
	r.Progress = nil
	return f.do(ctx, r, p)
}

func (f *fakeMaker) Import(ctx context.Context, r keyring.ImportRequest) (keyring.Made, error) {
	p := r.Progress
	r.Progress = nil
	return f.do(ctx, r, p)
}

func (f *fakeMaker) Wrap(ctx context.Context, r keyring.WrapRequest) (keyring.Made, error) {
	p := r.Progress
	r.Progress = nil
	return f.do(ctx, r, p)
}

func (f *fakeMaker) Parent(ctx context.Context, parent uint32) ([]byte, error) {
	_, err := f.do(ctx, parent, nil)
	return []byte("request"), err
}

func (f *fakeMaker) ChangeAuth(ctx context.Context, r keyring.ChangeAuthRequest) (keyring.Made, error) {
	p := r.Progress
	r.Progress = nil
	return f.do(ctx, r, p)
}

func (f *fakeMaker) SetLabel(ctx context.Context, r keyring.LabelRequest) error {
	_, err := f.do(ctx, r, nil)
	return err
}

func (f *fakeMaker) Remove(ctx context.Context, r keyring.RemoveRequest) error {
	_, err := f.do(ctx, r, nil)
	return err
}

func (f *fakeMaker) Attest(ctx context.Context, r keyring.AttestRequest) ([]byte, error) {
	_, err := f.do(ctx, r, nil)
	return []byte("statement"), err
}

func (f *fakeMaker) SealFile(ctx context.Context, r keyring.SealRequest) (keyring.Made, error) {
	r.Data = r.Data.Clone() // what came is wiped when this returns
	p := r.Progress
	r.Progress = nil
	return f.do(ctx, r, p)
}

func (f *fakeMaker) UnsealFile(ctx context.Context, r keyring.UnsealRequest) (secret.Bytes, error) {
	if _, err := f.do(ctx, r, nil); err != nil {
		return secret.Bytes{}, err
	}
	return secret.Copy([]byte("sealed before")), nil
}

// serveMaker is serve with a maker on it.
func serveMaker(t *testing.T, f *fakeMaker, keys ...keyring.Key) *house {
	t.Helper()
	return serveWith(t, func(s *Server) { s.Maker, s.Keeper, s.FileSealer = f, f, f }, keys...)
}

type vardict = map[string]godbus.Variant

// TestRequestsArrive: what is asked for on the bus is what the core is asked
// for, with the caller, with paths made clean, and with a PIN unless it is
// declined.
func TestRequestsArrive(t *testing.T) {
	k := newKey(t, "p256", "k", "/a", "/b")
	f := &fakeMaker{}
	h := serveMaker(t, f, k)
	f.answer(keyring.Made{
		ID: k.KeyInfo.ID, Public: k.KeyInfo.Public, Path: "/k", PublicPath: "/k.pub", PublicLine: []byte("ssh x\n"),
		CertificateRequest: []byte{1}, Notes: []string{"note"},
	}, nil)
	whole := vardict{
		"ID": godbus.MakeVariant(k.KeyInfo.ID.String()), "Key": godbus.MakeVariant(pathOf(k)), "Path": godbus.MakeVariant("/k"),
		"PublicPath": godbus.MakeVariant("/k.pub"), "PublicKey": godbus.MakeVariant("ssh x"),
		"CertificateRequest": godbus.MakeVariant([]byte{1}), "Notes": godbus.MakeVariant([]string{"note"}),
	}
	c := h.client()
	id := k.KeyInfo.ID
	everything := options("force", true, "comment", "mia", "no-pin", true, "pcrs", "sha256:7", "parent", uint32(0x81000001))
	target := keyring.Target{Path: "/d/new", Force: true, Comment: "mia", PCRs: "sha256:7", Parent: 0x81000001}
	wrapTarget := keyring.Target{Path: "/d/new", PIN: true}
	for _, test := range []struct {
		method string
		args   []any
		want   any
		reply  any
	}{
		{"Create", []any{"new", vardict{}}, keyring.CreateRequest{Target: keyring.Target{Path: "new", PIN: true}}, whole},
		{"Create", []any{"/d/e/../new", everything}, keyring.CreateRequest{Target: target}, whole},
		{"Create", []any{"new", options("algorithm", "rsa-2048", "parent", int32(1))},
			keyring.CreateRequest{Target: keyring.Target{Path: "new", PIN: true, Parent: 1}, Algorithm: "rsa-2048"}, whole},
		{"Import", []any{"/s//x", vardict{}}, keyring.ImportRequest{Source: "/s/x", Target: keyring.Target{PIN: true}}, whole},
		{"Import", []any{"/s/x", options("path", "/d/./new", "no-pin", false)},
			keyring.ImportRequest{Source: "/s/x", Target: keyring.Target{PIN: true, Path: "/d/new"}}, whole},
		{"Wrap", []any{"/s/x", "/d/new", []byte("req"), vardict{}},
			keyring.WrapRequest{Source: "/s/x", Target: wrapTarget, For: []byte("req")}, whole},
		{"Parent", []any{uint32(7)}, uint32(7), []byte("request")},
		{"ChangeAuth", []any{vardict{}}, keyring.ChangeAuthRequest{Key: id}, whole},
		{"ChangeAuth", []any{options("path", "/x/../a", "no-pin", true)}, keyring.ChangeAuthRequest{Key: id, Path: "/a", NoPIN: true}, whole},
		{"SetLabel", []any{"über", options("path", "/b")}, keyring.LabelRequest{Key: id, Path: "/b", Label: "über"}, nil},
		{"Remove", []any{vardict{}}, keyring.RemoveRequest{Key: id}, nil},
		{"Attest", []any{options("nonce", make([]byte, 32))}, keyring.AttestRequest{Key: id, Nonce: make([]byte, 32)}, []byte("statement")},
	} {
		at, iface := keysPath, keysInterface
		if h.server.tables[keyInterface].methods[test.method] != nil {
			at, iface = pathOf(k), keyInterface
		}
		call := c.Object(busName, at).Call(iface+"."+test.method, 0, test.args...)
		if call.Err != nil {
			t.Errorf("%s: %v", test.method, call.Err)
			continue
		}
		if test.reply != nil && !reflect.DeepEqual(call.Body, []any{test.reply}) {
			t.Errorf("%s returned %v, want %v", test.method, call.Body, test.reply)
		}
		got := reflect.ValueOf(f.last())
		if got.Kind() == reflect.Struct {
			bare := reflect.New(got.Type()).Elem()
			bare.Set(got)
			if who := bare.FieldByName("Caller").Interface().(keyring.Caller); who.PID != os.Getpid() || who.FrontEnd != "D-Bus" {
				t.Errorf("%s: the caller is %+v", test.method, who)
			}
			bare.FieldByName("Caller").SetZero()
			got = bare
		}
		if !reflect.DeepEqual(got.Interface(), test.want) {
			t.Errorf("%s asked for %+v, want %+v", test.method, got.Interface(), test.want)
		}
	}
}

func TestWrongRequests(t *testing.T) {
	k := newKey(t, "p256", "k", "/a")
	f := &fakeMaker{}
	h := serveMaker(t, f, k)
	c := h.client()
	const invalid = "org.freedesktop.DBus.Error.InvalidArgs"
	for _, test := range []struct {
		method string
		args   []any
		want   string // in the text
	}{
		{"Create", []any{"", vardict{}}, "not an absolute path"},
		{"Create", []any{"d/new", vardict{}}, "not an absolute path"},
		{"Create", []any{"new", options("colour", "red")}, `"colour" is not known`},
		{"Create", []any{"new", options("force", "yes")}, "option force is of type s"},
		{"Create", []any{"new", options("pin", "1234")}, "not known"},
		{"Create", []any{"new", options("comment", "a\nssh-rsa AAAA")}, "one line"},
		{"Create", []any{"new", options("parent", int64(-1))}, "no handle"},
		{"Create", []any{"new", options("subject", "mail")}, "CN=name"},
		{"Create", []any{"new", options("alternative-names", []string{"a b"})}, "no name"},
		{"Import", []any{"x", vardict{}}, "not an absolute path"},
		{"Import", []any{"/x", options("path", "a/b")}, "not an absolute path"},
		{"Import", []any{"/x", options("algorithm", "rsa-2048")}, "not known"},
		{"Wrap", []any{"/x", "new", []byte{}, vardict{}}, "not an absolute path"},
		{"Wrap", []any{"/x", "/new", []byte{}, options("pcrs", "sha256:7")}, "not known"},
		{"Seal", []any{"new", "/s", vardict{}}, "not an absolute path"},
		{"Seal", []any{"/new", "/nowhere/s", vardict{}}, "socket"},
		{"Seal", []any{"/new", "/s", options("comment", "x")}, "no comment"},
		{"Unseal", []any{"/x", "s"}, "not an absolute path"},
		{"ChangeAuth", []any{options("path", "a")}, "not an absolute path"},
		{"SetLabel", []any{"a\nb", vardict{}}, "one line"},
		{"Remove", []any{options("force", true)}, "not known"},
		{"Attest", []any{options("nonce", make([]byte, 33))}, "33 bytes"},
	} {
		at, iface := keysPath, keysInterface
		if h.server.tables[keyInterface].methods[test.method] != nil {
			at, iface = pathOf(k), keyInterface
		}
		err := c.Object(busName, at).Call(iface+"."+test.method, 0, test.args...).Err
		if errorName(err) != invalid || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s%v: %v, want %q", test.method, test.args, err, test.want)
		}
	}
	if f.last() != nil {
		t.Errorf("the core was asked for %+v", f.last())
	}
	for _, err := range keyring.Errors {
		f.answer(keyring.Made{}, fmt.Errorf("the story: %w", err))
		want, _ := outcome(err)
		got := c.Object(busName, keysPath).Call(keysInterface+".Create", 0, "new", vardict{}).Err
		if errorName(got) != want || !strings.Contains(got.Error(), "the story") {
			t.Errorf("%v: %v, want %s", err, got, want)
		}
	}
}

func TestWithoutTPM(t *testing.T) {
	k := newKey(t, "p256", "k", "/a")
	h := serve(t, k)
	c := h.client()
	for method, args := range map[string][]any{
		keysInterface + ".Create":    {"new", vardict{}},
		keysInterface + ".Import":    {"/x", vardict{}},
		keysInterface + ".Wrap":      {"/x", "/y", []byte{}, vardict{}},
		keysInterface + ".Parent":    {uint32(0)},
		keysInterface + ".Seal":      {"/x", "/y", vardict{}},
		keysInterface + ".Unseal":    {"/x", "/y"},
		keyInterface + ".ChangeAuth": {vardict{}},
		keyInterface + ".SetLabel":   {"x", vardict{}},
		keyInterface + ".Remove":     {vardict{}},
		keyInterface + ".Attest":     {vardict{}},
	} {
		at := keysPath
		if strings.HasPrefix(method, keyInterface) {
			at = pathOf(k)
		}
		err := c.Object(busName, at).Call(method, 0, args...).Err
		if errorName(err) != "org.freedesktop.DBus.Error.NotSupported" || !strings.Contains(err.Error(), "there is no TPM") {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// TestProgressGoesToTheAskerAlone, as its interface file says, even where others
// listen for it.
func TestProgressGoesToTheAskerAlone(t *testing.T) {
	k := newKey(t, "p256", "k", "/a")
	f := &fakeMaker{}
	h := serveMaker(t, f, k)
	asker, other := h.client(), h.client()
	mine, theirs := make(chan *godbus.Signal, 10), make(chan *godbus.Signal, 10)
	asker.Signal(mine)
	other.Signal(theirs)
	if err := other.AddMatchSignal(godbus.WithMatchMember("Progress")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at    godbus.ObjectPath
		iface string
		name  string
		args  []any
	}{
		{keysPath, keysInterface, "Create", []any{"new", vardict{}}},
		{pathOf(k), keyInterface, "ChangeAuth", []any{vardict{}}},
	} {
		if err := asker.Object(busName, c.at).Call(c.iface+"."+c.name, 0, c.args...).Err; err != nil {
			t.Fatal(err)
		}
		for _, step := range []keyring.Progress{keyring.ProgressAsking, keyring.ProgressMaking} {
			s := next(t, mine)
			if s.Name != c.iface+".Progress" || s.Path != c.at || len(s.Body) != 2 || s.Body[1] != string(step) {
				t.Errorf("%s: %+v, want %q", c.name, s, step)
				continue
			}
			if serial, ok := s.Body[0].(uint32); !ok || serial == 0 {
				t.Errorf("%s: of the call %v", c.name, s.Body[0])
			}
			var declared strings.Builder
			for _, signal := range h.server.tables[c.iface].Signals {
				for _, a := range signal.Args {
					declared.WriteString(a.Type)
				}
			}
			if got := godbus.SignatureOf(s.Body...).String(); got != declared.String() {
				t.Errorf("%s: %s, declared as %s", c.name, got, &declared)
			}
		}
	}
	// What comes after would come after it.
	if err := other.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil {
		t.Fatal(err)
	}
	for len(theirs) > 0 {
		if s := <-theirs; strings.HasSuffix(s.Name, ".Progress") {
			t.Errorf("another program saw %+v", s)
		}
	}
	if client.Asking != string(keyring.ProgressAsking) {
		t.Error("the client knows that step by another name")
	}
}

func next(t *testing.T, signals <-chan *godbus.Signal) *godbus.Signal {
	t.Helper()
	for {
		select {
		case s := <-signals:
			if strings.HasSuffix(s.Name, ".Progress") {
				return s
			}
		case <-time.After(time.Minute):
			t.Fatal("no signal")
		}
	}
}

// TestWhoLeavesTakesTheRequestBack in the middle of making a key.
func TestWhoLeavesTakesTheRequestBack(t *testing.T) {
	f := &fakeMaker{hold: true, ended: make(chan error, 1)}
	h := serveMaker(t, f)
	c, err := client.Dial(t.Context(), h.bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	steps := make(chan string, 10)
	answered := make(chan error, 1)
	go func() {
		_, err := c.Create(t.Context(), client.Creation{Target: client.Target{Path: "new", Progress: func(s string) { steps <- s }}})
		answered <- err
	}()
	if s := <-steps; s != client.Asking {
		t.Errorf("the first step is %q", s)
	}
	c.Close()
	if err := <-f.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
	if err := <-answered; !errors.Is(err, client.ErrNoBus) {
		t.Errorf("the call ended with %v", err)
	}
}

// TestClientAsksForEverything: each option of the client arrives.
func TestClientAsksForEverything(t *testing.T) {
	k := newKey(t, "p256", "k", "/a")
	f := &fakeMaker{made: keyring.Made{ID: k.KeyInfo.ID, Public: crypto.PublicKey(k.KeyInfo.Public), Path: "/k"}}
	h := serveMaker(t, f, k)
	c, err := client.Dial(t.Context(), h.bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	target := client.Target{Path: "/new", Force: true, Comment: "c", NoPIN: true, PCRs: "sha256:7", Parent: 9}
	m, err := c.Create(t.Context(), client.Creation{Target: target, Algorithm: "rsa-2048",
		Request: client.Request{Subject: "CN=a,O=b", AlternativeNames: []string{"a.example", "::1"}}})
	if err != nil || m.ID != k.KeyInfo.ID.String() || !m.Listed || m.Path != "/k" {
		t.Errorf("%+v: %v", m, err)
	}
	r := f.last().(keyring.CreateRequest)
	if !r.Force || r.Comment != "c" || r.PIN || r.PCRs != "sha256:7" || r.Parent != 9 || r.Algorithm != "rsa-2048" ||
		!reflect.DeepEqual(r.CertificateRequest.DNSNames, []string{"a.example"}) || len(r.CertificateRequest.IPAddresses) != 1 {
		t.Errorf("created %+v", r)
	}
	if _, err := c.Wrap(t.Context(), "/s", []byte("req"), client.Target{Path: "/w"}); err != nil || string(f.last().(keyring.WrapRequest).For) != "req" {
		t.Errorf("%+v: %v", f.last(), err)
	}
	file := client.File{ID: k.KeyInfo.ID.String(), Path: "/a"}
	if _, err := c.ChangeAuth(t.Context(), file, true, nil); err != nil || !f.last().(keyring.ChangeAuthRequest).NoPIN {
		t.Errorf("%+v: %v", f.last(), err)
	}
	if _, err := c.Attest(t.Context(), file, []byte{1}); err != nil || !bytes.Equal(f.last().(keyring.AttestRequest).Nonce, []byte{1}) {
		t.Errorf("%+v: %v", f.last(), err)
	}
	if err := c.Remove(t.Context(), file); err != nil || f.last().(keyring.RemoveRequest).Path != "/a" {
		t.Errorf("%+v: %v", f.last(), err)
	}

	if _, err := c.Seal(t.Context(), t.TempDir(), []byte("hush"), client.Target{Path: "/new"}); err != nil {
		t.Error(err)
	} else if want := secret.Copy([]byte("hush")); !f.last().(keyring.SealRequest).Data.Equal(want) {
		t.Error("what arrived is not what was to be sealed")
	}
	if got, err := c.Unseal(t.Context(), t.TempDir(), "/x"); err != nil || string(got) != "sealed before" {
		t.Errorf("unsealed %q: %v", got, err)
	}
	f.answer(keyring.Made{}, keyring.ErrDenied)
	if got, err := c.Unseal(t.Context(), t.TempDir(), "/x"); err == nil || got != nil {
		t.Errorf("unsealed %q: %v", got, err)
	}
	f.answer(keyring.Made{}, nil)
	if _, err := c.Seal(t.Context(), t.TempDir(), nil, client.Target{Path: "/new"}); err == nil || !strings.Contains(err.Error(), "nothing to seal") {
		t.Errorf("sealed nothing: %v", err)
	}
	if _, err := c.Seal(t.Context(), t.TempDir(), make([]byte, maxSecret+1), client.Target{Path: "/new"}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("sealed too much: %v", err)
	}
}

// TestSecretsGoToTheCallersSocketAlone: another process's is refused before
// anybody is asked for a PIN.
func TestSecretsGoToTheCallersSocketAlone(t *testing.T) {
	f := &fakeMaker{}
	h := serveMaker(t, f)
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	// This process listens; the caller is another one.
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bustest.Need(t, "busctl")
	out, err := exec.CommandContext(t.Context(), "busctl", "--address="+h.bus.Address, "call", busName, string(keysPath), keysInterface,
		"Unseal", "ss", "/x", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Access denied") || !strings.Contains(h.log.String(), errNotOwn.Error()) {
		t.Errorf("%v: %s", err, out)
	}
	if f.last() != nil {
		t.Errorf("the core was asked for %+v", f.last())
	}
}

// TestSandboxedProgramsReachNoFiles: a program in a Flatpak may use keys, but
// must not have us read and write files for it.
func TestSandboxedProgramsReachNoFiles(t *testing.T) {
	k := newKey(t, "p256", "k", "/a")
	f := &fakeMaker{}
	s := &Server{Maker: f, Keeper: f, FileSealer: f}
	c := &call{bus: &bus{server: s}, sender: &sender{app: "org.example.App"}, ctx: t.Context(), node: node{key: newEntry(k.KeyInfo, facts{})}}
	for name, do := range map[string]func() error{
		"Create":     func() error { _, err := c.createKey("/x", nil); return err },
		"Import":     func() error { _, err := c.importKey("/x", nil); return err },
		"Wrap":       func() error { _, err := c.wrapKey("/x", "/y", nil, nil); return err },
		"Seal":       func() error { _, err := c.seal("/x", "/y", nil); return err },
		"Unseal":     func() error { return c.unseal("/x", "/y") },
		"ChangeAuth": func() error { _, err := c.changeAuth(nil); return err },
		"SetLabel":   func() error { return c.setLabel("x", nil) },
		"Remove":     func() error { return c.removeKey(nil) },
	} {
		err := do()
		if outcome, _ := outcome(err); !errors.Is(err, errSandbox) || !strings.HasSuffix(outcome, ".AccessDenied") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.last() != nil {
		t.Errorf("the core was asked for %+v", f.last())
	}
}
