package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
)

// A keyringJSON is what keyringctl keyring list --json tells of each.
type keyringJSON struct {
	ID, Label string
	Locked    bool
	Items     int
	Aliases   []string
}

// keyring returns what keyringctl tells of a keyring.
func (c cabinet) keyring(label string) keyringJSON {
	c.t.Helper()
	var all []keyringJSON
	if err := json.Unmarshal([]byte(c.mustCtl("keyring", "list", "--json")), &all); err != nil {
		c.t.Fatal(err)
	}
	for _, k := range all {
		if k.Label == label {
			return k
		}
	}
	c.t.Fatalf("no keyring %q in %+v", label, all)
	return keyringJSON{}
}

// TestKeyrings looks after keyrings with keyringctl.
func TestKeyrings(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	c := newCabinet(t, "none")
	c.refused(1, []string{"already", "hint: ", "unlock login"}, "keyring", "new", "Login")
	c.must("swordfish", "secret-tool", "store", "--label=Mail", "user", "mia")
	if k := c.keyring("Login"); k.ID != "login" || k.Locked || k.Items != 1 {
		t.Errorf("the login keyring: %+v", k)
	}
	if out := c.mustCtl("keyring", "list"); !strings.Contains(out, "unlocked") || !strings.Contains(out, "default") {
		t.Errorf("keyring list:\n%s", out)
	}

	out := c.mustCtl("keyring", "new", "At work")
	if !strings.Contains(out, "At work") {
		t.Errorf("keyring new:\n%s", out)
	}
	work := c.keyring("At work")
	if work.Locked || work.Items != 0 || strings.Contains(work.ID, "work") {
		t.Errorf("a new keyring: %+v", work)
	}
	for _, name := range []string{work.ID, "At work"} {
		c.mustCtl("keyring", "lock", name)
		if !c.keyring("At work").Locked {
			t.Errorf("keyring lock %s does not lock", name)
		}
		c.mustCtl("keyring", "unlock", name)
		if c.keyring("At work").Locked {
			t.Errorf("keyring unlock %s does not unlock", name)
		}
	}
	c.refused(1, []string{"no keyring"}, "keyring", "lock", "at home")

	// One of a name is enough, unless two are wanted.
	for _, name := range []string{"login", "Default", " at WORK", work.ID} {
		c.refused(1, []string{"already", "--same-label"}, "keyring", "new", name)
	}
	if out := c.mustCtl("keyring", "new", "--same-label", "At work"); !strings.Contains(out, "Made") || strings.Contains(out, work.ID) {
		t.Errorf("keyring new --same-label:\n%s", out)
	}
	c.refused(1, []string{"At work"}, "keyring", "lock", "At work")

	c.mustCtl("keyring", "lock", "login")
	c.Answer("wrong")
	if _, errs, status := c.ctl("keyring", "unlock", "login"); status != 1 || !strings.Contains(errs, "wrong") || !c.locked() {
		t.Errorf("with a wrong passphrase: status %d\n%s", status, errs)
	}
	c.Answer(passphrase)
	c.Write("new", "another one", 0o600)
	c.mustCtl("keyring", "passwd", "login")
	c.Answer("another one")
	c.again("none")
	c.mustCtl("keyring", "unlock", "login")
	if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
		t.Errorf("after the passphrase was changed: %q", out)
	}

	// A keyring keeps one way to be unlocked.
	var slots []struct{ ID, Kind string }
	list := func() {
		t.Helper()
		slots = nil
		if err := json.Unmarshal([]byte(c.mustCtl("keyring", "slot", "list", "login", "--json")), &slots); err != nil {
			t.Fatal(err)
		}
	}
	c.refused(1, []string{"TPM"}, "keyring", "slot", "add", "login", "tpm")
	if list(); len(slots) != 1 || slots[0].Kind != "passphrase" {
		t.Fatalf("slots %v", slots)
	}
	c.refused(1, []string{"last"}, "keyring", "slot", "remove", "login", slots[0].ID)
	c.refused(1, []string{"has a passphrase"}, "keyring", "slot", "add", "login", "passphrase")
	code := c.recovery("login")
	if list(); len(slots) != 2 {
		t.Fatalf("slots %v", slots)
	}
	c.Write("refuse", "", 0o600)
	if _, errs, status := c.ctl("keyring", "slot", "remove", "login", slots[0].ID); status != 1 || !strings.Contains(errs, "refused") {
		t.Errorf("a removal that the user refuses: status %d\n%s", status, errs)
	}
	c.must("", "rm", "refuse")
	c.mustCtl("keyring", "slot", "remove", "login", slots[0].ID)
	c.again("none")
	if out, err := c.run("", "secret-tool", "lookup", "user", "mia"); err == nil || out == "swordfish" {
		t.Errorf("the passphrase of a slot that was removed opens: %q", out)
	}
	c.Answer(code)
	if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
		t.Errorf("with the recovery code: %q", out)
	}
	c.Write("new", "a third", 0o600)
	c.mustCtl("keyring", "slot", "add", "login", "passphrase")
	c.again("none")
	c.Answer("a third")
	if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
		t.Errorf("with the new passphrase: %q", out)
	}
}

// recovery adds a recovery code to a keyring and returns it.
func (c cabinet) recovery(name string) string {
	c.t.Helper()
	for line := range strings.Lines(c.mustCtl("keyring", "slot", "add", name, "recovery")) {
		if strings.HasPrefix(line, "    ") {
			return strings.TrimSpace(line)
		}
	}
	c.t.Fatal("no recovery code is shown")
	return ""
}
