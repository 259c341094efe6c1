package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"fmt"
	"hash"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// A kind is what an operation does. A session has one operation of each kind at
// most.
type kind int

const (
	signing kind = iota
	verifying
	decrypting
	kinds
)

// An operation is something that a program has begun with a key, §5.9, §5.11,
// §5.12.
type operation struct {
	mechanism mechanism
	object    *object
	opts      any       // what mechanism.params returned
	hash      hash.Hash // nil where the program hashes, or nobody does
	parts     bool      // some of the data was given
	running   bool      // the key is at work: the operation is no longer the program's

	data  []byte       // of a decryption in parts
	plain secret.Bytes // decrypted, while the program makes room for it
}

// operationInit is C_SignInit, C_VerifyInit or C_DecryptInit, with a key of the
// class. No mechanism ends the operation (v3.0 §5.13).
func (q *request) operationInit(k kind, class p11rpc.Class) error {
	id, given, handle := q.in.Ulong(), q.in.Mechanism(), q.in.Ulong()
	return q.inSession(id, func(s *session) error {
		if given.Type == p11rpc.MechNone {
			if op := s.ops[k]; op != nil && !op.running {
				s.end(k)
			}
			return nil
		}
		if s.ops[k] != nil {
			return p11rpc.OperationActive
		}
		op, err := q.begin(s, k, given, handle, class)
		if err != nil {
			return err
		}
		s.ops[k] = op
		return nil
	})
}

// begin makes an operation of a request's mechanism and key.
func (q *request) begin(s *session, k kind, given p11rpc.Mechanism, handle uint64, class p11rpc.Class) (*operation, error) {
	m, o, err := q.chosen(s, uses[k], given, handle, class)
	if err != nil {
		return nil, err
	}
	opts, err := m.params(given, o.key)
	if err != nil {
		return nil, err
	}
	if k == signing && unsalted(opts) && !o.key.may(flagDecrypt) {
		// The padding has to be made outside of the key, which has to sign it as it is.
		return nil, fmt.Errorf("PSS without salt: %w", p11rpc.MechanismParamInvalid)
	}
	op := &operation{mechanism: m, object: o, opts: opts}
	if m.hash != 0 {
		op.hash = m.hash.New()
	}
	return op, nil
}

// unsalted reports whether these are PSS options without a salt.
func unsalted(opts any) bool {
	pss, ok := opts.(*rsa.PSSOptions)
	return ok && pss.SaltLength == keyring.PSSNoSalt
}

// chosen returns the mechanism and the key that a program has chosen for a use,
// if they go together.
func (q *request) chosen(s *session, use uint64, given p11rpc.Mechanism, handle uint64, class p11rpc.Class) (mechanism, *object, error) {
	m, ok := mechanismOf(uint64(given.Type))
	if !ok || m.flags()&use == 0 || !q.has(s.slot, m) {
		return m, nil, p11rpc.MechanismInvalid
	}
	o, err := q.object(s, handle)
	switch {
	case err != nil:
		return m, nil, p11rpc.KeyHandleInvalid
	case o.name.class == p11rpc.ClassCertificate:
		return m, nil, p11rpc.KeyHandleInvalid
	case o.name.class != class || class == p11rpc.ClassPrivateKey && !o.key.may(use):
		return m, nil, p11rpc.KeyFunctionNotPermitted
	case !m.fits(o.key):
		return m, nil, p11rpc.KeyTypeInconsistent
	}
	return m, o, nil
}

// end ends a session's operation.
func (s *session) end(k kind) {
	if op := s.ops[k]; op != nil {
		op.plain.Wipe()
		s.ops[k] = nil
	}
}

// operationUpdate is C_SignUpdate or C_VerifyUpdate.
func (q *request) operationUpdate(k kind) error {
	id, data := q.in.Ulong(), q.in.Bytes()
	return q.inSession(id, func(s *session) error {
		op, err := s.operation(k)
		if err != nil {
			return err
		}
		if op.hash == nil {
			s.end(k)
			return p11rpc.FunctionNotSupported // such mechanisms take their data whole, PKCS#11 mechanisms table 1
		}
		op.parts = true
		op.hash.Write(data.Data)
		return nil
	})
}

