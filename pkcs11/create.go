package pkcs11

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// writable reports whether anything can be made on a slot's token.
func (s *Server) writable(t slot) bool {
	return s.certs.writable() || t.hardware && s.maker != nil
}

// createObject is C_CreateObject, §5.7, of certificates for keys on the token.
func (q *request) createObject() error {
	id, list := q.in.Ulong(), q.in.Attributes()
	return q.inSession(id, func(s *session) error {
		t, err := newTemplate(list)
		if err != nil {
			return err
		}
		switch {
		case !t.flag(p11rpc.AttrToken, false), // session objects come of deriving alone
			t.number(p11rpc.AttrClass, 0) != uint64(p11rpc.ClassCertificate), !q.server.certs.writable():
			return p11rpc.TokenWriteProtected
		case !s.writing:
			return p11rpc.SessionReadOnly
		}
		cert, err := wantedCertificate(t)
		if err != nil {
			return err
		}
		info, err := q.keyOf(s, cert)
		if err != nil {
			return err
		}
		return q.wait(len(cert.Raw), func() error {
			if err := q.server.certs.Add(s.ctx, info, cert); err != nil {
				return q.inTime(s, err)
			}
			return q.handCertificate(info.ID, cert)
		})
	})
}

// wantedCertificate returns the certificate that a template holds. What else it
// says is found out from the certificate itself.
func wantedCertificate(t template) (*x509.Certificate, error) {
	const typeX509 = 0
	der, ok := t[p11rpc.AttrValue]
	switch {
	case !ok:
		return nil, fmt.Errorf("a certificate without a value: %w", p11rpc.TemplateIncomplete)
	case t.number(p11rpc.AttrCertificateType, typeX509) != typeX509, t.flag(p11rpc.AttrTrusted, false):
		return nil, fmt.Errorf("a certificate of another kind: %w", p11rpc.TemplateInconsistent)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", p11rpc.AttributeValueInvalid, err)
	}
	return cert, nil
}

// keyOf returns the key on the session's token that a certificate is for, which
// must have a file for it to lie beside.
func (q *request) keyOf(s *session, cert *x509.Certificate) (keyring.KeyInfo, error) {
	id, err := keyring.NewKeyID(cert.PublicKey)
	if err != nil {
		return keyring.KeyInfo{}, fmt.Errorf("%w: %w", p11rpc.TemplateInconsistent, err)
	}
	info, err := q.server.keys.Find(id)
	if err != nil || slotOf(info.Kind) != s.slot || len(info.Paths) == 0 {
		return keyring.KeyInfo{}, fmt.Errorf("a certificate for no key on this token: %w", p11rpc.TemplateInconsistent)
	}
	return info, nil
}

// handCertificate answers with the handle of a certificate that was just
// written.
func (q *request) handCertificate(key keyring.KeyID, cert *x509.Certificate) error {
	id := certID(sha256.Sum256(cert.Raw))
	for _, o := range q.server.objects().list {
		if o.name.key == key && o.name.cert == id {
			q.out.Ulong(o.handle)
			return nil
		}
	}
	return fmt.Errorf("the certificate was written, and is in no key folder: %w", keyring.ErrUnavailable)
}

// destroyObject is C_DestroyObject, §5.7. What is on a token has a file, which is
// not a program's to delete; `keyringctl key remove` asks the user.
func (q *request) destroyObject() error {
	id, handle := q.in.Ulong(), q.in.Ulong()
	return q.inSession(id, func(s *session) error {
		k, ok := q.secretKey(s, handle)
		if !ok {
			if _, err := q.object(s, handle); err != nil {
				return err
			}
			return p11rpc.ActionProhibited
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		k.value.Wipe()
		delete(q.secrets, handle)
		return nil
	})
}
