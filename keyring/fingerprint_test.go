package keyring_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/keyring"
)

func TestFingerprintIsSSHs(t *testing.T) {
	var keys []crypto.PublicKey
	edPub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys = append(keys, edPub)
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, &k.PublicKey)
	}
	for _, bits := range []uint{2047, 2048} { // without and with a first bit that is set
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		keys = append(keys, &rsa.PublicKey{N: n.Add(n, big.NewInt(5)), E: 65537}, &rsa.PublicKey{N: n, E: 3})
	}
	for _, k := range keys {
		want, err := ssh.NewPublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		if got := keyring.Fingerprint(k); got != ssh.FingerprintSHA256(want) {
			t.Errorf("%T: %s, want %s", k, got, ssh.FingerprintSHA256(want))
		}
	}
	// Not keys of SSH's, one of them of a curve that it does not know.
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	odd := &small.PublicKey
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []crypto.PublicKey{nil, x.PublicKey(), odd, "key"} {
		if got := keyring.Fingerprint(k); got != "" {
			t.Errorf("%T: %q", k, got)
		}
	}
}
