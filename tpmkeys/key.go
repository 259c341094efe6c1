package tpmkeys

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm"
)

// A Key is the key in one TPM key file. It implements keyring.Key and
// keyring.Guarded.
type Key struct {
	path    string
	dev     *tpm.Device
	key     *tpm.Key
	counted bool   // wrong tries count towards the TPM's lockout
	changed func() // tells the set that info is another now
	empty   atomic.Bool
	info    atomic.Pointer[keyring.KeyInfo]
}

// Info returns what the file tells. It touches no TPM.
func (k *Key) Info() keyring.KeyInfo { return *k.info.Load() }

// update changes what is known of the key. Scans and signatures may do so at the
// same time.
func (k *Key) update(change func(*keyring.KeyInfo)) {
	for {
		old := k.info.Load()
		info := *old
		change(&info)
		if k.info.CompareAndSwap(old, &info) {
			return
		}
	}
}

// Sign signs in the TPM; see keyring.Key.
func (k *Key) Sign(ctx context.Context, auth secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	needsAuth := k.info.Load().NeedsAuth
	if needsAuth && k.counted && auth.Len() == 0 && k.empty.CompareAndSwap(false, true) {
		// A slip of the Enter key is not worth one of the few tries there are. But
		// there are files that ask for a PIN where the key has none: who insists
		// is believed.
		return nil, fmt.Errorf("%s: an empty PIN, which is tried if it is given again: %w", k.path, keyring.ErrAuthFailed)
	}
	k.empty.Store(false)
	sig, err := k.key.Sign(ctx, auth, digest, opts)
	if err == nil {
		return sig, nil
	}
	if !needsAuth && errors.Is(err, tpm.ErrAuthFailed) {
		// tpm2_encodeobject of tpm2-tools 5.4 writes emptyAuth the wrong way round.
		// The TPM knows better than the file.
		k.update(func(info *keyring.KeyInfo) { info.NeedsAuth = true })
		k.changed()
	}
	return nil, translate(k.path, err)
}

// Tries reports the TPM's count of wrong tries, which all its keys share that
// are protected against guessing. A key without a PIN, or one made exempt
// (noDA), is not limited, and the TPM is not asked.
func (k *Key) Tries(ctx context.Context) (keyring.Tries, error) {
	if !k.counted || !k.info.Load().NeedsAuth {
		return keyring.Tries{}, nil
	}
	l, err := k.dev.Lockout(ctx)
	if err != nil {
		return keyring.Tries{}, translate(k.path, err)
	}
	if l.Interval == 0 && !l.Locked {
		return keyring.Tries{}, nil // the protection is off in this TPM
	}
	return keyring.Tries{Limited: true, Left: l.Left(), Wait: l.Wait()}, nil
}
