package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
	secrets *keyring.Secrets
	mover   *moving.Mover
	done    chan struct{} // closed when there is nothing more to open

	mu    sync.Mutex
	store *store.Store // nil: not open
}

// openVault begins to open the store. Where another keyringd has it, that is an
// error for whoever needs it, and it is opened as soon as the other ends.
func (d *daemon) openVault(ctx context.Context, gate *keyring.Gate, device *tpm.Device, box *sandbox) *vault {
	v := &vault{secrets: keyring.OpeningSecrets(gate), done: make(chan struct{})}
	v.secrets.Log, v.secrets.TPM = d.log, device != nil
	v.mover = &moving.Mover{Secrets: v.secrets, Gate: gate, Log: d.log, Elsewhere: box.putArchive}
	o := store.Options{Dir: d.DataDir, Log: d.log}
	if device != nil {
		sealer := tpmkeys.Sealer{Device: device}
		o.Index, o.TPM = sealer, sealer
	}
	waited := false
	o.InUse = func(err error) {
		waited = true
		d.log.Error("the keyrings cannot be opened yet; they are as soon as the other keyringd ends", "err", err)
		v.secrets.SetStore(nil, err)
	}
	go func() {
		defer close(v.done)
		s, err := store.Open(ctx, o)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				d.log.Error("the keyrings cannot be opened; nothing is made in their place", "err", err)
			}
			v.secrets.SetStore(nil, err)
			return
		}
		v.mu.Lock()
		v.store = s
		v.mu.Unlock()
		v.secrets.SetStore(s, nil)
		if waited {
			d.log.Info("the keyrings are open now")
		}
	}()
	return v
}

// wait returns the secrets once they are there, or ctx's error.
func (v *vault) wait(ctx context.Context) (*keyring.Secrets, error) {
	select {
	case <-v.secrets.Opened():
		return v.secrets, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// now returns the secrets if they are there, or nil.
func (v *vault) now() *keyring.Secrets {
	select {
	case <-v.secrets.Opened():
		return v.secrets
	default:
		return nil
	}
}

// damage is what the store has found.
func (v *vault) damage() []store.Damage {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.store == nil {
		return nil
	}
	return v.store.Damage()
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
	<-v.done
	if v.store != nil {
		_ = v.store.Close() // everything was on disk already
	}
}
