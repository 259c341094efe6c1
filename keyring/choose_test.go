package keyring_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"testing"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func chooseUse() keyring.Use {
	return keyring.Use{ID: "new /k", Subject: "key k", PIN: true, Caller: git, Reason: "for a new key"}
}

func TestChooseUntilItCanBeUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.user.Script(answer(""), answer("too long"), answer("good"))
		got, err := b.Choose(t.Context(), chooseUse(), 4)
		if err != nil || got.Len() != 4 {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		got.Wipe()
		q := b.asked(3)
		if q[0].Kind != prompt.NewPassphrase || !q[0].PIN || q[0].Warning != "" || q[1].Warning == "" || q[2].Warning == q[1].Warning {
			t.Errorf("asked %+v", q)
		}
		b.user.Script(answer(""), answer(""), answer(""))
		if _, err := b.Choose(t.Context(), chooseUse(), 4); !errors.Is(err, keyring.ErrDenied) {
			t.Errorf("nothing chosen: %v", err)
		}
		b.asked(3)
		if n := len(b.Remembered()); n != 0 {
			t.Errorf("%d values are remembered", n)
		}
	})
}

// Whoever is not answered is not to pester.
func TestChooseAndPermitCoolDown(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		for name, ask := range map[string]func() error{
			"choose": func() error { _, err := b.Choose(t.Context(), chooseUse(), 4); return err },
			"permit": func() error { u := chooseUse(); u.ID = "remove"; return b.Permit(t.Context(), u, "gone for ever") },
		} {
			b.user.Script(dismiss(), dismiss())
			for range 3 {
				if err := ask(); !errors.Is(err, keyring.ErrDenied) {
					t.Errorf("%s: %v", name, err)
				}
			}
			b.asked(2)
			time.Sleep(time.Hour)
		}
	})
}

func TestPermitIsForOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		for range 2 {
			b.user.Script(yes())
			if err := b.Permit(t.Context(), confirmUse(), "gone for ever"); err != nil {
				t.Error(err)
			}
			if q := b.asked(1)[0]; q.Kind != prompt.Confirm || q.Warning != "gone for ever" || q.Remember != 0 {
				t.Errorf("asked %+v", q)
			}
		}
		if len(b.Approvals()) != 0 {
			t.Error("it became an approval")
		}
	})
}

func TestSignerGoesThroughTheGate(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k := keyringtest.NewFakeKey(private, keyring.KindTPM, "key", "/key").Locked("1234", nil)
		keys := keyring.NewKeys(b.Gate)
		keys.Replace("tpm", []keyring.Key{k})
		b.user.Script(answer("1234"))
		s, err := keys.Signer(t.Context(), keyring.SignRequest{Caller: git, Key: k.Info().ID, Reason: "request a certificate"})
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mia"}}, s)
		if err != nil {
			t.Fatal(err)
		}
		if csr, err := x509.ParseCertificateRequest(der); err != nil || csr.CheckSignature() != nil {
			t.Errorf("%v", err)
		}
		if q := b.asked(1)[0]; q.Reason != "request a certificate" {
			t.Errorf("asked %+v", q)
		}
		if _, err := keys.Signer(t.Context(), keyring.SignRequest{}); !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("no such key: %v", err)
		}
	})
}
