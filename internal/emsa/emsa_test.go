package emsa

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"math/big"
	"testing"
)

// What is made is what crypto/rsa verifies, for every salt that fits, and for
// keys whose padding is a byte shorter than their modulus.
func TestPSS(t *testing.T) {
	for _, bits := range []int{1024, 1025, 1031, 2048} {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA512} {
			h := hash.New()
			h.Write([]byte("message"))
			digest := h.Sum(nil)
			most := (bits+6)/8 - 2 - hash.Size()
			for _, salt := range []int{0, 1, min(hash.Size(), most), most, most + 1, -1} {
				em, err := PSS(&k.PublicKey, hash, digest, salt)
				if fits := salt >= 0 && salt <= most; !fits {
					if !errors.Is(err, ErrLength) {
						t.Errorf("%d bits, %v, salt of %d: error %v", bits, hash, salt, err)
					}
					continue
				}
				if err != nil || len(em) != k.Size() {
					t.Fatalf("%d bits, %v, salt of %d: %d bytes, %v", bits, hash, salt, len(em), err)
				}
				sig := new(big.Int).Exp(new(big.Int).SetBytes(em), k.D, k.N).FillBytes(make([]byte, k.Size()))
				verified := salt
				if salt == 0 {
					verified = rsa.PSSSaltLengthAuto
				}
				if err := rsa.VerifyPSS(&k.PublicKey, hash, digest, sig, &rsa.PSSOptions{SaltLength: verified}); err != nil {
					t.Errorf("%d bits, %v, salt of %d: %v", bits, hash, salt, err)
				}
			}
			if _, err := PSS(&k.PublicKey, hash, digest[1:], 0); !errors.Is(err, ErrLength) {
				t.Errorf("a digest that is too short: %v", err)
			}
		}
	}
}
