package foreign

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
)

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every file is accounted for, and one that is bad keeps none of the others.
func TestFolderWithAllSorts(t *testing.T) {
	dir := t.TempDir()
	encrypted := golden(t, "encrypted.keyring")
	put(t, filepath.Join(dir, "one.keyring"), encrypted)
	put(t, filepath.Join(dir, "two.keyring"), encrypted)
	put(t, filepath.Join(dir, "skipped.keyring"), golden(t, "folder/Other.keyring"))
	put(t, filepath.Join(dir, "v1", "one.keyring"), sealPortable(nil, testItems()...))
	put(t, filepath.Join(dir, "broken.keyring"), golden(t, "broken.keyring"))
	put(t, filepath.Join(dir, "junk.keyring"), []byte("junk"))
	put(t, filepath.Join(dir, "one.keyring.temp-1"), encrypted)
	put(t, filepath.Join(dir, "user.keystore"), nil)
	if err := os.Mkdir(filepath.Join(dir, "folder.keyring"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.keyring"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	r := Reader{Ask: func(_ context.Context, f File, retry bool) (secret.Bytes, error) {
		if retry != (asked[f.Name] > 0) {
			t.Errorf("%s: asked %d times, retry %v", f.Name, asked[f.Name], retry)
		}
		asked[f.Name]++
		if f.Name == "skipped" {
			return secret.Bytes{}, ErrSkip
		}
		return bytesOf("sesame"), nil
	}}
	missing := filepath.Join(dir, "missing")
	results, err := r.Read(t.Context(), dir, missing, filepath.Join(dir, "one.keyring"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Result{}
	for _, r := range results {
		name, err := filepath.Rel(dir, r.File.Path)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = r
		if (r.Keyring == nil) == (r.Err == nil) {
			t.Errorf("%s: neither or both: %+v", name, r)
		}
	}
	for name, want := range map[string]error{
		"one.keyring": nil, "two.keyring": nil, "v1/one.keyring": nil, "broken.keyring": nil,
		"skipped.keyring": ErrSkip, "junk.keyring": ErrFormat, "folder.keyring": ErrFormat, "pipe.keyring": ErrFormat, "missing": fs.ErrNotExist,
	} {
		r, ok := got[name]
		if !ok || !errors.Is(r.Err, want) {
			t.Errorf("%s: %v, want %v", name, r.Err, want)
		}
	}
	if len(results) != 9 {
		t.Errorf("%d results", len(results))
	}
	if asked["one"] != 1 || asked["two"] != 0 || asked["skipped"] != 1 {
		t.Errorf("asked %v; a password that fits two keyrings is asked for once", asked)
	}
}

func TestWrongPasswordsEnd(t *testing.T) {
	asked := 0
	r := Reader{Ask: func(context.Context, File, bool) (secret.Bytes, error) { asked++; return bytesOf("no"), nil }}
	results, err := r.Read(t.Context(), "testdata/folder/login.keyring")
	if err != nil || len(results) != 1 || !isPassword(results[0].Err) || asked != maxTries {
		t.Errorf("%+v %v, asked %d times", results, err, asked)
	}
	results, err = (&Reader{}).Read(t.Context(), "testdata/folder/login.keyring", "testdata/folder/Blank.keyring")
	if err != nil || len(results) != 2 || !errors.Is(results[0].Err, ErrSkip) || results[1].Keyring == nil {
		t.Errorf("with nobody to ask: %+v %v", results, err)
	}
}

// Who ends the whole gets no part of it.
func TestReadEnds(t *testing.T) {
	gone := errors.New("gone")
	r := Reader{Ask: func(context.Context, File, bool) (secret.Bytes, error) { return secret.Bytes{}, gone }}
	if results, err := r.Read(t.Context(), "testdata/folder"); !errors.Is(err, gone) || results != nil {
		t.Errorf("%+v %v", results, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if results, err := r.Read(ctx, "testdata/folder"); !errors.Is(err, context.Canceled) || results != nil {
		t.Errorf("%+v %v", results, err)
	}
}

func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.keyring")
	put(t, path, nil)
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	results, err := (&Reader{}).Read(t.Context(), path)
	if err != nil || !errors.Is(results[0].Err, ErrFormat) {
		t.Errorf("%+v %v", results, err)
	}
}
