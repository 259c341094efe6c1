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
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"

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

// passPlainly stores and reads secrets over a D-Bus session without encryption,
// as many programs do that are written in Go, in each of the ways there are; and
// others that the daemon refuses, at each step at which it can.
func passPlainly(client *secretstest.Client, good, refused canaries) error {
	var all []godbus.ObjectPath
	for i, value := range good {
		path, err := client.Store(secretstest.Login, fmt.Sprint("plain ", i), map[string]string{"plain": fmt.Sprint(i / 2)}, []byte(value), i%2 == 1)
		if err == nil && i%3 == 0 {
			err = client.SetSecret(path, []byte(value))
		}
		var got []byte
		if err == nil {
			got, err = client.Secret(path)
		}
		if err != nil || string(got) != value {
			return fmt.Errorf("secret %d is %q, %w", i, got, err)
		}
		all = append(all, path)
	}
	for i := range 20 {
		if got, err := client.Secrets(all[i*len(all)/20:]...); err != nil || len(got) == 0 {
			return fmt.Errorf("%d secrets, %w", len(got), err)
		}
	}
	for i, value := range refused {
		var err error
		switch i % 4 {
		case 0: // no such item
			err = client.SetSecret(secretstest.Login+"/0", []byte(value))
		case 1: // no such collection
			_, err = client.Store(secretstest.Login+"x", "x", nil, []byte(value), false)
		case 2: // a session that is none, and a label that is none
			s := secretstest.Secret{Session: "/none", Parameters: []byte{}, Value: []byte(value), ContentType: "text/plain"}
			err = client.Call(secretstest.Login, "org.freedesktop.Secret.Collection.CreateItem",
				[]any{map[string]godbus.Variant{"org.freedesktop.Secret.Item.Label": godbus.MakeVariant(i)}, s, false})
		case 3: // the wrong passphrase
			s := secretstest.Secret{Session: "/none", Parameters: []byte{}, Value: []byte(value), ContentType: "text/plain"}
			err = client.Call("/org/freedesktop/secrets", "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface.UnlockWithMasterPassword",
				[]any{secretstest.Login, s})
		}
		if err == nil {
			return fmt.Errorf("secret %d is not refused", i)
		}
	}
	return nil
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
		"passphrase": {passphrase}, "plain secret": newCanaries("QPLAIN", n), "refused secret": newCanaries("QREFUSED", n/10),
	}
	var lines strings.Builder
	for i := range n {
		fmt.Fprintln(&lines, kinds["label"][i], kinds["attribute"][i], kinds["secret"][i])
	}
	c.must(lines.String(), python, testdata(t, "secrets_canary.py"))
	if err := passPlainly(client, kinds["plain secret"], kinds["refused secret"]); err != nil {
		t.Fatal(err)
	}

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
		what := maps.Clone(kinds)
		delete(what, "label")
		delete(what, "attribute")
		look("memory", data, what)
		// What items are called is not wiped, but left to the garbage collector.
		t.Logf("in %d MiB of a locked daemon's memory: %d labels, %d attributes", len(data)>>20, len(kinds["label"].in(data)), len(kinds["attribute"].in(data)))
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	folder()
	look("the journal", []byte(c.Log.String()), kinds)
}
