package keyfile

import (
	"crypto"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// tpm12PublicKey reads the public half out of a "TSS KEY BLOB": a DER OCTET
// STRING of a TPM_KEY or TPM_KEY12 (TPM 1.2 part 2, sections 10.2 and 10.3).
// Nil is returned for whatever is not an RSA key so written; the file is
// unsupported in any case.
func tpm12PublicKey(der []byte) crypto.PublicKey {
	const algRSA = 1 // TPM_ALG_RSA
	s := cryptobyte.String(der)
	var key, parms, modulus, exponent cryptobyte.String
	if !s.ReadASN1(&key, tag.OCTET_STRING) || !s.Empty() {
		return nil
	}
	var alg, size, bits, primes uint32
	if !key.Skip(4) || // TPM_STRUCT_VER, or the tag and fill of a TPM_KEY12
		!key.Skip(2+4+1) || // keyUsage, keyFlags, authDataUsage
		!key.ReadUint32(&alg) || alg != algRSA ||
		!key.Skip(2+2) || // encScheme, sigScheme
		!read32(&key, &parms) ||
		!key.ReadUint32(&size) || !skip(&key, size) || // PCR info
		!read32(&key, &modulus) {
		return nil
	}
	if !parms.ReadUint32(&bits) || !parms.ReadUint32(&primes) || !read32(&parms, &exponent) || len(exponent) > 4 {
		return nil
	}
	var e uint64
	for _, b := range exponent {
		e = e<<8 | uint64(b)
	}
	rsaKey, err := newRSAKey(modulus, e)
	if err != nil || uint64(rsaKey.N.BitLen()) != uint64(bits) {
		return nil
	}
	return rsaKey
}

// read32 reads a string that follows its length in 32 bits.
func read32(s, out *cryptobyte.String) bool {
	var n uint32
	// The length is compared before it becomes an int, which has 32 bits on
	// some machines.
	return s.ReadUint32(&n) && uint64(n) <= uint64(len(*s)) && s.ReadBytes((*[]byte)(out), int(n))
}

func skip(s *cryptobyte.String, n uint32) bool {
	return uint64(n) <= uint64(len(*s)) && s.Skip(int(n))
}
