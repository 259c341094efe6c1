package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/sshdtest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// A keyCase is a key file that a user may have, and how it was made.
type keyCase struct {
	name string
	pin  string
	pem  []byte
}

const persistentSRK = 0x81000001

// keyCases makes one of each with the real tools.
func keyCases(tb testing.TB, t *tpmtest.TPM) []keyCase {
	tb.Helper()
	t.PersistSRK(tb)
	openssl := func(name, alg, pin string, parent uint32) keyCase {
		return keyCase{name, pin, t.OpenSSLKey(tb, alg, pin, parent)}
	}
	importable := func(name, alg, pin string) keyCase {
		pem, _ := t.ImportableKey(tb, alg, pin, 0)
		return keyCase{name, pin, pem}
	}
	return []keyCase{
		openssl("p256", "EC:P-256", "", 0),
		openssl("p256-pin", "EC:P-256", "correct-horse", 0),
		openssl("p384", "EC:P-384", "", 0),
		openssl("p384-pin", "EC:P-384", "battery-staple", 0),
		openssl("rsa", "RSA:2048", "", 0),
		openssl("rsa-pin", "RSA:2048", "1234", 0),
		openssl("persistent", "EC:P-256", "", persistentSRK),
		openssl("persistent-pin", "EC:P-256", "persistent-pin", persistentSRK),
		importable("importable", "EC:P-256", ""),
		importable("importable-pin", "EC:P-256", "imported"),
		importable("importable-rsa", "RSA:2048", ""),
	}
}

// TestLogin is the main job: key files made by other tools log in to a real
// sshd, with a prompt exactly where the key has a PIN.
func TestLogin(t *testing.T) {
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	cases := keyCases(t, tpm)
	for _, c := range cases {
		s.Key(c.name, c.pem)
	}
	relay := tpm.Relay()
	s.Start(relay.Address().String())

	lines := s.Must("ssh-add", "-L")
	sshd := sshdtest.Start(t, lines)
	public := map[string]string{} // by comment, which is the file's name
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		path := filepath.Join(s.Dir, fields[2]+".pub")
		if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		public[fields[2]] = path
	}
	if len(public) != len(cases) {
		t.Fatalf("%d keys are listed, want %d:\n%s", len(public), len(cases), lines)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s.Answer(c.pin)
			before := s.Prompts()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for range 2 { // the second time the PIN is remembered
				out, err := sshd.Login(ctx, s.Socket, public[c.name])
				if err != nil || out != "logged in" {
					t.Fatalf("login: %q, %v", out, err)
				}
			}
			want := 0
			if c.pin != "" {
				want = 1
			}
			if got := s.Prompts() - before; got != want {
				t.Errorf("%d prompts, want %d", got, want)
			}
			if c.pin != "" && relay.Contains([]byte(c.pin)) {
				t.Error("the PIN went to the TPM in clear")
			}
		})
	}
	if asked := s.Questions(); !strings.Contains(asked, "ssh") || !strings.Contains(asked, "p256-pin") {
		t.Errorf("the prompts name neither program nor key:\n%s", asked)
	}
}

// TestGitCommit signs a commit with a TPM key and has git verify it.
func TestGitCommit(t *testing.T) {
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	s.Key("git", tpm.OpenSSLKey(t, "EC:P-256", "git-pin", 0))
	s.Answer("git-pin")
	s.Start(tpm.Address().String())

	public := s.Must("ssh-add", "-L")
	s.Write("git.pub", public, 0o600)
	s.Write("allowed", "mia@example.org "+public, 0o600)
	s.Must("git", "init", "-q", "-b", "main", "repo")
	git := func(args ...string) string {
		return s.Must("git", append([]string{"-C", "repo",
			"-c", "user.name=Mia", "-c", "user.email=mia@example.org",
			"-c", "gpg.format=ssh", "-c", "user.signingkey=" + filepath.Join(s.Dir, "git.pub"),
			"-c", "gpg.ssh.allowedSignersFile=" + filepath.Join(s.Dir, "allowed")}, args...)...)
	}
	git("commit", "-q", "-S", "--allow-empty", "-m", "signed by the TPM")
	if out := git("verify-commit", "-v", "HEAD"); !strings.Contains(out, `Good "git" signature for mia@example.org`) {
		t.Errorf("git verify-commit: %s", out)
	}
	if !strings.Contains(s.Questions(), "git") {
		t.Errorf("the prompt does not say that git wants a signature:\n%s", s.Questions())
	}
}

// verify signs fresh data with the one key listed as comment and checks the
// signature, returning the error of the signing.
func verify(tb testing.TB, s *daemontest.Session, comment string, data []byte) error {
	tb.Helper()
	client := s.Client()
	defer client.Close()
	keys, err := client.List()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Comment != comment {
			continue
		}
		sig, err := client.Sign(k, data)
		if err != nil {
			return err
		}
		public, err := ssh.ParsePublicKey(k.Blob)
		if err != nil {
			tb.Fatal(err)
		}
		if err := public.Verify(data, sig); err != nil {
			tb.Fatalf("a wrong signature by %s: %v", comment, err)
		}
		return nil
	}
	var names [][]byte
	for _, k := range keys {
		names = append(names, []byte(k.Comment))
	}
	tb.Fatalf("%s is not listed, but %s", comment, bytes.Join(names, []byte(", ")))
	return nil
}
