package keyringtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// usages are what a key in software can be used for.
func usages(pub crypto.PublicKey) keyring.Usages {
	switch pub.(type) {
	case *rsa.PublicKey:
		return keyring.UsageSign | keyring.UsageDecrypt
	case *ecdsa.PublicKey:
		return keyring.UsageSign | keyring.UsageDerive
	}
	return keyring.UsageSign
}

// Decrypt checks auth and decrypts.
func (k *FakeKey) Decrypt(ctx context.Context, auth secret.Bytes, ciphertext []byte, opts crypto.DecrypterOpts) (secret.Bytes, error) {
	d, ok := k.signer.(crypto.Decrypter)
	private, isRSA := k.signer.(*rsa.PrivateKey)
	_, raw := opts.(keyring.RawRSA)
	err := k.admit(ctx, auth, func() error {
		if !ok || raw && !isRSA || !k.KeyInfo.Usages.Has(keyring.UsageDecrypt) {
			return fmt.Errorf("%s: %w", k.KeyInfo.Label, keyring.ErrUnsupported)
		}
		return nil
	})
	if err != nil {
		return secret.Bytes{}, err
	}
	if raw {
		c := new(big.Int).SetBytes(ciphertext)
		if c.Cmp(private.N) >= 0 {
			return secret.Bytes{}, &keyring.CiphertextError{}
		}
		return secret.From(c.Exp(c, private.D, private.N).FillBytes(make([]byte, private.Size()))), nil
	}
	plain, err := d.Decrypt(nil, ciphertext, opts)
	if err != nil {
		return secret.Bytes{}, &keyring.CiphertextError{}
	}
	return secret.From(plain), nil
}

// Derive checks auth and agrees on a secret.
func (k *FakeKey) Derive(ctx context.Context, auth secret.Bytes, peer *ecdh.PublicKey) (secret.Bytes, error) {
	var own *ecdh.PrivateKey
	err := k.admit(ctx, auth, func() (err error) {
		key, ok := k.signer.(*ecdsa.PrivateKey)
		if ok && k.KeyInfo.Usages.Has(keyring.UsageDerive) {
			own, err = key.ECDH()
		}
		if own == nil || err != nil || own.Curve() != peer.Curve() {
			return fmt.Errorf("%s: %w", k.KeyInfo.Label, keyring.ErrUnsupported)
		}
		return nil
	})
	if err != nil {
		return secret.Bytes{}, err
	}
	z, err := own.ECDH(peer)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%s: %w", k.KeyInfo.Label, keyring.ErrUnsupported)
	}
	return secret.From(z), nil
}

// open returns what is in b and wipes it.
func open(b secret.Bytes) []byte {
	var out []byte
	b.Use(func(p []byte) { out = bytes.Clone(p) })
	b.Wipe()
	return out
}

// testDecrypt holds a keyring.Decrypter to its contract, and a key without that
// usage to refusing.
func testDecrypt(t *testing.T, k keyring.Key, auth secret.Bytes) {
	d, ok := k.(keyring.Decrypter)
	can := k.Info().Usages.Has(keyring.UsageDecrypt)
	if !ok {
		if can {
			t.Error("UsageDecrypt is set, but the key is no keyring.Decrypter")
		}
		t.Skip("not keyring.Decrypter")
	}
	pub, isRSA := k.Info().Public.(*rsa.PublicKey)
	if !can || !isRSA {
		if got, err := d.Decrypt(t.Context(), auth, make([]byte, 256), nil); !errors.Is(err, keyring.ErrUnsupported) || got.Len() > 0 {
			t.Errorf("without UsageDecrypt: %v", err)
		}
		return
	}
	plain := []byte("message")
	for _, o := range []*rsa.OAEPOptions{nil, {Hash: crypto.SHA256}, {Hash: crypto.SHA1, Label: []byte("label")}} {
		var opts crypto.DecrypterOpts
		//lint:ignore SA1019 it is what keys are asked for.
		c, err := rsa.EncryptPKCS1v15(rand.Reader, pub, plain)
		if o != nil {
			opts = o
			c, err = rsa.EncryptOAEPWithOptions(rand.Reader, pub, plain, o)
		}
		if err != nil {
			t.Fatal(err)
		}
		kept := bytes.Clone(c)
		got, err := d.Decrypt(t.Context(), auth, c, opts)
		if b := open(got); err != nil || !bytes.Equal(b, plain) {
			t.Errorf("%+v: %q, %v", o, b, err)
		}
		if !bytes.Equal(c, kept) {
			t.Error("Decrypt changed the ciphertext")
		}
		c[len(c)/2] ^= 1
		got, err = d.Decrypt(t.Context(), auth, c, opts)
		var bad *keyring.CiphertextError
		if o != nil && !errors.As(err, &bad) || err != nil && got.Len() > 0 {
			t.Errorf("%+v, a changed ciphertext: %v", o, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Decrypt(ctx, auth, make([]byte, pub.Size()), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v; want context.Canceled", err)
	}
}

// testDerive holds a keyring.Deriver to its contract, and a key without that
// usage to refusing.
func testDerive(t *testing.T, k keyring.Key, auth secret.Bytes) {
	d, ok := k.(keyring.Deriver)
	can := k.Info().Usages.Has(keyring.UsageDerive)
	if !ok {
		if can {
			t.Error("UsageDerive is set, but the key is no keyring.Deriver")
		}
		t.Skip("not keyring.Deriver")
	}
	curve := ecdh.P256()
	var own *ecdh.PublicKey
	if pub, ok := k.Info().Public.(*ecdsa.PublicKey); ok {
		var err error
		if own, err = pub.ECDH(); err != nil {
			t.Fatal(err)
		}
		curve = own.Curve()
	}
	other, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Derive(t.Context(), auth, other.PublicKey())
	b := open(got)
	if !can || own == nil {
		if !errors.Is(err, keyring.ErrUnsupported) || len(b) > 0 {
			t.Errorf("without UsageDerive: %v", err)
		}
		return
	}
	want, wantErr := other.ECDH(own)
	if err != nil || wantErr != nil || !bytes.Equal(b, want) {
		t.Errorf("%x, want %x: %v", b, want, err)
	}
	stranger, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Derive(t.Context(), auth, stranger.PublicKey()); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("a key on another curve: %v; want ErrUnsupported", err)
	}
}
