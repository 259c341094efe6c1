package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/store"
)

// copierDir tells the test binary to make a store there, and copies of it.
const copierDir = "KEYRINGD_STORE_COPIER"

func writeAndCopy(dir string) error {
	s, err := store.Open(testContext(), options(dir))
	if err != nil {
		return err
	}
	pass := keyring.Credential{Kind: keyring.SlotPassphrase, Value: secret.Copy([]byte("pass"))}
	c, err := s.Create(testContext(), "login", "Login", pass)
	for n := 0; n < 2 && err == nil; n++ {
		err = errors.Join(writeOne(c, "name", fmt.Sprint("value ", n)), s.Backup())
	}
	return errors.Join(err, s.Close())
}

// What strace -y shows of calls, as they begin.
var (
	onFile   = regexp.MustCompile(`^\d+ +(write|pwrite64|fsync|fdatasync)\(\d+<([^>]+)>`)
	renaming = regexp.MustCompile(`^\d+ +rename(?:at2?)?\([^"]*"([^"]+)"[^"]*"([^"]+)"`)
)

// TestOnDiskBeforeItsName: a file gets the name that the store knows it by when
// all of it is on the disk, and then so is the name. A power cut may come at any
// moment.
func TestOnDiskBeforeItsName(t *testing.T) {
	bustest.Need(t, "strace")
	if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("nothing can be traced here: %v: %s", err, out)
	}
	base, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	dir, trace := filepath.Join(base, "data"), filepath.Join(base, "trace")
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-y", "-qq", "-o", trace,
		"-e", "trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2", os.Args[0])
	cmd.Env = append(os.Environ(), copierDir+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(trace)
	must(t, err)
	written, synced := map[string]bool{}, map[string]bool{}
	named := 0
	for line := range strings.Lines(string(text)) {
		if m := onFile.FindStringSubmatch(line); m != nil {
			sync := strings.HasSuffix(m[1], "sync")
			written[m[2]] = written[m[2]] || !sync
			synced[m[2]] = sync
		}
		m := renaming.FindStringSubmatch(line)
		if m == nil || !written[m[1]] { // what was not written is not there
			continue
		}
		if named++; !synced[m[1]] {
			t.Errorf("%s is named %s before it is on the disk", m[1], m[2])
		}
		written[m[2]], synced[m[2]] = true, synced[m[1]]
		synced[filepath.Dir(m[2])] = false
	}
	if named < 4 { // the database, a copy, that once more, and the second copy
		t.Errorf("%d files were named:\n%s", named, text)
	}
	if !synced[dir] {
		t.Error("a name is not on the disk")
	}
}
