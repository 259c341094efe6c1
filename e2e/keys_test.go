package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// chooser is a pinentry that gives the content of the file new to whoever wants
// a PIN chosen, and that of the file pin to everybody else.
const chooser = `#!/bin/sh
dir=$(dirname "$0")
file=pin
echo "OK ready"
while IFS= read -r line; do
	printf '%s\n' "$line" >>"$dir/asked"
	case $line in
	SETREPEAT\ *) file=new; echo OK ;;
	GETPIN*)
		[ $file = new ] && echo "S PIN_REPEATED"
		printf 'D %s\nOK\n' "$(cat "$dir/$file")"
		file=pin ;;
	CONFIRM*) if [ -e "$dir/refuse" ]; then echo "ERR 83886179 cancelled"; else echo OK; fi ;;
	BYE*) echo OK; exit 0 ;;
	*) echo OK ;;
	esac
done
`

// A desk is a session with a bus and keyringctl.
type desk struct {
	*daemontest.Session
	t   *testing.T
	bus *bustest.Bus
}

func newDesk(t *testing.T, tpm string, flags ...string) *desk {
	t.Helper()
	d := &desk{Session: daemontest.New(t), t: t, bus: bustest.Start(t)}
	d.Write("pinentry", chooser, 0o700)
	d.Write("new", "", 0o600)
	d.Start(tpm, append([]string{"--bus", d.bus.Address}, flags...)...)
	await(t, "answer to keyringctl", func() bool { _, _, status := d.ctl("status"); return status == 0 })
	return d
}

// ctl runs keyringctl in the home.
func (d *desk) ctl(args ...string) (out, errs string, status int) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), daemontest.Ctl, append([]string{"--bus", d.bus.Address}, args...)...)
	cmd.Dir = d.Dir
	cmd.Env = append(os.Environ(), "HOME="+d.Dir, "SSH_AUTH_SOCK="+d.Socket)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func (d *desk) mustCtl(args ...string) string {
	d.t.Helper()
	out, errs, status := d.ctl(args...)
	if status != 0 || errs != "" {
		d.t.Fatalf("keyringctl %q: status %d\n%s", args, status, errs)
	}
	return out
}

// refused wants one clear sentence with these words, a hint, and the status.
func (d *desk) refused(status int, words []string, args ...string) {
	d.t.Helper()
	out, errs, got := d.ctl(args...)
	if got != status || out != "" || !strings.HasPrefix(errs, "keyringctl: ") || strings.Count(errs, "\nhint: ") != 1 {
		d.t.Errorf("keyringctl %q: status %d, want %d\n%s%s", args, got, status, out, errs)
	}
	for _, w := range words {
		if !strings.Contains(errs, w) {
			d.t.Errorf("keyringctl %q: %q is not in\n%s", args, w, errs)
		}
	}
}

// openssl runs OpenSSL with the TPM's provider, in the home.
func (d *desk) openssl(tpm *tpmtest.TPM, args ...string) string {
	d.t.Helper()
	return string(tpm.Tool(d.t, d.Dir, "openssl", args...))
}

// sshSigns has ssh-keygen sign a file with the key of a public key file, and
// check it.
func (d *desk) sshSigns(public string) {
	d.t.Helper()
	d.Write("text", "a text\n", 0o600)
	_ = os.Remove(filepath.Join(d.Dir, "text.sig"))
	d.Must("ssh-keygen", "-Y", "sign", "-n", "file", "-f", public, "text")
	line, err := os.ReadFile(public)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Write("allowed", "mia "+string(line), 0o600)
	d.Must("sh", "-c", "ssh-keygen -Y verify -f allowed -I mia -n file -s text.sig <text")
}

var provider = []string{"-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2"}

