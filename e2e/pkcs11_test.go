package e2e

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// p11kitClient is p11-kit's own module for its RPC protocol, where Debian has it.
const p11kitClient = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"

// tokenTool runs pkcs11-tool, a foreign client of the protocol, on a session's
// keys.
func tokenTool(t *testing.T, s *daemontest.Session, args ...string) (string, error) {
	t.Helper()
	tpmtest.Require(t, "pkcs11-tool")
	if _, err := os.Stat(p11kitClient); err != nil {
		tpmtest.Require(t, p11kitClient)
	}
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", append([]string{"--module", p11kitClient}, args...)...)
	cmd.Env = append(os.Environ(), "P11_KIT_SERVER_ADDRESS=unix:path="+filepath.Join(filepath.Dir(s.Socket), "pkcs11"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestPKCS11 lists a TPM key and signs with it through a foreign client of the
// protocol, for as many TPM commands as there are signatures.
func TestPKCS11(t *testing.T) {
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	s.Key("laptop", tpm.OpenSSLKey(t, "EC:P-256", "token-pin", 0))
	s.Answer("token-pin")
	relay := tpm.Relay()
	s.Start(relay.Address().String())
	tool := func(args ...string) string {
		t.Helper()
		out, err := tokenTool(t, s, args...)
		if err != nil {
			t.Fatalf("pkcs11-tool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	if out := tool("-O"); !strings.Contains(out, "Private Key Object; EC") || !strings.Contains(out, "laptop") || relay.Total() != 0 {
		t.Errorf("listing took %d TPM commands:\n%s", relay.Total(), out)
	}
	keys, err := s.Client().List()
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.ParsePublicKey(keys[0].Blob)
	if err != nil {
		t.Fatal(err)
	}
	key := public.(ssh.CryptoPublicKey).CryptoPublicKey().(*ecdsa.PublicKey)
	digest := sha256.Sum256([]byte("over PKCS#11"))
	s.Write("digest", string(digest[:]), 0o600)
	for n := range 3 {
		relay.Reset()
		tool("--sign", "-m", "ECDSA", "--label", "laptop", "-i", filepath.Join(s.Dir, "digest"), "-o", filepath.Join(s.Dir, "signature"))
		sig, err := os.ReadFile(filepath.Join(s.Dir, "signature"))
		if err != nil || len(sig) != 64 {
			t.Fatalf("a signature of %d bytes, %v", len(sig), err)
		}
		if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
			t.Error("the signature is wrong")
		}
		if total := relay.Total(); n > 0 && total != 1 {
			t.Errorf("a signature took %d TPM commands, want 1", total)
		}
	}
	if n := s.Prompts(); n != 1 {
		t.Errorf("%d prompts, want 1", n)
	}
	if !strings.Contains(s.Questions(), "pkcs11-tool") {
		t.Errorf("the prompt does not name the program:\n%s", s.Questions())
	}
}
