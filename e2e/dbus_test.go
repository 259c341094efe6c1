package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// TestBus lists, shows and uses a TPM key over D-Bus, by keyringctl and busctl,
// and goes on when the bus comes back.
func TestBus(t *testing.T) {
	bustest.Need(t, "busctl")
	bus := bustest.Start(t)
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	s.Key("laptop", tpm.OpenSSLKey(t, "EC:P-256", "bus-pin", 0))
	s.Answer("bus-pin")
	s.Start(tpm.Address().String(), "--bus", bus.Address)

	ctl := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), daemontest.Ctl, append([]string{"--bus", bus.Address}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+s.Dir, "SSH_AUTH_SOCK="+s.Socket)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	await(t, "answer to keyringctl", func() bool { _, err := ctl("key", "list"); return err == nil })

	var listed []struct{ ID, Label, Kind string }
	out, err := ctl("key", "list", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &listed)
	}
	if err != nil || len(listed) != 1 || listed[0].Label != "laptop" || listed[0].Kind != "tpm" {
		t.Fatalf("keyringctl key list --json: %v\n%s", err, out)
	}
	if out, err := ctl("key", "public", "laptop"); err != nil || !strings.HasPrefix(out, "ecdsa-sha2-nistp256 ") {
		t.Errorf("keyringctl key public: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(s.Keys, "open"), tpm.OpenSSLKey(t, "EC:P-256", "", 0), 0o644); err != nil {
		t.Fatal(err)
	}
	await(t, "status that names a file left out", func() bool {
		out, err = ctl("status")
		return err == nil && strings.Contains(out, "chmod 600")
	})
	for _, want := range []string{s.Socket, "SW TPM", "3 of 3"} {
		if !strings.Contains(out, want) {
			t.Errorf("keyringctl status does not tell %q:\n%s", want, out)
		}
	}
	out, err = ctl("key", "show", "nosuchkey")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("a key that is not there: %v\n%s", err, out)
	}

	sign := s.Must("busctl", "--address="+bus.Address, "call", "io.github.keyringd", "/io/github/keyringd/keys/"+listed[0].ID,
		"io.github.keyringd.Key1", "Sign", "aysa{sv}", "3", "104", "105", "10", "ECDSA-SHA256", "1", "reason", "s", "a test")
	if !strings.HasPrefix(sign, "ay ") {
		t.Errorf("busctl call Sign: %s", sign)
	}
	if asked := s.Questions(); !strings.Contains(asked, "busctl") || !strings.Contains(asked, "a test") {
		t.Errorf("the prompt names neither program nor reason:\n%s", asked)
	}

	out, err = ctl("log")
	if err != nil || !strings.Contains(out, "busctl") || !strings.Contains(out, "laptop") || !strings.Contains(out, "a test") {
		t.Errorf("keyringctl log: %v\n%s", err, out)
	}

	bus.Restart()
	await(t, "return to the bus", func() bool { _, err := ctl("key", "list"); return err == nil })
	if _, err := s.Client().List(); err != nil {
		t.Errorf("the ssh-agent socket after the bus was restarted: %v", err)
	}
}

// TestNoDaemon is one clear sentence, a hint, and exit status 1.
func TestNoDaemon(t *testing.T) {
	bus := bustest.Start(t)
	for _, address := range []string{bus.Address, "unix:path=" + filepath.Join(t.TempDir(), "none")} {
		out, err := exec.CommandContext(t.Context(), daemontest.Ctl, "--bus", address, "key", "list").CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "hint: ") {
			t.Errorf("%s: %v\n%s", address, err, out)
		}
	}
}
