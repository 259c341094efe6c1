package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t testing.TB, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// put writes two files, as a key and its public half are.
func put(step Step, dir string, replace bool) error {
	s, err := Stage(step,
		File{Path: filepath.Join(dir, "key"), Data: []byte("new key"), Perm: 0o600, Replace: replace},
		File{Path: filepath.Join(dir, "key.pub"), Data: []byte("new pub"), Perm: 0o644, Replace: replace})
	if err != nil {
		return err
	}
	return s.Commit()
}

func TestPutsFilesInPlace(t *testing.T) {
	dir := t.TempDir()
	if err := put(nil, dir, false); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"key", "key.pub"}) {
		t.Errorf("there is %q", got)
	}
	for name, perm := range map[string]fs.FileMode{"key": 0o600, "key.pub": 0o644} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != perm {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if err := put(nil, dir, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over files that are there: %v", err)
	}
	if err := put(nil, dir, true); err != nil {
		t.Error(err)
	}
}

// Only one of them is there: nothing is written, not even beside it.
func TestOneIsThere(t *testing.T) {
	for _, there := range []string{"key", "key.pub"} {
		dir := t.TempDir()
		if err := os.Symlink("nowhere", filepath.Join(dir, there)); err != nil {
			t.Fatal(err)
		}
		if err := put(nil, dir, false); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", there, err)
		}
		if got := names(t, dir); !slices.Equal(got, []string{there}) {
			t.Errorf("%s: there is %q", there, got)
		}
	}
}

// Somebody else makes the file between staging and committing.
func TestRaceIsNotWon(t *testing.T) {
	dir := t.TempDir()
	err := put(func(what, path string) error {
		if what == "link" && strings.HasSuffix(path, ".pub") {
			return os.WriteFile(path, []byte("theirs"), 0o600)
		}
		return nil
	}, dir, false)
	if !errors.Is(err, fs.ErrExist) || read(t, filepath.Join(dir, "key.pub")) != "theirs" {
		t.Errorf("%v; %s", err, read(t, filepath.Join(dir, "key.pub")))
	}
	if got := names(t, dir); !slices.Equal(got, []string{"key.pub"}) {
		t.Errorf("there is %q", got)
	}
}

