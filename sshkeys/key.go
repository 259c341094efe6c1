package sshkeys

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// A Key is the private key in one file. It implements keyring.Key,
// keyring.Decrypter, keyring.Deriver and keyring.Forgetter.
type Key struct {
	path      string
	encrypted bool
	info      atomic.Pointer[keyring.KeyInfo]

	// turn lets one use at a time decrypt, so that ten signatures at once pay
	// for one derivation and not for ten.
	turn chan struct{}

	mu     sync.Mutex
	kept   *kept  // nil: no private key is in memory
	forgot uint64 // how often Forget was called
}

// kept is a private key, the file as it was when it was read, and what it was
// decrypted with.
type kept struct {
	file        folder.ID
	auth, plain secret.Bytes
}

// An origin is the file that a private key was read from, at that moment.
type origin struct {
	file  folder.ID
	fuzzy bool // the file may change and keep its ID
}

func (k *kept) wipe() {
	if k != nil {
		k.auth.Wipe()
		k.plain.Wipe()
	}
}

func newKey(path string, encrypted bool, info keyring.KeyInfo) *Key {
	k := &Key{path: path, encrypted: encrypted, turn: make(chan struct{}, 1)}
	k.info.Store(&info)
	return k
}

// Info returns what the file tells without a passphrase.
func (k *Key) Info() keyring.KeyInfo { return *k.info.Load() }

// Sign signs; see keyring.Key. The private key is read at first use, and kept
// until [Key.Forget] or until the file is another one.
func (k *Key) Sign(ctx context.Context, auth secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := capable(k.Info().Public, digest, opts); err != nil {
		return nil, err
	}
	s, err := k.signer(ctx, auth)
	if err != nil {
		return nil, err
	}
	defer wipe(s)
	return signWith(s, digest, opts)
}

// signWith signs with a key in memory, as capable allows it.
func signWith(s crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	var sig []byte
	var err error
	k, isRSA := s.(*rsa.PrivateKey)
	if pss, ok := opts.(*rsa.PSSOptions); ok && isRSA && pss.SaltLength == keyring.PSSNoSalt {
		sig, err = signUnsalted(k, digest, pss)
	} else {
		sig, err = s.Sign(rand.Reader, digest, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keyring.ErrUnsupported, err)
	}
	return sig, nil
}

// capable refuses schemes before anything is decrypted for them.
func capable(pub crypto.PublicKey, digest []byte, opts crypto.SignerOpts) error {
	hash := opts.HashFunc()
	if _, ok := pub.(ed25519.PublicKey); ok {
		if hash != 0 {
			return fmt.Errorf("%w: ed25519 signs whole messages, not digests", keyring.ErrUnsupported)
		}
		return nil
	}
	switch hash {
	case 0: // the caller has made the padding's content itself, as PKCS #11's CKM_RSA_PKCS does
	case crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512:
		if len(digest) != hash.Size() {
			return fmt.Errorf("%w: a digest of %d bytes is not %v", keyring.ErrUnsupported, len(digest), hash)
		}
	default:
		return fmt.Errorf("%w: signing with %v", keyring.ErrUnsupported, hash)
	}
	return nil
}

func (k *Key) signer(ctx context.Context, auth secret.Bytes) (crypto.Signer, error) {
	if !k.encrypted {
		auth = secret.Bytes{}
	} else if auth.Len() == 0 {
		return nil, fmt.Errorf("%s: %w", k.path, keyring.ErrAuthFailed)
	}
	if s := k.recall(auth); s != nil {
		return s, nil
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s := k.recall(auth); s != nil {
		return s, nil
	}
	k.mu.Lock()
	forgot := k.forgot
	k.mu.Unlock()
	s, from, err := k.read(auth)
	if err != nil {
		return nil, err
	}
	if err := k.keep(s, from, auth, forgot); err != nil {
		return nil, err
	}
	// The derivation cannot be stopped, but its fruit need not be used.
	return s, ctx.Err()
}

// recall returns the key that was read before, if it was with this auth and from
// the file as it still is.
func (k *Key) recall(auth secret.Bytes) crypto.Signer {
	k.mu.Lock()
	have := k.kept
	k.mu.Unlock()
	if have == nil || !have.auth.Equal(auth) {
		return nil
	}
	f, err := folder.Stat(k.path)
	if err != nil || f.ID != have.file {
		k.Forget()
		return nil
	}
	var s crypto.Signer
	have.plain.Use(func(p []byte) {
		if p != nil { // not forgotten meanwhile
			s, _ = fromNormalForm(p, k.Info().Public)
		}
	})
	return s
}

// keep keeps a private key, unless Forget was called since forgot was read. One
// without a passphrase is kept only once its file has settled: to read that again
// costs little, and to sign with what is no longer in it would be wrong.
func (k *Key) keep(s crypto.Signer, from origin, auth secret.Bytes, forgot uint64) error {
	if !k.encrypted && from.fuzzy {
		return nil
	}
	plain, err := inNormalForm(s)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", k.path, keyring.ErrUnsupported, err)
	}
	fresh := &kept{file: from.file, auth: auth.Clone(), plain: secret.From(plain)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forgot != forgot {
		fresh.wipe()
		return nil
	}
	k.kept.wipe()
	k.kept = fresh
	return nil
}

// Forget wipes the private key that is in memory.
func (k *Key) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgot++
	k.kept.wipe()
	k.kept = nil
}

// read reads the file by the rules of internal/folder, decrypts it, and makes
// sure that it still holds the key it is listed as.
func (k *Key) read(auth secret.Bytes) (crypto.Signer, origin, error) {
	var s crypto.Signer
	var from origin
	err := folder.Read(k.path, 0, func(f folder.File, data []byte) (err error) {
		from = origin{f.ID, f.Fuzzy()}
		if err := f.Exposed(); err != nil {
			return err
		}
		auth.Use(func(passphrase []byte) { s, err = open(data, passphrase) })
		return err
	})
	switch {
	case errors.Is(err, errPassphrase):
		return nil, from, fmt.Errorf("%s: %w", k.path, keyring.ErrAuthFailed)
	case err != nil:
		return nil, from, fmt.Errorf("%s: %w: %w", k.path, keyring.ErrUnavailable, err)
	case !samePublic(k.Info().Public, s.Public()):
		return nil, from, fmt.Errorf("%s: %w: the private key in it belongs to another public key than the one listed", k.path, keyring.ErrUnavailable)
	}
	return s, from, nil
}
