package sshkeys

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const passphrase = "correct horse"

// run runs a program in dir, with the openssl or ssh-keygen of the system.
func run(t testing.TB, dir, program string, args ...string) {
	t.Helper()
	bustest.Need(t, program)
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
}

// keygen makes a key file with ssh-keygen, and its .pub unless it is dropped.
func keygen(t testing.TB, path, pass string, args ...string) {
	t.Helper()
	run(t, filepath.Dir(path), "ssh-keygen", append([]string{"-q", "-f", path, "-N", pass, "-C", "mia@laptop", "-a", "1"}, args...)...)
}

func dir(t testing.TB) string {
	t.Helper()
	d := filepath.Join(t.TempDir(), "keys")
	must(t, os.Mkdir(d, 0o700))
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o600))
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// served is a folder under watch, and the keys found in it.
type served struct {
	*keyring.Keys
	set     *Set
	folders *folder.Folders
}

func serve(t testing.TB, dir string) served {
	t.Helper()
	keys := keyring.NewKeys(keyring.NewGate(nil))
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	set := New(keys, log)
	ctx, cancel := context.WithCancel(context.Background())
	f, err := folder.Watch(ctx, folder.Options{Dirs: []string{dir}, Log: log}, set)
	must(t, err)
	t.Cleanup(func() { cancel(); <-f.Done() })
	return served{keys, set, f}
}

func (s served) rescan(t testing.TB) {
	t.Helper()
	must(t, s.folders.Rescan(t.Context()))
}

// paths returns the paths of all keys that are listed.
func (s served) paths() []string {
	var paths []string
	for _, info := range s.List() {
		paths = append(paths, info.Paths...)
	}
	slices.Sort(paths)
	return paths
}

func (s served) reason(path string) string {
	for _, skip := range s.folders.Skipped() {
		if skip.Path == path {
			return skip.Reason.Error()
		}
	}
	return ""
}

// key returns the Key of a file.
func (s served) key(t testing.TB, path string) *Key {
	t.Helper()
	e := s.set.entries[path]
	if e == nil || e.key == nil {
		t.Fatalf("%s is not a key: %s", path, s.reason(path))
	}
	return e.key
}

func bytesOf(t testing.TB, s string) secret.Bytes {
	b := secret.Copy([]byte(s))
	t.Cleanup(b.Wipe)
	return b
}

// eventually waits for what follows an event of the kernel's.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("not noticed: %s", what)
		}
	}
}
