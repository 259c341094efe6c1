package tpmkeys

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm"
)

// A Key is the key in one TPM key file. It implements keyring.Key,
// keyring.Decrypter, keyring.Deriver and keyring.Guarded.
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
func (k *Key) Sign(ctx context.Context, auth secret.Bytes, digest []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	err = k.use(ctx, auth, func() (err error) {
		sig, err = k.key.Sign(ctx, auth, digest, opts)
		return err
	})
	return sig, err
}

// Decrypt decrypts in the TPM; see keyring.Decrypter.
func (k *Key) Decrypt(ctx context.Context, auth secret.Bytes, ciphertext []byte, opts crypto.DecrypterOpts) (plain secret.Bytes, err error) {
	err = k.use(ctx, auth, func() (err error) {
		if _, raw := opts.(keyring.RawRSA); raw {
			plain, err = k.key.Bare(ctx, auth, ciphertext)
		} else {
			plain, err = k.key.Decrypt(ctx, auth, ciphertext, opts)
		}
		return err
	})
	return plain, err
}

// Derive agrees on a secret in the TPM; see keyring.Deriver.
func (k *Key) Derive(ctx context.Context, auth secret.Bytes, peer *ecdh.PublicKey) (shared secret.Bytes, err error) {
	err = k.use(ctx, auth, func() (err error) {
		shared, err = k.key.ECDH(ctx, auth, peer)
		return err
	})
	return shared, err
}

// use does something with the key in the TPM, and learns from what it says.
func (k *Key) use(ctx context.Context, auth secret.Bytes, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	needsAuth := k.info.Load().NeedsAuth
	if needsAuth && k.counted && auth.Len() == 0 && k.empty.CompareAndSwap(false, true) {
		// A slip of the Enter key is not worth one of the few tries there are. But
		// there are files that ask for a PIN where the key has none: who insists
		// is believed.
		return fmt.Errorf("%s: an empty PIN, which is tried if it is given again: %w", k.path, keyring.ErrAuthFailed)
	}
	k.empty.Store(false)
	err := do()
	if err == nil {
		return nil
	}
	if !needsAuth && errors.Is(err, tpm.ErrAuthFailed) {
		// tpm2_encodeobject of tpm2-tools 5.4 writes emptyAuth the wrong way round.
		// The TPM knows better than the file.
		k.update(func(info *keyring.KeyInfo) { info.NeedsAuth = true })
		k.changed()
	}
	return translate(k.path, err)
}

// abilities says in the core's words what a key is for and where it has been.
func abilities(t tpm.Traits) (keyring.Usages, keyring.Origin) {
	var u keyring.Usages
	for _, c := range []struct {
		can   bool
		usage keyring.Usages
	}{{t.Sign, keyring.UsageSign}, {t.Decrypt, keyring.UsageDecrypt}, {t.Derive, keyring.UsageDerive}} {
		if c.can {
			u |= c.usage
		}
	}
	return u, keyring.Origin{Bound: t.FixedTPM, Born: t.SensitiveDataOrigin}
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
