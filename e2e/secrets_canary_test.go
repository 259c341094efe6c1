package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secretstest"
)

// canaries are byte strings that occur nowhere by chance.
type canaries []string

func newCanaries(what string, n int) canaries {
	list := make(canaries, n)
	for i := range list {
		b := make([]byte, 16)
		_, _ = rand.Read(b)
		list[i] = fmt.Sprintf("%s-%s", what, hex.EncodeToString(b))
	}
	return list
}

// in returns those that occur in data. All of a kind begin alike, so that one
// look at the data is enough.
func (c canaries) in(data []byte) (found []string) {
	prefix, _, _ := strings.Cut(c[0], "-")
	known := make(map[string]bool, len(c))
	for _, one := range c {
		known[one] = true
	}
	for {
		at := bytes.Index(data, []byte(prefix+"-"))
		if at < 0 {
			return found
		}
		if end := at + len(c[0]); end <= len(data) && known[string(data[at:end])] {
			found = append(found, string(data[at:end]))
		}
		data = data[at+1:]
	}
}

// memory returns what a process has in memory that can be written to, as a core
// dump would. An error is the kernel's refusal to show it.
func memory(pid int) ([]byte, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	var all []byte
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uint64
		var permissions string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &permissions); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(permissions, "rw") {
			continue
		}
		part := make([]byte, to-from)
		n, err := mem.ReadAt(part, int64(from))
		if err != nil && !errors.Is(err, io.EOF) && n == 0 {
			continue // locked away even from a debugger, or gone
		}
		all = append(all, part[:n]...)
	}
	if len(all) == 0 {
		return nil, errors.New("nothing can be read")
	}
	return all, nil
}

// TestCanaries stores a thousand secrets and looks for them where they must not
// be: in the data folder, with their labels and attributes, in the journal, in
// the daemon's environment, and in its memory once the keyring is locked. The
// passphrase is nowhere either.
func TestCanaries(t *testing.T) {
	t.Parallel()
	needPython(t, "import secretstorage")
	c := newCabinet(t, "none")
	client := c.open()
	const n = 1000
	kinds := map[string]canaries{
		"secret": newCanaries("QSECRET", n), "label": newCanaries("QLABEL", n), "attribute": newCanaries("QATTRIBUTE", n),
		"passphrase": {passphrase},
	}
	var lines strings.Builder
	for i := range n {
		fmt.Fprintln(&lines, kinds["label"][i], kinds["attribute"][i], kinds["secret"][i])
	}
	c.must(lines.String(), python, testdata(t, "secrets_canary.py"))

	look := func(where string, data []byte, kinds map[string]canaries) {
		t.Helper()
		for kind, list := range kinds {
			if found := list.in(data); len(found) > 0 {
				t.Errorf("in %s: %d times a %s, such as %s", where, len(found), kind, found[0])
			}
		}
	}
	folder := func() {
		t.Helper()
		files := 0
		for _, dir := range []string{filepath.Join(c.Dir, "data"), filepath.Join(c.Dir, "run"), c.Runtime()} {
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				data, err := os.ReadFile(path)
				look(path, data, kinds)
				files++
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if files < 2 {
			t.Errorf("%d files in the data folder", files)
		}
	}
	folder()
	look("the journal", []byte(c.Log.String()), kinds)
	for _, name := range []string{"environ", "cmdline"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", c.PID(), name))
		if err == nil {
			look(name, data, kinds)
		} else if !errors.Is(err, fs.ErrPermission) { // which is as good
			t.Error(err)
		}
	}

	if err := client.Lock(secretstest.Login); err != nil {
		t.Fatal(err)
	}
	if data, err := memory(c.PID()); err != nil {
		t.Logf("the daemon's memory cannot be read: %v", err)
	} else {
		look("memory", data, map[string]canaries{"secret": kinds["secret"], "passphrase": kinds["passphrase"]})
		// What items are called is not wiped, but left to the garbage collector.
		t.Logf("in %d MiB of a locked daemon's memory: %d labels, %d attributes", len(data)>>20, len(kinds["label"].in(data)), len(kinds["attribute"].in(data)))
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	folder()
	look("the journal", []byte(c.Log.String()), kinds)
}
