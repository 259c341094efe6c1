package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// A login does not wait for ever for keyrings that a TPM is slow to open.
func TestLoginWaitsForTheKeyrings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &vault{secrets: keyring.OpeningSecrets(keyring.NewGate(nil))}
		password := secret.Copy([]byte("sesame"))
		defer password.Wipe()
		try := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return errors.Join(v.Login(ctx, keyring.Caller{}, password), v.ChangeLogin(ctx, keyring.Caller{}, password, password))
		}
		if err := try(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("never: %v", err)
		}
		time.AfterFunc(time.Second, func() { v.secrets.SetStore(keyringtest.NewStore(), nil) })
		if err := try(); err != nil {
			t.Errorf("late: %v", err)
		}
	})
}
