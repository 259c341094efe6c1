package agent

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/keyring"
)

// A Holder keeps the private keys that clients add, and lists them among Keys;
// sshkeys.Added is the one. Its methods may be called concurrently, and wait
// for nobody.
type Holder interface {
	// Parse makes a private key of its parts as RFC 9987 §3.2 lists them, the
	// plain SSH name of its type and what follows up to the comment, on loan. The
	// public half is computed and not believed.
	Parse(kind string, fields [][]byte) (crypto.Signer, error)
	// Hold lists a key, or lists it anew in place of itself, with the Label,
	// Confirm and Only of info.
	Hold(k crypto.Signer, info keyring.KeyInfo) error
	// Drop wipes keys.
	Drop(ids ...keyring.KeyID)
}

const certSuffix = "-cert-v01@openssh.com"

// privateFields is how many private fields a plain key has, beginning with the
// public ones, and how many of them its certificate already tells.
var privateFields = map[string]struct{ all, told int }{
	ssh.KeyAlgoRSA:      {6, 2}, // n, e, d, iqmp, p, q
	ssh.KeyAlgoED25519:  {2, 0}, // public, private || public
	ssh.KeyAlgoECDSA256: {3, 2}, // curve, point, scalar
	ssh.KeyAlgoECDSA384: {3, 2},
	ssh.KeyAlgoECDSA521: {3, 2},
}

// add answers ADD_IDENTITY and ADD_ID_CONSTRAINED, which OpenSSH does not tell
// apart either.
func (s *session) add(body []byte) []byte {
	a, signer, err := s.decodeAdd(body)
	if err == nil {
		err = s.server.added.put(a, signer, &s.bound)
	}
	if err != nil {
		return s.fail(fmt.Errorf("add: %w", err))
	}
	s.changed("key added", a.comment)
	return successReply
}

// decodeAdd decodes a whole request. signer is nil of a security key.
func (s *session) decodeAdd(body []byte) (*added, crypto.Signer, error) {
	if s.server.Holder == nil {
		return nil, nil, fmt.Errorf("%w: nobody keeps added keys", errNotServed)
	}
	d := &decoder{rest: body}
	kind := string(d.string())
	a := &added{from: time.Now()}
	var signer crypto.Signer
	var err error
	if strings.HasPrefix(kind, "sk-") {
		a.sk, err = decodeSecurityKey(d, kind)
		if err == nil {
			a.blob, a.keyBlob = a.sk.blob, a.sk.plain
		}
	} else {
		signer, err = s.decodePrivate(d, kind, a)
	}
	if err != nil {
		return nil, nil, err
	}
	a.comment = d.text()
	if d.bad {
		return nil, nil, errMalformed
	}
	if a.constraints, err = parseConstraints(d, ofPrivateKey); err != nil {
		return nil, nil, err
	}
	if a.sk != nil {
		if s.server.Providers == nil {
			return nil, nil, fmt.Errorf("%w: security keys", errNotServed)
		}
		if a.sk.provider, err = s.skProvider(a.skProvider); err != nil {
			return nil, nil, err
		}
		return a, nil, nil
	}
	if a.skProvider != "" {
		return nil, nil, fmt.Errorf("%w: a provider for a key that is in no security key", errMalformed)
	}
	return a, signer, nil
}

