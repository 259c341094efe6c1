package pkcs11

import (
	"bytes"
	"cmp"
	"crypto/ecdh"
	"crypto/ecdsa"
	"encoding/asn1"
	"fmt"
	"slices"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// maxSecrets is how many secret keys a connection may have at a time. Programs
// derive one, read it and destroy it.
const maxSecrets = 64

// A secretKey is a session object, §4.10: what came of deriving or unwrapping.
// It belongs to the program, which may read it, and goes with its session. It
// never changes.
type secretKey struct {
	handle, slot, session uint64
	template              template
	typ                   uint64 // CKK_
	value                 secret.Bytes
	length                int
}

// attribute returns the value of a secret key's attribute.
func (k *secretKey) attribute(t p11rpc.AttributeType) ([]byte, error) {
	switch t {
	case p11rpc.AttrClass:
		return p11rpc.UlongValue(uint64(p11rpc.ClassSecretKey)), nil
	case p11rpc.AttrKeyType:
		return p11rpc.UlongValue(k.typ), nil
	case p11rpc.AttrValueLen:
		return p11rpc.UlongValue(uint64(k.length)), nil
	case p11rpc.AttrValue:
		if k.template.flag(p11rpc.AttrSensitive, false) || !k.template.flag(p11rpc.AttrExtractable, true) {
			return nil, p11rpc.AttributeSensitive
		}
		var value []byte
		k.value.Use(func(b []byte) { value = bytes.Clone(b) }) // destroyed meanwhile: nothing
		return value, nil
	case p11rpc.AttrExtractable, p11rpc.AttrDestroyable:
		return p11rpc.BoolValue(k.template.flag(t, true)), nil
	case p11rpc.AttrLabel, p11rpc.AttrID, p11rpc.AttrStartDate, p11rpc.AttrEndDate:
		return k.template[t], nil
	case p11rpc.AttrKeyGenMechanism:
		return p11rpc.UlongValue(p11rpc.Unavailable), nil
	case p11rpc.AttrAllowedMechanisms:
		return nil, nil
	case p11rpc.AttrToken, p11rpc.AttrLocal, p11rpc.AttrAlwaysSensitive, p11rpc.AttrNeverExtractable,
		p11rpc.AttrModifiable, p11rpc.AttrCopyable:
		return p11rpc.BoolValue(false), nil
	case p11rpc.AttrPrivate, p11rpc.AttrSensitive, p11rpc.AttrEncrypt, p11rpc.AttrDecrypt, p11rpc.AttrSign,
		p11rpc.AttrVerify, p11rpc.AttrWrap, p11rpc.AttrUnwrap, p11rpc.AttrDerive, p11rpc.AttrTrusted,
		p11rpc.AttrWrapWithTrusted:
		return p11rpc.BoolValue(k.template.flag(t, false)), nil
	}
	return nil, p11rpc.AttributeTypeInvalid
}

// newSecretKey checks what a program wants of a secret key, before anybody is
// asked for it.
func newSecretKey(s *session, list []p11rpc.Attribute) (*secretKey, error) {
	t, err := newTemplate(list)
	if err != nil {
		return nil, err
	}
	k := &secretKey{
		slot: s.slot, session: s.id, template: t,
		typ:    t.number(p11rpc.AttrKeyType, p11rpc.KeyTypeGenericSecret),
		length: int(min(t.number(p11rpc.AttrValueLen, 0), maxRandom)),
	}
	switch {
	case t.flag(p11rpc.AttrToken, false):
		return nil, fmt.Errorf("a secret key on a token: %w", p11rpc.TokenWriteProtected)
	case t.number(p11rpc.AttrClass, uint64(p11rpc.ClassSecretKey)) != uint64(p11rpc.ClassSecretKey):
		return nil, fmt.Errorf("no secret key: %w", p11rpc.TemplateInconsistent)
	case t[p11rpc.AttrValue] != nil:
		return nil, fmt.Errorf("a value that is to be found: %w", p11rpc.TemplateInconsistent)
	case k.typ == p11rpc.KeyTypeAES && k.length != 16 && k.length != 24 && k.length != 32:
		return nil, fmt.Errorf("AES with %d bytes: %w", k.length, p11rpc.TemplateInconsistent)
	case k.typ != p11rpc.KeyTypeAES && k.typ != p11rpc.KeyTypeGenericSecret:
		return nil, fmt.Errorf("secret key of type %#x: %w", k.typ, p11rpc.TemplateInconsistent)
	}
	return k, nil
}

// hand makes a value the secret key's, and gives the program its handle. A
// longer value loses its beginning, mechanisms §2.3.8.
func (q *request) hand(k *secretKey, value secret.Bytes) error {
	defer value.Wipe()
	if k.length == 0 {
		k.length = value.Len()
	}
	if k.length > value.Len() || k.length == 0 {
		return fmt.Errorf("%d bytes of a secret of %d: %w", k.length, value.Len(), p11rpc.KeySizeRange)
	}
	value.Use(func(b []byte) { k.value = secret.Copy(b[len(b)-k.length:]) })
	k.handle = q.server.nextHandle()
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, open := q.sessions[k.session]; !open {
		return p11rpc.SessionClosed
	}
	if len(q.secrets) >= maxSecrets {
		return p11rpc.DeviceMemory
	}
	q.secrets[k.handle] = k
	q.out.Ulong(k.handle)
	return nil
}

// secretKeys returns those of a slot, in the order in which they were made.
func (n *connection) secretKeys(slot uint64) []*secretKey {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []*secretKey
	for _, k := range n.secrets {
		if k.slot == slot {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b *secretKey) int { return cmp.Compare(a.handle, b.handle) })
	return list
}

func (n *connection) secretKey(s *session, handle uint64) (*secretKey, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k, ok := n.secrets[handle]
	return k, ok && k.slot == s.slot
}

// forgetLocked destroys the secret keys of a session.
func (n *connection) forgetLocked(s *session) {
	for handle, k := range n.secrets {
		if k.session == s.id {
			k.value.Wipe()
			delete(n.secrets, handle)
		}
	}
}

// deriveKey is C_DeriveKey, §5.13, with CKM_ECDH1_DERIVE (mechanisms §2.3.8).
func (q *request) deriveKey() error {
	id, given, handle := q.in.Ulong(), q.in.Mechanism(), q.in.Ulong()
	list := q.in.Attributes()
	return q.inSession(id, func(s *session) error {
		_, o, err := q.chosen(s, flagDerive, given, handle, p11rpc.ClassPrivateKey)
		if err != nil {
			return err
		}
		peer, err := peerOf(given.ECDH, o.key)
		if err != nil {
			return err
		}
		k, err := newSecretKey(s, list)
		if err != nil {
			return err
		}
		return q.wait(0, func() error {
			shared, err := q.server.keys.Derive(s.ctx, keyring.DeriveRequest{
				Caller: q.peer(),
				Key:    o.name.key,
				Reason: reasonDerive,
				Peer:   peer,
			})
			if err != nil {
				return q.inTime(s, err)
			}
			return q.hand(k, shared)
		})
	})
}

// peerOf returns the other side's key. Its point comes bare or, as programs of
// old and SoftHSM have it, wrapped in an octet string.
func peerOf(p *p11rpc.ECDHParams, k *publicKey) (*ecdh.PublicKey, error) {
	pub, ok := k.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, p11rpc.KeyTypeInconsistent
	}
	own, err := pub.ECDH()
	if err != nil || p == nil || p.KDF != p11rpc.KDFNull || len(p.Shared) > 0 {
		return nil, fmt.Errorf("ECDH with a derivation function: %w", p11rpc.MechanismParamInvalid)
	}
	if peer, err := own.Curve().NewPublicKey(p.Public); err == nil {
		return peer, nil
	}
	var point []byte
	if rest, err := asn1.Unmarshal(p.Public, &point); err == nil && len(rest) == 0 {
		if peer, err := own.Curve().NewPublicKey(point); err == nil {
			return peer, nil
		}
	}
	return nil, fmt.Errorf("ECDH with %d bytes that are no point on the curve: %w", len(p.Public), p11rpc.MechanismParamInvalid)
}

// unwrapKey is C_UnwrapKey, §5.13, of secret keys that are encrypted with RSA.
func (q *request) unwrapKey() error {
	id, given, handle, wrapped := q.in.Ulong(), q.in.Mechanism(), q.in.Ulong(), q.in.Bytes()
	list := q.in.Attributes()
	return q.inSession(id, func(s *session) error {
		m, o, err := q.chosen(s, flagDecrypt, given, handle, p11rpc.ClassPrivateKey)
		switch {
		case err != nil:
			return err
		case m.scheme == schemeRSA:
			return p11rpc.MechanismInvalid // where the key would begin is not said
		case len(wrapped.Data) != o.key.size:
			return p11rpc.WrappedKeyLenRange
		}
		opts, err := m.params(given, o.key)
		if err != nil {
			return err
		}
		k, err := newSecretKey(s, list)
		if err != nil {
			return err
		}
		data := bytes.Clone(wrapped.Data) // the request is only borrowed
		return q.wait(len(data), func() error {
			plain, err := q.decryptNow(s.ctx, o, reasonUnwrap, m.decrypterOpts(opts), data)
			if err != nil {
				return q.inTime(s, err)
			}
			return q.hand(k, plain)
		})
	})
}
