package keyring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// maxPassphrase is the longest passphrase that the user may choose, in bytes:
// what fits into one line of the protocol that prompters speak.
const maxPassphrase = 500

// errMadeMeanwhile says that somebody else was first. It does not leave this
// package.
var errMadeMeanwhile = errors.New("made by another in the meantime")

// makeLogin makes the login collection, with a passphrase of the user's choice.
func (s *Secrets) makeLogin(ctx context.Context, c Caller) error {
	cr, automatic, err := s.choose(ctx, c, unborn{}.Info(), "make the keyring in which programs keep your passwords")
	if err != nil {
		return err
	}
	defer cr.Value.Wipe()
	l, err := s.create(ctx, c, LoginCollection, loginLabel, "", cr)
	if errors.Is(err, fs.ErrExist) {
		return errMadeMeanwhile
	}
	if err == nil && automatic {
		s.addTPM(ctx, c, l)
	}
	return err
}

// choose has the user choose the passphrase of a new collection.
func (s *Secrets) choose(ctx context.Context, c Caller, info CollectionInfo, reason string) (cr Credential, automatic bool, err error) {
	use := s.use(info, c, reason)
	if s.TPM {
		use.Automatic = func() { automatic = true }
	}
	value, err := s.gate.Choose(ctx, use, maxPassphrase)
	return Credential{Kind: SlotPassphrase, Value: value}, automatic, err
}

// create makes a collection. With an alias, it goes by that name, or is not
// made.
func (s *Secrets) create(ctx context.Context, c Caller, id, label, alias string, cr Credential) (Lockable, error) {
	store, err := s.storing()
	if err != nil {
		return nil, err
	}
	l, err := store.Create(ctx, id, label, cr)
	if err != nil {
		return nil, fmt.Errorf("new collection: %w", err)
	}
	info := l.Info()
	if alias != "" {
		if err := s.SetAlias(alias, info.ID); err != nil {
			// It is empty, so that nothing is lost with it.
			return nil, errors.Join(err, store.Delete(info.ID))
		}
	}
	s.mu.Lock()
	delete(s.states, info.ID)
	s.mu.Unlock()
	s.gate.report(s.use(info, c, "make it"), nil)
	s.tell(CollectionCreated, c, info.ID, "")
	if id == LoginCollection {
		// It seemed to be there, locked.
		s.tell(CollectionChanged, c, info.ID, "")
	}
	return l, nil
}

// CreateCollection makes a collection with a passphrase that the user chooses.
// Where alias is the name of one that exists, that one is returned instead, as
// it is, and nothing is asked. A new one for the aliases default or login is the
// login collection.
//
// Errors are ctx's or wrap ErrDenied, ErrUnavailable (nobody can be asked, no
// disk) or ErrUnsupported (there is no store).
func (s *Secrets) CreateCollection(ctx context.Context, c Caller, label, alias string) (id string, err error) {
	if id, made, err := s.creatable(alias); err != nil || made {
		return id, err
	}
	if forLogin(alias) {
		// Whoever unlocks it at the same time shares the question.
		return LoginCollection, s.Unlock(ctx, c, LoginCollection)
	}
	cr, automatic, err := s.choose(ctx, c, CollectionInfo{ID: "to be made", Label: label}, "make a new keyring")
	if err != nil {
		return "", err
	}
	defer cr.Value.Wipe()
	l, err := s.create(ctx, c, "", label, alias, cr)
	if err != nil {
		return "", err
	}
	if automatic {
		s.addTPM(ctx, c, l)
	}
	return l.Info().ID, nil
}

// CreateWith is CreateCollection with a credential that is at hand: nobody is
// asked. One that exists by the alias is unlocked with it, if it is locked;
// ErrAuthFailed if that does not fit.
func (s *Secrets) CreateWith(ctx context.Context, c Caller, label, alias string, cr Credential) (id string, err error) {
	id, made, err := s.creatable(alias)
	if err != nil {
		return "", err
	}
	if made {
		if s.unlocked(id) {
			return id, nil
		}
		return id, s.UnlockWith(ctx, c, id, cr)
	}
	if cr.Kind != SlotTPM && cr.Value.Len() == 0 {
		return "", errNoPassphrase
	}
	if !forLogin(alias) {
		l, err := s.create(ctx, c, "", label, alias, cr)
		if err != nil {
			return "", err
		}
		return l.Info().ID, nil
	}
	_, err = s.create(ctx, c, LoginCollection, loginLabel, "", cr)
	if errors.Is(err, fs.ErrExist) {
		return LoginCollection, s.UnlockWith(ctx, c, LoginCollection, cr)
	}
	if err != nil {
		return "", err
	}
	s.settled(LoginCollection)
	return LoginCollection, nil
}

var errNoPassphrase = fmt.Errorf("an empty passphrase: %w", ErrUnsupported)

func forLogin(alias string) bool { return alias == LoginCollection || alias == DefaultAlias }

// creatable checks that a collection can be made for alias. made: there is one,
// with that ID.
func (s *Secrets) creatable(alias string) (id string, made bool, err error) {
	if _, err := s.storing(); err != nil || alias == "" {
		return "", false, err
	}
	id, ok := s.Alias(alias)
	if !ok {
		return "", false, nil
	}
	if id == LoginCollection {
		_, err := s.stored(id)
		return id, !errors.Is(err, errUnborn), nil
	}
	return id, true, nil
}

// storing returns the store to make collections in.
func (s *Secrets) storing() (CollectionStore, error) {
	store, err := s.store()
	if err == nil && store == nil {
		err = fmt.Errorf("new collection without a store: %w", ErrUnsupported)
	}
	return store, err
}

// DeleteCollection deletes a collection and all that is in it, for ever, once
// the user has agreed.
func (s *Secrets) DeleteCollection(ctx context.Context, c Caller, collection string) error {
	l, err := s.existing(collection)
	if err != nil {
		return err
	}
	warning := "All that is in it is lost for ever."
	if items, err := l.Items(); err == nil {
		warning = fmt.Sprintf("The %d secrets in it are lost for ever.", len(items))
		switch len(items) {
		case 0:
			warning = "There is nothing in it."
		case 1:
			warning = "The secret in it is lost for ever."
		}
	}
	if err := s.gate.Permit(ctx, s.use(l.Info(), c, "delete it"), warning); err != nil {
		return err
	}
	store, err := s.storing()
	if err != nil {
		return err
	}
	if err := store.Delete(collection); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	for name, id := range store.Aliases() {
		if id != collection {
			continue
		}
		if err := store.SetAlias(name, ""); err != nil {
			s.log().Warn("the name of a deleted collection stays", "collection", collection, "err", err)
		}
	}
	s.gate.Forget(useID(collection))
	s.mu.Lock()
	delete(s.states, collection)
	s.mu.Unlock()
	s.tell(CollectionDeleted, c, collection, "")
	return nil
}
