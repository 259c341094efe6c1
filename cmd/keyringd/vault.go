package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/moving"
	"github.com/keyringd/keyringd/store"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpmkeys"
)

// A vault is the user's secrets. They are opened in the background: a TPM takes
// its time, and ssh must not wait for passwords.
type vault struct {
	ready   chan struct{}
	secrets *keyring.Secrets // once ready
	store   *store.Store     // once ready; nil: it could not be opened
	mover   *moving.Mover    // once ready
}

// openVault begins to open the store.
func (d *daemon) openVault(ctx context.Context, gate *keyring.Gate, device *tpm.Device) *vault {
	v := &vault{ready: make(chan struct{})}
	go func() {
		defer close(v.ready)
		o := store.Options{Dir: d.DataDir, Log: d.log}
		if device != nil {
			sealer := tpmkeys.Sealer{Device: device}
			o.Index, o.TPM = sealer, sealer
		}
		s, err := store.Open(ctx, o)
		if err != nil {
			v.secrets = keyring.NewSecrets(gate, nil)
			v.secrets.Unreadable = err
			if !errors.Is(err, context.Canceled) {
				d.log.Error("the keyrings cannot be opened; nothing is made in their place", "err", err)
			}
		} else {
			v.store, v.secrets = s, keyring.NewSecrets(gate, s)
		}
		v.secrets.Log, v.secrets.TPM = d.log, device != nil
		v.mover = &moving.Mover{Secrets: v.secrets, Gate: gate, Log: d.log}
	}()
	return v
}

// wait returns the secrets once they are there, or ctx's error.
func (v *vault) wait(ctx context.Context) (*keyring.Secrets, error) {
	select {
	case <-v.ready:
		return v.secrets, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// now returns the secrets if they are there, or nil.
func (v *vault) now() *keyring.Secrets {
	select {
	case <-v.ready:
		return v.secrets
	default:
		return nil
	}
}

// Login is control.Login's. It waits for the secrets as long as a login may take:
// pam_gnome_keyring.so waits for ever, and the user before it.
func (v *vault) Login(ctx context.Context, c keyring.Caller, password secret.Bytes) error {
	s, err := v.wait(ctx)
	if err != nil {
		return fmt.Errorf("the keyrings are not open yet: %w", err)
	}
	return s.Login(ctx, c, password)
}

// ChangeLogin is control.Login's.
func (v *vault) ChangeLogin(ctx context.Context, c keyring.Caller, old, new secret.Bytes) error {
	s, err := v.wait(ctx)
	if err != nil {
		return fmt.Errorf("the keyrings are not open yet: %w", err)
	}
	return s.ChangeLogin(ctx, c, old, new)
}

// passphrases is keyring.Keys.Passphrases.
func (v *vault) passphrases(c keyring.Caller, key keyring.KeyInfo) (recall func(context.Context) (secret.Bytes, bool), keep func(context.Context, secret.Bytes)) {
	if s := v.now(); s != nil {
		return s.Passphrases(c, key)
	}
	return nil, nil
}

// close closes the store. What it was opened with has ended by then.
func (v *vault) close() {
	<-v.ready
	if v.store != nil {
		_ = v.store.Close() // everything was on disk already
	}
}
