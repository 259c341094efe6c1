package tpm

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyringd/keyringd/internal/secret"
)

const (
	nonceSize      = 16   // the least that StartAuthSession takes
	paramKeyBits   = 128  // AES-CFB of parameters
	maxSessionUses = 1000 // far from the 65,535 contexts after which a session left behind blocks the TPM for everybody
)

// A session is a TPM session that authorizes one entity after another: unlike
// go-tpm's own, its auth value is not fixed when it is made, so that one
// session serves all keys. It implements tpm2.Session. Part 1, "Session-Based
// Authorizations".
type session struct {
	handle      tpm2.TPMHandle
	hash        crypto.Hash
	checked     bool   // salted to a parent whose name is trusted
	key         []byte // the session key; empty if not salted
	nonceCaller []byte
	nonceTPM    []byte

	// These are set for each command.
	auth    secret.Bytes // of the entity, borrowed
	useAuth bool         // the HMAC is keyed with auth too: not in a policy session without PolicyAuthValue
	encrypt bool         // the first parameter is encrypted on its way in

	opened, used time.Time
	uses         int
	broken       bool // nonces are out of step with the TPM's
}

// startSession starts a session. With a parent, it is salted to that parent,
// which must be loaded under its handle and whose name must have been checked;
// without, it has no key and must not be used with an auth value.
func startSession(t transport.TPM, kind tpm2.TPMSE, alg tpm2.TPMIAlgHash, parent *loadedParent) (*session, error) {
	hash, err := alg.Hash()
	if err != nil {
		return nil, fmt.Errorf("%w: a session with hash %#x", ErrUnsupported, uint16(alg))
	}
	s := &session{hash: hash, nonceCaller: make([]byte, nonceSize), opened: time.Now(), used: time.Now()}
	_, _ = rand.Read(s.nonceCaller)
	cmd := tpm2.StartAuthSession{
		TPMKey:      tpm2.TPMRHNull,
		Bind:        tpm2.TPMRHNull,
		NonceCaller: tpm2.TPM2BNonce{Buffer: s.nonceCaller},
		SessionType: kind,
		Symmetric:   tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
		AuthHash:    alg,
	}
	var salt []byte
	if parent != nil {
		to, err := tpm2.ImportEncapsulationKey(parent.pub)
		if err != nil {
			return nil, fmt.Errorf("%w: a session salted to %s: %w", ErrUnsupported, parent.id, err)
		}
		var sealed []byte
		salt, sealed, err = tpm2.CreateEncryptedSalt(rand.Reader, to)
		if err != nil {
			return nil, fmt.Errorf("salt: %w", err)
		}
		defer clear(salt)
		cmd.TPMKey = parent.handle
		cmd.EncryptedSalt = tpm2.TPM2BEncryptedSecret{Buffer: sealed}
		cmd.Symmetric = tpm2.TPMTSymDef{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(paramKeyBits)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		}
	}
	rsp, err := cmd.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("start a session: %w", err)
	}
	s.handle = tpm2.TPMHandle(rsp.SessionHandle.HandleValue())
	s.nonceTPM = rsp.NonceTPM.Buffer
	if salt != nil {
		s.key = tpm2.KDFa(hash, salt, "ATH", s.nonceTPM, s.nonceCaller, hash.Size()*8)
	}
	return s, nil
}

// with prepares the session for one command and returns it.
func (s *session) with(auth secret.Bytes, useAuth bool) *session {
	s.auth, s.useAuth = auth, useAuth
	s.encrypt = len(s.key) > 0
	return s
}

// usable says whether there is a session, in step with the TPM and young.
func (s *session) usable() bool {
	return s != nil && !s.broken && s.uses < maxSessionUses
}

// Init has nothing to do: startSession did it.
func (s *session) Init(transport.TPM) error { return nil }

// CleanupFailure keeps the session, which is still good after an error.
func (s *session) CleanupFailure(transport.TPM) error { return nil }

// NonceTPM returns the TPM's last nonce.
func (s *session) NonceTPM() tpm2.TPM2BNonce { return tpm2.TPM2BNonce{Buffer: s.nonceTPM} }

// NewNonceCaller draws our nonce for the next command.
func (s *session) NewNonceCaller() error {
	_, err := rand.Read(s.nonceCaller)
	return err
}

func (s *session) attributes() tpm2.TPMASession {
	return tpm2.TPMASession{ContinueSession: true, Decrypt: s.encrypt}
}

// errUnsalted: the HMAC of a session without a key of its own would let anyone
// who saw it guess the auth value.
var errUnsalted = errors.New("a secret for a session that has no key")

