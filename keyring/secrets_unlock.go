package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyringd/keyringd/internal/secret"
)

// Unlock unlocks a collection, if it is not unlocked already. A TPM slot without
// a PIN does it without a question, but for permission where the user locked the
// collection by hand; else the user is asked for a PIN, a passphrase or the
// recovery code, and offered to be asked no more where there is a TPM. The login
// collection is made where there is none, with a passphrase that the user
// chooses.
//
// Calls for one collection share one question, which goes away when all who
// wait for it are gone, or when the collection is unlocked by other means.
//
// Errors are ctx's or wrap ErrDenied (the question was dismissed), ErrAuthFailed
// (wrong too often), ErrLockedOut, ErrUnavailable (nobody can be asked, no TPM,
// the disk fails), ErrNotFound, or ErrLocked (the user has locked it meanwhile).
func (s *Secrets) Unlock(ctx context.Context, c Caller, collection string) error {
	coll, err := s.find(collection)
	if err != nil {
		return err
	}
	if !coll.Info().Locked {
		return nil
	}
	return s.share(ctx, c, unlocking(collection), func(ctx context.Context) error {
		err := s.unlock(ctx, c, collection)
		switch {
		case err == nil || ctx.Err() == nil:
			return err
		case s.unlocked(collection):
			return nil // by other means, which took the question away
		default:
			return fmt.Errorf("collection %s: %w, again", collection, ErrLocked)
		}
	})
}

func (s *Secrets) unlocked(id string) bool {
	c, err := s.find(id)
	return err == nil && !c.Info().Locked
}

func (s *Secrets) unlock(ctx context.Context, c Caller, id string) error {
	l, err := s.stored(id)
	if errors.Is(err, errUnborn) {
		if err := s.makeLogin(ctx, c); !errors.Is(err, errMadeMeanwhile) {
			return err
		}
		l, err = s.stored(id)
	}
	if err != nil {
		return err
	}
	if !l.Info().Locked {
		return nil
	}
	switch {
	case !hasSlot(l, isQuiet):
	case !s.byHand(id):
		// What was locked just now is not to be asked about.
		if err := s.quiet(ctx, c, l); err == nil || errors.Is(err, ErrLocked) || ctx.Err() != nil {
			return err
		}
	default:
		locks, _ := s.locks(id)
		use := s.use(l.Info(), c, "unlock it again, after you locked it")
		err := s.gate.Permit(ctx, use, "")
		if err == nil {
			err = s.openSince(ctx, c, l, Credential{Kind: SlotTPM}, locks)
		}
		s.gate.report(use, err)
		if err == nil || !hasSlot(l, isAsked) || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrAuthFailed) && !errors.Is(err, ErrLockedOut) {
			return err
		}
	}
	return s.ask(ctx, c, l)
}

// Which slots a way of unlocking is for.
func isQuiet(slot SlotInfo) bool      { return slot.Kind == SlotTPM && !slot.PIN }
func isPIN(slot SlotInfo) bool        { return slot.Kind == SlotTPM && slot.PIN }
func isTyped(slot SlotInfo) bool      { return slot.Kind != SlotTPM }
func isAsked(slot SlotInfo) bool      { return !isQuiet(slot) }
func isPassphrase(slot SlotInfo) bool { return slot.Kind == SlotPassphrase }

func hasSlot(l Lockable, is func(SlotInfo) bool) bool { return slices.ContainsFunc(l.Slots(), is) }

// UnlockQuietly unlocks a collection if that takes no question, and reports
// whether it is unlocked now. What the user locked by hand stays locked.
func (s *Secrets) UnlockQuietly(ctx context.Context, collection string) bool {
	coll, err := s.find(collection)
	if err != nil {
		return false
	}
	if !coll.Info().Locked {
		return true
	}
	l, ok := coll.(Lockable)
	if !ok || s.quiet(ctx, ourselves, l) != nil {
		return false
	}
	s.settled(collection)
	return true
}

