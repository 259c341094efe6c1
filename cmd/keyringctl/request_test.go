package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// TestKeyRequest has a key that exists sign a certificate request.
func TestKeyRequest(t *testing.T) {
	k := newKey(t, "web", "/keys/web")
	h := serve(t, k)

	block, _ := pem.Decode([]byte(h.must("key", "request", "web", "--subject", "CN=mail.example.org", "--alternative-name", "10.0.0.1")))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		t.Fatalf("no request was printed: %v", block)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || r.CheckSignature() != nil || r.Subject.CommonName != "mail.example.org" || len(r.IPAddresses) != 1 ||
		!k.KeyInfo.Public.(*ecdsa.PublicKey).Equal(r.PublicKey) {
		t.Errorf("%+v, %v", r, err)
	}

	path := filepath.Join(t.TempDir(), "web.csr")
	if out := h.must("key", "request", "web", "--subject", "CN=x", "--output", path); out != "" {
		t.Errorf("printed as well: %q", out)
	}
	before, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(before, []byte("-----BEGIN CERTIFICATE REQUEST-----\n")) {
		t.Errorf("%q, %v", before, err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--subject", "CN=y", "--output", path}, 1, "--force"},
		{nil, 2, "--subject or --alternative-name"},
		{[]string{"--subject", "nonsense"}, 1, "hint: "},
	} {
		out, errs, status := h.run(append([]string{"key", "request", "web"}, c.args...)...)
		if status != c.status || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%q: status %d, %q\n%s", c.args, status, out, errs)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("a file that was there was replaced: %v", err)
	}
}

// TestKeyRequestIsAUse asks the user as every use of the key does.
func TestKeyRequestIsAUse(t *testing.T) {
	k := newKey(t, "web")
	k.KeyInfo.Confirm = true
	h := serve(t, k)
	h.prompter.Script(keyringtest.Reply{Err: prompt.ErrDismissed})
	out, errs, status := h.run("key", "request", "web", "--subject", "CN=x")
	if status != 1 || out != "" || !strings.Contains(errs, keyring.ErrDenied.Error()) {
		t.Errorf("status %d, %q\n%s", status, out, errs)
	}
}
