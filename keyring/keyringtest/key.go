package keyringtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// A FakeDevice counts wrong tries for all keys on it, and locks, as a TPM does.
// The zero value counts nothing. All methods may be called concurrently.
type FakeDevice struct {
	Max      int           // wrong tries that lock it; 0: not limited
	Recovery time.Duration // after which it gives one back, counted from the last wrong one
	Name     string        // as keyring.Tries.Counter

	mu    sync.Mutex
	wrong int
	last  time.Time
	tried int
}

// Tries reports what is left.
func (d *FakeDevice) Tries() keyring.Tries {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.triesLocked()
}

func (d *FakeDevice) triesLocked() keyring.Tries {
	if d.Max == 0 {
		return keyring.Tries{}
	}
	t := keyring.Tries{Limited: true, Counter: d.Name, Wait: d.Recovery}
	if d.Recovery > 0 && d.wrong > 0 {
		since := time.Since(d.last)
		for since >= d.Recovery && d.wrong > 0 {
			since -= d.Recovery
			d.wrong--
			d.last = d.last.Add(d.Recovery)
		}
		t.Wait = d.Recovery - since
	}
	t.Left = max(0, d.Max-d.wrong)
	return t
}

// Spoil counts n wrong tries that nobody made, as a TPM does after power cuts;
// a negative n gives some back.
func (d *FakeDevice) Spoil(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wrong += n
	d.last = time.Now()
}

// Tried is how many values were spent on the device, right and wrong.
func (d *FakeDevice) Tried() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tried
}

// Try spends one value, right or wrong. Errors are keyring.ErrAuthFailed and
// *keyring.LockoutError; a refusal while locked is not a try.
func (d *FakeDevice) Try(right bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.triesLocked(); t.Limited && t.Left == 0 {
		return &keyring.LockoutError{Until: time.Now().Add(t.Wait)}
	}
	d.tried++
	if right {
		return nil
	}
	d.wrong++
	d.last = time.Now()
	return keyring.ErrAuthFailed
}

// A FakeKey signs in software. The fields are set before its first use; all
// methods may be called concurrently.
type FakeKey struct {
	KeyInfo keyring.KeyInfo
	Auth    string      // the right value, if KeyInfo.NeedsAuth
	Device  *FakeDevice // may be shared with other keys; nil: nothing is counted

	// Hook, if set, is called at the start of each use; what it returns fails it
	// before the value is looked at.
	Hook func(ctx context.Context) error

	signer crypto.Signer

	mu        sync.Mutex
	signed    int
	forgotten int
}

// NewFakeKey returns a key without authorization that signs with signer, which
// holds one of the types that keyring.KeyInfo.Public names.
func NewFakeKey(signer crypto.Signer, kind keyring.Kind, label string, paths ...string) *FakeKey {
	id, err := keyring.NewKeyID(signer.Public())
	if err != nil {
		panic(fmt.Sprintf("keyringtest: %v", err)) // a mistake in the test itself
	}
	return &FakeKey{
		signer: signer,
		KeyInfo: keyring.KeyInfo{
			ID: id, Label: label, Kind: kind, Public: signer.Public(), Paths: paths,
			Usages: usages(signer.Public()),
		},
	}
}

// Locked makes auth the value that k needs, counted by d, and returns k.
func (k *FakeKey) Locked(auth string, d *FakeDevice) *FakeKey {
	k.Auth, k.Device, k.KeyInfo.NeedsAuth = auth, d, true
	return k
}

// Info returns KeyInfo.
func (k *FakeKey) Info() keyring.KeyInfo { return k.KeyInfo }

// Sign checks auth and signs.
func (k *FakeKey) Sign(ctx context.Context, auth secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := k.admit(ctx, auth, func() error { return k.supports(digest, opts) }); err != nil {
		return nil, err
	}
	sig, err := k.signer.Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.KeyInfo.Label, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signed++
	return sig, nil
}

// admit checks what a use asks for, and then auth.
func (k *FakeKey) admit(ctx context.Context, auth secret.Bytes, supported func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if k.Hook != nil {
		if err := k.Hook(ctx); err != nil {
			return err
		}
	}
	if err := supported(); err != nil || !k.KeyInfo.NeedsAuth {
		return err
	}
	right := secret.Copy([]byte(k.Auth))
	ok := auth.Equal(right)
	right.Wipe()
	device := k.Device
	if device == nil {
		device = &FakeDevice{}
	}
	if err := device.Try(ok); err != nil {
		return fmt.Errorf("%s: %w", k.KeyInfo.Label, err)
	}
	return nil
}

func (k *FakeKey) supports(digest []byte, opts crypto.SignerOpts) error {
	hash := opts.HashFunc()
	_, pss := opts.(*rsa.PSSOptions)
	ok := false
	switch k.KeyInfo.Public.(type) {
	case ed25519.PublicKey:
		ok = hash == 0
	case *ecdsa.PublicKey, *rsa.PublicKey:
		switch hash {
		case crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512:
			ok = len(digest) == hash.Size()
		}
	}
	if _, isRSA := k.KeyInfo.Public.(*rsa.PublicKey); pss && !isRSA {
		ok = false
	}
	if !ok {
		return fmt.Errorf("%s: hash %d of %d bytes: %w", k.KeyInfo.Label, hash, len(digest), keyring.ErrUnsupported)
	}
	return nil
}

// Tries reports the device's counter.
func (k *FakeKey) Tries(ctx context.Context) (keyring.Tries, error) {
	if err := ctx.Err(); err != nil || k.Device == nil {
		return keyring.Tries{}, err
	}
	return k.Device.Tries(), nil
}

// Forget counts.
func (k *FakeKey) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgotten++
}

// Signed is how many signatures k made.
func (k *FakeKey) Signed() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.signed
}

// Forgotten is how often k was told to forget.
func (k *FakeKey) Forgotten() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.forgotten
}
