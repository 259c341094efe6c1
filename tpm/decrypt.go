package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
)

// Traits are what a key's public area says of it, to which the TPM holds it.
// Part 2, "TPMA_OBJECT".
type Traits struct {
	Sign    bool
	Decrypt bool // RSA
	Derive  bool // EC

	FixedTPM            bool // it cannot be duplicated for another TPM
	SensitiveDataOrigin bool // the TPM has made it
}

// Traits returns what the key can do and where it has been.
func (k *Key) Traits() Traits {
	sh, a := k.shape, k.pub.ObjectAttributes
	return Traits{
		Sign:                sh.sign || sh.raw,
		Decrypt:             sh.raw || sh.padding != 0,
		Derive:              sh.derive,
		FixedTPM:            a.FixedTPM,
		SensitiveDataOrigin: a.SensitiveDataOrigin,
	}
}

// Decrypt decrypts as a [crypto.Decrypter] with an RSA key does: opts is nil
// for RSAES-PKCS1-v1_5 and a *rsa.OAEPOptions for RSAES-OAEP. The answer is the
// caller's to Wipe, all else is borrowed; auth is spent as in [Key.Sign], with the
// same errors, and ErrCiphertext.
//
// A key that is not bound to one padding decrypts all of them, with any label:
// the TPM does the bare operation, and the padding is taken off here.
//
// What comes from the TPM is encrypted on its way, by a session salted to a
// parent whose name was checked. It takes one command, RSA_Decrypt, once key and
// session are there.
func (k *Key) Decrypt(ctx context.Context, auth secret.Bytes, ciphertext []byte, opts crypto.DecrypterOpts) (secret.Bytes, error) {
	unpad, err := k.unpadding(opts)
	if err != nil {
		return secret.Bytes{}, err
	}
	send, err := k.ciphertext(ciphertext)
	if err != nil {
		return secret.Bytes{}, err
	}
	return k.hidden(ctx, auth, func(s *space, key tpm2.AuthHandle, extra ...tpm2.Session) ([]byte, error) {
		if k.shape.raw {
			return k.decryptBare(s, send, unpad, key, extra...)
		}
		rsp, err := tpm2.RSADecrypt{
			KeyHandle:  key,
			CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: send},
			InScheme:   tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgNull}, // the key's own
			Label:      tpm2.TPM2BData{Buffer: label(opts)},
		}.Execute(s, extra...)
		// libtpms calls it a failure, which any other command would be, too.
		if isAny(err, tpm2.TPMRCValue, tpm2.TPMRCSize, tpm2.TPMRCFailure) {
			return nil, ErrCiphertext
		}
		if err != nil {
			return nil, err
		}
		return rsp.Message.Buffer, nil
	})
}

// Bare does the RSA operation with the private key on a number of as many bytes
// as the modulus has, for protocols that pad by themselves, and is otherwise as
// [Key.Decrypt]. A key that is bound to a padding or a scheme is ErrUnsupported.
func (k *Key) Bare(ctx context.Context, auth secret.Bytes, block []byte) (secret.Bytes, error) {
	if !k.shape.raw {
		return secret.Bytes{}, fmt.Errorf("%w: RSA without a padding", ErrUnsupported)
	}
	send, err := k.ciphertext(block)
	if err != nil {
		return secret.Bytes{}, err
	}
	as := func(em []byte) ([]byte, error) { return em, nil }
	return k.hidden(ctx, auth, func(s *space, key tpm2.AuthHandle, extra ...tpm2.Session) ([]byte, error) {
		return k.decryptBare(s, send, as, key, extra...)
	})
}

// ECDH returns the x coordinate of the point that the key and peer lead to, as
// long as the curve's field: TPM2_ECDH_ZGen. It is otherwise as [Key.Decrypt].
func (k *Key) ECDH(ctx context.Context, auth secret.Bytes, peer *ecdh.PublicKey) (secret.Bytes, error) {
	pub, ok := k.public.(*ecdsa.PublicKey)
	if !ok || !k.shape.derive {
		return secret.Bytes{}, fmt.Errorf("%w: the key does not derive", ErrUnsupported)
	}
	own, err := pub.ECDH()
	if err != nil || own.Curve() != peer.Curve() {
		return secret.Bytes{}, fmt.Errorf("%w: the other key is on another curve", ErrUnsupported)
	}
	point := peer.Bytes()[1:] // SEC 1 §2.3.3: 4, x, y
	half := len(point) / 2
	in := tpm2.New2B(tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[:half]},
		Y: tpm2.TPM2BECCParameter{Buffer: point[half:]},
	})
	return k.hidden(ctx, auth, func(s *space, key tpm2.AuthHandle, extra ...tpm2.Session) ([]byte, error) {
		rsp, err := tpm2.ECDHZGen{KeyHandle: key, InPoint: in}.Execute(s, extra...)
		if err != nil {
			return nil, err
		}
		z, err := rsp.OutPoint.Contents()
		if err != nil {
			return nil, err
		}
		defer clear(z.X.Buffer)
		defer clear(z.Y.Buffer)
		return pad(z.X.Buffer, half)
	})
}

