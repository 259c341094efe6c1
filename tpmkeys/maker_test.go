package tpmkeys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/attest"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// a workshop is a Maker with all that it needs, and a user to answer it.
type workshop struct {
	*Maker
	t    *testing.T
	sim  *tpmtest.TPM
	dir  string
	user *keyringtest.FakePrompter
}

var by = keyring.Caller{FrontEnd: "test", PID: 1, Program: "/usr/bin/keyringctl"}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	sim := tpmtest.Start(t)
	return newWorkshopOn(t, sim, device(t, sim.ResourceManager().Address()), dir(t))
}

func newWorkshopOn(t *testing.T, sim *tpmtest.TPM, dev *tpm.Device, dir string) *workshop {
	t.Helper()
	w := &workshop{t: t, sim: sim, dir: dir, user: &keyringtest.FakePrompter{}}
	gate := keyring.NewGate(w.user)
	keys := keyring.NewKeys(gate)
	ctx, cancel := context.WithCancel(context.Background())
	f, err := folder.Watch(ctx, folder.Options{Dirs: []string{dir}}, New(dev, keys, nil))
	must(t, err)
	t.Cleanup(func() { cancel(); <-f.Done() })
	w.Maker = &Maker{Device: dev, Keys: keys, Gate: gate, Dirs: []string{dir}, Rescan: f.Rescan}
	return w
}

func (w *workshop) path(name string) string { return filepath.Join(w.dir, name) }

// answers scripts what the user will say.
func (w *workshop) answers(passphrases ...string) {
	for _, p := range passphrases {
		w.user.Script(keyringtest.Reply{Passphrase: p})
	}
}

// asked wants these questions since the last call, in words that begin so.
func (w *workshop) asked(kinds ...prompt.Kind) []prompt.Question {
	w.t.Helper()
	q := w.user.Questions()
	var got []prompt.Kind
	for _, one := range q {
		got = append(got, one.Kind)
		if one.Caller == "" || one.Subject == "" {
			w.t.Errorf("a question that does not say who asks or about what: %+v", one)
		}
	}
	if !slices.Equal(got, kinds) {
		w.t.Errorf("asked %v, want %v", got, kinds)
	}
	w.user.Reset()
	return q
}

// works has a listed key sign, with the PIN typed where one is asked for.
func (w *workshop) works(id keyring.KeyID, pin string) {
	w.t.Helper()
	w.user.Reset()
	w.user.Default = func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: pin} }
	defer func() { w.user.Default = nil; w.user.Reset() }()
	w.Gate.Lock()
	digest := sha256.Sum256([]byte("x"))
	if _, err := w.Keys.Sign(w.t.Context(), keyring.SignRequest{Caller: by, Key: id, Digest: digest[:], Opts: crypto.SHA256}); err != nil {
		w.t.Errorf("sign: %v", err)
	}
	if asked := len(w.user.Questions()); asked != 0 != (pin != "") || asked > 1 {
		w.t.Errorf("asked %d times for PIN %q", asked, pin)
	}
	w.Gate.Lock()
}

func (w *workshop) create(name, pin string) keyring.Made {
	w.t.Helper()
	if pin != "" {
		w.answers(pin)
	}
	made, err := w.Create(w.t.Context(), keyring.CreateRequest{Caller: by,
		Target: keyring.Target{Path: name, Comment: "mia@laptop", PIN: pin != ""}})
	must(w.t, err)
	w.user.Reset()
	return made
}

func listing(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestMakeAKey(t *testing.T) {
	w := newWorkshop(t)
	var progress []keyring.Progress
	w.answers("1234")
	made, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{
		Path: "id", Comment: "mia\n@laptop", PIN: true, Progress: func(p keyring.Progress) { progress = append(progress, p) },
	}, CertificateRequest: &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mia"}}})
	must(t, err)
	if q := w.asked(prompt.NewPassphrase)[0]; !q.PIN {
		t.Errorf("asked %+v", q)
	}
	if want := []keyring.Progress{keyring.ProgressAsking, keyring.ProgressMaking, keyring.ProgressWriting}; !slices.Equal(progress, want) {
		t.Errorf("progress %q", progress)
	}
	info, err := w.Keys.Find(made.ID)
	if err != nil || !info.NeedsAuth || info.Kind != keyring.KindTPM || !strings.HasPrefix(info.Label, "mia") {
		t.Errorf("it is listed as %+v, %v", info, err)
	}
	for name, perm := range map[string]fs.FileMode{"id": 0o600, "id.pub": 0o644} {
		if st, err := os.Stat(w.path(name)); err != nil || st.Mode().Perm() != perm {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if got := listing(t, w.dir); !slices.Equal(got, []string{"id", "id.pub"}) {
		t.Errorf("there is %q", got)
	}
	csr, err := x509.ParseCertificateRequest(made.CertificateRequest)
	if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != "mia" {
		t.Errorf("certificate request: %v", err)
	}
	w.works(made.ID, "1234")
	if _, err := exec.LookPath("ssh-keygen"); err == nil {
		if out, err := exec.Command("ssh-keygen", "-l", "-f", w.path("id.pub")).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("ECDSA")) {
			t.Errorf("ssh-keygen: %s", out)
		}
	}

	// Neither file is overwritten, and nobody is asked for nothing.
	for _, there := range []string{"id", "id.pub"} {
		_, err = w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: "id", PIN: true}})
		if !errors.Is(err, fs.ErrExist) || !errors.Is(err, keyring.ErrUnsupported) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("over %s: %v", there, err)
		}
		_ = os.Remove(w.path("id")) // then only the other one is there
	}
	w.asked()
	again, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: "id", Force: true}})
	must(t, err)
	w.works(again.ID, "")
	w.asked()
}

