package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"

	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// verifyInit is C_VerifyInit, §5.12.
func (q *request) verifyInit() error { return q.operationInit(verifying, p11rpc.ClassPublicKey) }

// verify is C_Verify, §5.12.
func (q *request) verify() error {
	id, data, sig := q.in.Ulong(), q.in.Bytes(), q.in.Bytes()
	return q.verifyLast(id, data.Data, sig.Data, false)
}

// verifyUpdate is C_VerifyUpdate, §5.12.
func (q *request) verifyUpdate() error { return q.operationUpdate(verifying) }

// verifyFinal is C_VerifyFinal, §5.12.
func (q *request) verifyFinal() error {
	id, sig := q.in.Ulong(), q.in.Bytes()
	return q.verifyLast(id, nil, sig.Data, true)
}

// verifyLast checks a signature, with which the operation ends.
func (q *request) verifyLast(id uint64, data, sig []byte, parts bool) error {
	return q.inSession(id, func(s *session) error {
		op, err := s.last(verifying, parts)
		if err != nil {
			return err
		}
		s.end(verifying)
		if len(sig) != op.signatureSize() {
			return p11rpc.SignatureLenRange
		}
		input, opts, err := op.input(data)
		if err != nil {
			return err
		}
		if !op.good(input, opts, sig) {
			return p11rpc.SignatureInvalid
		}
		return nil
	})
}

// good reports whether a signature is the key's.
func (op *operation) good(input []byte, opts crypto.SignerOpts, sig []byte) bool {
	switch pub := op.object.key.PublicKey.(type) {
	case *ecdsa.PublicKey:
		half := len(sig) / 2
		return ecdsa.Verify(pub, input, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
	case *rsa.PublicKey:
		if op.mechanism.scheme == schemeRSA {
			return bytes.Equal(bare(pub, sig), input)
		}
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return goodPSS(pub, pss, input, sig)
		}
		return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), input, sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(pub, input, sig)
	}
	return false
}

// goodPSS is RSASSA-PSS with exactly the salt that was asked for.
func goodPSS(pub *rsa.PublicKey, pss *rsa.PSSOptions, digest, sig []byte) bool {
	if !unsalted(pss) {
		return rsa.VerifyPSS(pub, pss.Hash, digest, sig, pss) == nil
	}
	if rsa.VerifyPSS(pub, pss.Hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) != nil {
		return false
	}
	// The hash that ends the message tells whether there was salt in it. RFC 8017
	// §9.1.1, steps 5, 6 and 12.
	h := pss.Hash.New()
	h.Write(make([]byte, 8))
	h.Write(digest)
	em := bare(pub, sig)
	return bytes.HasSuffix(em[:len(em)-1], h.Sum(nil))
}

// bare is the operation of an RSA public key.
func bare(pub *rsa.PublicKey, b []byte) []byte {
	n := new(big.Int).SetBytes(b)
	return n.Exp(n, big.NewInt(int64(pub.E)), pub.N).FillBytes(make([]byte, pub.Size()))
}