// Authorize computes the HMAC over a command.
func (s *session) Authorize(cc tpm2.TPMCC, parms, addNonces []byte, names []tpm2.TPM2BName, _ int) (*tpm2.TPMSAuthCommand, error) {
	if s.useAuth && s.auth.Len() > 0 && len(s.key) == 0 {
		return nil, errUnsalted
	}
	h := s.hash.New()
	_ = binary.Write(h, binary.BigEndian, cc)
	for _, n := range names {
		h.Write(n.Buffer)
	}
	h.Write(parms)
	s.uses++
	s.used = time.Now()
	return &tpm2.TPMSAuthCommand{
		Handle:     s.handle,
		Nonce:      tpm2.TPM2BNonce{Buffer: s.nonceCaller},
		Attributes: s.attributes(),
		Authorization: tpm2.TPM2BData{
			Buffer: s.mac(h.Sum(nil), s.nonceCaller, s.nonceTPM, addNonces, attributeByte(s.attributes())),
		},
	}, nil
}

// Validate checks the HMAC over a response and takes the TPM's new nonce.
func (s *session) Validate(rc tpm2.TPMRC, cc tpm2.TPMCC, parms []byte, _ []tpm2.TPM2BName, _ int, auth *tpm2.TPMSAuthResponse) error {
	h := s.hash.New()
	_ = binary.Write(h, binary.BigEndian, rc)
	_ = binary.Write(h, binary.BigEndian, cc)
	h.Write(parms)
	s.nonceTPM = auth.Nonce.Buffer
	if !auth.Attributes.ContinueSession {
		s.broken = true
	}
	want := s.mac(h.Sum(nil), s.nonceTPM, s.nonceCaller, nil, attributeByte(auth.Attributes))
	if !hmac.Equal(want, auth.Authorization.Buffer) {
		s.broken = true
		return errors.New("the TPM's answer was changed on its way")
	}
	return nil
}

// IsEncryption is false: nothing that we ask for in a session is secret.
func (s *session) IsEncryption() bool { return false }

// IsDecryption reports whether the first parameter goes to the TPM encrypted.
func (s *session) IsDecryption() bool { return s.encrypt }

// Encrypt encrypts the first parameter in place. Part 1, "CFB Mode Parameter
// Encryption": the auth value is part of the key also in a policy session.
func (s *session) Encrypt(parameter []byte) error {
	if !s.encrypt {
		return nil
	}
	var stream cipher.Stream
	var err error
	s.keyed(true, func(key []byte) {
		keyIV := tpm2.KDFa(s.hash, key, "CFB", s.nonceCaller, s.nonceTPM, paramKeyBits+aes.BlockSize*8)
		defer clear(keyIV)
		var block cipher.Block
		if block, err = aes.NewCipher(keyIV[:paramKeyBits/8]); err != nil {
			return
		}
		//lint:ignore SA1019 CFB is what the TPM speaks; the command's HMAC authenticates it.
		stream = cipher.NewCFBEncrypter(block, keyIV[paramKeyBits/8:])
	})
	if err != nil {
		return err
	}
	stream.XORKeyStream(parameter, parameter)
	return nil
}

// Decrypt has nothing to do.
func (s *session) Decrypt([]byte) error { return nil }

// Handle returns the session's handle.
func (s *session) Handle() tpm2.TPMHandle { return s.handle }

// keyed calls fn with session key || auth value, and overwrites that after.
func (s *session) keyed(withAuth bool, fn func([]byte)) {
	if !withAuth {
		fn(s.key)
		return
	}
	s.auth.Use(func(auth []byte) {
		auth = trimAuth(auth)
		key := make([]byte, 0, len(s.key)+len(auth))
		key = append(append(key, s.key...), auth...)
		defer clear(key)
		fn(key)
	})
}

func (s *session) mac(hash, newer, older, add []byte, attributes byte) (sum []byte) {
	s.keyed(s.useAuth, func(key []byte) {
		m := hmac.New(s.hash.New, key)
		m.Write(hash)
		m.Write(newer)
		m.Write(older)
		m.Write(add)
		m.Write([]byte{attributes})
		sum = m.Sum(nil)
	})
	return sum
}

// trimAuth drops the zeros at the end of an auth value, which the TPM does not
// count. Part 1, "authValue".
func trimAuth(auth []byte) []byte {
	for len(auth) > 0 && auth[len(auth)-1] == 0 {
		auth = auth[:len(auth)-1]
	}
	return auth
}

// attributeByte is a TPMA_SESSION on the wire.
func attributeByte(a tpm2.TPMASession) byte {
	b := tpm2.Marshal(a)
	return b[len(b)-1]
}

// empty authorizes an entity that has no auth value, in one command and with
// nothing to hide.
func empty() tpm2.Session { return tpm2.PasswordAuth(nil) }
