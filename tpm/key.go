package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// A Key is a key file on a [Device]. All methods may be called concurrently.
type Key struct {
	d      *Device
	parent parentID
	pub    *tpm2.TPMTPublic
	area   []byte // the public area as the file has it
	name   tpm2.TPM2BName
	blob   []byte // private area, or what is to be imported
	seed   []byte // not empty: the file is for import
	public crypto.PublicKey
	shape  shape

	needsAuth    bool
	counted      bool // wrong tries count towards lockout
	policy       []step
	alternatives []alternative

	closed atomic.Bool

	mu        sync.Mutex
	imported  map[string][]byte              // private area by the name of the parent
	tickets   map[string]tpm2.TPMTTKVerified // of signed policies, this epoch's
	ticketsOf uint64
}

// Key makes a key of a file, which must be loadable or importable. It touches
// no TPM, and keeps nothing of f. It returns an error that wraps ErrUnsupported
// if the key can neither sign nor decrypt nor derive, or its policy has steps
// that are not known.
func (d *Device) Key(f *keyfile.File) (*Key, error) {
	if f.Type != keyfile.Loadable && f.Type != keyfile.Importable {
		return nil, fmt.Errorf("%w: the file holds sealed data, not a key", ErrUnsupported)
	}
	parent, err := parentOf(f.Parent, f.RSAParent, f.Legacy)
	if err != nil {
		return nil, err
	}
	k := &Key{
		d:         d,
		parent:    parent,
		needsAuth: f.NeedsAuth(),
		counted:   f.DAProtected(),
		imported:  make(map[string][]byte),
	}
	if k.area, err = content2B(f.Public); err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	if k.blob, err = content2B(f.Private); err != nil {
		return nil, fmt.Errorf("private area: %w", err)
	}
	if f.Type == keyfile.Importable {
		if k.seed, err = content2B(f.Secret); err != nil {
			return nil, fmt.Errorf("secret: %w", err)
		}
		if len(k.seed) == 0 {
			return nil, errors.New("an importable key without a secret")
		}
	}
	if k.pub, err = f.PublicArea(); err != nil {
		return nil, err
	}
	name, err := nameOf(k.area)
	if err != nil {
		return nil, err
	}
	k.name = tpm2.TPM2BName{Buffer: name}
	if k.public, err = f.PublicKey(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if k.shape, err = shapeOf(k.pub); err != nil {
		return nil, err
	}
	if k.policy, k.alternatives, err = parsePolicy(f); err != nil {
		return nil, err
	}
	return k, nil
}

// content2B returns a copy of what a sized buffer holds, and nothing else may
// follow.
func content2B(b []byte) ([]byte, error) {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return nil, errors.New("not a sized buffer of its length")
	}
	return bytes.Clone(b[2:]), nil
}

func (k *Key) public2B() tpm2.TPM2BPublic {
	return tpm2.BytesAs2B[tpm2.TPMTPublic](k.area)
}

// Sign signs a digest as a [crypto.Signer] does: RSA as PKCS #1 v1.5, or PSS if
// opts is a *rsa.PSSOptions; ECDSA as ASN.1 DER. opts.HashFunc says what made
// the digest, 0 that it is to be signed as it is. auth is the key's auth value,
// empty if it has none. Both are borrowed.
//
// If ctx ends while it waits its turn, nothing is sent; if it ends later, the
// command that runs is left to end and its result is thrown away.
//
// Errors wrap the sentinels of this package: ErrLastTry if nobody called
// [Device.Lockout] since the TPM was reset and a wrong auth value could lock it.
func (k *Key) Sign(ctx context.Context, auth secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	p, err := k.plan(digest, opts)
	if err != nil {
		return nil, err
	}
	var sig []byte
	err = k.use(ctx, auth, func(ctx context.Context, s *space, auth secret.Bytes) (err error) {
		sig, err = s.sign(ctx, k, p, auth)
		return err
	})
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// use runs op with a turn at the space where the key lives, and with a copy of
// its auth value; it asks for those of parents that it turns out to need.
func (k *Key) use(ctx context.Context, auth secret.Bytes, op func(context.Context, *space, secret.Bytes) error) error {
	if k.closed.Load() {
		return fmt.Errorf("%w: the key was closed", ErrUnavailable)
	}
	// The turn may outlast this call, and with it what was borrowed.
	mine := auth.Clone()
	var err error
	for asked := 0; ; asked++ {
		err = k.d.useFor(ctx, k, func(ctx context.Context, s *space) error { return op(ctx, s, mine) })
		var need *needAuthError
		if !errors.As(err, &need) {
			break
		}
		if asked == maxAsked {
			err = fmt.Errorf("%w: %s: %w", ErrAuthFailed, need.Error(), need.err)
			break
		}
		if err = k.d.askAuth(ctx, need); err != nil {
			break
		}
	}
	if err == nil || ctx.Err() == nil {
		mine.Wipe() // otherwise a turn may still be using it; its memory wipes itself when collected
	}
	return err
}

// maxAsked bounds how often the auth value of a parent is asked for: once, and
// once again if that was wrong.
const maxAsked = 2

// Close forgets the key; its slot is freed when that is convenient. It does not
// block, and a Sign that runs is not disturbed.
func (k *Key) Close() {
	if k.closed.CompareAndSwap(false, true) {
		k.d.forgetKey(k)
	}
}

// verify checks a signature against the public key.
func (k *Key) verify(p *plan, sig []byte) error {
	switch pub := k.public.(type) {
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(pub, p.digest, sig) {
			return nil
		}
	case *rsa.PublicKey:
		if p.pss != nil {
			if k.fitsPSS(pub, p, sig) {
				return nil
			}
			loose := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}
			if rsa.VerifyPSS(pub, p.hash, p.digest, sig, loose) == nil {
				return fmt.Errorf("%w: this TPM makes PSS signatures with another salt length than the one asked for", ErrUnsupported)
			}
			return errBadSignature
		}
		if rsa.VerifyPKCS1v15(pub, p.hash, p.digest, sig) == nil {
			return nil
		}
	}
	return errBadSignature
}

// fitsPSS says whether a signature is one with the salt that was asked for.
func (k *Key) fitsPSS(pub *rsa.PublicKey, p *plan, sig []byte) bool {
	want := *p.pss
	if want.SaltLength != noSalt {
		return rsa.VerifyPSS(pub, p.hash, p.digest, sig, &want) == nil
	}
	// Without salt there is but one encoded message.
	em, err := padPSS(pub, p.hash, p.digest, noSalt)
	return err == nil && bytes.Equal(encrypt(pub, sig), em)
}

var errBadSignature = errors.New("the TPM's signature does not fit the key")
