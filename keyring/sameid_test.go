package keyring_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"testing"
	"testing/synctest"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// TestDemandOutlivesAnotherLabel has a key in a file whose uses are to be
// confirmed, and adds it under another label.
func TestDemandOutlivesAnotherLabel(t *testing.T) {
	signer := newSigner(t)
	keys := keyring.NewKeys(keyring.NewGate(nil))
	keys.Demand = func(info keyring.KeyInfo) bool { return info.Label == "work" }
	file := keyringtest.NewFakeKey(signer, keyring.KindFile, "work", "/work")
	keys.Replace("files", []keyring.Key{file})
	keys.Replace("added", []keyring.Key{keyringtest.NewFakeKey(signer, keyring.KindAdded, "mia@laptop")})
	expectLabels(t, keys, "mia@laptop")
	if info, err := keys.Find(file.Info().ID); err != nil || !info.Confirm {
		t.Errorf("confirm %v, %v", info.Confirm, err)
	}
	keys.Replace("files", nil)
	if info, err := keys.Find(file.Info().ID); err != nil || info.Confirm {
		t.Errorf("after the file is gone: confirm %v, %v", info.Confirm, err)
	}
}

// TestFileBecomesTPMKeyDuringPrompt moves a key from a file into the TPM while
// the file's passphrase is asked for. It is no PIN, and a PIN is not to be kept.
func TestFileBecomesTPMKeyDuringPrompt(t *testing.T) {
	signer := newSigner(t)
	inBubble(t, func(t *testing.T, b *bench) {
		keys := keyring.NewKeys(b.Gate)
		kept := 0
		keys.Passphrases = func(_ keyring.Caller, key keyring.KeyInfo) (func(context.Context) (secret.Bytes, bool), func(context.Context, secret.Bytes)) {
			return nil, func(context.Context, secret.Bytes) { kept++ }
		}
		file := keyringtest.NewFakeKey(signer, keyring.KindFile, "key", "/key").Locked("a passphrase", nil)
		tpm := keyringtest.NewFakeKey(signer, keyring.KindTPM, "key", "/key.tpm").Locked("1234", nil)
		wrong := 0
		tpm.Hook = func(context.Context) error { wrong++; return nil }
		keys.Replace("files", []keyring.Key{file})
		release := make(chan struct{})
		b.user.Script(
			keyringtest.Reply{Passphrase: "a passphrase", Automatic: true, When: release},
			keyringtest.Reply{Passphrase: "1234", Automatic: true})
		done := make(chan error, 1)
		go func() {
			_, err := keys.Sign(t.Context(), request(file))
			done <- err
		}()
		synctest.Wait()
		keys.Replace("tpm", []keyring.Key{tpm})
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		asked := b.asked(2)
		if q := asked[1]; !q.PIN || q.Retry || q.Automatic {
			t.Errorf("asked %+v", q)
		}
		if wrong != 1 || kept != 0 {
			t.Errorf("the TPM key saw %d values, %d were kept", wrong, kept)
		}
	})
}

// TestPermissionToDecryptIsNoneToUseAsItIs asks anew where the bare operation is
// wanted, which signs as well as it decrypts.
func TestPermissionToDecryptIsNoneToUseAsItIs(t *testing.T) {
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := keyringtest.NewFakeKey(signer, keyring.KindFile, "rsa", "/rsa")
	key.KeyInfo.Confirm = true
	user := scripted(keyringtest.Reply{}, keyringtest.Reply{})
	keys := keysOf(user, key)
	c, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, &signer.PublicKey, []byte("hello"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := keyring.DecryptRequest{Caller: git, Key: key.Info().ID, Ciphertext: c, Opts: &rsa.OAEPOptions{Hash: crypto.SHA256}}
	for range 2 {
		if _, err := keys.Decrypt(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	r.Opts = keyring.RawRSA{}
	_, _ = keys.Decrypt(t.Context(), r) // whether this key can do it does not matter
	if n := len(user.Questions()); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// TestNothingIsLeftForAnotherMachine wants a passphrase that was typed for one not
// to be kept, and that not to be offered.
func TestNothingIsLeftForAnotherMachine(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		u := pinUse("k", nil)
		u.Keep = func(context.Context, secret.Bytes) { t.Error("it was kept") }
		u.Automatic = func() { t.Error("it was made automatic") }
		u.Forwarded = true
		b.user.Script(keyringtest.Reply{Passphrase: "1234", Automatic: true})
		b.mustUse(u, b.check(nil))
		if q := b.asked(1)[0]; q.Automatic || q.Terms {
			t.Errorf("asked %+v", q)
		}
	})
}