func TestMakeElsewhere(t *testing.T) {
	w := newWorkshop(t)
	other := t.TempDir()
	made, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: filepath.Join(other, "id")}, Algorithm: "ecdsa-p384"})
	must(t, err)
	if len(made.Notes) != 1 || !strings.Contains(made.Notes[0], "no key folder") {
		t.Errorf("notes %q", made.Notes)
	}
	if _, err := w.Keys.Find(made.ID); err == nil {
		t.Error("it is listed")
	}
}

func TestRequestsThatCannotBe(t *testing.T) {
	w := newWorkshop(t)
	must(t, os.Mkdir(w.path("dir"), 0o700))
	for name, c := range map[string]struct {
		r    keyring.CreateRequest
		is   error
		want string
	}{
		"no name":           {keyring.CreateRequest{}, keyring.ErrUnsupported, "not a file's name"},
		"relative":          {keyring.CreateRequest{Target: keyring.Target{Path: "a/b"}}, keyring.ErrUnsupported, "neither"},
		"up":                {keyring.CreateRequest{Target: keyring.Target{Path: ".."}}, keyring.ErrUnsupported, "neither"},
		"a directory":       {keyring.CreateRequest{Target: keyring.Target{Path: "dir", Force: true}}, keyring.ErrUnsupported, "directory"},
		"nowhere":           {keyring.CreateRequest{Target: keyring.Target{Path: "/nonexistent/key"}}, keyring.ErrNotFound, "/nonexistent"},
		"no such algorithm": {keyring.CreateRequest{Target: keyring.Target{Path: "k"}, Algorithm: "ed25519"}, keyring.ErrUnsupported, "there are ecdsa-p256"},
		"not in this TPM":   {keyring.CreateRequest{Target: keyring.Target{Path: "k"}, Algorithm: "rsa-4096"}, keyring.ErrUnsupported, "it has ecdsa-p256"},
		"no such PCR":       {keyring.CreateRequest{Target: keyring.Target{Path: "k", PCRs: "sha256:99"}}, keyring.ErrUnsupported, "register"},
		"no such parent":    {keyring.CreateRequest{Target: keyring.Target{Path: "k", Parent: 0x81000077}}, keyring.ErrUnavailable, "0x81000077"},
		"a strange parent":  {keyring.CreateRequest{Target: keyring.Target{Path: "k", Parent: 1}}, keyring.ErrUnsupported, "parent"},
	} {
		_, err := w.Create(t.Context(), c.r)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed})
	if _, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: "k", PIN: true}}); !errors.Is(err, keyring.ErrDenied) {
		t.Errorf("dismissed: %v", err)
	}
	w.answers("", strings.Repeat("x", 33), "good")
	made, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: "k", PIN: true}})
	must(t, err)
	w.works(made.ID, "good")
	none := &Maker{Keys: w.Keys, Gate: w.Gate, Dirs: w.Dirs}
	if _, err := none.Create(t.Context(), keyring.CreateRequest{Target: keyring.Target{Path: "n"}}); !errors.Is(err, keyring.ErrUnavailable) || !strings.Contains(err.Error(), "no TPM") {
		t.Errorf("no TPM: %v", err)
	}
	nobody := &Maker{Device: w.Device, Keys: w.Keys, Gate: keyring.NewGate(nil), Dirs: w.Dirs}
	if _, err := nobody.Create(t.Context(), keyring.CreateRequest{Target: keyring.Target{Path: "n", PIN: true}}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("nobody to ask: %v", err)
	}
	if got := listing(t, w.dir); !slices.Equal(got, []string{"dir", "k", "k.pub"}) {
		t.Errorf("there is %q", got)
	}
}

