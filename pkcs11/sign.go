package pkcs11

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"errors"
	"math/big"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

var errBadSignature = errors.New("malformed signature from the key")

// What a person reads of a use's purpose: the protocol tells no more.
const (
	reasonSign    = "sign data over PKCS#11"
	reasonDecrypt = "decrypt data over PKCS#11"
	reasonDerive  = "agree on a secret over PKCS#11"
	reasonUnwrap  = "decrypt a key over PKCS#11"
	// Whoever has an RSA key's bare operation can do all that the key can.
	reasonBare = "sign or decrypt data without a padding, over PKCS#11"
)

// signInit is C_SignInit, §5.11.
func (q *request) signInit() error { return q.operationInit(signing, p11rpc.ClassPrivateKey) }

// sign is C_Sign, §5.11.
func (q *request) sign() error {
	id, data, room := q.in.Ulong(), q.in.Bytes(), q.in.Room()
	return q.signLast(id, data.Data, room, false)
}

// signUpdate is C_SignUpdate, §5.11.
func (q *request) signUpdate() error { return q.operationUpdate(signing) }

// signFinal is C_SignFinal, §5.11.
func (q *request) signFinal() error {
	id, room := q.in.Ulong(), q.in.Room()
	return q.signLast(id, nil, room, true)
}

// signLast signs, unless the program only asks how long the signature will be or
// has too little room for it: then it comes again. No key is used for that, and
// nobody is asked.
func (q *request) signLast(id uint64, data []byte, room uint32, parts bool) error {
	return q.inSession(id, func(s *session) error {
		op, err := s.last(signing, parts)
		if err != nil {
			return err
		}
		if size := op.signatureSize(); uint64(room) < uint64(size) {
			q.out.Length(size)
			return nil
		}
		input, opts, err := op.input(data)
		if err != nil {
			s.end(signing)
			return err
		}
		input = bytes.Clone(input) // the request is only borrowed
		return q.run(s, signing, len(input), func() (bool, error) { return false, q.signNow(s, op, input, opts) })
	})
}

// signNow has the core sign, and answers with the signature as PKCS#11 wants it.
func (q *request) signNow(s *session, op *operation, input []byte, opts crypto.SignerOpts) error {
	var sig []byte
	var err error
	if op.mechanism.scheme == schemeRSA {
		sig, err = q.signBare(s, op, input)
	} else {
		sig, err = q.server.keys.Sign(s.ctx, keyring.SignRequest{
			Caller: q.peer(),
			Key:    op.object.name.key,
			Reason: reasonSign,
			Digest: input,
			Opts:   opts,
		})
	}
	if err != nil {
		return err
	}
	if sig, err = op.signature(sig); err != nil {
		return err
	}
	q.out.Data(sig)
	return nil
}

// signBare is CKM_RSA_X_509, mechanisms §2.1.9: to the key it is the same as
// decrypting.
func (q *request) signBare(s *session, op *operation, block []byte) ([]byte, error) {
	out, err := q.server.keys.Decrypt(s.ctx, keyring.DecryptRequest{
		Caller:     q.peer(),
		Key:        op.object.name.key,
		Reason:     reasonBare,
		Ciphertext: block,
		Opts:       keyring.RawRSA{},
	})
	var bad *keyring.CiphertextError
	if errors.As(err, &bad) {
		return nil, p11rpc.DataInvalid // a number that is not below the modulus
	}
	if err != nil {
		return nil, err
	}
	defer out.Wipe()
	var sig []byte
	out.Use(func(b []byte) { sig = bytes.Clone(b) }) // a signature is no secret
	return sig, nil
}

// signature turns what a crypto.Signer returns into the form of PKCS#11: r and s
// one after the other for ECDSA (mechanisms §2.3.1), and no other change.
func (op *operation) signature(sig []byte) ([]byte, error) {
	size := op.object.key.size
	switch op.object.key.typ {
	case p11rpc.KeyTypeEC:
		var rs struct{ R, S *big.Int }
		rest, err := asn1.Unmarshal(sig, &rs)
		if err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 ||
			rs.R.BitLen() > 8*size || rs.S.BitLen() > 8*size {
			return nil, errBadSignature
		}
		out := make([]byte, 2*size)
		rs.R.FillBytes(out[:size])
		rs.S.FillBytes(out[size:])
		return out, nil
	case p11rpc.KeyTypeRSA:
		if len(sig) > size {
			return nil, errBadSignature
		}
		out := make([]byte, size) // shorter ones get their leading zeros back
		copy(out[size-len(sig):], sig)
		return out, nil
	default:
		if len(sig) != 2*size {
			return nil, errBadSignature
		}
		return sig, nil
	}
}
