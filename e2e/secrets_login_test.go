package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/pamtest"
	"github.com/keyringd/keyringd/internal/secretstest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// TestPAM logs in with the distribution's pam_gnome_keyring.so: the first
// password makes the login keyring, later ones unlock it after each restart, and
// it changes with the password. Nobody is ever asked.
func TestPAM(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	c := newCabinet(t, "none")
	c.Write("pinentry", refuser, 0o700)
	pam := pamtest.New(t, c.Runtime())
	enter := func(password string) (string, error) {
		t.Helper()
		defer pam.NoOther()
		return pam.Run([]string{"PAM_AUTHTOK=" + password}, "authenticate", "open_session", "close_session")
	}
	login := func(password string) {
		t.Helper()
		if out, err := enter(password); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	login("first password")
	c.must("swordfish", "secret-tool", "store", "--label=Mail", "user", "mia")

	lookup := func(want string) {
		t.Helper()
		if out, err := c.run("", "secret-tool", "lookup", "user", "mia"); out != want {
			t.Errorf("lookup: %q, want %q: %v", out, want, err)
		}
	}
	c.again("none")
	if !c.locked() {
		t.Error("a restarted daemon is not locked")
	}
	lookup("")
	if _, err := enter("wrong password"); err == nil || !c.locked() {
		t.Error("unlocked with a wrong password")
	}
	login("first password")
	lookup("swordfish")

	// passwd(1), with the session unlocked and with a daemon that is locked.
	change := func(old, new string) (string, error) {
		return pam.Run([]string{"PAM_OLDAUTHTOK=" + old, "PAM_AUTHTOK=" + new}, "chauthtok")
	}
	for _, step := range [][2]string{{"first password", "second password"}, {"second password", "third password"}} {
		if out, err := change(step[0], step[1]); err != nil {
			t.Errorf("change: %v\n%s", err, out)
		}
		c.again("none")
		if _, err := enter(step[0]); err == nil || !c.locked() {
			t.Error("unlocked with the password that was changed")
		}
		login(step[1])
		lookup("swordfish")
		c.again("none")
	}
	if _, err := change("first password", "fourth password"); err == nil {
		t.Error("changed with a password that is not the keyring's")
	}
	login("third password")
	lookup("swordfish")
	if n := c.Prompts(); n != 0 {
		t.Errorf("%d questions", n)
	}
	for _, text := range []string{"first pass", "second pass", "third pass", "fourth pass", "wrong pass", "swordfish"} {
		if strings.Contains(c.Log.String(), text) {
			t.Errorf("%q is in the journal", text)
		}
	}
}

// TestTPMUnlocks adds a TPM slot: from then on a restarted daemon needs nothing
// at all. On another machine the data folder stays locked, finds what it has, and
// opens with the passphrase.
func TestTPMUnlocks(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	tpm, other := tpmtest.Start(t), tpmtest.Start(t)
	here, there := tpm.Address().String(), other.Address().String()
	c := newCabinet(t, here)
	c.must("swordfish", "secret-tool", "store", "--label=Mail", "user", "mia")
	c.mustCtl("keyring", "slot", "add", "login", "tpm")
	if out := c.mustCtl("keyring", "slot", "list", "login"); !strings.Contains(out, "passphrase") || !strings.Contains(out, "this TPM") {
		t.Errorf("the slots:\n%s", out)
	}
	quiet := func() {
		t.Helper()
		before := c.Prompts()
		if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
			t.Errorf("lookup: %q", out)
		}
		c.must("second", "secret-tool", "store", "--label=Two", "n", "2")
		if n := c.Prompts() - before; n != 0 {
			t.Errorf("%d questions, want none", n)
		}
	}
	for range 2 {
		c.again(here)
		quiet()
	}
	c.again(here)
	c.must("first of all", "secret-tool", "store", "--label=Three", "n", "3")

	// Locked by hand it stays locked until the user agrees.
	c.mustCtl("keyring", "lock", "login")
	before := c.Prompts()
	if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
		t.Errorf("lookup after a lock by hand: %q", out)
	}
	if asked := strings.Count(c.Questions(), "CONFIRM") + c.Prompts() - before; asked == 0 {
		t.Error("what was locked by hand was unlocked and nobody was asked")
	}

	// On another machine, and back.
	c.Write("pinentry", refuser, 0o700)
	c.again(there)
	client := c.client()
	notNothing(t, client, "user", "mia")
	c.Write("pinentry", chooser, 0o700)
	before = c.Prompts()
	if !c.locked() {
		t.Error("unlocked on another TPM")
	}
	if err := client.Unlock(secretstest.Login); err != nil || c.Prompts() != before+1 {
		t.Errorf("with the passphrase: %v, %d questions", err, c.Prompts()-before)
	}
	quiet()
	c.again(there, "--prompter", "none")
	if out, err := c.run("", "secret-tool", "lookup", "user", "mia"); err == nil || out != "" {
		t.Errorf("on another TPM, with nobody to ask: %q", out)
	}
	c.again(here)
	quiet()

	// Without any TPM the passphrase opens it, too.
	c.Write("pinentry", refuser, 0o700)
	c.again("none")
	notNothing(t, c.client(), "n", "3")
	c.Write("pinentry", chooser, 0o700)
	before = c.Prompts()
	c.open()
	if out := c.must("", "secret-tool", "lookup", "n", "3"); out != "first of all" || c.Prompts() != before+1 {
		t.Errorf("without a TPM: %q, %d questions", out, c.Prompts()-before)
	}
}