// hidden does something whose answer is secret.
func (k *Key) hidden(ctx context.Context, auth secret.Bytes, do func(*space, tpm2.AuthHandle, ...tpm2.Session) ([]byte, error)) (secret.Bytes, error) {
	var out secret.Bytes
	err := k.use(ctx, auth, func(ctx context.Context, s *space, auth secret.Bytes) error {
		return s.authorized(ctx, k, auth, true, func(key tpm2.AuthHandle, extra ...tpm2.Session) error {
			b, err := do(s, key, extra...)
			if err == nil {
				out = secret.From(b)
			}
			return err
		})
	})
	if err != nil {
		return secret.Bytes{}, err
	}
	return out, nil
}

// ciphertext returns what is sent to the TPM: a copy, as the turn may outlast
// the call. What is no number below the modulus is not sent.
func (k *Key) ciphertext(b []byte) ([]byte, error) {
	pub, ok := k.public.(*rsa.PublicKey)
	if !ok || !k.shape.raw && k.shape.padding == 0 {
		return nil, fmt.Errorf("%w: the key does not decrypt", ErrUnsupported)
	}
	if len(b) != k.shape.size || new(big.Int).SetBytes(b).Cmp(pub.N) >= 0 {
		return nil, ErrCiphertext
	}
	return bytes.Clone(b), nil
}

// decryptBare does the bare operation, makes sure that it was done with the
// right key, and takes off the padding.
func (k *Key) decryptBare(s *space, send []byte, unpad func([]byte) ([]byte, error), key tpm2.AuthHandle, extra ...tpm2.Session) ([]byte, error) {
	em, err := s.bareRSA(k, send, key, extra...)
	if err != nil {
		return nil, err
	}
	if pub, ok := k.public.(*rsa.PublicKey); !ok || !bytes.Equal(encrypt(pub, em), send) {
		clear(em)
		return nil, errBadSignature
	}
	return unpad(em)
}

// encrypt is the public key operation, which has nothing to hide.
func encrypt(pub *rsa.PublicKey, b []byte) []byte {
	c := new(big.Int).SetBytes(b)
	return c.Exp(c, big.NewInt(int64(pub.E)), pub.N).FillBytes(make([]byte, pub.Size()))
}

// proveDerive agrees on a secret with a key made for it.
func (k *Key) proveDerive(ctx context.Context, auth secret.Bytes) error {
	pub, ok := k.public.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("%w: the key does not derive", ErrUnsupported)
	}
	own, err := pub.ECDH()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	other, err := own.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := other.ECDH(own)
	if err != nil {
		return err
	}
	return proven(k.ECDH(ctx, auth, other.PublicKey()))(want)
}

// proveDecrypt decrypts what was encrypted for the key.
func (k *Key) proveDecrypt(ctx context.Context, auth secret.Bytes) error {
	pub, ok := k.public.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("%w: the key does not decrypt", ErrUnsupported)
	}
	want := make([]byte, 16)
	_, _ = rand.Read(want)
	var opts crypto.DecrypterOpts
	var c []byte
	var err error
	if hash := k.shape.paddingHash; hash != 0 {
		opts = &rsa.OAEPOptions{Hash: hash}
		c, err = rsa.EncryptOAEP(hash.New(), rand.Reader, pub, want, nil)
	} else {
		//lint:ignore SA1019 it is the only padding that the key has.
		c, err = rsa.EncryptPKCS1v15(rand.Reader, pub, want)
	}
	if err != nil {
		return err
	}
	return proven(k.Decrypt(ctx, auth, c, opts))(want)
}

// proven compares what a key gave with what was wanted.
func proven(got secret.Bytes, err error) func(want []byte) error {
	return func(want []byte) error {
		defer got.Wipe()
		if err != nil {
			return err
		}
		known := secret.Copy(want)
		defer known.Wipe()
		if !got.Equal(known) {
			return errBadSignature
		}
		return nil
	}
}
