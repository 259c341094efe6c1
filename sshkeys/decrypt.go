package sshkeys

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// usagesOf says what an ordinary key of a type can be used for.
func usagesOf(pub crypto.PublicKey) keyring.Usages {
	switch pub.(type) {
	case *rsa.PublicKey:
		return keyring.UsageSign | keyring.UsageDecrypt
	case *ecdsa.PublicKey:
		return keyring.UsageSign | keyring.UsageDerive
	}
	return keyring.UsageSign
}

// Decrypt reads the private key and decrypts; see keyring.Decrypter.
func (k *Key) Decrypt(ctx context.Context, auth secret.Bytes, ciphertext []byte, opts crypto.DecrypterOpts) (secret.Bytes, error) {
	if err := ctx.Err(); err != nil {
		return secret.Bytes{}, err
	}
	if err := decryptable(k.Info().Public, opts); err != nil {
		return secret.Bytes{}, err
	}
	s, err := k.signer(ctx, auth)
	if err != nil {
		return secret.Bytes{}, err
	}
	return decrypt(s, ciphertext, opts)
}

// Derive reads the private key and agrees on a secret; see keyring.Deriver.
func (k *Key) Derive(ctx context.Context, auth secret.Bytes, peer *ecdh.PublicKey) (secret.Bytes, error) {
	if err := ctx.Err(); err != nil {
		return secret.Bytes{}, err
	}
	if err := derivable(k.Info().Public, peer); err != nil {
		return secret.Bytes{}, err
	}
	s, err := k.signer(ctx, auth)
	if err != nil {
		return secret.Bytes{}, err
	}
	return derive(s, peer)
}

// decryptable refuses what a key cannot do, before anything is decrypted for it.
func decryptable(pub crypto.PublicKey, opts crypto.DecrypterOpts) error {
	if _, ok := pub.(*rsa.PublicKey); !ok {
		return fmt.Errorf("%w: the key does not decrypt", keyring.ErrUnsupported)
	}
	switch o := opts.(type) {
	case nil, keyring.RawRSA:
		return nil
	case *rsa.OAEPOptions:
		if o.Hash.Available() && (o.MGFHash == 0 || o.MGFHash.Available()) {
			return nil
		}
	}
	return fmt.Errorf("%w: decryption options of type %T", keyring.ErrUnsupported, opts)
}

// decrypt decrypts with a key in memory, as decryptable allows it.
func decrypt(s crypto.Signer, ciphertext []byte, opts crypto.DecrypterOpts) (secret.Bytes, error) {
	if k, ok := s.(*rsa.PrivateKey); ok && opts == (keyring.RawRSA{}) {
		return rawRSA(k, ciphertext)
	}
	d, ok := s.(crypto.Decrypter)
	if !ok {
		return secret.Bytes{}, fmt.Errorf("%w: the key does not decrypt", keyring.ErrUnsupported)
	}
	plain, err := d.Decrypt(nil, ciphertext, opts)
	if err != nil {
		return secret.Bytes{}, &keyring.CiphertextError{}
	}
	return secret.From(plain), nil
}

// derivable refuses what a key cannot do.
func derivable(pub crypto.PublicKey, peer *ecdh.PublicKey) error {
	if own, ok := pub.(*ecdsa.PublicKey); ok {
		if k, err := own.ECDH(); err == nil && k.Curve() == peer.Curve() {
			return nil
		}
	}
	return fmt.Errorf("%w: no shared secret between these keys", keyring.ErrUnsupported)
}

// derive agrees on a secret with a key in memory, as derivable allows it.
func derive(s crypto.Signer, peer *ecdh.PublicKey) (secret.Bytes, error) {
	own, ok := s.(*ecdsa.PrivateKey)
	if !ok {
		return secret.Bytes{}, fmt.Errorf("%w: the key does not derive", keyring.ErrUnsupported)
	}
	k, err := own.ECDH()
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: %w", keyring.ErrUnsupported, err)
	}
	z, err := k.ECDH(peer)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: %w", keyring.ErrUnsupported, err)
	}
	return secret.From(z), nil
}