// TestTPMWithPIN has a TPM slot that wants a PIN, and a recovery code.
func TestTPMWithPIN(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	tpm := tpmtest.Start(t)
	here := tpm.Address().String()
	c := newCabinet(t, here)
	c.must("swordfish", "secret-tool", "store", "--label=Mail", "user", "mia")
	c.Write("new", "4711", 0o600)
	c.mustCtl("keyring", "slot", "add", "login", "tpm", "--pin")
	code := c.recovery("login")
	if len(code) < 20 || strings.Contains(c.Log.String(), code) {
		t.Fatalf("the recovery code: %d characters", len(code))
	}
	for _, answer := range []string{"4711", passphrase, code, strings.ToLower(strings.ReplaceAll(code, "-", " "))} {
		c.again(here)
		c.Answer(answer)
		if out, err := c.run("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
			t.Errorf("with an answer of %d characters: %q, %v", len(answer), out, err)
		}
	}
	c.again(here)
	c.Answer("0000")
	if out, err := c.run("", "secret-tool", "lookup", "user", "mia"); err == nil || out != "" || !c.locked() {
		t.Errorf("with a wrong PIN: %q", out)
	}
}

// TestLostIndexKey moves the data folder without the key of its index: what is
// locked must not look like an empty keyring.
func TestLostIndexKey(t *testing.T) {
	t.Parallel()
	bustest.Need(t, "secret-tool")
	c := newCabinet(t, "none")
	c.must("swordfish", "secret-tool", "store", "--label=Mail", "user", "mia")
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(c.Dir, "data", "*index*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("the index key's file: %v %v", found, err)
	}
	for _, f := range found {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	c.Write("pinentry", refuser, 0o700)
	c.begin("none")
	for range 2 {
		notNothing(t, c.client(), "user", "mia")
	}
	if !strings.Contains(c.Log.String(), "there is no index key") {
		t.Errorf("the journal says nothing of it")
	}
	// Who searches need not know how to unlock what cannot be searched.
	c.Write("pinentry", chooser, 0o700)
	c.again("none")
	for range 2 {
		if out := c.must("", "secret-tool", "lookup", "user", "mia"); out != "swordfish" {
			t.Errorf("lookup: %q", out)
		}
		c.again("none")
	}
}

// notNothing wants that a search for a locked item finds it, or fails: a browser
// that finds nothing makes a new key, and what the old one encrypted is lost.
func notNothing(t *testing.T, client *secretstest.Client, name, value string) {
	t.Helper()
	unlocked, locked, err := client.Search(map[string]string{name: value})
	if len(unlocked) != 0 || err == nil && len(locked) == 0 {
		t.Errorf("a search in what is locked: %v %v %v", unlocked, locked, err)
	}
}