// A disk that garbles what it is given gets no key in the place of a good one.
func TestDiskGarbles(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "1234")
	good, err := os.ReadFile(w.path("id"))
	must(t, err)
	w.step = func(what, path string) error {
		if what != "sync" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err == nil {
			data[len(data)/2] ^= 1
			err = os.WriteFile(path, data, 0o600)
		}
		return err
	}
	for name, force := range map[string]bool{"fresh": false, "id": true} {
		target := keyring.Target{Path: name, Force: force}
		if _, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: target}); !errors.Is(err, keyring.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.step = nil
	if got := listing(t, w.dir); !slices.Equal(got, []string{"id", "id.pub"}) {
		t.Errorf("there is %q", got)
	}
	if got, err := os.ReadFile(w.path("id")); err != nil || !bytes.Equal(got, good) {
		t.Errorf("the key's file is another: %v", err)
	}
	w.works(made.ID, "1234")
}

func TestImportASoftwareKey(t *testing.T) {
	w := newWorkshop(t)
	tpmtest.Require(t, "ssh-keygen", "openssl")
	src := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = src
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %s", name, args, out)
		}
	}
	run("ssh-keygen", "-q", "-t", "ecdsa", "-f", "openssh", "-N", "old passphrase", "-C", "from ssh-keygen", "-a", "1")
	run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "pkcs8")
	run("openssl", "pkcs8", "-topk8", "-in", "pkcs8", "-out", "encrypted", "-passout", "pass:old passphrase", "-iter", "1000")
	run("openssl", "req", "-x509", "-key", "pkcs8", "-subj", "/CN=mia", "-out", "cert")
	run("openssl", "pkcs12", "-export", "-inkey", "pkcs8", "-in", "cert", "-out", "p12", "-passout", "pass:old passphrase")
	for i, name := range []string{"openssh", "pkcs8", "encrypted", "p12"} {
		before, err := os.ReadFile(filepath.Join(src, name))
		must(t, err)
		var kinds []prompt.Kind
		if name != "pkcs8" {
			w.answers("wrong", "old passphrase")
			kinds = append(kinds, prompt.Passphrase, prompt.Passphrase)
		}
		w.answers("new PIN")
		made, err := w.Import(t.Context(), keyring.ImportRequest{Caller: by, Target: keyring.Target{PIN: true}, Source: filepath.Join(src, name)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w.asked(append(kinds, prompt.NewPassphrase)...)
		if made.Path != w.path(name+".tpm") || len(made.Notes) != 3 || !strings.Contains(made.Notes[2], "shred") {
			t.Errorf("%+v", made)
		}
		if i == 0 {
			line, err := os.ReadFile(filepath.Join(src, "openssh.pub"))
			if err != nil || string(line) != string(made.PublicLine) {
				t.Errorf("%s became %s", line, made.PublicLine)
			}
		}
		w.works(made.ID, "new PIN")
		after, err := os.ReadFile(filepath.Join(src, name))
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s was changed", name)
		}
		must(t, os.Remove(made.Path)) // the RSA key is in three of the files
		must(t, w.Rescan(t.Context()))
	}
	w.answers("wrong", "wrong", "wrong")
	if _, err := w.Import(t.Context(), keyring.ImportRequest{Caller: by, Target: keyring.Target{Path: "x"}, Source: filepath.Join(src, "openssh")}); !errors.Is(err, keyring.ErrAuthFailed) {
		t.Errorf("a wrong passphrase three times: %v", err)
	}
}

func TestImportRefused(t *testing.T) {
	w := newWorkshop(t)
	tpmtest.Require(t, "ssh-keygen")
	src := t.TempDir()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-f", filepath.Join(src, "ed"), "-N", "passphrase").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	write(t, filepath.Join(src, "text"), []byte("hello"))
	write(t, filepath.Join(src, "loadable"), sample(t, "openssl-p256.pem"))
	write(t, filepath.Join(src, "sealed"), sample(t, "tools-sealed.pem"))
	write(t, filepath.Join(src, "foreign"), sample(t, "tools-importable-p256.pem"))
	write(t, filepath.Join(src, "old"), sample(t, "tpm12.pem"))
	for source, c := range map[string]struct {
		is   error
		want string
	}{
		"ed":       {keyring.ErrUnsupported, "no TPM can use an ed25519 key"},
		"text":     {keyring.ErrUnsupported, "not a private key"},
		"loadable": {keyring.ErrUnsupported, "already"},
		"sealed":   {keyring.ErrUnsupported, "unseal"},
		"foreign":  {keyring.ErrUnavailable, "another parent"},
		"old":      {keyring.ErrUnsupported, "TPM 1.2"},
		"nothing":  {keyring.ErrNotFound, "nothing"},
	} {
		_, err := w.Import(t.Context(), keyring.ImportRequest{Caller: by, Source: filepath.Join(src, source)})
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", source, err)
		}
	}
	w.asked() // not even for the passphrase of a key that cannot be
	if got := listing(t, w.dir); len(got) != 0 {
		t.Errorf("there is %q", got)
	}
}