// decodePrivate decodes a private key and the certificate that may come with
// it, up to the comment.
func (s *session) decodePrivate(d *decoder, kind string, a *added) (crypto.Signer, error) {
	plain, isCert := strings.CutSuffix(kind, certSuffix)
	want, ok := privateFields[plain]
	if !ok {
		return nil, fmt.Errorf("%w: private key of type %s", errNotServed, quote([]byte(kind)))
	}
	var fields [][]byte
	if isCert {
		cert, err := parseCertificate(d.string())
		if err != nil {
			return nil, err
		}
		if cert.Type() != kind {
			return nil, fmt.Errorf("certificate of another type: %w", errMalformed)
		}
		a.cert = cert
		if fields = toldFields(cert.Key)[:want.told]; len(fields) != want.told {
			return nil, fmt.Errorf("certificate: %w", errMalformed)
		}
	}
	for range want.all - len(fields) {
		fields = append(fields, d.string())
	}
	if d.bad {
		return nil, errMalformed
	}
	signer, err := s.server.Holder.Parse(plain, fields)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	pub, err := ssh.NewPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	a.keyBlob = pub.Marshal()
	a.blob = a.keyBlob
	// The parts that say who the key is must say who it is.
	told := toldFields(pub)
	if pub.Type() != plain || !slices.EqualFunc(told, fields[:len(told)], sameNumber) {
		return nil, fmt.Errorf("public and private half of different keys: %w", errMalformed)
	}
	if a.cert != nil {
		if a.blob = a.cert.Marshal(); !bytes.Equal(a.cert.Key.Marshal(), a.keyBlob) {
			return nil, fmt.Errorf("certificate of another key: %w", errMalformed)
		}
	}
	a.public = signer.Public()
	a.key, err = keyring.NewKeyID(a.public)
	return signer, err
}

// toldFields are the first private fields of a key, which are public.
func toldFields(pub ssh.PublicKey) [][]byte {
	c, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	switch k := c.CryptoPublicKey().(type) {
	case *rsa.PublicKey:
		d := decoder{rest: pub.Marshal()}
		d.string()
		e, n := d.string(), d.string()
		return [][]byte{n, e}
	case *ecdsa.PublicKey:
		d := decoder{rest: pub.Marshal()}
		d.string()
		return [][]byte{d.string(), d.string()}
	case ed25519.PublicKey:
		return [][]byte{k}
	}
	return nil
}

// sameNumber compares two fields, numbers whatever zeros they begin with.
func sameNumber(a, b []byte) bool {
	return bytes.Equal(bytes.TrimLeft(a, "\x00"), bytes.TrimLeft(b, "\x00"))
}

// parseCertificate parses a certificate for a user or a host, and makes sure
// that whoever signed it did. It keeps nothing of blob.
func parseCertificate(blob []byte) (*ssh.Certificate, error) {
	key, err := ssh.ParsePublicKey(bytes.Clone(blob))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", errMalformed)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("a key in place of a certificate: %w", errMalformed)
	}
	if err := verifyCertificate(cert); err != nil {
		return nil, fmt.Errorf("certificate: %w: %w", errMalformed, err)
	}
	return cert, nil
}

// verifyCertificate checks a certificate's signature and nothing else of it.
func verifyCertificate(cert *ssh.Certificate) error {
	if cert.Signature == nil || cert.SignatureKey == nil {
		return errors.New("not signed")
	}
	principal := ""
	if len(cert.ValidPrincipals) > 0 {
		principal = cert.ValidPrincipals[0]
	}
	checker := ssh.CertChecker{
		Clock:                    func() time.Time { return time.Unix(int64(min(cert.ValidAfter, 1<<62)), 0) },
		SupportedCriticalOptions: slices.Collect(maps.Keys(cert.CriticalOptions)),
	}
	return checker.CheckCert(principal, cert)
}

// remove answers REMOVE_IDENTITY.
func (s *session) remove(body []byte) []byte {
	d := decoder{rest: body}
	blob := d.string()
	if d.bad {
		return s.fail(fmt.Errorf("remove: %w", errMalformed))
	}
	id, ok := s.server.identities(s.ctx).byBlob[string(blob)]
	if !ok {
		if s.upstream.remove(s.ctx, blob) {
			return successReply
		}
		return s.fail(fmt.Errorf("remove: %w", errUnknownKey))
	}
	if !s.bound.permitted(id.destinations, nil) {
		return s.fail(fmt.Errorf("remove: %w", errUnknownKey))
	}
	s.server.added.remove(id)
	s.changed("key removed", id.label())
	return successReply
}

// removeAll answers REMOVE_ALL_IDENTITIES, and ssh-add -D's request of old, with
// which OpenSSH does the same.
func (s *session) removeAll() []byte {
	s.server.added.removeAll(s.server.identities(s.ctx), s.server.Certificates)
	s.upstream.removeAll(s.ctx)
	s.changed("all keys removed", "")
	return successReply
}
