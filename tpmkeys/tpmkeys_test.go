package tpmkeys

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

const corpus = "../tpm/keyfile/testdata/corpus"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dir(t testing.TB) string {
	t.Helper()
	d := filepath.Join(t.TempDir(), "keys")
	must(t, os.Mkdir(d, 0o700))
	return d
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o600))
}

func sample(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(corpus, name))
	must(t, err)
	return data
}

// served is a folder under watch, and the keys found in it.
type served struct {
	*keyring.Keys
	set     *Set
	folders *folder.Folders
}

func serveWith(t testing.TB, dir string, dev *tpm.Device, log io.Writer) served {
	t.Helper()
	keys := keyring.NewKeys(keyring.NewGate(nil))
	logger := slog.New(slog.NewTextHandler(log, nil))
	set := New(dev, keys, logger)
	ctx, cancel := context.WithCancel(context.Background())
	f, err := folder.Watch(ctx, folder.Options{Dirs: []string{dir}, Log: logger}, set)
	must(t, err)
	t.Cleanup(func() { cancel(); <-f.Done() })
	return served{keys, set, f}
}

// serve serves dir with a TPM at an address where nobody answers, unless a
// signature is wanted that is enough.
func serve(t testing.TB, dir string) served {
	t.Helper()
	return serveWith(t, dir, device(t, link.Address{Kind: link.Unix, Target: "/nonexistent/tpm"}), io.Discard)
}

func device(t testing.TB, a link.Address) *tpm.Device {
	t.Helper()
	dev := tpm.New(a, tpm.Options{})
	t.Cleanup(func() { _ = dev.Close() })
	return dev
}

func (s served) rescan(t testing.TB) {
	t.Helper()
	must(t, s.folders.Rescan(t.Context()))
}

func (s served) reason(path string) string {
	for _, skip := range s.folders.Skipped() {
		if skip.Path == path {
			return skip.Reason.Error()
		}
	}
	return ""
}

func (s served) paths() (paths []string) {
	for _, info := range s.List() {
		paths = append(paths, info.Paths...)
	}
	slices.Sort(paths)
	return paths
}

func (s served) key(t testing.TB, path string) *Key {
	t.Helper()
	e := s.set.entries[path]
	if e == nil {
		t.Fatalf("%s is not a key: %s", path, s.reason(path))
	}
	return e.key
}

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

// Files of real tools are listed by their contents, and what is not a usable
// key is left out with its reason.
func TestCorpus(t *testing.T) {
	d := dir(t)
	list, err := os.ReadDir(corpus)
	must(t, err)
	want := map[string]bool{} // NeedsAuth by path
	for i, e := range list {
		data := sample(t, e.Name())
		path := filepath.Join(d, fmt.Sprintf("some.file%02d", i))
		write(t, path, data)
		file, err := keyfile.Parse(data)
		if err == nil && file.Type != keyfile.Sealed {
			if _, err = file.PublicKey(); err == nil {
				want[path] = file.NeedsAuth()
			}
		}
	}
	s := serve(t, d)
	got := map[string]bool{}
	for _, info := range s.List() {
		for _, p := range info.Paths {
			got[p] = info.NeedsAuth
		}
		if info.Kind != keyring.KindTPM || info.Label == "" {
			t.Errorf("%+v", info)
		}
	}
	for path, auth := range want {
		if a, ok := got[path]; !ok || a != auth {
			t.Errorf("%s: listed %v, needs auth %v, want %v; %s", path, ok, a, auth, s.reason(path))
		}
	}
	if len(got) != len(want) || len(want) < 15 {
		t.Errorf("%d listed, want %d", len(got), len(want))
	}
}

func TestLeftOut(t *testing.T) {
	d := dir(t)
	at := func(name string) string { return filepath.Join(d, name) }
	good := sample(t, "openssl-p256.pem")
	write(t, at("good"), good)
	write(t, at("exposed"), good)
	must(t, os.Chmod(at("exposed"), 0o644))
	write(t, at("half"), good[:len(good)/2])
	write(t, at("garbled"), pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: bytes.Repeat([]byte{0x30, 0x84, 0xff}, 50)}))
	write(t, at("sealed"), sample(t, "tools-sealed.pem"))
	write(t, at("old"), sample(t, "tpm12.pem"))
	write(t, at("ssh"), []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"))
	write(t, at("junk"), bytes.Repeat([]byte{0xff, 0}, 20000))
	s := serve(t, d)
	if got := s.paths(); !slices.Equal(got, []string{at("good")}) {
		t.Errorf("served %q", got)
	}
	for name, want := range map[string]string{
		"exposed": "chmod 600", "half": "malformed", "garbled": "malformed", "old": "TPM 1.2",
		"sealed": "holds no key", "ssh": "holds no key", "junk": "holds no key",
	} {
		if got := s.reason(at(name)); !strings.Contains(got, want) {
			t.Errorf("%s: skipped because %q, want %q", name, got, want)
		}
	}
}

