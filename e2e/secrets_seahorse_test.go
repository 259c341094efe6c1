package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/internal/secretstest"
)

// launcher is where distributions put what starts the bus of the accessibility
// service, by which seahorse is driven.
var launcher = []string{"/usr/libexec/at-spi-bus-launcher", "/usr/lib/at-spi-bus-launcher", "/usr/lib/at-spi2-core/at-spi-bus-launcher"}

// TestSeahorse looks after the login keyring in seahorse's window: it lists what
// is in it, locks and unlocks it, adds a password and changes the keyring's own.
func TestSeahorse(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	bustest.Need(t, "seahorse")
	bustest.Need(t, "xdotool")
	needPython(t, "import gi; gi.require_version('Atspi', '2.0'); from gi.repository import Atspi")
	accessible := ""
	for _, path := range launcher {
		if _, err := exec.LookPath(path); err == nil {
			accessible = path
		}
	}
	lacks(t, accessible == "", "at-spi-bus-launcher")

	c := newCabinet(t, "none")
	c.must("swordfish", "secret-tool", "store", "--label=Mail password", "user", "mia")
	env := append(c.environ("DISPLAY="+screen(t)), "NO_AT_BRIDGE=0")
	var said logtest.Buffer
	start := func(name string, args ...string) {
		t.Helper()
		cmd := c.command(name, args...)
		cmd.Env, cmd.Stdout, cmd.Stderr = env, &said, &said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // and whom it started, who hold its output
			_ = cmd.Wait()
		})
	}
	start(accessible, "--launch-immediately")
	await(t, "accessibility service", func() bool {
		_, err := c.run("", "busctl", "--address="+c.bus.Address, "call", "org.a11y.Bus", "/org/a11y/bus", "org.a11y.Bus", "GetAddress")
		return err == nil
	})
	start("seahorse")
	person := func(steps ...string) {
		t.Helper()
		cmd := c.command(python, append([]string{testdata(t, "secrets_seahorse.py")}, steps...)...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s\nseahorse said:\n%s", steps, err, out, said.String())
		}
	}
	person("see", "show", "lock")
	await(t, "lock by seahorse", c.locked)
	before := c.Prompts()
	person("unlock")
	await(t, "unlocking by seahorse", func() bool { return !c.locked() })
	if n := c.Prompts() - before; n != 1 {
		t.Errorf("unlocking asked %d questions, want one", n)
	}

	person("add")
	found := c.must("", "secret-tool", "search", "--all", "xdg:schema", "org.gnome.keyring.Note")
	if !strings.Contains(found, "label = Made in seahorse") || !strings.Contains(found, "secret = typed in seahorse") {
		t.Errorf("what seahorse added:\n%s", found)
	}

	c.Write("new", "another one", 0o600)
	before = c.Prompts()
	person("password")
	await(t, "questions for the old and the new passphrase", func() bool { return c.Prompts() == before+2 })
	client := c.client()
	await(t, "end of the change", func() bool { return client.UnlockWith(secretstest.Login, "another one") == nil })
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "libsecret-") || strings.Contains(line, "-CRITICAL") {
			t.Errorf("seahorse said %s", line)
		}
	}
	// From here on the daemon is gone for a moment, which libsecret complains of.
	c.Answer("another one")
	c.again("none")
	if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
		t.Errorf("after seahorse changed the passphrase: %q", out)
	}
}
