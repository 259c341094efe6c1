package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/internal/secretstest"
)

// A shelf is what was put into the login keyring, by path.
type shelf map[godbus.ObjectPath]string

// fill puts n items into the login keyring.
func fill(t *testing.T, client *secretstest.Client, n int) shelf {
	t.Helper()
	s := shelf{}
	for i := range n {
		value := fmt.Sprintf("value %d", i)
		path, err := client.Store(secretstest.Login, fmt.Sprint("label ", i), map[string]string{"n": fmt.Sprint(i)}, []byte(value), false)
		if err != nil {
			t.Fatal(err)
		}
		s[path] = value
	}
	return s
}

// intact wants all of it, and nothing else.
func (s shelf) intact(t *testing.T, client *secretstest.Client, when string) {
	t.Helper()
	paths, err := client.Items(secretstest.Login)
	if err != nil || len(paths) != len(s) {
		t.Errorf("%s: %d items, want %d: %v", when, len(paths), len(s), err)
	}
	for path, want := range s {
		if got, err := client.Secret(path); err != nil || string(got) != want {
			t.Errorf("%s: %s is %q, want %q: %v", when, path, got, want, err)
		}
	}
}

// TestSecretsSurviveFullDisk lets no file of the daemon's grow: every change is
// refused with a reason, everything can be read, and with room again all goes on.
func TestSecretsSurviveFullDisk(t *testing.T) {
	t.Parallel()
	c := newCabinet(t, "none")
	client := c.open()
	kept := fill(t, client, 5)
	var first godbus.ObjectPath
	for path := range kept {
		first = path
	}
	limit := func(bytes uint64) {
		t.Helper()
		if err := unix.Prlimit(c.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, bytes := range []uint64{0, 4096} {
		limit(bytes)
		changes := map[string]error{
			"SetSecret": client.SetSecret(first, []byte(strings.Repeat("new", 5000))),
			"Delete":    client.Delete(first),
		}
		_, changes["CreateItem"] = client.Store(secretstest.Login, "x", map[string]string{"n": "x"}, []byte("x"), true)
		for what, err := range changes {
			if err == nil || !strings.Contains(err.Error(), "file too large") {
				t.Errorf("%s with room for %d bytes: %v", what, bytes, err)
			}
		}
		kept.intact(t, client, "without room")
	}
	limit(unix.RLIM_INFINITY)
	kept[first] = "new value"
	if err := client.SetSecret(first, []byte(kept[first])); err != nil {
		t.Errorf("with room again: %v", err)
	}
	path, err := client.Store(secretstest.Login, "x", map[string]string{"n": "x"}, []byte("x"), true)
	if err != nil {
		t.Errorf("with room again: %v", err)
	}
	kept[path] = "x"
	kept.intact(t, client, "with room again")
	c.again("none")
	kept.intact(t, c.open(), "after a restart")
}

// TestReadOnlySecrets has a data folder that cannot be written to: passwords are
// there to be read, and what would change them fails with a reason.
func TestReadOnlySecrets(t *testing.T) {
	t.Parallel()
	c := newCabinet(t, "none")
	kept := fill(t, c.open(), 3)
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(c.Dir, "data")
	mode := func(dir, files os.FileMode) {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(data, "*"))
		for _, path := range all {
			if err == nil {
				err = os.Chmod(path, files)
			}
		}
		if err == nil {
			err = os.Chmod(data, dir)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mode(0o500, 0o400)
	t.Cleanup(func() { mode(0o700, 0o600) })

	// The permissions are no bar to root, unless it goes without what makes it so.
	args := []string{daemontest.Binary, "--tpm", "none", "--key-dir", c.Keys, "--runtime-dir", filepath.Join(c.Dir, "run"), "--data-dir", data,
		"--prompter", "pinentry:" + filepath.Join(c.Dir, "pinentry"), "--bus", c.bus.Address}
	if os.Getuid() == 0 {
		_, err := exec.LookPath("setpriv")
		lacks(t, err != nil, "setpriv")
		args = append([]string{"setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"}, args...)
	}
	cmd := c.command(args[0], args[1:]...)
	var said logtest.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	client := c.reconnect()
	if err := client.Unlock(secretstest.Login); err != nil {
		t.Fatal(err)
	}
	kept.intact(t, client, "read-only")
	for path := range kept {
		if err := client.SetSecret(path, []byte("new")); err == nil || !strings.Contains(err.Error(), "denied") && !strings.Contains(err.Error(), "read-only") {
			t.Errorf("SetSecret: %v", err)
		}
		if err := client.Delete(path); err == nil {
			t.Error("deleted")
		}
	}
	if _, err := client.Store(secretstest.Login, "x", nil, []byte("x"), false); err == nil {
		t.Error("stored")
	}
	kept.intact(t, client, "read-only, after changes")
}

// flips is how often bits are turned over: KEYRINGD_FLIPS, or a few.
func flips() int {
	if n, err := strconv.Atoi(os.Getenv("KEYRINGD_FLIPS")); err == nil {
		return n
	}
	return 12
}

// TestBitFlips turns bits of the database over between restarts. What is then
// read is what was written, or an error, or was mended and reported: nothing is
// another, and nothing is gone without a word.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	c := newCabinet(t, "none")
	kept := fill(t, c.open(), 20)
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(c.Dir, "data")
	pristine := filepath.Join(c.Dir, "pristine")
	if err := os.CopyFS(pristine, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	counts := map[string]int{}
	for range flips() {
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(data, os.DirFS(pristine)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(data, "keyrings.db")
		db, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var bits []int
		for range 1 + random.IntN(3) {
			bit := flip(db, random)
			bits = append(bits, bit)
		}
		if random.IntN(2) == 0 { // half of the time there is no copy to mend it with
			for _, copied := range glob(t, filepath.Join(data, "keyrings.db.*")) {
				if err := os.Remove(copied); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.WriteFile(path, db, 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(c.Log.String())
		c.Start("none", "--bus", c.bus.Address, "--remember", "0")
		result := c.judge(kept)
		if err := c.Stop(); err != nil {
			t.Errorf("bits %v: %v", bits, err)
		}
		if result == "gone" && !strings.Contains(c.Log.String()[before:], "level=ERROR") {
			t.Errorf("bits %v: something is gone, and nothing is said of it", bits)
		}
		if result == "wrong" {
			t.Errorf("bits %v: wrong", bits)
		}
		counts[result]++
	}
	t.Logf("%d times: %v", flips(), counts)
}

// flip turns over a bit of a byte that is in use.
func flip(db []byte, random *rand.Rand) int {
	for {
		i := random.IntN(len(db))
		// The file grows ahead of what is in it.
		if page := db[i/4096*4096 : min(len(db), i/4096*4096+4096)]; slices.Max(page) > 0 {
			db[i] ^= 1 << random.IntN(8)
			return i
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// judge reads all that there is and says what became of it: "whole", "refused"
// (an error for some of it), "gone" or "wrong".
func (c cabinet) judge(kept shelf) string {
	c.t.Helper()
	client := c.reconnect()
	defer client.Close()
	if client.Unlock(secretstest.Login) != nil {
		return "refused"
	}
	result := "whole"
	for path, want := range kept {
		got, err := client.Secret(path)
		switch {
		case err != nil && strings.Contains(err.Error(), "no item"):
			result = "gone"
		case err != nil && result == "whole":
			result = "refused"
		case err == nil && string(got) != want:
			return "wrong"
		}
	}
	found, locked, err := client.Search(map[string]string{"n": "7"})
	switch {
	case err != nil && result == "whole":
		result = "refused"
	case err == nil && len(found) == 0 && result == "whole":
		result = "gone"
	case len(locked) > 0 || len(found) > 1 || len(found) == 1 && kept[found[0]] != "value 7":
		return "wrong"
	}
	return result
}
