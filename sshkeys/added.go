package sshkeys

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"fmt"
	"sync"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// AddedSource is the name under which an [Added] publishes its keys.
const AddedSource = "added"

// Added is the private keys that were handed over at run time. It keeps them in
// secret memory, publishes them among the keys it was made for, and wipes them
// when they are dropped. It forgets nothing by itself: how long a key stays is
// its owner's business. All methods may be called concurrently.
type Added struct {
	keys *keyring.Keys

	mu   sync.Mutex
	list []keyring.Key // each an *addedKey, in the order of Hold
}

// NewAdded returns an empty set that publishes to keys.
func NewAdded(keys *keyring.Keys) *Added { return &Added{keys: keys} }

// Parse makes a private key of its parts as RFC 9987 §3.2 lists them: kind is
// its plain SSH name, such as "ssh-ed25519", and fields are what follows the
// name, up to the comment. The parts are borrowed. The public half is computed
// and not believed. Errors say to a person what is wrong with it.
func (a *Added) Parse(kind string, fields [][]byte) (crypto.Signer, error) {
	n, ok := sectionFields(kind)
	if !ok || len(fields) != n {
		return nil, fmt.Errorf("%w: private key of this type", keyring.ErrUnsupported)
	}
	k, err := section{kind: kind, fields: fields}.signer()
	if err != nil {
		return nil, err
	}
	return k, suitable(k.Public())
}

// Hold publishes a private key, or publishes it anew in place of itself. Of info
// it takes Label, Confirm and Only; the rest is as the key says.
func (a *Added) Hold(k crypto.Signer, info keyring.KeyInfo) error {
	id, err := keyring.NewKeyID(k.Public())
	if err != nil {
		return err
	}
	plain, err := inNormalForm(k)
	if err != nil {
		return fmt.Errorf("%w: %w", keyring.ErrUnsupported, err)
	}
	fresh := &addedKey{private: secret.From(plain), info: keyring.KeyInfo{
		ID: id, Label: info.Label, Kind: keyring.KindAdded, Public: k.Public(), Confirm: info.Confirm, Only: info.Only,
		Usages: usagesOf(k.Public()),
	}}
	a.mu.Lock()
	defer a.mu.Unlock()
	var old *addedKey
	next := make([]keyring.Key, 0, len(a.list)+1)
	for _, other := range a.list {
		if other := other.(*addedKey); other.info.ID == id {
			old = other
			next = append(next, fresh)
			continue
		}
		next = append(next, other)
	}
	if old == nil {
		next = append(next, fresh)
	}
	a.publishLocked(next)
	if old != nil {
		old.private.Wipe()
	}
	return nil
}

// Drop wipes the keys with these IDs. A signature that is being made right now
// is finished first.
func (a *Added) Drop(ids ...keyring.KeyID) {
	drop := make(map[keyring.KeyID]bool, len(ids))
	for _, id := range ids {
		drop[id] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var gone []*addedKey
	next := make([]keyring.Key, 0, len(a.list))
	for _, k := range a.list {
		if k := k.(*addedKey); drop[k.info.ID] {
			gone = append(gone, k)
			continue
		}
		next = append(next, k)
	}
	if len(gone) == 0 {
		return
	}
	a.publishLocked(next)
	for _, k := range gone {
		k.private.Wipe()
	}
}

// publishLocked makes next the whole set. It holds mu so that an older set
// never follows a newer one; Replace waits for nobody.
func (a *Added) publishLocked(next []keyring.Key) {
	a.list = next
	a.keys.Replace(AddedSource, next)
}

// An addedKey is one private key in memory. It implements keyring.Key,
// keyring.Decrypter and keyring.Deriver.
type addedKey struct {
	info    keyring.KeyInfo
	private secret.Bytes // in normal form
}

func (k *addedKey) Info() keyring.KeyInfo { return k.info }

// Sign signs; see keyring.Key. Of a key that was dropped it is ErrNotFound.
func (k *addedKey) Sign(ctx context.Context, _ secret.Bytes, digest []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := capable(k.info.Public, digest, opts); err != nil {
		return nil, err
	}
	err = k.open(func(s crypto.Signer) (err error) {
		sig, err = signWith(s, digest, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// Decrypt decrypts; see keyring.Decrypter.
func (k *addedKey) Decrypt(ctx context.Context, _ secret.Bytes, ciphertext []byte, opts crypto.DecrypterOpts) (plain secret.Bytes, err error) {
	if err := ctx.Err(); err != nil {
		return secret.Bytes{}, err
	}
	if err := decryptable(k.info.Public, opts); err != nil {
		return secret.Bytes{}, err
	}
	err = k.open(func(s crypto.Signer) (err error) {
		plain, err = decrypt(s, ciphertext, opts)
		return err
	})
	return plain, err
}

// Derive agrees on a secret; see keyring.Deriver.
func (k *addedKey) Derive(ctx context.Context, _ secret.Bytes, peer *ecdh.PublicKey) (shared secret.Bytes, err error) {
	if err := ctx.Err(); err != nil {
		return secret.Bytes{}, err
	}
	if err := derivable(k.info.Public, peer); err != nil {
		return secret.Bytes{}, err
	}
	err = k.open(func(s crypto.Signer) (err error) {
		shared, err = derive(s, peer)
		return err
	})
	return shared, err
}

// open calls use with the private key. Of a key that was dropped it is
// ErrNotFound.
func (k *addedKey) open(use func(crypto.Signer) error) (err error) {
	k.private.Use(func(p []byte) {
		if p == nil {
			err = fmt.Errorf("%s: %w", k.info.Label, keyring.ErrNotFound)
			return
		}
		s, fromErr := fromNormalForm(p, k.info.Public)
		if err = fromErr; err != nil {
			return
		}
		defer wipe(s)
		err = use(s)
	})
	return err
}
