package sshkeys

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// The bare operation is the inverse of what the public key does, for keys of odd
// sizes, with either prime first, and without what speeds it up.
func TestRawRSA(t *testing.T) {
	for _, bits := range []int{1024, 1031, 2048} {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		must(t, err)
		swapped := &rsa.PrivateKey{PublicKey: k.PublicKey, D: k.D, Primes: []*big.Int{k.Primes[1], k.Primes[0]}}
		swapped.Precompute()
		slow := &rsa.PrivateKey{PublicKey: k.PublicKey, D: k.D, Primes: k.Primes}
		most := new(big.Int).Sub(k.N, big.NewInt(1))
		random, err := rand.Int(rand.Reader, k.N)
		must(t, err)
		for name, key := range map[string]*rsa.PrivateKey{"as made": k, "primes swapped": swapped, "without CRT": slow} {
			for _, m := range []*big.Int{big.NewInt(0), big.NewInt(1), k.Primes[0], most, random} {
				c := new(big.Int).Exp(m, big.NewInt(int64(k.E)), k.N).FillBytes(make([]byte, k.Size()))
				got, err := rawRSA(key, c)
				must(t, err)
				got.Use(func(b []byte) {
					if want := m.FillBytes(make([]byte, k.Size())); !bytes.Equal(b, want) {
						t.Errorf("%d bits, %s: %x, want %x", bits, name, b, want)
					}
				})
			}
			var bad *keyring.CiphertextError
			for _, c := range [][]byte{k.N.Bytes(), bytes.Repeat([]byte{0xff}, k.Size()), append([]byte{0}, k.N.Bytes()...)} {
				if _, err := rawRSA(key, c); !errors.As(err, &bad) {
					t.Errorf("%d bits, %s, %x: %v", bits, name, c, err)
				}
			}
		}
		wrong := &rsa.PrivateKey{PublicKey: k.PublicKey, D: new(big.Int).Sub(k.D, big.NewInt(2)), Primes: k.Primes}
		if out, err := rawRSA(wrong, []byte{2}); err == nil || out.Len() != 0 {
			t.Errorf("a wrong answer is handed out: %v", err)
		}
	}
}

// Keys in files and added ones do the bare operation and sign without salt.
func TestKeysPadNothing(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	d := dir(t)
	path := filepath.Join(d, "k")
	write(t, path, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}))
	added := NewAdded(keyring.NewKeys(keyring.NewGate(nil)))
	must(t, added.Hold(private, keyring.KeyInfo{}))
	digest := sha256.Sum256([]byte("message"))
	opts := &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: keyring.PSSNoSalt}
	var sigs [][]byte
	for _, k := range []keyring.Key{serve(t, d).key(t, path), added.list[0]} {
		sig, err := k.Sign(t.Context(), secret.Bytes{}, digest[:], opts)
		must(t, err)
		must(t, rsa.VerifyPSS(&private.PublicKey, crypto.SHA256, digest[:], sig, nil))
		sigs = append(sigs, sig)
		plain, err := k.(keyring.Decrypter).Decrypt(t.Context(), secret.Bytes{}, sig, keyring.RawRSA{})
		must(t, err)
		if plain.Len() != private.Size() {
			t.Errorf("%d bytes", plain.Len())
		}
		plain.Wipe()
	}
	if !slices.EqualFunc(sigs[:1], sigs[1:], bytes.Equal) {
		t.Error("two signatures without salt differ")
	}
}