// From one machine to another: parent, wrap, import; and the files of
// tpm2-tools.
func TestWrapAndImportThere(t *testing.T) {
	here, there := newWorkshop(t), newWorkshop(t)
	parent, err := there.Parent(t.Context(), 0)
	must(t, err)
	tpmtest.Require(t, "ssh-keygen")
	src := filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-f", src, "-N", "", "-C", "mia").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	wrapped := filepath.Join(t.TempDir(), "for-there")
	here.Device = nil // none is needed
	here.answers("4321")
	made, err := here.Wrap(t.Context(), keyring.WrapRequest{Caller: by, Target: keyring.Target{Path: wrapped, PIN: true}, Source: src, For: parent})
	must(t, err)
	name := ""
	for line := range strings.Lines(string(parent)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "TPM name: "); ok {
			name = text
		}
	}
	if name == "" || !strings.Contains(strings.Join(made.Notes, " "), name) {
		t.Errorf("notes %q do not say %q", made.Notes, name)
	}
	imported, err := there.Import(t.Context(), keyring.ImportRequest{Caller: by, Target: keyring.Target{Path: "id"}, Source: wrapped})
	must(t, err)
	if imported.ID != made.ID || !strings.HasSuffix(string(imported.PublicLine), " mia\n") {
		t.Errorf("another key: %s", imported.PublicLine)
	}
	file, err := os.ReadFile(there.path("id"))
	must(t, err)
	if f, err := keyfile.Parse(file); err != nil || f.Type != keyfile.Loadable {
		t.Errorf("%v, %v", f.Type, err)
	}
	there.works(imported.ID, "4321")

	importable, _ := there.sim.ImportableKey(t, tpmtest.RSA2048, "", 0)
	write(t, wrapped, importable)
	imported, err = there.Import(t.Context(), keyring.ImportRequest{Caller: by, Target: keyring.Target{Path: "rsa"}, Source: wrapped})
	must(t, err)
	there.works(imported.ID, "")
	if _, err := here.Wrap(t.Context(), keyring.WrapRequest{Target: keyring.Target{Path: "w"}, Source: src, For: []byte("nonsense")}); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("no parent: %v", err)
	}
}

func TestAttestThroughTheGate(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "1234")
	w.answers("wrong", "1234")
	data, err := w.Attest(t.Context(), keyring.AttestRequest{Caller: by, Key: made.ID, Nonce: []byte("nonce")})
	must(t, err)
	w.asked(prompt.Passphrase, prompt.Passphrase)
	b, err := attest.Parse(data)
	must(t, err)
	st, err := attest.Verify(b, attest.Options{Nonce: []byte("nonce"), Key: made.Public})
	if err != nil || !st.LockoutProtected {
		t.Errorf("%+v, %v", st, err)
	}
}

// Two requests for one file at the same time: one is let through.
func TestTwoForOneFile(t *testing.T) {
	w := newWorkshop(t)
	open := make(chan struct{})
	w.user.Script(keyringtest.Reply{Passphrase: "1234", When: open})
	done := make(chan error, 1)
	go func() {
		_, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: "id", PIN: true}})
		done <- err
	}()
	eventually(t, "a question", func() bool { return len(w.user.Questions()) == 1 })
	_, err := w.Create(t.Context(), keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: w.path("id")}})
	if !errors.Is(err, keyring.ErrUnavailable) || !strings.Contains(err.Error(), "another request") {
		t.Errorf("the second: %v", err)
	}
	close(open)
	must(t, <-done)
}

// The asker leaves while the TPM is at work: nothing is written.
func TestCancelledWhileMaking(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	w := newWorkshopOn(t, sim, device(t, relay.Address()), dir(t))
	held := relay.Hold(0x153) // TPM2_Create
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := w.Create(ctx, keyring.CreateRequest{Caller: by, Target: keyring.Target{Path: "id"}})
		done <- err
	}()
	eventually(t, "TPM2_Create", func() bool { return relay.Sent()[0x153] > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	held.Release()
	if got := listing(t, w.dir); len(got) != 0 {
		t.Errorf("there is %q", got)
	}

}
