package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/secretstest"
)

// A cabinet is a desk whose programs keep passwords.
type cabinet struct{ *desk }

const passphrase = "open-sesame"

// newCabinet starts keyringd for a user whose passphrase is always the same.
func newCabinet(t *testing.T, tpm string, flags ...string) cabinet {
	t.Helper()
	c := cabinet{newDesk(t, tpm, append([]string{"--remember", "0"}, flags...)...)}
	c.Write("new", passphrase, 0o600)
	c.Answer(passphrase)
	return c
}

// begin starts keyringd again after it was ended.
func (c cabinet) begin(tpm string, flags ...string) {
	c.t.Helper()
	c.Start(tpm, append([]string{"--bus", c.bus.Address, "--remember", "0"}, flags...)...)
	await(c.t, "answer to keyringctl", func() bool { _, _, status := c.ctl("status"); return status == 0 })
}

// again ends keyringd as a logout does, and starts it anew.
func (c cabinet) again(tpm string, flags ...string) {
	c.t.Helper()
	if err := c.Stop(); err != nil {
		c.t.Fatal(err)
	}
	c.begin(tpm, flags...)
}

// environ is the environment of the user's programs: nothing of this machine's
// own session is in it.
func (c cabinet) environ(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "XDG_") || name == "DISPLAY" || name == "WAYLAND_DISPLAY"
	})
	return append(env, append([]string{
		"HOME=" + c.Dir, "XDG_RUNTIME_DIR=" + c.Runtime(), "DBUS_SESSION_BUS_ADDRESS=" + c.bus.Address,
		"LC_ALL=C.UTF-8", "NO_AT_BRIDGE=1", "GSETTINGS_BACKEND=memory",
	}, more...)...)
}

// command is a program of the user's, which is killed if it takes minutes.
func (c cabinet) command(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = c.Dir, c.environ()
	return cmd
}

// run runs a program and returns what it says, and whether it went well.
func (c cabinet) run(stdin, name string, args ...string) (string, error) {
	c.t.Helper()
	cmd := c.command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return string(out), err
}

// must is run where a failure ends the test.
func (c cabinet) must(stdin, name string, args ...string) string {
	c.t.Helper()
	out, err := c.run(stdin, name, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// client connects to the Secret Service.
func (c cabinet) client() *secretstest.Client {
	c.t.Helper()
	client, err := secretstest.Dial(c.bus.Address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}

// open makes the login keyring, or unlocks it.
func (c cabinet) open() *secretstest.Client {
	c.t.Helper()
	client := c.client()
	if err := client.Unlock(secretstest.Login); err != nil {
		c.t.Fatal(err)
	}
	return client
}

// locked says whether the login keyring is locked.
func (c cabinet) locked() bool {
	c.t.Helper()
	client := c.client()
	defer client.Close()
	locked, err := client.Locked(secretstest.Login)
	if err != nil {
		c.t.Fatal(err)
	}
	return locked
}

// python is the system's, which has the modules that distributions package.
const python = "/usr/bin/python3"

// python runs a script of testdata, after it made sure of what it imports.
func (c cabinet) python(script string, args ...string) string {
	c.t.Helper()
	return c.must("", python, append([]string{testdata(c.t, script)}, args...)...)
}

func testdata(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// needPython skips or fails the test where Python cannot do that.
func needPython(t *testing.T, statement string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), python, "-c", statement).CombinedOutput()
	lacks(t, err != nil, fmt.Sprintf("%s: %s", statement, out))
}

// lacks skips or fails the test if something is missing.
func lacks(t *testing.T, missing bool, what string) {
	t.Helper()
	if missing {
		bustest.Missing(t, what)
	}
}

// TestSecretTool stores, finds, locks and clears with libsecret's own tool.
func TestSecretTool(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	c := newCabinet(t, "none")
	c.must("swordfish", "secret-tool", "store", "--label=Mail", "server", "mail.example.org", "user", "mia")
	if n := c.Prompts(); n != 1 {
		t.Errorf("the first use asked %d questions, want one for the new keyring's passphrase", n)
	}
	c.must("line one\nline two", "secret-tool", "store", "--label=Note", "kind", "note")
	if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
		t.Errorf("lookup: %q", out)
	}
	c.toolLocks()
	if out := c.must("", "secret-tool", "search", "--all", "user", "mia"); strings.Count(out, "label =") != 1 || strings.Contains(out, "swordfish") {
		t.Errorf("search of what is locked:\n%s", out)
	}
	if n := c.Prompts(); n != 1 {
		t.Errorf("a search asked: %d questions", n)
	}
	for _, again := range []func(){func() {}, func() { c.again("none") }} { // locked by hand, and by a restart
		again()
		before := c.Prompts()
		for range 2 {
			if out := c.must("", "secret-tool", "lookup", "kind", "note"); out != "line one\nline two" {
				t.Errorf("lookup: %q", out)
			}
		}
		if n := c.Prompts() - before; n != 1 {
			t.Errorf("two lookups in a locked keyring asked %d questions, want one", n)
		}
	}
	if out := c.must("", "secret-tool", "search", "--all", "server", "mail.example.org"); !strings.Contains(out, "label = Mail") ||
		!strings.Contains(out, "secret = swordfish") || !strings.Contains(out, "attribute.user = mia") {
		t.Errorf("search:\n%s", out)
	}
	c.must("", "secret-tool", "clear", "user", "mia")
	if out, err := c.run("", "secret-tool", "lookup", "user", "mia"); err == nil || out != "" {
		t.Errorf("what was cleared is found: %q", out)
	}

	// A wrong passphrase, and the user's no, are a failure and not "no such item".
	c.toolLocks()
	c.Answer("wrong")
	if out, err := c.run("", "secret-tool", "lookup", "kind", "note"); err == nil || strings.Contains(out, "line") || !c.locked() {
		t.Errorf("with a wrong passphrase: %q, %v", out, err)
	}
}

// toolLocks locks with secret-tool. Some versions of it crash when they have
// done so, whoever the daemon is, so that only the keyring counts.
func (c cabinet) toolLocks() {
	c.t.Helper()
	out, err := c.run("", "secret-tool", "lock", "--collection=login")
	if !c.locked() {
		c.t.Errorf("secret-tool lock does not lock: %v\n%s", err, out)
	}
}

// TestNobodyToAsk has no prompter: every client gets an error soon, and none is
// told that there is nothing.
func TestNobodyToAsk(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	c := newCabinet(t, "none")
	c.must("swordfish", "secret-tool", "store", "--label=Mail", "user", "mia")
	c.again("none", "--prompter", "none")
	if out, err := c.run("", "secret-tool", "lookup", "user", "mia"); err == nil || out != "" {
		t.Errorf("lookup: %q, %v", out, err)
	}
	if out, err := c.run("x", "secret-tool", "store", "--label=Mail", "user", "mia"); err == nil {
		t.Errorf("store: %q", out)
	}
	client := c.client()
	unlocked, locked, err := client.Search(map[string]string{"user": "mia"})
	if err != nil || len(unlocked) != 0 || len(locked) != 1 {
		t.Errorf("a search in a locked keyring: %v %v %v", unlocked, locked, err)
	}
}