// quiet tries the TPM slots that need no PIN, but against the user's wish. Many
// who try at once are one.
func (s *Secrets) quiet(ctx context.Context, c Caller, l Lockable) error {
	info := l.Info()
	locks, byHand := s.locks(info.ID)
	if byHand || !hasSlot(l, isQuiet) {
		return fmt.Errorf("collection %s: %w", info.ID, ErrLocked)
	}
	err := s.share(ctx, c, "quietly "+info.ID, func(ctx context.Context) error {
		if !l.Info().Locked {
			return nil
		}
		if err := s.openSince(ctx, c, l, Credential{Kind: SlotTPM}, locks); err != nil {
			return err
		}
		s.gate.report(s.use(info, c, "unlock it with the TPM"), nil)
		return nil
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrLocked) {
		if _, ok := s.seldom("quiet\x00" + info.ID); ok {
			s.log().Warn("the TPM does not unlock a keyring", "collection", info.ID, "err", err)
		}
	}
	return err
}

// ask has the user unlock l.
func (s *Secrets) ask(ctx context.Context, c Caller, l Lockable) error {
	var err error
	if hasSlot(l, isPIN) {
		err = s.askPIN(ctx, c, l)
		if err == nil || !errors.Is(err, ErrLockedOut) && !errors.Is(err, ErrUnavailable) {
			return err
		}
	}
	if hasSlot(l, isTyped) {
		return s.askPassphrase(ctx, c, l, "unlock it")
	}
	if err == nil {
		err = fmt.Errorf("collection %s: its TPM slots do not open: %w", l.Info().ID, ErrUnavailable)
	}
	return err
}

// askPIN asks for the PIN of a TPM slot. Who types the passphrase instead is let
// in as well.
func (s *Secrets) askPIN(ctx context.Context, c Caller, l Lockable) error {
	use := s.use(l.Info(), c, "unlock it")
	use.NeedsAuth, use.Once, use.PIN = true, true, true
	use.Guard, _ = l.(Guarded)
	return s.gate.Use(ctx, use, func(auth secret.Bytes) error {
		err := s.open(ctx, c, l, Credential{Kind: SlotTPM, Value: auth})
		if !errors.Is(err, ErrAuthFailed) {
			return err
		}
		if s.openTyped(ctx, c, l, auth) == nil {
			return nil
		}
		return err
	})
}

// askPassphrase asks for the passphrase or the recovery code, which is checked
// also where l is unlocked.
func (s *Secrets) askPassphrase(ctx context.Context, c Caller, l Lockable, reason string) error {
	use := s.use(l.Info(), c, reason)
	use.NeedsAuth, use.Once = true, true
	automatic := false
	if s.TPM && !hasSlot(l, func(slot SlotInfo) bool { return slot.Kind == SlotTPM }) {
		use.Automatic = func() { automatic = true }
	}
	err := s.gate.Use(ctx, use, func(auth secret.Bytes) error { return s.openTyped(ctx, c, l, auth) })
	if err == nil && automatic {
		s.addTPM(ctx, c, l)
	}
	return err
}

// openTyped tries what the user typed as the passphrase and as the recovery
// code.
func (s *Secrets) openTyped(ctx context.Context, c Caller, l Lockable, auth secret.Bytes) error {
	var failed error
	for _, kind := range []SlotKind{SlotPassphrase, SlotRecovery} {
		if !hasSlot(l, func(slot SlotInfo) bool { return slot.Kind == kind }) {
			continue
		}
		err := s.open(ctx, c, l, Credential{Kind: kind, Value: auth})
		if !errors.Is(err, ErrAuthFailed) && !errors.Is(err, ErrNotFound) {
			return err
		}
		failed = err
	}
	if failed == nil || !errors.Is(failed, ErrAuthFailed) {
		return fmt.Errorf("collection %s: %w", l.Info().ID, ErrAuthFailed)
	}
	return failed
}

// addTPM makes the TPM unlock l from now on. The user has what was asked for
// without it, so that a failure is only logged.
func (s *Secrets) addTPM(ctx context.Context, c Caller, l Lockable) {
	id := l.Info().ID
	if _, code, err := l.AddSlot(ctx, Credential{Kind: SlotTPM}); err != nil {
		code.Wipe()
		s.log().Warn("a keyring cannot be unlocked automatically", "collection", id, "err", err)
		return
	}
	s.tell(CollectionChanged, c, id, "")
}

// open is Unlock of a collection, with all that follows from it.
func (s *Secrets) open(ctx context.Context, c Caller, l Lockable, cr Credential) error {
	locks, _ := s.locks(l.Info().ID)
	return s.openSince(ctx, c, l, cr, locks)
}

// openSince is open for who knows of so many locks. A collection that was locked
// again since stays locked.
func (s *Secrets) openSince(ctx context.Context, c Caller, l Lockable, cr Credential, locks uint64) error {
	before := l.Info()
	if err := l.Unlock(ctx, cr); err != nil {
		return err
	}
	s.mu.Lock()
	state := s.stateLocked(before.ID)
	meanwhile := state.locks != locks
	if !meanwhile {
		state.byHand = false
	}
	s.mu.Unlock()
	if meanwhile {
		l.Lock()
		s.tell(CollectionChanged, c, before.ID, "") // another may have unlocked it since
		return fmt.Errorf("collection %s was locked while it was being unlocked: %w", before.ID, ErrLocked)
	}
	if before.Locked {
		s.tell(CollectionChanged, c, before.ID, "")
	}
	return nil
}

func (s *Secrets) stateLocked(id string) *lockState {
	state := s.states[id]
	if state == nil {
		state = &lockState{}
		s.states[id] = state
	}
	return state
}

// locks is how often a collection was locked, and whether the user locked it by
// hand and has not unlocked it since.
func (s *Secrets) locks(id string) (n uint64, byHand bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.stateLocked(id)
	return state.locks, state.byHand
}

func (s *Secrets) byHand(id string) bool {
	_, byHand := s.locks(id)
	return byHand
}

// UnlockWith unlocks a collection with a credential that is at hand. An unlocked
// one checks it all the same. ErrAuthFailed: it does not fit.
func (s *Secrets) UnlockWith(ctx context.Context, c Caller, collection string, cr Credential) error {
	l, err := s.existing(collection)
	if err != nil {
		return err
	}
	if err := s.open(ctx, c, l, cr); err != nil {
		if errors.Is(err, ErrNotFound) && s.exists(collection) {
			// To have no slot of the kind is one more way not to fit.
			err = fmt.Errorf("collection %s: %w", collection, ErrAuthFailed)
		}
		s.gate.report(s.use(l.Info(), c, ""), err)
		return err
	}
	s.gate.report(s.use(l.Info(), c, ""), nil)
	s.settled(collection)
	return nil
}

func (s *Secrets) exists(id string) bool {
	_, err := s.find(id)
	return err == nil
}

// Lock locks collections by the user's wish; none named: all of the store's.
// From then on not even the TPM unlocks them without the user's permission. An
// error about one does not keep the others from being locked: ErrNotFound, or
// ErrUnsupported for the one in memory.
func (s *Secrets) Lock(_ context.Context, c Caller, collections ...string) error {
	return s.lock(c, true, collections)
}

// LockForSleep locks collections as Lock does, but because the session sleeps or
// its screen is locked: whoever comes back to the session has shown who they
// are, so that a TPM slot may unlock them again without a question.
func (s *Secrets) LockForSleep(_ context.Context, c Caller, collections ...string) error {
	return s.lock(c, false, collections)
}

func (s *Secrets) lock(c Caller, byHand bool, ids []string) error {
	if len(ids) == 0 {
		list, err := s.all()
		if err != nil {
			return nil // there is nothing that could be unlocked
		}
		for _, coll := range list {
			if _, ok := coll.(Lockable); ok {
				ids = append(ids, coll.Info().ID)
			}
		}
	}
	var failed []error
	for _, id := range ids {
		l, err := s.stored(id)
		if errors.Is(err, errUnborn) {
			continue // it is locked
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		wasLocked := l.Info().Locked
		// The wish comes first: see open.
		s.mu.Lock()
		state := s.stateLocked(id)
		state.locks++
		state.byHand = state.byHand || byHand
		s.mu.Unlock()
		l.Lock()
		s.gate.Forget(useID(id))
		if !wasLocked {
			s.tell(CollectionChanged, c, id, "")
		}
	}
	return errors.Join(failed...)
}
