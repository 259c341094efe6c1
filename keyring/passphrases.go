package keyring

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyringd/keyringd/internal/secret"
)

// What programs know the passphrase of a private key file by. gnome-keyring has
// kept them so for years, and what it kept is found again once it is imported.
const (
	passphraseAttribute = "unique"
	passphrasePrefix    = "ssh-store:" // and the key file's path
	schemaAttribute     = "xdg:schema"
	schemaGeneric       = "org.freedesktop.Secret.Generic"
	passphraseLabel     = "Unlock password for: "
)

// Passphrases returns the two ways between the Gate and the passphrase of a key
// that is kept in the login collection: for [Use.Recall] and [Use.Keep]. Each is
// nil where it is of no use: a key that is not in an encrypted file, such as one
// whose PIN a TPM counts, and a login collection that cannot be used now without
// a question.
func (s *Secrets) Passphrases(c Caller, key KeyInfo) (recall func(ctx context.Context) (secret.Bytes, bool), keep func(ctx context.Context, passphrase secret.Bytes)) {
	if !remembers(key) || !s.atHand() {
		return nil, nil
	}
	recall = func(ctx context.Context) (secret.Bytes, bool) { return s.RememberedPassphrase(ctx, key) }
	keep = func(ctx context.Context, passphrase secret.Bytes) {
		if err := s.RememberPassphrase(ctx, c, key, passphrase); err != nil {
			s.log().Warn("the passphrase of a key cannot be kept", "key", key.Label, "err", err)
		}
	}
	return recall, keep
}

// remembers reports whether a key has a passphrase that may be kept. The PIN of
// a TPM key never is: the TPM's lockout would protect nothing any more.
func remembers(key KeyInfo) bool { return key.Kind == KindFile && len(key.Paths) > 0 }

// atHand reports whether the login collection can be used without a question.
func (s *Secrets) atHand() bool {
	l, err := s.stored(LoginCollection)
	return err == nil && (!l.Info().Locked || hasSlot(l, isQuiet) && !s.byHand(LoginCollection))
}

// RememberedPassphrase returns the passphrase of a key file that is kept in the
// login collection, the caller's to Wipe. Nobody is asked: where the collection
// cannot be unlocked quietly, or there is none, ok is false. Whether it is still
// right, only the key can tell.
func (s *Secrets) RememberedPassphrase(ctx context.Context, key KeyInfo) (passphrase secret.Bytes, ok bool) {
	if !remembers(key) || !s.atHand() || !s.UnlockQuietly(ctx, LoginCollection) {
		return secret.Bytes{}, false
	}
	for _, path := range key.Paths {
		found, err := s.SearchIn(LoginCollection, map[string]string{passphraseAttribute: passphrasePrefix + path})
		if err != nil {
			s.log().Warn("the passphrase of a key cannot be looked up", "key", key.Label, "err", err)
			return secret.Bytes{}, false
		}
		for i := len(found) - 1; i >= 0; i-- { // the newest first
			value, _, err := s.Secret(ctx, ourselves, found[i])
			if err == nil {
				return value, true
			}
		}
	}
	return secret.Bytes{}, false
}

// RememberPassphrase keeps the passphrase of a key file, which is borrowed, in
// the login collection, in place of one that is kept already. ErrLocked: the
// collection cannot be unlocked quietly. ErrUnsupported: the key has no
// passphrase that may be kept.
func (s *Secrets) RememberPassphrase(ctx context.Context, c Caller, key KeyInfo, passphrase secret.Bytes) error {
	if !remembers(key) || passphrase.Len() == 0 {
		return fmt.Errorf("passphrase of %s: %w", key.Label, ErrUnsupported)
	}
	if !s.atHand() || !s.UnlockQuietly(ctx, LoginCollection) {
		return fmt.Errorf("passphrase of %s: %w", key.Label, ErrLocked)
	}
	kept := false
	for _, path := range key.Paths {
		found, err := s.SearchIn(LoginCollection, map[string]string{passphraseAttribute: passphrasePrefix + path})
		if err != nil {
			return err
		}
		for _, r := range found {
			// Changed and not replaced: what gnome-keyring wrote has other
			// attributes beside this one.
			if err := s.ChangeItem(ctx, c, r, ItemChange{Secret: &passphrase}); err != nil {
				return err
			}
			kept = true
		}
	}
	if kept {
		return nil
	}
	_, err := s.CreateItem(ctx, c, LoginCollection, NewItem{
		Label:       passphraseLabel + key.Label,
		Attributes:  map[string]string{passphraseAttribute: passphrasePrefix + key.Paths[0], schemaAttribute: schemaGeneric},
		ContentType: "text/plain",
		Secret:      passphrase,
	}, true)
	return err
}

// ForgetPassphrase deletes what is kept of a key file's passphrase. ErrLocked:
// the login collection cannot be unlocked quietly. That nothing is kept is no
// error.
func (s *Secrets) ForgetPassphrase(ctx context.Context, c Caller, key KeyInfo) error {
	for _, path := range key.Paths {
		found, err := s.SearchIn(LoginCollection, map[string]string{passphraseAttribute: passphrasePrefix + path})
		if err != nil {
			return err
		}
		if len(found) > 0 && !s.UnlockQuietly(ctx, LoginCollection) {
			return fmt.Errorf("passphrase of %s: %w", key.Label, ErrLocked)
		}
		for _, r := range found {
			if err := s.DeleteItem(ctx, c, r); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
	}
	return nil
}
