package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha1" // ssh-rsa signatures, where a client asks for no better one
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/asn1"
	"fmt"
	"log/slog"
	"math/big"

	"github.com/keyringd/keyringd/keyring"
)

// sign answers a SIGN_REQUEST. What follows the flags is ignored, as OpenSSH
// does.
func (s *session) sign(body []byte) []byte {
	d := decoder{rest: body}
	blob, data, flags := d.string(), d.string(), d.uint32()
	if d.bad {
		return s.fail(fmt.Errorf("sign: %w", errMalformed))
	}
	id, ok := s.server.identities(s.ctx).byBlob[string(blob)]
	if !ok {
		reply, err := s.signUpstream(blob, data, body)
		if err != nil {
			return s.fail(fmt.Errorf("sign: %w", err))
		}
		return reply
	}
	reply, err := s.signWith(id, data, flags)
	if err == nil {
		err = s.server.stillOffers(s.ctx, id)
	}
	if err != nil {
		return s.fail(fmt.Errorf("sign: %w", err), slog.String("key", id.label()))
	}
	return reply
}

func (s *session) signWith(id *identity, data []byte, flags uint32) ([]byte, error) {
	if err := s.bound.checkDestination(id, data); err != nil {
		return nil, err
	}
	p := s.purposeOf(data, id.blob)
	if id.added != nil && id.added.sk != nil {
		return s.signSecurityKey(id, data, p)
	}
	algorithm, hash := id.scheme(flags)
	digest := data
	if hash != 0 {
		h := hash.New()
		h.Write(data)
		digest = h.Sum(nil)
	}
	r := keyring.SignRequest{
		Caller:  s.caller(),
		Key:     id.info.ID,
		Reason:  p.reason,
		Scope:   p.scope,
		Digest:  digest,
		Opts:    hash,
		Purpose: p.Purpose,
	}
	var sig []byte
	err := s.watched(func() (err error) {
		sig, err = s.server.Keys.Sign(s.ctx, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	value, err := id.signatureValue(sig)
	if err != nil {
		return nil, err
	}
	// string signature, in which string algorithm, string value: RFC 4253 §6.6.
	inner := 4 + len(algorithm) + 4 + len(value)
	b := appendUint32(newFrame(msgSignResponse, 5+inner), inner)
	b = appendString(appendString(b, algorithm), value)
	return endFrame(b), nil
}

// watched does something that may wait for the user or a device, while it
// watches for the client to hang up.
func (s *session) watched(do func() error) error {
	stop := s.watch()
	defer stop()
	return do()
}

// signatureValue turns what a crypto.Signer returns into the value part of an
// SSH signature: RFC 5656 §3.1.2 for ECDSA, RFC 8332 §3 for RSA, RFC 8709 §6
// for ed25519.
func (id *identity) signatureValue(sig []byte) ([]byte, error) {
	switch k := id.info.Public.(type) {
	case *ecdsa.PublicKey:
		var rs struct{ R, S *big.Int }
		rest, err := asn1.Unmarshal(sig, &rs)
		n := k.Curve.Params().N
		if err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 ||
			rs.R.Cmp(n) >= 0 || rs.S.Cmp(n) >= 0 {
			return nil, errSignature
		}
		return appendMpint(appendMpint(nil, rs.R), rs.S), nil
	case *rsa.PublicKey:
		if len(sig) > k.Size() {
			return nil, errSignature
		}
		value := make([]byte, k.Size()) // shorter ones get their leading zeros back
		copy(value[k.Size()-len(sig):], sig)
		return value, nil
	case ed25519.PublicKey:
		if len(sig) != ed25519.SignatureSize {
			return nil, errSignature
		}
		return sig, nil
	default:
		return nil, errSignature
	}
}