// TestKeyNew makes keys, and has ssh-keygen and OpenSSL use their files.
func TestKeyNew(t *testing.T) {
	tpm := tpmtest.Start(t)
	d := newDesk(t, tpm.ResourceManager().Address().String()) // OpenSSL uses the TPM, too
	d.Write("new", "first-pin", 0o600)
	d.Answer("first-pin")

	out := d.mustCtl("key", "new", "guarded", "--comment", "with a PIN")
	path := filepath.Join(d.Keys, "guarded")
	if !strings.HasPrefix(out, "Created "+path+"\necdsa-sha2-nistp256 ") {
		t.Errorf("key new:\n%s", out)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", st, err)
	}
	if out := d.mustCtl("key", "list"); !strings.Contains(out, "with a PIN") || !strings.Contains(out, path) {
		t.Errorf("key list:\n%s", out)
	}
	before := d.Prompts()
	d.sshSigns(path + ".pub")
	if n := d.Prompts() - before; n != 1 {
		t.Errorf("%d questions for a signature, want its PIN once", n)
	}

	d.refused(1, []string{path, "exists"}, "key", "new", "guarded")
	if _, errs, status := d.ctl("key", "new", "odd", "--algorithm", "rsa-1111", "--no-pin"); status != 1 || !strings.Contains(errs, "ecdsa-p256, ") {
		t.Errorf("an algorithm that is none: status %d\n%s", status, errs)
	}
	d.refused(2, []string{"--parent", "porridge"}, "key", "new", "odd", "--parent", "porridge")
	d.refused(2, []string{"--certificate-request", "go together"}, "key", "new", "odd", "--subject", "CN=x")

	var made struct {
		ID, Path string
		Public   string `json:"public_key"`
		Listed   bool
		Notes    []string
	}
	text := d.mustCtl("key", "new", "./elsewhere", "--no-pin", "--json", "--algorithm", "ecdsa-p256",
		"--certificate-request", "request.pem", "--subject", `CN=mail.example.org,O=Example\, Inc.`, "--alternative-name", "mail.example.org")
	if err := json.Unmarshal([]byte(text), &made); err != nil || made.Path != filepath.Join(d.Dir, "elsewhere") || made.Listed || len(made.Notes) == 0 {
		t.Errorf("a key outside of the key folders: %+v, %v", made, err)
	}
	request := d.Must("openssl", "req", "-in", "request.pem", "-noout", "-verify", "-subject", "-text", "-nameopt", "RFC2253")
	for _, want := range []string{"self-signature verify OK", `CN=mail.example.org,O=Example\, Inc.`, "DNS:mail.example.org"} {
		if !strings.Contains(request, want) {
			t.Errorf("%q is not in the certificate request:\n%s", want, request)
		}
	}
	d.refused(1, []string{"request.pem", "there already"}, "key", "new", "other", "--no-pin",
		"--certificate-request", "request.pem", "--subject", "CN=x")

	// The file is of use to other programs as it is.
	digest := sha256.Sum256([]byte("x"))
	d.Write("digest", string(digest[:]), 0o600)
	d.openssl(tpm, append([]string{"pkey", "-in", "elsewhere", "-pubout", "-out", "pub.pem"}, provider[:4]...)...)
	d.openssl(tpm, append([]string{"pkeyutl", "-sign", "-inkey", "elsewhere", "-in", "digest", "-out", "sig", "-pkeyopt", "digest:sha256"}, provider...)...)
	d.openssl(tpm, "pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-in", "digest", "-sigfile", "sig", "-pkeyopt", "digest:sha256")
	d.openssl(tpm, append([]string{"req", "-x509", "-key", "elsewhere", "-subj", "/CN=self", "-out", "cert.pem"}, provider...)...)
	d.Must("openssl", "verify", "-CAfile", "cert.pem", "cert.pem")

	d.mustCtl("key", "new", "rsa", "--no-pin", "--algorithm", "rsa-2048", "--comment", "rsa")
	d.sshSigns(filepath.Join(d.Keys, "rsa.pub"))
}

