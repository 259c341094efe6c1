package keyfile_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// TestOpenSSLReadsWhatWeWrite: tpm2-openssl loads and uses a key from our
// files, those written as they were read and those in our own form alike.
func TestOpenSSLReadsWhatWeWrite(t *testing.T) {
	tpm := tpmtest.Start(t)
	tpm.PersistSRK(t)
	for _, tc := range []struct {
		name, alg string
		parent    uint32
	}{
		{"EC", tpmtest.EC256, tpmtest.OwnerHierarchy},
		{"RSA, persistent parent", tpmtest.RSA2048, tpmtest.PersistentSRK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			read, err := keyfile.Parse(tpm.OpenSSLKey(t, tc.alg, "", tc.parent))
			if err != nil {
				t.Fatal(err)
			}
			ours := &keyfile.File{EmptyAuth: read.EmptyAuth, Parent: read.Parent, Public: read.Public, Private: read.Private}
			for name, f := range map[string]*keyfile.File{"as it was": read, "as ours": ours} {
				text, err := f.PEM()
				if err != nil {
					t.Fatal(err)
				}
				der, err := f.DER()
				if err != nil {
					t.Fatal(err)
				}
				usePEM := useWithOpenSSL(t, tpm, f, text)
				useDER := useWithOpenSSL(t, tpm, f, der)
				if usePEM != "" || useDER != "" {
					t.Errorf("%s: PEM: %s DER: %s", name, usePEM, useDER)
				}
			}
		})
	}
}

// useWithOpenSSL signs with the key file and asks for its public key; it
// returns what is wrong with either.
func useWithOpenSSL(t *testing.T, tpm *tpmtest.TPM, f *keyfile.File, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	message := []byte("a message")
	for name, b := range map[string][]byte{"key": data, "message": message} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	provider := []string{"-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2"}
	out := tpm.Tool(t, dir, "openssl", append([]string{"pkey", "-in", "key", "-pubout"}, provider...)...)
	block, _ := pem.Decode(out)
	if block == nil {
		return "no public key: " + string(out)
	}
	key, err := f.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(spki, block.Bytes) {
		return "another public key"
	}
	sig := tpm.Tool(t, dir, "openssl", append([]string{"pkeyutl", "-sign", "-inkey", "key", "-rawin", "-digest", "sha256", "-in", "message"}, provider...)...)
	digest := sha256.Sum256(message)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, digest[:], sig) {
			return "wrong signature"
		}
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], sig); err != nil {
			return err.Error()
		}
	}
	return ""
}
