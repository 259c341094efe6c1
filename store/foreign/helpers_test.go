package foreign

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
)

func bytesOf(s string) secret.Bytes { return secret.Copy([]byte(s)) }

func reveal(b secret.Bytes) (s string) {
	b.Use(func(p []byte) { s = string(p) })
	return s
}

func isPassword(err error) bool { return errors.Is(err, ErrPassword) }

// checkFolder reads a folder with the keyrings login ("sesame"), Other (its
// password lies in login) and Blank, of which Other is the default, and wants
// that nothing in it changes.
func checkFolder(t *testing.T, dir string) {
	t.Helper()
	before := snapshot(t, dir)
	var asked []string
	r := Reader{Ask: func(_ context.Context, f File, retry bool) (secret.Bytes, error) {
		asked = append(asked, f.Name)
		if !retry {
			return bytesOf("wrong"), nil
		}
		return bytesOf("sesame"), nil
	}}
	results, err := r.Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2 || asked[0] != login || asked[1] != login {
		t.Errorf("asked for %q", asked)
	}
	got := map[string]Result{}
	for _, r := range results {
		got[r.File.Name] = r
		if r.Err != nil {
			t.Errorf("%s: %v", r.File.Path, r.Err)
		}
	}
	for name, secret := range map[string]string{"Other": "deep", "Blank": "shallow", login: "its own"} {
		r := got[name]
		if r.Keyring == nil || len(r.Keyring.Items) != 1 || reveal(r.Keyring.Items[0].Secret) != secret || r.Keyring.Name != name {
			t.Errorf("%s: %+v", name, r)
		}
		if r.File.Default != (name == "Other") || r.Chained != (name == "Other") || r.File.NeedsPassword != (name != "Blank") {
			t.Errorf("%s: %+v", name, r.File)
		}
	}
	if len(results) != 3 {
		t.Errorf("%d results", len(results))
	}
	after := snapshot(t, dir)
	if len(after) != len(before) {
		t.Errorf("%d files, then %d", len(before), len(after))
	}
	for path, sum := range before {
		if after[path] != sum {
			t.Errorf("%s was touched", path)
		}
	}
}

type state struct {
	sum   [32]byte
	mode  os.FileMode
	mtime int64
}

func snapshot(t *testing.T, dir string) map[string]state {
	t.Helper()
	all := map[string]state{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = state{sha256.Sum256(data), info.Mode(), info.ModTime().UnixNano()}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