// operation returns the session's operation of a kind, if it is the program's.
func (s *session) operation(k kind) (*operation, error) {
	switch op := s.ops[k]; {
	case op == nil:
		return nil, p11rpc.OperationNotInitialized
	case op.running:
		return nil, p11rpc.OperationActive
	default:
		return op, nil
	}
}

// last returns the operation that is to be finished: in one step, or after its
// parts. Data given in parts must be finished so.
func (s *session) last(k kind, parts bool) (*operation, error) {
	op, err := s.operation(k)
	if err != nil {
		return nil, err
	}
	switch {
	case op.parts && !parts:
		return nil, p11rpc.OperationActive
	case op.hash == nil && parts && k != decrypting:
		s.end(k)
		return nil, p11rpc.FunctionNotSupported
	}
	return op, nil
}

// run lets a key work on n bytes of data without holding anybody up, and ends
// the operation, unless work says that it goes on.
func (q *request) run(s *session, k kind, n int, work func() (goesOn bool, err error)) error {
	op := s.ops[k]
	err := q.wait(n, func() error {
		goesOn := false
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if op.running = false; !goesOn {
				s.end(k)
			}
		}()
		var err error
		goesOn, err = work()
		return q.inTime(s, err)
	})
	if err != nil {
		s.end(k)
		return err
	}
	op.running = true
	return nil
}

// input returns what a core key signs, and how, once the rest of the data is
// there. It may lie in data.
func (op *operation) input(data []byte) ([]byte, crypto.SignerOpts, error) {
	opts, _ := op.opts.(crypto.SignerOpts)
	if op.hash != nil {
		op.hash.Write(data)
		return op.hash.Sum(nil), opts, nil
	}
	size := op.object.key.size
	switch op.mechanism.scheme {
	case schemeECDSA:
		if len(data) == 0 {
			return nil, nil, p11rpc.DataLenRange
		}
		return data, hashOfSize(len(data)), nil
	case schemePKCS1:
		if digest, hash := cutDigestInfo(data); hash != 0 {
			return digest, hash, nil
		}
		// What is no digest is padded as it is, by keys that can do so.
		if len(data) > size-11 { // RFC 8017 §9.2
			return nil, nil, p11rpc.DataLenRange
		}
		return data, crypto.Hash(0), nil
	case schemeRSA:
		if len(data) > size {
			return nil, nil, p11rpc.DataLenRange
		}
		return append(make([]byte, size-len(data)), data...), nil, nil
	case schemePSS:
		if pss, ok := opts.(*rsa.PSSOptions); !ok || len(data) != pss.Hash.Size() {
			return nil, nil, p11rpc.DataLenRange
		}
	}
	return data, opts, nil
}

// hashOfSize returns the hash whose digests have a length, 0 for a length that
// none has: ECDSA does not care what made its input, but keys may be bound to
// one hash.
func hashOfSize(n int) crypto.Hash {
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA1, crypto.SHA224} {
		if h.Size() == n {
			return h
		}
	}
	return 0
}

// digestInfos is what stands before a digest in a DigestInfo. RFC 8017 §9.2,
// note 1.
var digestInfos = []struct {
	hash   crypto.Hash
	prefix string
}{
	{crypto.SHA256, "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"},
	{crypto.SHA384, "\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"},
	{crypto.SHA512, "\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"},
	{crypto.SHA1, "\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"},
	{crypto.SHA224, "\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c"},
}

// cutDigestInfo returns the digest in a DigestInfo and its hash, 0 if data is
// none.
func cutDigestInfo(data []byte) ([]byte, crypto.Hash) {
	for _, d := range digestInfos {
		if digest, ok := bytes.CutPrefix(data, []byte(d.prefix)); ok && len(digest) == d.hash.Size() {
			return digest, d.hash
		}
	}
	return nil, 0
}

// signatureSize is how long a signature is.
func (op *operation) signatureSize() int {
	if op.object.key.typ == p11rpc.KeyTypeRSA {
		return op.object.key.size
	}
	return 2 * op.object.key.size // r and s, or R and S
}
