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
	"github.com/keyringd/keyringd/internal/secret"
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

func TestChangePIN(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "old")
	change := func(noPIN bool) error {
		_, err := w.ChangeAuth(t.Context(), keyring.ChangeAuthRequest{Caller: by, Key: made.ID, NoPIN: noPIN})
		return err
	}
	// A PIN that is remembered does not do.
	w.works(made.ID, "old")
	w.answers("old")
	digest := sha256.Sum256(nil)
	_, err := w.Keys.Sign(t.Context(), keyring.SignRequest{Caller: by, Key: made.ID, Digest: digest[:], Opts: crypto.SHA256})
	must(t, err)
	w.user.Reset()
	before, err := os.ReadFile(w.path("id"))
	must(t, err)
	w.answers("wrong", "old", "new")
	must(t, change(false))
	w.asked(prompt.Passphrase, prompt.Passphrase, prompt.NewPassphrase)
	w.works(made.ID, "new")
	if got := listing(t, w.dir); !slices.Equal(got, []string{"id", "id.pub"}) {
		t.Errorf("there is %q", got)
	}
	w.answers("new")
	must(t, change(true))
	w.asked(prompt.Passphrase)
	w.works(made.ID, "")
	if err := change(true); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("there is no PIN to remove: %v", err)
	}
	w.answers("third")
	must(t, change(false))
	w.asked(prompt.NewPassphrase)
	w.works(made.ID, "third")

	// What came before is said to work on, and does.
	write(t, w.path("copy"), before)
	must(t, w.Rescan(t.Context()))
	if err := change(false); !errors.Is(err, keyring.ErrUnsupported) || !strings.Contains(err.Error(), w.path("copy")) {
		t.Errorf("which of two: %v", err)
	}
	w.answers("old", "fourth")
	got, err := w.ChangeAuth(t.Context(), keyring.ChangeAuthRequest{Caller: by, Key: made.ID, Path: w.path("copy")})
	must(t, err)
	if text := strings.Join(got.Notes, " "); !strings.Contains(text, "old PIN") || !strings.Contains(text, w.path("id")) {
		t.Errorf("notes %q", got.Notes)
	}
}

func TestChangePINRefused(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "right")
	r := keyring.ChangeAuthRequest{Caller: by, Key: made.ID}
	// The Gate keeps the last try.
	w.answers("wrong", "wrong", "wrong")
	if _, err := w.ChangeAuth(t.Context(), r); !errors.Is(err, keyring.ErrLockedOut) {
		t.Errorf("wrong PINs: %v", err)
	}
	l, err := w.Device.Lockout(t.Context())
	if err != nil || l.Left() != 1 {
		t.Errorf("%d tries left, %v", l.Left(), err)
	}
	w.sim.Tool(t, t.TempDir(), "tpm2_dictionarylockout", "-Q", "-c")
	w.Device.Forget()
	w.user.Reset()
	w.Gate.Lock()

	w.answers("right")
	w.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed})
	if _, err := w.ChangeAuth(t.Context(), r); !errors.Is(err, keyring.ErrDenied) {
		t.Errorf("no new PIN: %v", err)
	}
	if _, err := w.ChangeAuth(t.Context(), keyring.ChangeAuthRequest{Caller: by}); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("no key: %v", err)
	}
	w.user.Reset()
	// Somebody puts another file there while the user thinks.
	w.user.Default = func(q prompt.Question) keyringtest.Reply {
		if q.Kind == prompt.NewPassphrase {
			write(t, w.path("id"), sample(t, "openssl-p384.pem"))
		}
		return keyringtest.Reply{Passphrase: "right"}
	}
	if _, err := w.ChangeAuth(t.Context(), r); !errors.Is(err, keyring.ErrUnavailable) || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("replaced meanwhile: %v", err)
	}
	if got, err := os.ReadFile(w.path("id")); err != nil || !bytes.Equal(got, sample(t, "openssl-p384.pem")) {
		t.Errorf("the other file is gone: %v", err)
	}

}

func TestSetLabel(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "")
	label := func() string {
		info, err := w.Keys.Find(made.ID)
		must(t, err)
		return info.Label
	}
	set := func(s string) error {
		return w.SetLabel(t.Context(), keyring.LabelRequest{Caller: by, Key: made.ID, Label: s})
	}
	must(t, set("work laptop"))
	if label() != "work laptop" {
		t.Errorf("label %q", label())
	}
	must(t, set(""))
	if label() != "id" {
		t.Errorf("label %q", label())
	}
	must(t, os.Remove(w.path("id.pub")))
	must(t, set("again\nand again"))
	if !strings.HasPrefix(label(), "again") || strings.Contains(label(), "\n") {
		t.Errorf("label %q", label())
	}
	other, err := os.ReadFile(w.path("id.pub"))
	must(t, err)
	write(t, w.path("id.pub"), append([]byte("not "), other...))
	if err := set("x"); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("over another's file: %v", err)
	}
}

