package keyring_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

func keysOf(user *keyringtest.FakePrompter, list ...keyring.Key) *keyring.Keys {
	keys := keyring.NewKeys(keyring.NewGate(user))
	keys.Replace("test", list)
	return keys
}

func text(b secret.Bytes) string {
	var s string
	b.Use(func(p []byte) { s = string(bytes.Clone(p)) })
	b.Wipe()
	return s
}

// TestDecrypt decrypts and derives behind the gate: a wrong value is asked for
// again, and a remembered one serves all usages of a key.
func TestDecrypt(t *testing.T) {
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := keyringtest.NewFakeKey(signer, keyring.KindTPM, "rsa", "/rsa").Locked("1234", nil)
	user := scripted(keyringtest.Reply{Passphrase: "12"}, keyringtest.Reply{Passphrase: "1234"})
	keys := keysOf(user, key)
	c, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, &signer.PublicKey, []byte("hello"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := keyring.DecryptRequest{
		Caller: git, Key: key.Info().ID, Reason: "decrypt a test", Ciphertext: c, Opts: &rsa.OAEPOptions{Hash: crypto.SHA256},
	}
	for range 2 {
		plain, err := keys.Decrypt(t.Context(), r)
		if got := text(plain); err != nil || got != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	}
	asked := user.Questions()
	if len(asked) != 2 || !asked[1].Retry || asked[0].Reason != "decrypt a test" {
		t.Errorf("asked %+v", asked)
	}
	r.Ciphertext = make([]byte, 256)
	_, err = keys.Decrypt(t.Context(), r)
	var bad *keyring.CiphertextError
	if !errors.As(err, &bad) || !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("what is no ciphertext: %v", err)
	}
	if n := len(user.Questions()); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestDerive(t *testing.T) {
	signer, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, err := signer.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	want, err := other.ECDH(own)
	if err != nil {
		t.Fatal(err)
	}
	key := keyringtest.NewFakeKey(signer, keyring.KindFile, "ec", "/ec")
	shared, err := keysOf(nil, key).Derive(t.Context(), keyring.DeriveRequest{Caller: git, Key: key.Info().ID, Peer: other.PublicKey()})
	if got := text(shared); err != nil || got != string(want) {
		t.Errorf("%x, %v", got, err)
	}
}

// TestPermissionToSignIsNoneToDecrypt asks anew for each kind of use.
func TestPermissionToSignIsNoneToDecrypt(t *testing.T) {
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := keyringtest.NewFakeKey(signer, keyring.KindFile, "rsa", "/rsa")
	key.KeyInfo.Confirm = true
	user := &keyringtest.FakePrompter{}
	user.Script(make([]keyringtest.Reply, 2)...)
	keys := keysOf(user, key)
	sign := keyring.SignRequest{Caller: git, Key: key.Info().ID, Digest: make([]byte, 32), Opts: crypto.SHA256}
	//lint:ignore SA1019 it is what keys are asked for.
	c, err := rsa.EncryptPKCS1v15(rand.Reader, &signer.PublicKey, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	decrypt := keyring.DecryptRequest{Caller: git, Key: key.Info().ID, Ciphertext: c}
	for range 2 {
		if _, err := keys.Sign(t.Context(), sign); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Decrypt(t.Context(), decrypt); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(user.Questions()); n != 2 {
		t.Errorf("asked %d times, want once to sign and once to decrypt", n)
	}
}

// TestNobodyIsAskedForNothing refuses what a key is not for before the user is
// bothered with it.
func TestNobodyIsAskedForNothing(t *testing.T) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := keyringtest.NewFakeKey(signer, keyring.KindTPM, "ec", "/ec").Locked("1234", nil)
	key.KeyInfo.Usages = keyring.UsageDerive
	user := &keyringtest.FakePrompter{}
	keys := keysOf(user, key)
	id := key.Info().ID
	if _, err := keys.Sign(t.Context(), request(key)); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("sign: %v", err)
	}
	if _, err := keys.Decrypt(t.Context(), keyring.DecryptRequest{Caller: git, Key: id}); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("decrypt: %v", err)
	}
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key.KeyInfo.Usages = 0
	keys.Refresh()
	derive := keyring.DeriveRequest{Caller: git, Key: id, Peer: other.PublicKey()}
	if _, err := keys.Derive(t.Context(), derive); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("derive: %v", err)
	}
	if n := len(user.Questions()); n != 0 {
		t.Errorf("asked %d times", n)
	}
	derive.Key = keyring.KeyID{}
	if _, err := keys.Derive(t.Context(), derive); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("no such key: %v", err)
	}
}

// TestNoSecretWithAnError calls a decryption off.
func TestNoSecretWithAnError(t *testing.T) {
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := keyringtest.NewFakeKey(signer, keyring.KindTPM, "rsa", "/rsa")
	key.Hook = func(context.Context) error { return context.Canceled }
	got, err := keysOf(nil, key).Decrypt(t.Context(), keyring.DecryptRequest{Caller: git, Key: key.Info().ID})
	if !errors.Is(err, context.Canceled) || got.Len() != 0 {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}