func TestWithoutTPM(t *testing.T) {
	d := dir(t)
	for i := range 100 {
		write(t, filepath.Join(d, fmt.Sprint(i)), sample(t, "openssl-p256.pem"))
	}
	var log bytes.Buffer
	s := serveWith(t, d, nil, &log)
	s.rescan(t)
	if len(s.List()) != 0 || !strings.Contains(s.reason(filepath.Join(d, "1")), "no TPM") {
		t.Errorf("listed %d, skipped because %q", len(s.List()), s.reason(filepath.Join(d, "1")))
	}
	if n := strings.Count(log.String(), "no TPM"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}

// A file that does not change keeps its Key and so its slot in the TPM, whatever
// happens around it; one that does is closed.
func TestUnchangedFileKeepsItsKey(t *testing.T) {
	d := dir(t)
	a, b := filepath.Join(d, "a"), filepath.Join(d, "b")
	write(t, a, sample(t, "openssl-p256.pem"))
	s := serve(t, d)
	k, gen := s.key(t, a), s.Generation()
	must(t, os.Chtimes(a, time.Time{}, time.Now().Add(-time.Hour)))
	write(t, filepath.Join(d, "config"), nil)
	write(t, b, sample(t, "openssl-p256.pem"))
	must(t, os.Rename(b, a)) // as careful editors save
	s.rescan(t)
	if s.key(t, a) != k || s.Generation() != gen {
		t.Error("it became another key")
	}
	write(t, b, sample(t, "openssl-p256.pem"))
	s.rescan(t)
	if list := s.List(); len(list) != 1 || !slices.Equal(list[0].Paths, []string{a, b}) {
		t.Errorf("the same key in two files: %+v", list)
	}
	other := s.key(t, b)
	write(t, a, sample(t, "openssl-p384.pem"))
	must(t, os.Remove(b))
	s.rescan(t)
	if list := s.List(); len(list) != 1 || list[0].ID == k.Info().ID {
		t.Errorf("%+v", list)
	}
	for _, old := range []*Key{k, other} {
		_, err := old.Sign(t.Context(), secret.Bytes{}, make([]byte, 32), crypto.SHA256)
		if !errors.Is(err, keyring.ErrUnavailable) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("a key whose file is gone: %v", err)
		}
	}
}

func TestFilesComeAndGo(t *testing.T) {
	d := dir(t)
	a := filepath.Join(d, "a")
	s := serve(t, d)
	whole := sample(t, "openssl-p256.pem")
	write(t, a, whole[:100])
	eventually(t, "half", func() bool { return s.reason(a) != "" })
	write(t, a, whole)
	eventually(t, "whole", func() bool { return len(s.List()) == 1 && s.reason(a) == "" })
	first := s.List()[0].ID
	write(t, a+".tmp", sample(t, "openssl-p384.pem"))
	must(t, os.Rename(a+".tmp", a))
	eventually(t, "replaced", func() bool { l := s.List(); return len(l) == 1 && l[0].ID != first })
	must(t, os.Remove(a))
	eventually(t, "removed", func() bool { return len(s.List()) == 0 })
}

func TestLabels(t *testing.T) {
	d := dir(t)
	path := filepath.Join(d, "id")
	write(t, path, sample(t, "openssl-p256.pem"))
	s := serve(t, d)
	k := s.key(t, path)
	line := "ecdsa-sha2-nistp256 " + base64.StdEncoding.EncodeToString(pubfile.Wire(k.Info().Public))
	for comment, want := range map[string]string{"": "id", "mia\u202e@laptop": "mia\ufffd@laptop"} {
		write(t, path+".pub", []byte(line+" "+comment+"\n"))
		s.rescan(t)
		if got := s.List()[0].Label; got != want || s.key(t, path) != k {
			t.Errorf("label %q, want %q; same key %v", got, want, s.key(t, path) == k)
		}
	}
	described := sample(t, "gokf-p256-description-pin.pem")
	file, err := keyfile.Parse(described)
	must(t, err)
	write(t, path, described) // beside it is another key's .pub
	s.rescan(t)
	if got := s.List()[0].Label; got != file.Description || got == "" {
		t.Errorf("label %q, want %q", got, file.Description)
	}
}

