package daemontest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// Distinct returns a copy of a P-256 key file with another public key in it. No
// TPM will load it, but it is listed like any other: a thousand of them are made
// in the time in which a TPM makes one.
func Distinct(tb testing.TB, pem []byte) []byte {
	tb.Helper()
	f, err := keyfile.Parse(pem)
	if err != nil {
		tb.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		tb.Fatal(err)
	}
	// The public area ends with the sized coordinates x and y (TPM 2.0 Library
	// Part 2, TPMS_ECC_POINT).
	public := append([]byte(nil), f.Public...)
	copy(public[len(public)-32:], point[33:])
	copy(public[len(public)-66:], point[1:33])
	out, err := (&keyfile.File{Type: f.Type, EmptyAuth: f.EmptyAuth, Parent: f.Parent, Public: public, Private: f.Private}).PEM()
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