func TestRemove(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "1234")
	data, err := os.ReadFile(w.path("id"))
	must(t, err)
	write(t, w.path("copy"), data)
	must(t, w.Rescan(t.Context()))
	remove := func(path string) error {
		return w.Remove(t.Context(), keyring.RemoveRequest{Caller: by, Key: made.ID, Path: path})
	}
	w.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed})
	if err := remove(""); !errors.Is(err, keyring.ErrDenied) {
		t.Errorf("dismissed: %v", err)
	}
	if q := w.asked(prompt.Confirm)[0]; !strings.Contains(q.Warning, "nothing brings it back") || !strings.Contains(q.Warning, "copy, id") {
		t.Errorf("asked %+v", q)
	}
	if len(listing(t, w.dir)) != 3 {
		t.Fatal("removed all the same")
	}
	w.answers("")
	must(t, remove(w.path("copy")))
	if q := w.asked(prompt.Confirm)[0]; !strings.Contains(q.Warning, "remains") {
		t.Errorf("asked %+v", q)
	}
	w.works(made.ID, "1234")
	if err := remove("/etc/passwd"); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("another file: %v", err)
	}
	w.answers("")
	must(t, remove(""))
	if got := listing(t, w.dir); len(got) != 0 {
		t.Errorf("there is %q", got)
	}
	if _, err := w.Keys.Find(made.ID); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("still listed: %v", err)
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

func TestSealedFiles(t *testing.T) {
	w := newWorkshop(t)
	data := secret.Copy([]byte("swordfish"))
	defer data.Wipe()
	for name, target := range map[string]keyring.Target{
		"bare": {Path: "bare"}, "pin": {Path: "pin", PIN: true}, "pcr": {Path: "pcr", PCRs: "sha256:7"},
	} {
		if target.PIN {
			w.answers("1234")
		}
		made, err := w.SealFile(t.Context(), keyring.SealRequest{Caller: by, Target: target, Data: data})
		must(t, err)
		if bare := name == "bare"; (len(made.Notes) == 1) != bare {
			t.Errorf("%s: notes %q", name, made.Notes)
		}
		if target.PIN {
			w.answers("wrong", "1234")
		}
		got, err := w.UnsealFile(t.Context(), keyring.UnsealRequest{Caller: by, Path: made.Path})
		if err != nil || !got.Equal(data) {
			t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
		}
		got.Wipe()
		w.user.Reset()
	}
	key := w.create("id", "")
	if _, err := w.UnsealFile(t.Context(), keyring.UnsealRequest{Caller: by, Path: key.Path}); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("a key: %v", err)
	}
}

func TestSealer(t *testing.T) {
	w := newWorkshop(t)
	var s keyring.Sealer = Sealer{Device: w.Device}
	plain, pin, wrong := secret.Copy(make([]byte, 32)), secret.Copy([]byte("1234")), secret.Copy([]byte("4321"))
	for _, auth := range []secret.Bytes{{}, pin} {
		sealed, err := s.Seal(t.Context(), auth, plain)
		must(t, err)
		got, err := s.Unseal(t.Context(), auth, sealed)
		if err != nil || !got.Equal(plain) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		if auth.Len() > 0 {
			if _, err := s.Unseal(t.Context(), wrong, sealed); !errors.Is(err, keyring.ErrAuthFailed) {
				t.Errorf("a wrong auth: %v", err)
			}
		}
		if _, err := s.Unseal(t.Context(), auth, sealed[:len(sealed)-9]); !errors.Is(err, keyring.ErrUnsupported) {
			t.Errorf("a part of it: %v", err)
		}
	}
	other := Sealer{Device: device(t, tpmtest.Start(t).Address())}
	sealed, err := s.Seal(t.Context(), secret.Bytes{}, plain)
	must(t, err)
	if _, err := other.Unseal(t.Context(), secret.Bytes{}, sealed); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("another TPM: %v", err)
	}
}

// What is sealed to registers is given back as long as they stay as they are.
func TestSealerPCRs(t *testing.T) {
	sim := tpmtest.Start(t)
	s := Sealer{Device: device(t, sim.Address())}
	plain := secret.Copy(make([]byte, 32))
	sealed, err := s.SealPCRs(t.Context(), secret.Bytes{}, plain, "sha256:7")
	must(t, err)
	got, err := s.Unseal(t.Context(), secret.Bytes{}, sealed)
	if err != nil || !got.Equal(plain) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	sim.Tool(t, t.TempDir(), "tpm2_pcrextend", "7:sha256="+strings.Repeat("ab", 32))
	if _, err := s.Unseal(t.Context(), secret.Bytes{}, sealed); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("with another register: %v", err)
	}
	if _, err := s.SealPCRs(t.Context(), secret.Bytes{}, plain, "sha256:99"); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("a register that there is not: %v", err)
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
