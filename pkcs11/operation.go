package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"hash"

	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// An operation is signing or verifying that a program has begun, §5.11, §5.12.
type operation struct {
	mechanism mechanism
	object    *object
	opts      crypto.SignerOpts
	hash      hash.Hash // nil where the program hashes, or nobody does
	parts     bool      // some of the data was given
	running   bool      // the key is at work: the operation is no longer the program's
}

// begin makes an operation of a request's mechanism and key, which must be of
// the class.
func (q *request) begin(s *session, given p11rpc.Mechanism, handle uint64, class p11rpc.Class) (*operation, error) {
	m, ok := mechanismOf(uint64(given.Type))
	if !ok || m.scheme == schemeDigest {
		return nil, p11rpc.MechanismInvalid
	}
	o, err := q.object(s, handle)
	switch {
	case err != nil:
		return nil, p11rpc.KeyHandleInvalid
	case o.name.class == p11rpc.ClassCertificate:
		return nil, p11rpc.KeyHandleInvalid
	case o.name.class != class:
		return nil, p11rpc.KeyFunctionNotPermitted
	case !m.fits(o.key):
		return nil, p11rpc.KeyTypeInconsistent
	}
	opts, err := m.params(given, o.key)
	if err != nil {
		return nil, err
	}
	op := &operation{mechanism: m, object: o, opts: opts}
	if m.hash != 0 {
		op.hash = m.hash.New()
	}
	return op, nil
}

// update takes more of the data.
func (op *operation) update(data []byte) error {
	if op.hash == nil {
		return p11rpc.FunctionNotSupported // such mechanisms take their data whole, PKCS#11 mechanisms table 1
	}
	op.parts = true
	op.hash.Write(data)
	return nil
}

// input returns what a core key signs, and how, once the rest of the data is
// there. It may lie in data.
func (op *operation) input(data []byte) ([]byte, crypto.SignerOpts, error) {
	if op.hash != nil {
		op.hash.Write(data)
		return op.hash.Sum(nil), op.opts, nil
	}
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
		if len(data) > op.object.key.size-11 { // RFC 8017 §9.2
			return nil, nil, p11rpc.DataLenRange
		}
		return data, crypto.Hash(0), nil
	case schemePSS:
		if pss, ok := op.opts.(*rsa.PSSOptions); !ok || len(data) != pss.Hash.Size() {
			return nil, nil, p11rpc.DataLenRange
		}
	}
	return data, op.opts, nil
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
	if op.mechanism.scheme == schemePKCS1 || op.mechanism.scheme == schemePSS {
		return op.object.key.size
	}
	return 2 * op.object.key.size // r and s, or R and S
}
