package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
)

// sign makes one signature. It may be played again from the start.
func (s *space) sign(ctx context.Context, k *Key, p *plan, auth secret.Bytes) ([]byte, error) {
	var sig []byte
	err := s.authorized(ctx, k, auth, false, func(key tpm2.AuthHandle, _ ...tpm2.Session) (err error) {
		sig, err = s.signWith(k, p, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := k.verify(p, sig); err != nil {
		return nil, err
	}
	return sig, nil
}

// authorized calls send with the key, loaded and with what authorizes its use.
// With hidden set, the first parameter of the answer comes encrypted, by that
// session or by the ones that are given along. It may be played again from the
// start.
func (s *space) authorized(ctx context.Context, k *Key, auth secret.Bytes, hidden bool, send func(tpm2.AuthHandle, ...tpm2.Session) error) error {
	s.inUse, s.inUsePar, s.inUseSes = nil, nil, nil
	withAuth := k.usesAuth(auth)
	if withAuth {
		if err := k.fits(auth); err != nil {
			return err
		}
		if k.counted {
			if err := s.mayTry(); err != nil {
				return err
			}
		}
	}
	h, err := s.resident(ctx, k)
	if err != nil {
		return err
	}
	var ses *session
	if hidden || withAuth && len(k.policy) == 0 {
		if ses, err = s.keySession(k); err != nil {
			return s.useRefused(err)
		}
	}
	try := func(a tpm2.Session, extra ...tpm2.Session) error {
		if s.d.addr.ResourceManager {
			if err := s.dropTransient(); err != nil {
				return err
			}
		}
		// Nothing is spent for somebody who has left.
		if err := ctx.Err(); err != nil {
			return err
		}
		return send(tpm2.AuthHandle{Handle: h, Name: k.name, Auth: a}, extra...)
	}
	switch {
	case len(k.policy) > 0:
		err = s.underPolicy(k, auth, func(a tpm2.Session) error {
			if !hidden {
				return try(a)
			}
			return try(a, answers{ses.with(secret.Bytes{}, false)})
		})
	case hidden:
		err = try(answers{ses.with(auth, true)})
	case withAuth:
		err = try(ses.with(auth, true))
	default:
		err = try(empty())
	}
	if err != nil {
		return s.useRefused(err)
	}
	return nil
}

// usesAuth says whether an auth value will be sent: then, and only then, a try
// can be lost that the user knows of.
func (k *Key) usesAuth(auth secret.Bytes) bool {
	if len(k.policy) > 0 {
		return k.policyWantsAuth()
	}
	return k.needsAuth || auth.Len() > 0
}

// fits refuses an auth value that is longer than any the key can have, without
// spending a try on it. Part 1, "Authorization Values".
func (k *Key) fits(auth secret.Bytes) error {
	hash, err := k.pub.NameAlg.Hash()
	if err != nil {
		return fmt.Errorf("%w: name algorithm: %w", ErrUnsupported, err)
	}
	n := 0
	auth.Use(func(b []byte) { n = len(trimAuth(b)) })
	if n > hash.Size() {
		return fmt.Errorf("%w: it is longer than the key's can be", ErrAuthFailed)
	}
	return nil
}

// useRefused says what the TPM's refusal to use a key means.
func (s *space) useRefused(err error) error {
	var policy *PolicyError
	switch {
	case known(err) || errors.As(err, &policy):
		return err
	case isAny(err, tpm2.TPMRCHandle):
		return staleIf(err, tpm2.TPMRCHandle)
	case isAny(err, tpm2.TPMRCAuthUnavailable):
		return &PolicyError{Step: "the key can only be used under a policy that its file does not have", Err: err}
	case isUnsupported(err):
		return fmt.Errorf("%w: use the key: %w", ErrUnsupported, err)
	}
	return s.refused(fmt.Errorf("use the key: %w", err))
}

// signWith sends the one command that signs.
func (s *space) signWith(k *Key, p *plan, key tpm2.AuthHandle) ([]byte, error) {
	if p.send == nil || p.padded != nil && s.d.lacksHash(p) {
		return s.signBare(k, p, key)
	}
	scheme := p.scheme
	rsp, err := tpm2.Sign{
		KeyHandle:  key,
		Digest:     tpm2.TPM2BDigest{Buffer: p.send},
		InScheme:   scheme,
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(s)
	if err != nil {
		if p.padded == nil || !isAny(err, tpm2.TPMRCHash, tpm2.TPMRCScheme, tpm2.TPMRCValue) {
			return nil, err
		}
		s.d.learnLack(p)
		return s.signBare(k, p, key)
	}
	return signature(&rsp.Signature, k.shape.size)
}

// signBare makes an RSA signature over what was padded here: the private key
// operation is the same for both. It serves where the TPM does not know a hash.
func (s *space) signBare(k *Key, p *plan, key tpm2.AuthHandle) ([]byte, error) {
	return s.bareRSA(k, p.padded, key)
}

// bareRSA is the private key operation without any padding. Part 3,
// "TPM2_RSA_Decrypt", TPM_ALG_NULL.
func (s *space) bareRSA(k *Key, block []byte, key tpm2.AuthHandle, extra ...tpm2.Session) ([]byte, error) {
	rsp, err := tpm2.RSADecrypt{
		KeyHandle:  key,
		CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: block},
		InScheme:   tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgNull},
	}.Execute(s, extra...)
	if err != nil {
		return nil, err
	}
	defer clear(rsp.Message.Buffer)
	return pad(rsp.Message.Buffer, k.shape.size)
}

// signature brings what the TPM says into the form of a crypto.Signer.
func signature(sig *tpm2.TPMTSignature, size int) ([]byte, error) {
	switch sig.SigAlg {
	case tpm2.TPMAlgECDSA:
		s, err := sig.Signature.ECDSA()
		if err != nil {
			return nil, err
		}
		return ecdsaDER(s)
	case tpm2.TPMAlgRSASSA:
		s, err := sig.Signature.RSASSA()
		if err != nil {
			return nil, err
		}
		return pad(s.Sig.Buffer, size)
	case tpm2.TPMAlgRSAPSS:
		s, err := sig.Signature.RSAPSS()
		if err != nil {
			return nil, err
		}
		return pad(s.Sig.Buffer, size)
	}
	return nil, fmt.Errorf("a signature of type %#x", uint16(sig.SigAlg))
}

// pad puts zeros in front up to the size of the modulus.
func pad(b []byte, size int) ([]byte, error) {
	if len(b) > size {
		return nil, fmt.Errorf("a number of %d bytes from a key of %d", len(b), size)
	}
	return append(make([]byte, size-len(b)), b...), nil
}

func (p *plan) alg() tpm2.TPMIAlgHash { return hashAlg[p.hash] }

func (d *Device) lacksHash(p *plan) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lacks[p.alg()]
}

func (d *Device) learnLack(p *plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lacks[p.alg()] = true
}

// keySession returns the session that authorizes keys, starting one if there is
// none that is trusted, in step and young.
func (s *space) keySession(k *Key) (*session, error) {
	if ses := s.hmac; ses.usable() && ses.checked {
		s.inUseSes = ses
		return ses, nil
	}
	if err := s.dropHMAC(); err != nil {
		return nil, err
	}
	p, err := s.trusted(k)
	if err != nil {
		return nil, err
	}
	ses, err := startSession(s, tpm2.TPMSEHMAC, tpm2.TPMAlgSHA256, p)
	if err != nil {
		return nil, err
	}
	ses.checked = true
	s.hmac, s.inUseSes = ses, ses
	return ses, nil
}

// trusted returns the key's parent, loaded and with room beside it, after its
// name was compared with the one known from before.
func (s *space) trusted(k *Key) (*loadedParent, error) {
	p, err := s.parent(k.parent)
	if err != nil {
		return nil, err
	}
	if err := s.d.pins.check(p.parent); err != nil {
		return nil, err
	}
	if p.persistent() {
		if err := s.makeRoom(1, true); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// hmacSession returns a session for something that is no key of ours, salted to
// salt if one has to be started.
func (s *space) hmacSession(salt *loadedParent) (*session, error) {
	if ses := s.hmac; ses.usable() {
		return ses, nil
	}
	if err := s.dropHMAC(); err != nil {
		return nil, err
	}
	if salt == nil {
		return nil, errUnsalted
	}
	ses, err := startSession(s, tpm2.TPMSEHMAC, tpm2.TPMAlgSHA256, salt)
	if err != nil {
		return nil, err
	}
	s.hmac = ses
	return ses, nil
}

func (s *space) dropHMAC() error {
	if s.hmac == nil {
		return nil
	}
	h := s.hmac.handle
	s.hmac = nil
	return s.flush(h)
}

func (s *space) dropPolicy() error {
	if s.policy == nil {
		return nil
	}
	h := s.policy.handle
	s.policy, s.halfway = nil, false
	return s.flush(h)
}
