package tpm

import (
	"crypto"
	"crypto/rsa"
	"crypto/subtle"
	"fmt"

	"github.com/keyringd/keyringd/internal/emsa"
)

// unpadding returns what takes the padding off that opts names, if the key can
// be used with it. What it returns clears its argument, and takes the same time
// for whatever is wrong with it.
func (k *Key) unpadding(opts crypto.DecrypterOpts) (func(em []byte) ([]byte, error), error) {
	sh := k.shape
	switch o := opts.(type) {
	case nil:
		return unpadPKCS1, k.onlyPadding(sh.padding != 0 && sh.paddingHash == 0)
	case *rsa.OAEPOptions:
		mgf := o.MGFHash
		if mgf == 0 {
			mgf = o.Hash
		}
		if !o.Hash.Available() || !mgf.Available() {
			return nil, fmt.Errorf("%w: OAEP with these hashes", ErrUnsupported)
		}
		// A TPM takes the zero at the end of a label for a part of it, and insists
		// on one. Part 1, "RSAES_OAEP".
		labelled := len(o.Label) == 0 || o.Label[len(o.Label)-1] == 0
		err := k.onlyPadding(sh.paddingHash != 0 && sh.paddingHash == o.Hash && mgf == o.Hash && labelled)
		return func(em []byte) ([]byte, error) { return unpadOAEP(em, o.Hash, mgf, o.Label) }, err
	}
	return nil, fmt.Errorf("%w: decryption options of type %T", ErrUnsupported, opts)
}

// onlyPadding refuses what a key that is bound to one padding cannot do.
func (k *Key) onlyPadding(same bool) error {
	if k.shape.padding != 0 && !same {
		return fmt.Errorf("%w: the key was made for another padding", ErrUnsupported)
	}
	return nil
}

// label returns the label that opts name.
func label(opts crypto.DecrypterOpts) []byte {
	if o, ok := opts.(*rsa.OAEPOptions); ok {
		return o.Label
	}
	return nil
}

// unpadPKCS1 is EME-PKCS1-v1_5 decoding. RFC 8017 §7.2.2, step 3: 0, 2, eight
// bytes or more that are not 0, 0, and the message.
func unpadPKCS1(em []byte) ([]byte, error) {
	defer clear(em)
	if len(em) < 11 {
		return nil, ErrCiphertext
	}
	good := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeByteEq(em[1], 2)
	start, found := firstAfter(em[2:], 0)
	start += 2
	// At least eight bytes of padding lie before the zero.
	good &= found & subtle.ConstantTimeLessOrEq(11, start)
	if good != 1 {
		return nil, ErrCiphertext
	}
	return append([]byte(nil), em[start:]...), nil
}

// firstAfter returns the place behind the first byte of a value, and 1 if there
// is one.
func firstAfter(b []byte, value byte) (place, found int) {
	for i, v := range b {
		here := subtle.ConstantTimeByteEq(v, value) & (1 ^ found)
		place = subtle.ConstantTimeSelect(here, i+1, place)
		found |= here
	}
	return place, found
}

// unpadOAEP is EME-OAEP decoding. RFC 8017 §7.1.2, step 3.
func unpadOAEP(em []byte, hash, mgf crypto.Hash, label []byte) ([]byte, error) {
	defer clear(em)
	n := hash.Size()
	if len(em) < 2*n+2 {
		return nil, fmt.Errorf("%w: %s is too long for a key of %d bits", ErrUnsupported, hash, 8*len(em))
	}
	seed, db := em[1:1+n], em[1+n:]
	emsa.MGF1(mgf, db, seed)
	emsa.MGF1(mgf, seed, db)
	h := hash.New()
	h.Write(label)
	good := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(db[:n], h.Sum(nil))
	// Zeros up to a one.
	rest := db[n:]
	start, found := firstAfter(rest, 1)
	stray := 0
	for i, v := range rest {
		before := subtle.ConstantTimeLessOrEq(i+2, start)
		stray |= before & (1 ^ subtle.ConstantTimeByteEq(v, 0))
	}
	if good&found&(1^stray) != 1 {
		return nil, ErrCiphertext
	}
	return append([]byte(nil), rest[start:]...), nil
}