func TestTemporaryNamesAreKnown(t *testing.T) {
	for path, want := range map[string]bool{temporary("/k/id"): true, "/k/id": false, "/k/.id": false, "/k/id" + suffix: false} {
		if IsTemporary(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

func TestReplacesBehindALink(t *testing.T) {
	dir, store := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(store, "k"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(store, "k"), filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	if err := put(nil, dir, true); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(filepath.Join(dir, "key")); err != nil || st.Mode()&fs.ModeSymlink == 0 || read(t, filepath.Join(store, "k")) != "new key" {
		t.Errorf("%v, %v, %s", st.Mode(), err, read(t, filepath.Join(store, "k")))
	}
}

func TestFilesystemWithoutLinks(t *testing.T) {
	dir := t.TempDir()
	s, err := Stage(nil, File{Path: filepath.Join(dir, "key"), Data: []byte("new key"), Perm: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.placeWithoutLinks(&s.files[0]); err != nil || read(t, filepath.Join(dir, "key")) != "new key" {
		t.Errorf("%v: %s", err, read(t, filepath.Join(dir, "key")))
	}
	again, err := Stage(nil, File{Path: filepath.Join(dir, "other"), Data: []byte("x"), Perm: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.placeWithoutLinks(&again.files[0]); !errors.Is(err, fs.ErrExist) || read(t, filepath.Join(dir, "other")) != "theirs" {
		t.Errorf("%v: %s", err, read(t, filepath.Join(dir, "other")))
	}
}

// steps counts what put does to the disk.
func steps(t *testing.T, replace bool) int {
	n := 0
	dir := start(t, replace)
	if err := put(func(string, string) error { n++; return nil }, dir, replace); err != nil {
		t.Fatal(err)
	}
	return n
}

func start(t *testing.T, replace bool) string {
	dir := t.TempDir()
	if replace {
		for _, name := range []string{"key", "key.pub"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("old "+name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// whole wants each file as it was or as it should be.
func whole(t *testing.T, at string, dir string, replace bool) {
	t.Helper()
	for name, fresh := range map[string]string{"key": "new key", "key.pub": "new pub"} {
		old := "nothing"
		if replace {
			old = "old " + name
		}
		if got := read(t, filepath.Join(dir, name)); got != old && got != fresh {
			t.Errorf("%s: %s holds %q", at, name, got)
		}
	}
}

// An error at each step leaves whole files, and nothing beside them.
func TestErrorAtEachStep(t *testing.T) {
	full := fmt.Errorf("disk: %w", syscall.ENOSPC)
	for _, replace := range []bool{false, true} {
		for n := range steps(t, replace) {
			dir, i, at := start(t, replace), 0, ""
			err := put(func(what, path string) error {
				if i++; i-1 == n {
					at = what + " " + filepath.Base(path)
					return full
				}
				return nil
			}, dir, replace)
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: %v", at, err)
			}
			whole(t, at, dir, replace)
			for _, name := range names(t, dir) {
				if strings.HasSuffix(name, suffix) {
					t.Errorf("%s: left %s", at, name)
				}
			}
		}
	}
}

const crashAt = "ATOMICFILE_TEST_CRASH_AT"

// TestMain is the program that is killed, when it is told to be.
func TestMain(m *testing.M) {
	at, err := strconv.Atoi(os.Getenv(crashAt))
	if err != nil {
		os.Exit(m.Run())
	}
	dir, replace := os.Args[1], os.Args[2] == "true"
	if at < 0 { // nothing fits on the disk
		signal.Ignore(syscall.SIGXFSZ)
		_ = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 3, Max: 3})
	}
	i := 0
	err = put(func(string, string) error {
		if i++; i-1 == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}, dir, replace)
	if err != nil {
		os.Exit(3)
	}
	os.Exit(0)
}

func crash(t *testing.T, at int, dir string, replace bool) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir, strconv.FormatBool(replace))
	cmd.Env = append(os.Environ(), crashAt+"="+strconv.Itoa(at))
	_ = cmd.Run()
	return cmd
}

// A kill at each step leaves whole files, and does not stand in the way of the
// next who writes them.
func TestKilledAtEachStep(t *testing.T) {
	for _, replace := range []bool{false, true} {
		for n := range steps(t, replace) {
			dir := start(t, replace)
			if crash(t, n, dir, replace).ProcessState.Exited() {
				t.Fatalf("step %d: not killed", n)
			}
			whole(t, fmt.Sprint("step ", n), dir, replace)
			_ = os.Remove(filepath.Join(dir, "key.pub"))
			if read(t, filepath.Join(dir, "key")) == "nothing" {
				if err := put(nil, dir, false); err != nil {
					t.Errorf("after a kill at step %d: %v", n, err)
				}
			} else if err := put(nil, dir, true); err != nil {
				t.Errorf("after a kill at step %d: %v", n, err)
			}
			if got := names(t, dir); !slices.Equal(got, []string{"key", "key.pub"}) {
				t.Errorf("after a kill at step %d there is %q", n, got)
			}
		}
	}
}

func TestFullDisk(t *testing.T) {
	for _, replace := range []bool{false, true} {
		dir := start(t, replace)
		if code := crash(t, -1, dir, replace).ProcessState.ExitCode(); code != 3 {
			t.Errorf("exit status %d", code)
		}
		for _, name := range []string{"key", "key.pub"} {
			if got := read(t, filepath.Join(dir, name)); strings.HasPrefix(got, "new") {
				t.Errorf("%s holds %q", name, got)
			}
		}
	}
}
