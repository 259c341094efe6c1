package keyringtest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func TestFakeKeyKeepsTheContract(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, signer := range map[string]crypto.Signer{"ecdsa": ec, "rsa": rs, "ed25519": ed} {
		t.Run(name, func(t *testing.T) {
			keyringtest.TestKey(t, func(*testing.T) (keyring.Key, string) {
				return keyringtest.NewFakeKey(signer, keyring.KindFile, name, "/keys/"+name), ""
			})
		})
		t.Run(name+" with a PIN", func(t *testing.T) {
			device := &keyringtest.FakeDevice{Max: 3}
			keyringtest.TestKey(t, func(*testing.T) (keyring.Key, string) {
				return keyringtest.NewFakeKey(signer, keyring.KindTPM, name).Locked("1234", device), "1234"
			})
			if left := device.Tries().Left; left != 1 {
				t.Errorf("the suite leaves %d tries of 3; it may spend two", left)
			}
		})
	}
}

func TestFakeDeviceLocksAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ed, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d := &keyringtest.FakeDevice{Max: 2, Recovery: time.Hour}
		k := keyringtest.NewFakeKey(ed, keyring.KindTPM, "key").Locked("1234", d)
		d.Spoil(2)
		var lockout *keyring.LockoutError
		_, err = k.Sign(t.Context(), secretOf(t, "1234"), []byte("message"), crypto.Hash(0))
		if !errors.As(err, &lockout) || !lockout.Until.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("locked device: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := k.Sign(t.Context(), secretOf(t, "1234"), []byte("message"), crypto.Hash(0)); err != nil {
			t.Errorf("an hour later: %v", err)
		}
		if d.Tried() != 1 {
			t.Errorf("%d tries were spent, want 1", d.Tried())
		}
	})
}

func TestFakePrompterObeysContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &keyringtest.FakePrompter{}
		p.Script(keyringtest.Reply{Passphrase: "never", When: make(chan struct{})})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := p.Prompt(ctx, prompt.Question{Subject: "key"})
			done <- err
		}()
		if err := p.Await(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := p.Await(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if _, err := p.Prompt(t.Context(), prompt.Question{}); err == nil || errors.Is(err, prompt.ErrDismissed) {
			t.Errorf("past the script: %v", err)
		}
		if q := p.Questions(); len(q) != 2 || q[0].Subject != "key" {
			t.Errorf("questions: %+v", q)
		}
	})
}
func secretOf(t *testing.T, s string) secret.Bytes {
	b := secret.Copy([]byte(s))
	t.Cleanup(b.Wipe)
	return b
}
