package keyring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keyringd/keyringd/internal/secret"
)

// Login takes the login password, which is borrowed: it unlocks the login
// collection, or makes it where there is none. One that had no passphrase so
// far, and that the TPM opens, gets the password as one. Nobody is asked.
//
// ErrAuthFailed: the passphrase is another one, as after an administrator set
// the password. The collection is left as it is.
func (s *Secrets) Login(ctx context.Context, c Caller, password secret.Bytes) error {
	cr := Credential{Kind: SlotPassphrase, Value: password}
	l, err := s.login(ctx, c, cr)
	if l == nil {
		return err
	}
	if hasSlot(l, isPassphrase) {
		return s.UnlockWith(ctx, c, LoginCollection, cr)
	}
	return s.adopt(ctx, c, l, cr)
}

// ChangeLogin takes the old and the new login password, both borrowed, when the
// user changes it. A collection that the old one opens is opened by the new one
// from then on; one that the new one opens already is unlocked; one that is
// missing is made. Nobody is asked. ErrAuthFailed: neither opens it.
func (s *Secrets) ChangeLogin(ctx context.Context, c Caller, old, new secret.Bytes) error {
	after := Credential{Kind: SlotPassphrase, Value: new}
	l, err := s.login(ctx, c, after)
	if l == nil {
		return err
	}
	if !hasSlot(l, isPassphrase) {
		return s.adopt(ctx, c, l, after)
	}
	before := Credential{Kind: SlotPassphrase, Value: old}
	err = s.ChangeWith(ctx, c, LoginCollection, before, after)
	if errors.Is(err, ErrAuthFailed) {
		err = s.UnlockWith(ctx, c, LoginCollection, after)
	}
	return err
}

// login returns the login collection as it is, or nil after it has made it, or
// failed.
func (s *Secrets) login(ctx context.Context, c Caller, cr Credential) (Lockable, error) {
	if cr.Value.Len() == 0 {
		// An automatic login has no password to offer. It is never taken for one.
		return nil, fmt.Errorf("an empty login password: %w", ErrAuthFailed)
	}
	l, err := s.stored(LoginCollection)
	if !errors.Is(err, errUnborn) {
		return l, err
	}
	_, err = s.create(ctx, c, LoginCollection, loginLabel, "", cr)
	if errors.Is(err, fs.ErrExist) {
		return s.stored(LoginCollection)
	}
	if err == nil {
		s.settled(LoginCollection)
	}
	return nil, err
}

// adopt gives the login collection the login password as its passphrase, if it
// is open without one, or can be opened quietly.
func (s *Secrets) adopt(ctx context.Context, c Caller, l Lockable, cr Credential) error {
	if !s.UnlockQuietly(ctx, LoginCollection) {
		return fmt.Errorf("the login keyring has no passphrase: %w", ErrAuthFailed)
	}
	return s.setSlot(ctx, c, l, cr)
}
