package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyringd/keyringd/dbus"
	"github.com/keyringd/keyringd/keyring"
)

// A maker makes nothing; it keeps what it was asked for, and answers as told.
type maker struct {
	keyring.Maker
	keyring.Keeper

	mu   sync.Mutex
	got  any
	made keyring.Made
	err  error
}

func (m *maker) do(r any) (keyring.Made, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = r
	return m.made, m.err
}

// answer sets what comes of the requests from now on.
func (m *maker) answer(made keyring.Made, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made, m.err = made, err
}

func (m *maker) last() any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.got
}

func (m *maker) Create(_ context.Context, r keyring.CreateRequest) (keyring.Made, error) {
	r.Progress(keyring.ProgressMaking)
	return m.do(r)
}

func (m *maker) Import(_ context.Context, r keyring.ImportRequest) (keyring.Made, error) {
	return m.do(r)
}

func (m *maker) Wrap(_ context.Context, r keyring.WrapRequest) (keyring.Made, error) {
	return m.do(r)
}

func (m *maker) ChangeAuth(_ context.Context, r keyring.ChangeAuthRequest) (keyring.Made, error) {
	return m.do(r)
}

func (m *maker) SetLabel(_ context.Context, r keyring.LabelRequest) error {
	_, err := m.do(r)
	return err
}

func (m *maker) Remove(_ context.Context, r keyring.RemoveRequest) error {
	_, err := m.do(r)
	return err
}

func (m *maker) Parent(_ context.Context, parent uint32) ([]byte, error) {
	_, err := m.do(parent)
	return []byte("the request\n"), err
}

func serveMaker(t *testing.T, keys ...keyring.Key) (*house, *maker) {
	t.Helper()
	m := &maker{}
	return serveWith(t, func(s *dbus.Server) { s.Maker, s.Keeper = m, m }, keys...), m
}

// in runs keyringctl in a folder.
func (h *house) in(dir string, args ...string) (out, errs string, status int) {
	h.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = append(h.env, "PWD="+dir), dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// TestPathsAreTheCallers: what is relative is so to the folder that keyringctl
// runs in, but for a new key's bare name.
func TestPathsAreTheCallers(t *testing.T) {
	work := newKey(t, "work", "/keys/work", "/keys/copy")
	h, m := serveMaker(t, work)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"plain": "x", "request": "the request",
		"wrapped": "-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	id := work.KeyInfo.ID
	for _, c := range []struct {
		args []string
		is   func(any) bool
	}{
		{[]string{"key", "new", "bare"}, func(r any) bool { c := r.(keyring.CreateRequest); return c.Path == "bare" && c.PIN && !c.Force }},
		{[]string{"key", "new", "./here", "--no-pin", "--force", "--parent", "0x81000001", "--pcr", "sha256:7", "--comment", "c", "--algorithm", "rsa-2048"},
			func(r any) bool {
				c := r.(keyring.CreateRequest)
				return c.Path == at("here") && !c.PIN && c.Force && c.Parent == 0x81000001 && c.PCRs == "sha256:7" && c.Comment == "c" && c.Algorithm == "rsa-2048"
			}},
		{[]string{"key", "import", "plain"}, func(r any) bool {
			i := r.(keyring.ImportRequest)
			return i.Source == at("plain") && i.Path == "" && i.PIN
		}},
		{[]string{"key", "import", "wrapped", "--name", "./x"}, func(r any) bool {
			i := r.(keyring.ImportRequest)
			return i.Source == at("wrapped") && i.Path == at("x") && !i.PIN
		}},
		{[]string{"key", "wrap-for", "request", "plain"}, func(r any) bool {
			w := r.(keyring.WrapRequest)
			return w.Source == at("plain") && w.Path == at("plain.wrapped") && string(w.For) == "the request"
		}},
		{[]string{"key", "passwd", "work"}, func(r any) bool { c := r.(keyring.ChangeAuthRequest); return c.Key == id && c.Path == "" && !c.NoPIN }},
		{[]string{"key", "passwd", "/keys/copy", "--no-pin"}, func(r any) bool { c := r.(keyring.ChangeAuthRequest); return c.Path == "/keys/copy" && c.NoPIN }},
		{[]string{"key", "label", "work", "a b"}, func(r any) bool { return r.(keyring.LabelRequest).Label == "a b" }},
		{[]string{"key", "remove", "work"}, func(r any) bool { return r.(keyring.RemoveRequest).Path == "" }},
		{[]string{"key", "remove", "/keys/work"}, func(r any) bool { return r.(keyring.RemoveRequest).Path == "/keys/work" }},
		{[]string{"key", "export-request", "--parent", "2164260865"}, func(r any) bool { return r.(uint32) == 0x81000001 }},
	} {
		_, errs, status := h.in(dir, c.args...)
		if status != 0 || errs != "" || !c.is(m.last()) {
			t.Errorf("%q: status %d, asked for %+v\n%s", c.args, status, m.last(), errs)
		}
	}
}

func TestWhatWasMade(t *testing.T) {
	k := newKey(t, "k", "/k")
	h, m := serveMaker(t, k)
	m.answer(keyring.Made{ID: k.KeyInfo.ID, Public: k.KeyInfo.Public, Path: "/k\x1b[2J", PublicPath: "/k.pub", PublicLine: []byte("ssh x\n"), Notes: []string{"Keep it."}}, nil)
	if out := h.must("key", "new", "k"); strings.Contains(out, "\x1b") || !strings.HasSuffix(out, "\nssh x\nnote: Keep it.\n") {
		t.Errorf("%q", out)
	}
	var made struct {
		ID    string
		Notes []string
	}
	if err := json.Unmarshal([]byte(h.must("key", "new", "k", "--json")), &made); err != nil || made.ID != k.KeyInfo.ID.String() || len(made.Notes) != 1 {
		t.Errorf("%+v: %v", made, err)
	}
	if out := h.must("key", "export-request"); out != "the request\n" {
		t.Errorf("%q", out)
	}
	if out := h.must("key", "remove", "k", "--json"); !strings.Contains(out, `"/k"`) {
		t.Errorf("%q", out)
	}

	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("k: %w", &keyring.LockoutError{Until: time.Now().Add(time.Hour)}), "\nhint: wait until then;"},
		{fmt.Errorf("k: %w", &keyring.LockoutError{Kept: true}), "\nhint: wait until the TPM gives tries back"},
		{fmt.Errorf("%w: k; hint: do that", keyring.ErrUnavailable), "not available: k\nhint: do that\n"},
		{fmt.Errorf("k: %w", keyring.ErrAuthFailed), "\nhint: the PIN or passphrase was wrong too often"},
		{fmt.Errorf("k: %w", keyring.ErrDenied), "\nhint: the question was refused or closed"},
		{fmt.Errorf("k: %w", keyring.ErrUnsupported), "\nhint: the command's --help"},
		{fmt.Errorf("k: %w", keyring.ErrUnavailable), "\nhint: keyringctl status says what is wrong"},
		{fmt.Errorf("k: %w", keyring.ErrNotFound), "\nhint: keyringctl key list"},
	} {
		m.answer(keyring.Made{}, c.err)
		if out, errs, status := h.run("key", "new", "k"); status != 1 || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%v: status %d, %q\n%s", c.err, status, out, errs)
		}
	}
}

