package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"

	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// verifyInit is C_VerifyInit, §5.12.
func (q *request) verifyInit() error {
	id, given, handle := q.in.Ulong(), q.in.Mechanism(), q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	s, err := q.session(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if given.Type == p11rpc.MechNone {
		s.verifying = nil
		return nil
	}
	if s.verifying != nil {
		return p11rpc.OperationActive
	}
	op, err := q.begin(s, given, handle, p11rpc.ClassPublicKey)
	if err != nil {
		return err
	}
	s.verifying = op
	return nil
}

// verify is C_Verify, §5.12.
func (q *request) verify() error {
	id, data, sig := q.in.Ulong(), q.in.Bytes(), q.in.Bytes()
	if err := q.in.End(); err != nil {
		return err
	}
	return q.check(id, data.Data, sig.Data, false)
}

// verifyUpdate is C_VerifyUpdate, §5.12.
func (q *request) verifyUpdate() error {
	id, data := q.in.Ulong(), q.in.Bytes()
	if err := q.in.End(); err != nil {
		return err
	}
	s, err := q.session(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verifying == nil {
		return p11rpc.OperationNotInitialized
	}
	if err := s.verifying.update(data.Data); err != nil {
		s.verifying = nil
		return err
	}
	return nil
}

// verifyFinal is C_VerifyFinal, §5.12.
func (q *request) verifyFinal() error {
	id, sig := q.in.Ulong(), q.in.Bytes()
	if err := q.in.End(); err != nil {
		return err
	}
	return q.check(id, nil, sig.Data, true)
}

// check checks a signature, with which the operation ends.
func (q *request) check(id uint64, data, sig []byte, parts bool) error {
	s, err := q.session(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.verifying
	switch {
	case op == nil:
		return p11rpc.OperationNotInitialized
	case op.parts && !parts:
		return p11rpc.OperationActive
	}
	s.verifying = nil
	if op.hash == nil && parts {
		return p11rpc.FunctionNotSupported
	}
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
}

// good reports whether a signature is the key's.
func (op *operation) good(input []byte, opts crypto.SignerOpts, sig []byte) bool {
	switch pub := op.object.key.PublicKey.(type) {
	case *ecdsa.PublicKey:
		half := len(sig) / 2
		return ecdsa.Verify(pub, input, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(pub, pss.Hash, input, sig, pss) == nil
		}
		return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), input, sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(pub, input, sig)
	}
	return false
}
