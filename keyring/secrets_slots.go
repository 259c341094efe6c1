package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyringd/keyringd/internal/secret"
)

// maxSlotPIN is the longest PIN that every TPM takes, in bytes.
const maxSlotPIN = 32

// SlotOptions are what a new TPM slot shall be like.
type SlotOptions struct {
	PIN  bool   // the user chooses a PIN
	PCRs string // "sha256:0,7": of use only while these registers are as they are now; "": always
}

// Slots lists the ways to unlock a collection.
func (s *Secrets) Slots(collection string) ([]SlotInfo, error) {
	l, err := s.stored(collection)
	if errors.Is(err, errUnborn) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return l.Slots(), nil
}

// AddSlot adds a way to unlock a collection, which is unlocked first if it is
// locked. The user is asked for the passphrase or the PIN, twice, or for
// permission: who adds a slot can open the collection from then on. The code of
// a recovery slot is returned, to show once and Wipe.
//
// Errors are those of Unlock, or ErrUnsupported: the collection has a passphrase
// already, which is changed and not added to.
func (s *Secrets) AddSlot(ctx context.Context, c Caller, collection string, kind SlotKind, o SlotOptions) (SlotInfo, secret.Bytes, error) {
	fail := func(err error) (SlotInfo, secret.Bytes, error) { return SlotInfo{}, secret.Bytes{}, err }
	l, err := s.stored(collection)
	if err != nil && !errors.Is(err, errUnborn) {
		return fail(err)
	}
	if err == nil && kind == SlotPassphrase && hasSlot(l, isPassphrase) {
		return fail(fmt.Errorf("collection %s has a passphrase: %w; hint: change it", collection, ErrUnsupported))
	}
	if err := s.Unlock(ctx, c, collection); err != nil {
		return fail(err)
	}
	if l, err = s.existing(collection); err != nil {
		return fail(err)
	}
	cr, err := s.newCredential(ctx, c, l, kind, o)
	if err != nil {
		return fail(err)
	}
	defer cr.Value.Wipe()
	info, code, err := l.AddSlot(ctx, cr)
	if err != nil {
		code.Wipe()
		return fail(fmt.Errorf("new %s slot: %w", kind, err))
	}
	s.tell(CollectionChanged, c, collection, "")
	return info, code, nil
}

// newCredential asks for what a new slot shall be opened with.
func (s *Secrets) newCredential(ctx context.Context, c Caller, l Lockable, kind SlotKind, o SlotOptions) (Credential, error) {
	info := l.Info()
	cr := Credential{Kind: kind}
	var err error
	switch {
	case kind == SlotPassphrase:
		cr.Value, err = s.gate.Choose(ctx, s.use(info, c, "unlock it with a passphrase"), maxPassphrase)
	case kind == SlotTPM && o.PIN:
		use := s.use(info, c, "unlock it with a PIN and this machine's TPM")
		use.PIN = true
		cr.PCRs = o.PCRs
		cr.Value, err = s.gate.Choose(ctx, use, maxSlotPIN)
	case kind == SlotTPM:
		cr.PCRs = o.PCRs
		err = s.gate.Permit(ctx, s.use(info, c, "unlock it automatically, with this machine's TPM"),
			"Whoever can log in here as you opens it without a passphrase.")
	case kind == SlotRecovery:
		err = s.gate.Permit(ctx, s.use(info, c, "make a recovery code for it"), "Whoever has the code opens it without a passphrase.")
	default:
		err = fmt.Errorf("slot of kind %q: %w", kind, ErrUnsupported)
	}
	return cr, err
}

