package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"encoding/asn1"
	"errors"
	"math/big"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

var errBadSignature = errors.New("malformed signature from the key")

// reason is what a person reads of a signature's purpose: the protocol tells no
// more.
const reason = "sign data over PKCS#11"

// signInit is C_SignInit, §5.11. No mechanism ends the operation (v3.0 §5.13).
func (q *request) signInit() error {
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
		if s.signing != nil && !s.signing.running {
			s.signing = nil
		}
		return nil
	}
	if s.signing != nil {
		return p11rpc.OperationActive
	}
	op, err := q.begin(s, given, handle, p11rpc.ClassPrivateKey)
	if err != nil {
		return err
	}
	s.signing = op
	return nil
}

// sign is C_Sign, §5.11.
func (q *request) sign() error {
	id, data, room := q.in.Ulong(), q.in.Bytes(), q.in.Room()
	if err := q.in.End(); err != nil {
		return err
	}
	return q.finish(id, data.Data, room, false)
}

// signUpdate is C_SignUpdate, §5.11.
func (q *request) signUpdate() error {
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
	op := s.signing
	switch {
	case op == nil:
		return p11rpc.OperationNotInitialized
	case op.running:
		return p11rpc.OperationActive
	}
	if err := op.update(data.Data); err != nil {
		s.signing = nil
		return err
	}
	return nil
}

// signFinal is C_SignFinal, §5.11.
func (q *request) signFinal() error {
	id, room := q.in.Ulong(), q.in.Room()
	if err := q.in.End(); err != nil {
		return err
	}
	return q.finish(id, nil, room, true)
}

// finish signs, unless the program only asks how long the signature will be or
// has too little room for it: then it comes again. No key is used for that, and
// nobody is asked.
func (q *request) finish(id uint64, data []byte, room uint32, parts bool) error {
	s, err := q.session(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.signing
	switch {
	case op == nil:
		return p11rpc.OperationNotInitialized
	case op.running || op.parts && !parts:
		return p11rpc.OperationActive
	case op.hash == nil && parts:
		s.signing = nil
		return p11rpc.FunctionNotSupported
	}
	if size := op.signatureSize(); uint64(room) < uint64(size) {
		q.out.Length(size)
		return nil
	}
	input, opts, err := op.input(data)
	if err != nil {
		s.signing = nil
		return err
	}
	release, err := q.hold(len(input))
	if err != nil {
		s.signing = nil
		return err
	}
	op.running = true
	input = bytes.Clone(input) // the request is only borrowed
	q.later = func() error {
		defer release()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.signing = nil
		}()
		return q.signNow(s, op, input, opts)
	}
	return nil
}

// signNow has the core sign, and answers with the signature as PKCS#11 wants it.
func (q *request) signNow(s *session, op *operation, input []byte, opts crypto.SignerOpts) error {
	sig, err := q.server.keys.Sign(s.ctx, keyring.SignRequest{
		Caller: q.peer(),
		Key:    op.object.name.key,
		Reason: reason,
		Digest: input,
		Opts:   opts,
	})
	if err != nil {
		if errors.Is(err, context.Canceled) && s.ctx.Err() != nil && q.ctx.Err() == nil {
			return p11rpc.SessionClosed
		}
		return err
	}
	if sig, err = op.signature(sig); err != nil {
		return err
	}
	q.out.Data(sig)
	return nil
}

// signature turns what a crypto.Signer returns into the form of PKCS#11: r and s
// one after the other for ECDSA (mechanisms §2.3.1), and no other change.
func (op *operation) signature(sig []byte) ([]byte, error) {
	size := op.object.key.size
	switch op.mechanism.scheme {
	case schemeECDSA:
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
	case schemePKCS1, schemePSS:
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