// TestKeyImport brings ordinary keys into the TPM, and wraps one for another.
func TestKeyImport(t *testing.T) {
	tpm, other := tpmtest.Start(t), tpmtest.Start(t)
	d := newDesk(t, tpm.Address().String())
	outside := filepath.Join(d.Dir, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, alg := range []string{"ecdsa", "rsa", "ed25519"} {
		args := []string{"-q", "-t", alg, "-N", "", "-C", "mia@" + alg, "-f", filepath.Join(outside, alg)}
		if alg == "rsa" {
			args = append(args, "-b", "2048")
		}
		d.Must("ssh-keygen", args...)
	}
	for _, alg := range []string{"ecdsa", "rsa"} {
		original, err := os.ReadFile(filepath.Join(outside, alg))
		if err != nil {
			t.Fatal(err)
		}
		out := d.mustCtl("key", "import", "outside/"+alg, "--no-pin")
		if !strings.Contains(out, "Imported "+filepath.Join(d.Keys, alg+".tpm")) || !strings.Contains(out, "shred -u") {
			t.Errorf("key import %s:\n%s", alg, out)
		}
		if now, err := os.ReadFile(filepath.Join(outside, alg)); err != nil || !bytes.Equal(now, original) {
			t.Errorf("the original of %s is not as it was: %v", alg, err)
		}
		public, err := os.ReadFile(filepath.Join(outside, alg+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		if got := d.mustCtl("key", "public", "mia@"+alg); got != string(public) {
			t.Errorf("%s: the public key is %q, was %q", alg, got, public)
		}
		d.sshSigns(filepath.Join(outside, alg+".pub"))
	}
	_, errs, status := d.ctl("key", "import", "outside/ed25519", "--no-pin")
	if status != 1 || !strings.Contains(errs, "TPM") || !strings.Contains(strings.ToLower(errs), "ed25519") {
		t.Errorf("ed25519: status %d\n%s", status, errs)
	}
	if _, _, status := d.ctl("key", "import", "outside/none"); status != 1 {
		t.Errorf("a file that is not there: status %d", status)
	}

	// Here the key is wrapped; there it is used.
	there := newDesk(t, other.Address().String())
	request := there.mustCtl("key", "export-request")
	d.Write("request", request, 0o600)
	d.mustCtl("key", "wrap-for", "request", "outside/ecdsa", "--no-pin")
	wrapped, err := os.ReadFile(filepath.Join(d.Dir, "ecdsa.wrapped"))
	if err != nil {
		t.Fatal(err)
	}
	there.Write("ecdsa.wrapped", string(wrapped), 0o600)
	there.mustCtl("key", "import", "ecdsa.wrapped", "--name", "moved")
	there.Must("sh", "-c", "cp "+filepath.Join(outside, "ecdsa.pub")+" .")
	there.sshSigns(filepath.Join(there.Dir, "ecdsa.pub"))
	if _, _, status := d.ctl("key", "import", "ecdsa.wrapped", "--name", "kept"); status != 1 {
		t.Errorf("another TPM takes the wrapped key: status %d", status)
	}
}

// TestKeyKeeping changes a PIN and a label, attests, and removes.
func TestKeyKeeping(t *testing.T) {
	tpm := tpmtest.Start(t)
	d := newDesk(t, tpm.Address().String(), "--remember", "0")
	path := d.Key("work", tpm.OpenSSLKey(t, "EC:P-256", "old-pin", 0))
	d.Answer("old-pin")
	d.Write("new", "new-pin", 0o600)
	await(t, "new key", func() bool { return strings.Contains(d.mustCtl("key", "list"), path) })

	if out := d.mustCtl("key", "passwd", path); !strings.Contains(out, "Changed the PIN of "+path) {
		t.Errorf("key passwd:\n%s", out)
	}
	d.Answer("new-pin")
	if err := verify(t, d.Session, "work", []byte("x")); err != nil {
		t.Errorf("with the new PIN: %v", err)
	}
	d.Write("new", "", 0o600)
	d.mustCtl("key", "passwd", "work", "--no-pin")
	d.Answer("")
	if err := verify(t, d.Session, "work", []byte("x")); err != nil {
		t.Errorf("without a PIN: %v", err)
	}

	d.mustCtl("key", "label", "work", "at the office")
	await(t, "label", func() bool { return strings.Contains(d.mustCtl("key", "list"), "at the office") })

	created := d.mustCtl("key", "new", "fresh", "--no-pin", "--json")
	var key struct{ ID string }
	if err := json.Unmarshal([]byte(created), &key); err != nil {
		t.Fatal(err)
	}
	statement := d.mustCtl("key", "attest", "fresh", "--nonce", "00ff")
	d.Write("statement", statement, 0o600)
	if out := d.mustCtl("key", "verify-attestation", "statement", "--nonce", "00ff", "--id", key.ID); !strings.Contains(out, key.ID) {
		t.Errorf("verify-attestation:\n%s", out)
	}
	var proof struct {
		Name string `json:"attestation_key_name"`
	}
	if err := json.Unmarshal([]byte(d.mustCtl("key", "verify-attestation", "statement", "--json")), &proof); err != nil {
		t.Fatal(err)
	}
	d.mustCtl("key", "verify-attestation", "statement", "--attestation-key", proof.Name)
	d.mustCtl("key", "verify-attestation", "statement", "--public", filepath.Join(d.Keys, "fresh.pub"))
	d.Write("public.pem", d.mustCtl("key", "public", "fresh", "--pem"), 0o600)
	d.mustCtl("key", "verify-attestation", "statement", "--public", "public.pem")
	d.Must("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "other.pem")
	d.Must("openssl", "pkey", "-in", "other.pem", "-pubout", "-out", "other.pub")
	for _, args := range [][]string{
		{"--nonce", "00fe"}, {"--id", strings.Repeat("00", 32)}, {"--attestation-key", strings.Repeat("0b", 34)},
		{"--public", "other.pub"},
	} {
		if out, _, status := d.ctl(slices.Concat([]string{"key", "verify-attestation", "statement"}, args)...); status != 1 || out != "" {
			t.Errorf("verify-attestation %q: status %d\n%s", args, status, out)
		}
	}

	d.Write("refuse", "", 0o600)
	if _, errs, status := d.ctl("key", "remove", "fresh"); status != 1 || !strings.Contains(errs, "refused") {
		t.Errorf("a removal that the user refuses: status %d\n%s", status, errs)
	}
	if _, err := os.Stat(filepath.Join(d.Keys, "fresh")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(d.Dir, "refuse")); err != nil {
		t.Fatal(err)
	}
	d.mustCtl("key", "remove", "fresh")
	for _, name := range []string{"fresh", "fresh.pub"} {
		if _, err := os.Stat(filepath.Join(d.Keys, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	if out := d.mustCtl("key", "list"); strings.Contains(out, "fresh") {
		t.Errorf("still listed:\n%s", out)
	}
	d.refused(1, []string{"no key"}, "key", "remove", "fresh")
}

// TestKeysWithout has no TPM, nobody to ask, or a TPM that is locked.
func TestKeysWithout(t *testing.T) {
	t.Run("a TPM", func(t *testing.T) {
		d := newDesk(t, "none")
		d.refused(1, []string{"there is no TPM"}, "key", "new", "k", "--no-pin")
		d.refused(1, []string{"there is no TPM"}, "key", "export-request")
	})
	t.Run("a prompter", func(t *testing.T) {
		tpm := tpmtest.Start(t)
		d := newDesk(t, tpm.Address().String(), "--prompter", "none")
		d.refused(1, []string{"nobody could be asked"}, "key", "new", "k")
		d.mustCtl("key", "new", "k", "--no-pin")
	})
	t.Run("tries", func(t *testing.T) {
		tpm := tpmtest.Start(t)
		d := newDesk(t, tpm.Address().String())
		d.Key("k", tpm.OpenSSLKey(t, "EC:P-256", "right-pin", 0))
		tpm.Tool(t, d.Dir, "tpm2_dictionarylockout", "--setup-parameters", "--max-tries=1", "--recovery-time=1000", "--lockout-recovery-time=1000")
		d.Answer("wrong-pin")
		await(t, "new key", func() bool { return strings.Contains(d.mustCtl("key", "list"), d.Keys) })
		d.refused(1, []string{"TPM"}, "key", "passwd", "k")
	})
}

// TestSealedFiles seals and reads back, with a PIN and without, and lets nobody
// see it on the bus.
func TestSealedFiles(t *testing.T) {
	bustest.Need(t, "dbus-monitor")
	tpm := tpmtest.Start(t)
	d := newDesk(t, tpm.ResourceManager().Address().String(), "--remember", "0")
	var seen logtest.Buffer
	monitor := exec.CommandContext(t.Context(), "dbus-monitor", "--address", d.bus.Address, "--binary")
	monitor.Stdout = &seen
	if err := monitor.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "message on the monitor", func() bool { d.mustCtl("status"); return strings.Contains(seen.String(), "Status") })

	const canary = "the-canary\x00of 31 bytes, no more.\n"
	d.Write("plain", canary, 0o600)
	d.Write("new", "seal-pin", 0o600)
	d.Answer("seal-pin")
	d.mustCtl("seal", "guarded", "--input", "plain")
	if out := d.mustCtl("unseal", "guarded"); out != canary {
		t.Errorf("unsealed %q", out)
	}
	d.mustCtl("seal", "free", "--input", "plain", "--no-pin", "--pcr", "sha256:16")
	d.mustCtl("unseal", "free", "--output", "again")
	if got, err := os.ReadFile(filepath.Join(d.Dir, "again")); err != nil || string(got) != canary {
		t.Errorf("unsealed %q: %v", got, err)
	}
	if st, err := os.Stat(filepath.Join(d.Dir, "again")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the secret is in a file of mode %v: %v", st, err)
	}
	d.refused(1, []string{"exists"}, "unseal", "free", "--output", "again")
	d.refused(1, []string{"exists"}, "seal", "free", "--input", "plain", "--no-pin")
	tpm.Tool(t, d.Dir, "tpm2_pcrextend", "16:sha256="+strings.Repeat("00", 32))
	if out, _, status := d.ctl("unseal", "free"); status != 1 || out != "" {
		t.Errorf("with other registers: status %d, %q", status, out)
	}
	d.Answer("wrong")
	if out, _, status := d.ctl("unseal", "guarded"); status != 1 || out != "" {
		t.Errorf("with a wrong PIN: status %d, %q", status, out)
	}
	d.Write("much", strings.Repeat("x", 1000), 0o600)
	if _, errs, status := d.ctl("seal", "much.sealed", "--input", "much", "--no-pin"); status != 1 || !strings.Contains(errs, "byte") {
		t.Errorf("more than the TPM takes: status %d\n%s", status, errs)
	}
	await(t, "message on the monitor", func() bool { return strings.Contains(seen.String(), "much.sealed") })
	for _, word := range []string{"the-canary", "seal-pin", "of 31 bytes"} {
		if strings.Contains(seen.String(), word) || strings.Contains(d.Log.String(), word) {
			t.Errorf("%q was on the bus or in the journal", word)
		}
	}
}
