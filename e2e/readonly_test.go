package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// TestReadOnlyHome runs on a home that cannot be written to: keys sign and
// secrets are read; what would write is refused with a reason; and nothing of it
// is in the way once it can be written to again.
func TestReadOnlyHome(t *testing.T) {
	bustest.Need(t, "secret-tool")
	tpm := tpmtest.Start(t)
	here := tpm.Address().String()
	c := cabinet{&desk{Session: daemontest.New(t), t: t, bus: bustest.Start(t)}}
	c.Key("laptop", tpm.OpenSSLKey(t, "EC:P-256", passphrase, 0))
	c.Must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ordinary", "-f", filepath.Join(c.Keys, "ordinary"))
	c.Write("pinentry", chooser, 0o700)
	c.Write("new", passphrase, 0o600)
	c.Write("asked", "", 0o600)
	c.Answer(passphrase)
	keysSign := func() {
		t.Helper()
		for _, key := range []string{"laptop", "ordinary"} {
			if err := verify(t, c.Session, key, []byte("x")); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
	}

	writable := readOnly(t, c.Session) // before the first start
	c.begin(here)
	keysSign()
	for _, args := range [][]string{{"store", "--label=Mail", "user", "mia"}, {"lookup", "user", "mia"}} {
		if out, err := c.run("swordfish", "secret-tool", args...); err == nil || !strings.Contains(out, "the stored keyrings cannot be read") {
			t.Errorf("secret-tool %s: %q, %v", args[0], out, err)
		}
	}
	c.stop()

	writable()
	c.begin(here)
	acknowledged := ledger{}
	client := c.open()
	for n := range 10 {
		if err := acknowledged.add(client, n, 100); err != nil {
			t.Fatal(err)
		}
	}
	acknowledged.check(t, client, "before")
	c.stop()

	writable = readOnly(t, c.Session)
	c.begin(here)
	keysSign()
	client = c.open()
	acknowledged.check(t, client, "read-only")
	for what, write := range map[string]func() error{
		"CreateItem": func() error { return ledger{}.add(client, 100, 100) },
		"SetSecret": func() error {
			for item := range acknowledged {
				return client.SetSecret(item, []byte("other"))
			}
			return nil
		},
		"Delete": func() error {
			for item := range acknowledged {
				return client.Delete(item)
			}
			return nil
		},
	} {
		refusedFor(t, what, write(), "read-only")
	}
	if _, errs, status := c.ctl("key", "new", "fresh", "--no-pin"); status != 1 || !strings.Contains(errs, "hint: ") {
		t.Errorf("key new: status %d\n%s", status, errs)
	}
	acknowledged.check(t, client, "after what was refused")
	keysSign()
	c.stop()

	writable()
	c.begin(here)
	client = c.open()
	acknowledged.check(t, client, "writable again")
	if err := acknowledged.add(client, 200, 100); err != nil {
		t.Error(err)
	}
}

func (c cabinet) stop() {
	c.t.Helper()
	if err := c.Stop(); err != nil {
		c.t.Fatal(err)
	}
}

// readOnly makes the home of the next daemons one that cannot be written to, but
// for the runtime folders and the prompter's notes, and returns what undoes it.
// Root is kept from writing by a mount, everybody else by permissions.
func readOnly(t *testing.T, s *daemontest.Session) (writable func()) {
	t.Helper()
	run, xdg := filepath.Dir(s.Socket), s.Runtime()
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		command := "mount --bind " + s.Dir + " " + s.Dir + "; cd " + s.Dir
		for _, path := range []string{run, xdg, filepath.Join(s.Dir, "asked")} {
			command += "; mount --bind " + path + " " + path
		}
		mounts(t, s, command+"; mount -o remount,bind,ro "+s.Dir)
		return func() { s.Wrap = nil }
	}
	data := filepath.Join(s.Dir, "data")
	modes := map[string]os.FileMode{}
	for _, pattern := range []string{s.Dir, s.Keys, data, data + "/*"} {
		all, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range all {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			modes[path] = info.Mode().Perm()
			if err := os.Chmod(path, modes[path]&^0o222); err != nil {
				t.Fatal(err)
			}
		}
	}
	undo := func() {
		for path, mode := range modes {
			_ = os.Chmod(path, mode)
		}
	}
	t.Cleanup(undo)
	return undo
}
