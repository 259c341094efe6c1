package pkcs11

import (
	"bytes"
	"context"
	"crypto"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// decryptInit is C_DecryptInit, §5.9.
func (q *request) decryptInit() error { return q.operationInit(decrypting, p11rpc.ClassPrivateKey) }

// decrypt is C_Decrypt, §5.9.
func (q *request) decrypt() error {
	id, data, room := q.in.Ulong(), q.in.Bytes(), q.in.Room()
	return q.inSession(id, func(s *session) error {
		op, err := s.last(decrypting, false)
		if err != nil {
			return err
		}
		return q.decryptLast(s, op, data.Data, room)
	})
}

// decryptUpdate is C_DecryptUpdate, §5.9. Nothing comes of it before the last
// part.
func (q *request) decryptUpdate() error {
	id, data := q.in.Ulong(), q.in.Bytes()
	q.in.Room()
	return q.inSession(id, func(s *session) error {
		op, err := s.operation(decrypting)
		if err != nil {
			return err
		}
		if len(op.data)+len(data.Data) > op.object.key.size {
			s.end(decrypting)
			return p11rpc.EncryptedDataLenRange
		}
		op.parts = true
		op.data = append(op.data, data.Data...)
		q.out.Data(nil)
		return nil
	})
}

// decryptFinal is C_DecryptFinal, §5.9.
func (q *request) decryptFinal() error {
	id, room := q.in.Ulong(), q.in.Room()
	return q.inSession(id, func(s *session) error {
		op, err := s.last(decrypting, true)
		if err != nil {
			return err
		}
		return q.decryptLast(s, op, op.data, room)
	})
}

// decryptLast decrypts. A program that asks how long the plaintext will be is
// told the most that it can have, without the key; one that has too little room
// for what was decrypted comes again for it, and the key is not used twice.
func (q *request) decryptLast(s *session, op *operation, data []byte, room uint32) error {
	switch {
	case op.plain.Len() > 0:
		if uint64(op.plain.Len()) > uint64(room) {
			q.out.Length(op.plain.Len())
			return nil
		}
		op.plain.Use(func(b []byte) { q.out.Data(b) })
		s.end(decrypting)
		return nil
	case len(data) != op.object.key.size:
		s.end(decrypting)
		return p11rpc.EncryptedDataLenRange
	case room == 0:
		q.out.Length(op.object.key.size)
		return nil
	}
	data = bytes.Clone(data) // the request is only borrowed
	return q.run(s, decrypting, len(data), func() (goesOn bool, err error) {
		plain, err := q.decryptNow(s.ctx, op.object, reasonDecrypt, op.decrypterOpts(), data)
		if err != nil {
			return false, err
		}
		if uint64(plain.Len()) > uint64(room) {
			q.out.Length(plain.Len())
			s.keep(op, plain)
			return true, nil
		}
		q.reveal(plain)
		return false, nil
	})
}

// reveal answers with a secret, and wipes it.
func (q *request) reveal(b secret.Bytes) {
	defer b.Wipe()
	if b.Len() == 0 {
		q.out.Data(nil)
		return
	}
	b.Use(func(p []byte) { q.out.Data(p) })
}

// keep puts a plaintext away until the program has room for it.
func (s *session) keep(op *operation, plain secret.Bytes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	op.plain = plain
}

// decrypterOpts returns how a core key is to decrypt.
func (op *operation) decrypterOpts() crypto.DecrypterOpts { return op.mechanism.decrypterOpts(op.opts) }

func (m mechanism) decrypterOpts(opts any) crypto.DecrypterOpts {
	switch m.scheme {
	case schemeOAEP:
		return opts
	case schemeRSA:
		return keyring.RawRSA{}
	}
	return nil // PKCS #1 v1.5
}

// decryptNow has the core decrypt.
func (q *request) decryptNow(ctx context.Context, o *object, reason string, opts crypto.DecrypterOpts, data []byte) (secret.Bytes, error) {
	if _, raw := opts.(keyring.RawRSA); raw {
		reason = reasonBare
	}
	return q.server.keys.Decrypt(ctx, keyring.DecryptRequest{
		Caller:     q.peer(),
		Key:        o.name.key,
		Reason:     reason,
		Ciphertext: data,
		Opts:       opts,
	})
}
