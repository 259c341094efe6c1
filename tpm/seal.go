package tpm

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// MaxSealed is how many bytes can be sealed: what every TPM takes. Part 2,
// "MAX_SYM_DATA".
const MaxSealed = 128

// Seal encrypts plain, of at most [MaxSealed] bytes, so that only this TPM gives
// it back, and returns the file once it did. auth is asked for then, if it is
// not empty; t.PCRs bind it to the state of the machine; t.Algorithm is not
// looked at. Both secrets are borrowed, and go to the TPM encrypted.
//
// With neither auth value nor PCRs anything that can speak to the TPM, under
// any user, can unseal it who has the file.
//
// It takes the commands of [Device.Create], with Load, Unseal, Flush at the end.
func (d *Device) Seal(ctx context.Context, t Template, auth, plain secret.Bytes) (*keyfile.File, error) {
	if err := checkAuth(auth); err != nil {
		return nil, err
	}
	if n := plain.Len(); n == 0 || n > MaxSealed {
		return nil, fmt.Errorf("%w: a TPM seals from 1 to %d bytes, not %d; seal a key and encrypt with that", ErrUnsupported, MaxSealed, n)
	}
	mine, data := auth.Clone(), plain.Clone()
	var file *keyfile.File
	err := d.whole(ctx, func(ctx context.Context, s *space) error {
		p, err := s.policyFor(t.PCRs, mine.Len() > 0)
		if err != nil {
			return err
		}
		attributes := shared(mine, p)
		attributes.FixedTPM, attributes.FixedParent = true, true
		area := &tpm2.TPMTPublic{
			Type:             tpm2.TPMAlgKeyedHash,
			NameAlg:          tpm2.TPMAlgSHA256,
			ObjectAttributes: attributes,
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: p.digest},
			Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{}),
			Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
		}
		if file, err = s.createUnder(ctx, t, area, mine, data); err != nil {
			return err
		}
		file.Type, file.Policy = keyfile.Sealed, p.steps
		file, err = finish(file, mine.Len() > 0)
		return err
	})
	if err == nil {
		var back secret.Bytes
		if back, err = d.unseal(ctx, file, mine, false); err == nil && !back.Equal(data) {
			err = fmt.Errorf("%w: it does not give back what was sealed", ErrUnavailable)
		}
		back.Wipe()
	}
	release(ctx, mine)
	release(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return file, nil
}

// Unseal returns what a sealed file holds. It comes from the TPM encrypted, in a
// session salted to a parent whose name was checked. auth is spent as in
// [Key.Sign], with the same errors; a file that is not sealed data is
// ErrUnsupported.
//
// It takes Load, Unseal and Flush, and the steps of a policy, beside what the
// first use of a TPM takes.
func (d *Device) Unseal(ctx context.Context, f *keyfile.File, auth secret.Bytes) (secret.Bytes, error) {
	return d.unseal(ctx, f, auth, f.DAProtected())
}

func (d *Device) unseal(ctx context.Context, f *keyfile.File, auth secret.Bytes, counted bool) (secret.Bytes, error) {
	if f.Type != keyfile.Sealed {
		return secret.Bytes{}, fmt.Errorf("%w: the file holds a key, not sealed data", ErrUnsupported)
	}
	k, err := d.object(f)
	if err != nil {
		return secret.Bytes{}, err
	}
	k.counted = counted
	if k.usesAuth(auth) {
		if err := k.fits(auth); err != nil {
			return secret.Bytes{}, err
		}
	}
	mine := auth.Clone()
	var plain secret.Bytes
	err = d.whole(ctx, func(ctx context.Context, s *space) error {
		return s.withObject(ctx, k, func(h tpm2.TPMHandle) (err error) {
			plain, err = s.unseal(ctx, k, h, mine)
			return err
		})
	})
	release(ctx, mine)
	if err != nil {
		return secret.Bytes{}, err
	}
	return plain, nil
}

func (s *space) unseal(ctx context.Context, k *Key, h tpm2.TPMHandle, auth secret.Bytes) (secret.Bytes, error) {
	if k.counted && k.usesAuth(auth) {
		if err := s.mayTry(); err != nil {
			return secret.Bytes{}, err
		}
	}
	cipher, err := s.keySession(k)
	if err != nil {
		return secret.Bytes{}, err
	}
	var out secret.Bytes
	// The answer is encrypted by a session of its own where the policy's has no
	// key to do it with.
	try := func(a tpm2.Session, extra ...tpm2.Session) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: h, Name: k.name, Auth: a}}.Execute(s, extra...)
		if err == nil {
			out = secret.From(rsp.OutData.Buffer)
		}
		return err
	}
	if len(k.policy) > 0 {
		err = s.underPolicy(k, auth, func(a tpm2.Session) error {
			if p, ok := a.(*session); ok {
				p.encrypt = false // there is no parameter
			}
			return try(a, answers{cipher.with(secret.Bytes{}, false)})
		})
	} else {
		err = try(answers{cipher.with(auth, true)})
	}
	if err != nil {
		return secret.Bytes{}, s.useRefused(err)
	}
	return out, nil
}

// answers is a session that has the TPM encrypt the first parameter of its
// answer, rather than of the command.
type answers struct{ *session }

// IsDecryption is false: the command has no parameter.
func (answers) IsDecryption() bool { return false }

// Encrypt has nothing to do.
func (answers) Encrypt([]byte) error { return nil }

// IsEncryption is true.
func (answers) IsEncryption() bool { return true }

func (a answers) attributes() tpm2.TPMASession {
	return tpm2.TPMASession{ContinueSession: true, Encrypt: true}
}

// Authorize computes the HMAC over a command.
func (a answers) Authorize(cc tpm2.TPMCC, parms, addNonces []byte, names []tpm2.TPM2BName, _ int) (*tpm2.TPMSAuthCommand, error) {
	if len(a.key) == 0 {
		return nil, errUnsalted
	}
	h := a.hash.New()
	_ = binary.Write(h, binary.BigEndian, cc)
	for _, n := range names {
		h.Write(n.Buffer)
	}
	h.Write(parms)
	a.uses++
	return &tpm2.TPMSAuthCommand{
		Handle:     a.handle,
		Nonce:      tpm2.TPM2BNonce{Buffer: a.nonceCaller},
		Attributes: a.attributes(),
		Authorization: tpm2.TPM2BData{
			Buffer: a.mac(h.Sum(nil), a.nonceCaller, a.nonceTPM, addNonces, attributeByte(a.attributes())),
		},
	}, nil
}

// Decrypt decrypts the answer's first parameter in place. Part 1, "CFB Mode
// Parameter Encryption", with the TPM's nonce as the newer one.
func (a answers) Decrypt(parameter []byte) error {
	var stream cipher.Stream
	err := errors.New("no key")
	a.keyed(true, func(key []byte) {
		keyIV := tpm2.KDFa(a.hash, key, "CFB", a.nonceTPM, a.nonceCaller, paramKeyBits+aes.BlockSize*8)
		defer clear(keyIV)
		var block cipher.Block
		if block, err = aes.NewCipher(keyIV[:paramKeyBits/8]); err != nil {
			return
		}
		//lint:ignore SA1019 CFB is what the TPM speaks; the answer's HMAC authenticates it.
		stream = cipher.NewCFBDecrypter(block, keyIV[paramKeyBits/8:])
	})
	if err != nil {
		return err
	}
	stream.XORKeyStream(parameter, parameter)
	return nil
}
