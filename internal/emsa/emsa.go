// Package emsa makes what an RSA key signs of a digest, for keys that pad
// nothing themselves: EMSA-PSS, and the mask generation that it shares with
// OAEP (RFC 8017). It deliberately knows no key and takes no padding off.
package emsa

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
)

// ErrLength says that padding, digest and salt do not fit the key, or that the
// digest is not one of the hash.
var ErrLength = errors.New("the key is too short for this digest and salt")

// PSS makes EMSA-PSS of a digest with a fresh salt of some length, as many bytes
// as the modulus has. RFC 8017 §9.1.1.
func PSS(pub *rsa.PublicKey, hash crypto.Hash, digest []byte, saltLength int) ([]byte, error) {
	bits := pub.N.BitLen() - 1
	size := (bits + 7) / 8
	hLen := hash.Size()
	if saltLength < 0 || size < hLen+saltLength+2 || len(digest) != hLen {
		return nil, ErrLength
	}
	salt := make([]byte, saltLength)
	_, _ = rand.Read(salt) // never fails
	h := hash.New()
	h.Write(make([]byte, 8))
	h.Write(digest)
	h.Write(salt)
	sum := h.Sum(nil)

	out := make([]byte, pub.Size())
	em := out[len(out)-size:] // a byte less than the modulus, where that has 8n+1 bits
	db := em[:size-hLen-1]
	db[len(db)-saltLength-1] = 1
	copy(db[len(db)-saltLength:], salt)
	MGF1(hash, sum, db)
	db[0] &= 0xff >> (8*size - bits)
	copy(em[len(db):], sum)
	em[size-1] = 0xbc
	return out, nil
}

// MGF1 masks out with what grows from seed. RFC 8017 §B.2.1.
func MGF1(hash crypto.Hash, seed, out []byte) {
	for i := uint32(0); len(out) > 0; i++ {
		h := hash.New()
		h.Write(seed)
		h.Write([]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
		n := 0
		for _, b := range h.Sum(nil) {
			if n == len(out) {
				break
			}
			out[n] ^= b
			n++
		}
		out = out[n:]
	}
}