func TestWrongUsageOfMaking(t *testing.T) {
	h, m := serveMaker(t)
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"key", "new"}, 2, "accepts 1 arg"},
		{[]string{"key", "new", "k", "--parent", "x"}, 2, "--parent"},
		{[]string{"key", "new", "k", "--pin", "1234"}, 2, "unknown flag: --pin"},
		{[]string{"key", "new", "k", "--subject", "CN=x"}, 2, "go together"},
		{[]string{"key", "new", "k", "--certificate-request", there}, 2, "go together"},
		{[]string{"key", "new", "k", "--certificate-request", there, "--subject", "CN=x"}, 1, "there already"},
		{[]string{"key", "new", "k", "--certificate-request", "/nowhere/x", "--subject", "CN=x"}, 1, "cannot be written"},
		{[]string{"key", "import", "/nowhere/x"}, 1, "there is no file /nowhere/x"},
		{[]string{"key", "wrap-for", "/nowhere/x", there}, 1, "/nowhere/x"},
		{[]string{"key", "wrap-for", there, there, "--pcr", "sha256:7"}, 2, "unknown flag"},
		{[]string{"key", "attest", "k", "--nonce", "0"}, 2, "--nonce"},
		{[]string{"key", "attest", "k", "--nonce", strings.Repeat("00", 33)}, 2, "--nonce"},
		{[]string{"key", "verify-attestation", there}, 1, "attestation"},
		{[]string{"key", "verify-attestation", there, "--id", "00"}, 2, "--id"},
		{[]string{"key", "passwd", "none"}, 1, "there is no key"},
		{[]string{"seal"}, 2, "accepts 1 arg"},
		{[]string{"seal", "x", "--input", "/nowhere/x"}, 1, "/nowhere/x"},
		{[]string{"seal", "x", "--input", there}, 1, "there is no TPM"}, // nobody seals in this house
	} {
		out, errs, status := h.run(c.args...)
		if status != c.status || out != "" || !strings.Contains(errs, c.want) || !strings.HasPrefix(errs, "keyringctl: ") {
			t.Errorf("%q: status %d, %q\n%s", c.args, status, out, errs)
		}
	}
	if m.last() != nil {
		t.Errorf("the daemon was asked for %+v", m.last())
	}
	if out, _, _ := h.run("__complete", "key", "new", "k", "--algorithm", ""); !strings.Contains(out, "rsa-2048") {
		t.Errorf("completed %q", out)
	}
}

// TestProgressIsForPeople: on a terminal, and gone before the answer.
func TestProgressIsForPeople(t *testing.T) {
	h, m := serveMaker(t)
	m.answer(keyring.Made{Path: "/k"}, nil)
	env := map[string]string{"DBUS_SESSION_BUS_ADDRESS": h.bus.Address}
	for _, terminal := range []bool{true, false} {
		var out, errs bytes.Buffer
		w := world{Getenv: func(n string) string { return env[n] }, Out: &out, Err: &errs, ErrTerminal: terminal}
		if status := run(t.Context(), []string{"key", "new", "k"}, w); status != 0 {
			t.Fatalf("status %d: %s", status, &errs)
		}
		want := ""
		if terminal {
			want = "\r\x1b[Kthe TPM is working…\r\x1b[K"
		}
		if errs.String() != want || out.String() != "Created /k\n" {
			t.Errorf("terminal %v: %q, %q", terminal, errs.String(), out.String())
		}
	}
}