func TestTranslate(t *testing.T) {
	for from, to := range map[error]error{
		tpm.ErrAuthFailed: keyring.ErrAuthFailed, tpm.ErrLockedOut: keyring.ErrLockedOut,
		tpm.ErrLastTry: keyring.ErrTryWithheld, tpm.ErrWrongTPM: keyring.ErrUnavailable,
		tpm.ErrUnsupported: keyring.ErrUnsupported, tpm.ErrUnavailable: keyring.ErrUnavailable,
		error(&tpm.PolicyError{Step: "PCR 7"}): keyring.ErrUnavailable, io.EOF: keyring.ErrUnavailable,
		error(&tpm.LockoutError{}): keyring.ErrLockedOut,
	} {
		got := translate("/k", fmt.Errorf("layer: %w", from))
		if !errors.Is(got, to) || !errors.Is(got, from) || !strings.Contains(got.Error(), from.Error()) {
			t.Errorf("%v became %v, want %v", from, got, to)
		}
		n := 0
		for _, e := range append(slices.Clone(keyring.Errors), keyring.ErrTryWithheld) {
			if errors.Is(got, e) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%v is %d of the core's errors", from, n)
		}
	}
	if got := translate("/k", context.Canceled); got != context.Canceled {
		t.Errorf("a cancelled context became %v", got)
	}
}

// The contract of a key, on a TPM, with files of tpm2-openssl and tpm2-tools.
func TestContract(t *testing.T) {
	const pin = "not 1234"
	for name, mk := range map[string]func(*tpmtest.TPM) ([]byte, string){
		"P-256":            func(m *tpmtest.TPM) ([]byte, string) { return m.OpenSSLKey(t, tpmtest.EC256, "", 0), "" },
		"P-256 PIN":        func(m *tpmtest.TPM) ([]byte, string) { return m.OpenSSLKey(t, tpmtest.EC256, pin, 0), pin },
		"P-384 PIN":        func(m *tpmtest.TPM) ([]byte, string) { return m.OpenSSLKey(t, tpmtest.EC384, pin, 0), pin },
		"RSA":              func(m *tpmtest.TPM) ([]byte, string) { return m.OpenSSLKey(t, tpmtest.RSA2048, "", 0), "" },
		"RSA PIN":          func(m *tpmtest.TPM) ([]byte, string) { return m.OpenSSLKey(t, tpmtest.RSA2048, pin, 0), pin },
		"P-256 exempt PIN": func(m *tpmtest.TPM) ([]byte, string) { return m.ToolKey(t, tpmtest.ToolKey{PIN: pin}), pin },
		"importable PIN": func(m *tpmtest.TPM) ([]byte, string) {
			f, _ := m.ImportableKey(t, tpmtest.EC256, pin, 0)
			return f, pin
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := tpmtest.Start(t)
			data, auth := mk(m)
			d := dir(t)
			path := filepath.Join(d, "k")
			write(t, path, data)
			s := serveWith(t, d, device(t, m.Address()), io.Discard)
			k := s.key(t, path)
			keyringtest.TestKey(t, func(*testing.T) (keyring.Key, string) { return k, auth })
		})
	}
}

func TestWrongTPM(t *testing.T) {
	d := dir(t)
	write(t, filepath.Join(d, "k"), tpmtest.Start(t).OpenSSLKey(t, tpmtest.EC256, "", 0))
	s := serveWith(t, d, device(t, tpmtest.Start(t).Address()), io.Discard)
	_, err := s.key(t, filepath.Join(d, "k")).Sign(t.Context(), secret.Bytes{}, make([]byte, 32), crypto.SHA256)
	if !errors.Is(err, keyring.ErrUnavailable) || !errors.Is(err, tpm.ErrWrongTPM) {
		t.Errorf("error %v", err)
	}
}

// thousand writes a thousand TPM key files.
func thousand(t testing.TB) string {
	d := dir(t)
	list, err := filepath.Glob(corpus + "/openssl-*")
	must(t, err)
	for i := range 1000 {
		data, err := os.ReadFile(list[i%len(list)])
		must(t, err)
		write(t, filepath.Join(d, fmt.Sprintf("k%04d", i)), data)
	}
	return d
}

func TestThousandFilesAndNoCommand(t *testing.T) {
	relay := tpmtest.Start(t).Relay()
	d := thousand(t)
	start := time.Now()
	s := serveWith(t, d, device(t, relay.Address()), io.Discard)
	took := time.Since(start)
	if n := len(s.paths()); n != 1000 || relay.Total() != 0 {
		t.Errorf("%d files, %d commands", n, relay.Total())
	}
	t.Logf("1000 files in %v, %d TPM commands", took, relay.Total())
}

func BenchmarkFirstScan1000(b *testing.B) {
	d := thousand(b)
	for b.Loop() {
		serve(b, d)
	}
}