// RemoveSlot removes a way to unlock a collection, once the user has agreed; the
// last one never: ErrUnsupported.
func (s *Secrets) RemoveSlot(ctx context.Context, c Caller, collection, slot string) error {
	l, err := s.existing(collection)
	if err != nil {
		return err
	}
	slots := l.Slots()
	i := slices.IndexFunc(slots, func(info SlotInfo) bool { return info.ID == slot })
	switch {
	case i < 0:
		return fmt.Errorf("slot %s of %s: %w", slot, collection, ErrNotFound)
	case len(slots) == 1:
		return fmt.Errorf("slot %s of %s is the last: %w", slot, collection, ErrUnsupported)
	}
	rest := slices.Delete(slices.Clone(slots), i, i+1)
	warning := fmt.Sprintf("It is no longer unlocked by %s.", slots[i].words())
	if !slices.ContainsFunc(rest, isTyped) {
		warning += " Only this machine's TPM unlocks it then: if that breaks or is cleared, all that is in it is lost."
	}
	if err := s.gate.Permit(ctx, s.use(l.Info(), c, "remove a way to unlock it"), warning); err != nil {
		return err
	}
	if err := l.RemoveSlot(slot); err != nil {
		return fmt.Errorf("remove slot %s: %w", slot, err)
	}
	s.tell(CollectionChanged, c, collection, "")
	return nil
}

// words are what a person calls a slot.
func (i SlotInfo) words() string {
	switch {
	case i.Kind == SlotPassphrase:
		return "its passphrase"
	case i.Kind == SlotRecovery:
		return "a recovery code"
	case i.PIN:
		return "a PIN and a TPM"
	default:
		return "a TPM"
	}
}

// ChangePassphrase asks for the passphrase of a collection, or its recovery
// code, even where it is unlocked, and then for another one. A collection
// without a passphrase gets one, after it was unlocked some other way.
func (s *Secrets) ChangePassphrase(ctx context.Context, c Caller, collection string) error {
	l, err := s.stored(collection)
	switch {
	case errors.Is(err, errUnborn):
		return s.Unlock(ctx, c, collection) // which has one chosen
	case err != nil:
		return err
	case hasSlot(l, isPassphrase):
		err = s.askPassphrase(ctx, c, l, "change its passphrase")
	default:
		err = s.Unlock(ctx, c, collection)
	}
	if err != nil {
		return err
	}
	value, err := s.gate.Choose(ctx, s.use(l.Info(), c, "change its passphrase"), maxPassphrase)
	if err != nil {
		return err
	}
	defer value.Wipe()
	return s.setSlot(ctx, c, l, Credential{Kind: SlotPassphrase, Value: value})
}

// ChangeWith is ChangePassphrase with both at hand: a collection that old opens
// is opened by another from then on, in place of what it had of that kind.
// ErrAuthFailed: old does not open it.
func (s *Secrets) ChangeWith(ctx context.Context, c Caller, collection string, old, new Credential) error {
	if new.Kind != SlotTPM && new.Value.Len() == 0 {
		return errNoPassphrase
	}
	if err := s.UnlockWith(ctx, c, collection, old); err != nil {
		return err
	}
	l, err := s.existing(collection)
	if err != nil {
		return err
	}
	return s.setSlot(ctx, c, l, new)
}

// setSlot makes cr open an unlocked collection, in place of what it has of that
// kind.
func (s *Secrets) setSlot(ctx context.Context, c Caller, l Lockable, cr Credential) error {
	id := l.Info().ID
	var same []string
	for _, slot := range l.Slots() {
		if slot.Kind == cr.Kind {
			same = append(same, slot.ID)
		}
	}
	var err error
	switch {
	case cr.Kind == SlotRecovery:
		return fmt.Errorf("a recovery code is not chosen: %w", ErrUnsupported)
	case len(same) == 0:
		var code secret.Bytes
		_, code, err = l.AddSlot(ctx, cr)
		code.Wipe()
	case len(same) == 1:
		_, err = l.ReplaceSlot(ctx, same[0], cr)
	default:
		// Which of them was meant cannot be told, and to change another one would
		// leave the old value in force.
		return fmt.Errorf("collection %s has %d slots of kind %s: %w; hint: remove all but one", id, len(same), cr.Kind, ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("change of %s: %w", id, err)
	}
	s.tell(CollectionChanged, c, id, "")
	return nil
}
