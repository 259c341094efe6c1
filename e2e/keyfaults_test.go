package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// A change is a command that writes key files, tried with every fault.
type change struct {
	args []string
	name string // of the key file that it writes
	old  bool   // it is there before
}

var changes = []change{
	{args: []string{"key", "new", "fresh"}, name: "fresh"},
	{args: []string{"key", "new", "id", "--force"}, name: "id", old: true},
	{args: []string{"key", "import", "software", "--name", "fresh"}, name: "fresh"},
	{args: []string{"key", "passwd", "id"}, name: "id", old: true},
}

// stage makes the scene that every change begins with: the key id with the PIN
// "old", and a software key.
func (d *desk) stage(key []byte) {
	d.t.Helper()
	entries, err := os.ReadDir(d.Keys)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(d.Keys, e.Name())); err != nil {
			d.t.Fatal(err)
		}
	}
	d.Write(".ssh/id", string(key), 0o600)
	d.Answer("old")
	d.Write("new", "new", 0o600)
	await(d.t, "list the key", func() bool {
		out, _, status := d.ctl("key", "list")
		return status == 0 && strings.Contains(out, filepath.Join(d.Keys, "id"))
	})
}

// usable says whether a key file signs with a PIN, with OpenSSL and so without
// any help of keyringd's.
func (d *desk) usable(tpm *tpmtest.TPM, path, pin string) bool {
	d.t.Helper()
	d.Write("digest", strings.Repeat("d", 32), 0o600)
	args := append([]string{"pkeyutl", "-sign", "-inkey", path, "-in", "digest", "-passin", "pass:" + pin, "-out", "signature"}, provider...)
	cmd := exec.CommandContext(d.t.Context(), "openssl", args...)
	cmd.Dir, cmd.Env = d.Dir, append(os.Environ(), tpm.ToolEnv()...)
	return cmd.Run() == nil
}

// nothingLost looks at what a fault left behind: each key file is whole, and the
// key that was there signs with its old PIN or, where it was changed, with the
// new one.
func (d *desk) nothingLost(tpm *tpmtest.TPM, c change, key []byte, fault string) {
	d.t.Helper()
	path := filepath.Join(d.Keys, c.name)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !c.old:
	case err != nil:
		d.t.Errorf("%s, %q: %v", fault, c.args, err)
	case c.old && string(data) == string(key):
		if !d.usable(tpm, path, "old") {
			d.t.Errorf("%s, %q: the old key no longer signs", fault, c.args)
		}
	case !d.usable(tpm, path, "new"):
		d.t.Errorf("%s, %q: the new key does not sign:\n%s", fault, c.args, data)
	}
	if c.name != "id" {
		if data, err := os.ReadFile(filepath.Join(d.Keys, "id")); err != nil || string(data) != string(key) {
			d.t.Errorf("%s, %q touched another key: %v", fault, c.args, err)
		}
	}
}

// TestKeysSurviveFullDisk lets no file of the daemon's grow beyond a few bytes
// while it makes, imports and changes keys: each is refused with a reason, and
// the next one, with room again, goes well.
func TestKeysSurviveFullDisk(t *testing.T) {
	tpm := tpmtest.Start(t)
	key := tpm.OpenSSLKey(t, "EC:P-256", "old", 0)
	d := newDesk(t, tpm.ResourceManager().Address().String())
	d.Must("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "software")
	// The prompter's files are limited, too, so that it keeps no notes.
	d.Write("pinentry", strings.ReplaceAll(chooser, `printf '%s\n' "$line" >>"$dir/asked"`, ":"), 0o700)
	for _, c := range changes {
		d.stage(key)
		limit := func(bytes uint64) {
			t.Helper()
			if err := unix.Prlimit(d.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, bytes := range []uint64{0, 20} {
			limit(bytes)
			d.refused(1, []string{"file too large"}, c.args...)
			d.nothingLost(tpm, c, key, "full disk")
		}
		limit(unix.RLIM_INFINITY)
		if _, errs, status := d.ctl(c.args...); status != 0 {
			t.Errorf("%q with room again: %s", c.args, errs)
		}
		if !d.usable(tpm, filepath.Join(d.Keys, c.name), "new") {
			t.Errorf("%q with room again made a key that does not sign", c.args)
		}
	}
}

// TestKeysSurviveKill kills the daemon at each thing that happens in the key
// folder while it makes, imports and changes keys.
func TestKeysSurviveKill(t *testing.T) {
	tpm := tpmtest.Start(t)
	key := tpm.OpenSSLKey(t, "EC:P-256", "old", 0)
	address := tpm.ResourceManager().Address().String()
	d := newDesk(t, address)
	d.Must("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "software")
	for _, c := range changes {
		killed := 0
		for at := 1; ; at++ {
			d.stage(key)
			w, err := fsnotify.NewWatcher()
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Add(d.Keys); err != nil {
				t.Fatal(err)
			}
			over, dead := make(chan struct{}), make(chan bool)
			go func() {
				for i := 1; ; i++ {
					select {
					case <-w.Events:
						if i == at {
							d.Kill()
							dead <- true
							return
						}
					case <-over:
						dead <- false
						return
					}
				}
			}()
			_, errs, status := d.ctl(c.args...)
			close(over)
			was := <-dead
			_ = w.Close()
			if !was {
				if status != 0 {
					t.Errorf("%q without a fault: %s", c.args, errs)
				}
				break // it is done before that much happens
			}
			killed++
			d.nothingLost(tpm, c, key, "killed")
			d.Start(address, "--bus", d.bus.Address)
		}
		if killed < 2 {
			t.Errorf("%q was killed %d times: the test sees nothing of it", c.args, killed)
		}
	}
}
