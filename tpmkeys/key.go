package tpmkeys

import (
	"context"
	"crypto"
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
	counted bool // wrong tries count towards the TPM's lockout
	info    atomic.Pointer[keyring.KeyInfo]
}

// Info returns what the file tells. It touches no TPM.
func (k *Key) Info() keyring.KeyInfo { return *k.info.Load() }

// Sign signs in the TPM; see keyring.Key.
func (k *Key) Sign(ctx context.Context, auth secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if k.counted && auth.Len() == 0 {
		// A slip of the Enter key is not worth one of the few tries there are.
		return nil, fmt.Errorf("%s: an empty PIN: %w", k.path, keyring.ErrAuthFailed)
	}
	sig, err := k.key.Sign(ctx, auth, digest, opts)
	if err != nil {
		return nil, translate(k.path, err)
	}
	return sig, nil
}

// Tries reports the TPM's count of wrong tries, which all its keys share that
// are protected against guessing. A key without a PIN, or one made exempt
// (noDA), is not limited, and the TPM is not asked.
func (k *Key) Tries(ctx context.Context) (keyring.Tries, error) {
	if !k.counted {
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
