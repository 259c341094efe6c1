package keyring

import (
	"context"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// A CollectionInfo is what may be said of a collection, locked or not.
type CollectionInfo struct {
	// ID names the collection for as long as it exists: "login", "session", or
	// letters and digits that say nothing. It is never made from the label.
	ID      string
	Label   string
	Locked  bool
	Created time.Time
	// Modified is when the collection or one of its items last changed.
	Modified time.Time
}

// An ItemRef names an item. IDs of items are letters and digits, unique within
// their collection and never used twice in it.
type ItemRef struct{ Collection, Item string }

// An ItemInfo is an item without its secret.
type ItemInfo struct {
	ItemRef
	Label       string
	Attributes  map[string]string // not to be modified
	ContentType string            // MIME type of the secret, parameters included
	Created     time.Time
	Modified    time.Time
}

// A NewItem is an item to be written. Its secret is borrowed.
type NewItem struct {
	Label       string
	Attributes  map[string]string
	ContentType string
	Secret      secret.Bytes
	// Created and Modified are set when an item moves here from elsewhere. Zero:
	// now.
	Created, Modified time.Time
}

// An ItemChange is what to change of an item; nil fields stay as they are.
// Secret is borrowed.
type ItemChange struct {
	Label       *string
	Attributes  map[string]string
	ContentType *string
	Secret      *secret.Bytes
}

// A SlotKind says what opens a slot.
type SlotKind string

const (
	SlotPassphrase SlotKind = "passphrase" // something the user knows
	SlotTPM        SlotKind = "tpm"        // this machine's TPM, with a PIN or without
	SlotRecovery   SlotKind = "recovery"   // a long code that the user keeps on paper
)

// A SlotInfo is what may be said of one of the ways to open a collection.
type SlotInfo struct {
	ID      string // names the slot within its collection: "1", "2", …; never used twice
	Kind    SlotKind
	PIN     bool   // the TPM wants a PIN
	PCRs    string // "sha256:0,7": these registers must be as they were; "": whatever they are
	Created time.Time
}

// A Credential opens a slot of its kind, or is what a new slot shall be opened
// with. Value is borrowed: the passphrase, the PIN of a TPM slot (empty: none)
// or the recovery code as the user typed it.
type Credential struct {
	Kind  SlotKind
	Value secret.Bytes
	PCRs  string // for a new TPM slot only
}

// A Collection is a set of items behind a lock. Implementations do not prompt,
// judge or tell anybody; [Secrets] does. What is written is on disk when a
// method returns, or the method has failed and nothing has changed. All methods
// may be called concurrently.
//
// Errors wrap one of the package's sentinels: ErrLocked for what a locked
// collection cannot do, ErrNotFound for an item or a collection that is gone,
// ErrUnavailable for a disk that fails (the wrapped error says how) and for a
// record that is damaged.
type Collection interface {
	Info() CollectionInfo
	// Items lists the IDs of all items, the oldest first, whether or not the
	// collection is locked.
	Items() ([]string, error)
	// Search lists the items that have all of attributes, whether or not the
	// collection is locked: the one that was written last first, as programs take
	// the first that they are told of. Every item matches no attributes.
	Search(attributes map[string]string) ([]string, error)
	Item(id string) (ItemInfo, error)
	// Secret returns an item's secret, the caller's to Wipe.
	Secret(id string) (secret.Bytes, error)
	// Create adds an item and returns its ID. With replace, the newest item with
	// exactly these attributes takes the new item's place and keeps its ID and
	// its time of creation; replaced says so.
	Create(item NewItem, replace bool) (id string, replaced bool, err error)
	Change(id string, change ItemChange) error
	Delete(id string) error
	SetLabel(label string) error
	// Lock drops the collection's key and everything that was decrypted.
	Lock()
}

// A Lockable is a Collection whose key is kept in slots, each of which is
// enough to unlock it. Its methods may wait for a TPM, or a while for a
// passphrase on purpose.
type Lockable interface {
	Collection
	Slots() []SlotInfo
	// Unlock tries the slots of c's kind. ErrAuthFailed: c opens none of them.
	// ErrNotFound: there is no slot of the kind. ErrUnavailable, ErrLockedOut:
	// the TPM is not there, not the same, or refuses. An unlocked collection
	// tries all the same, so that a value can be checked.
	Unlock(ctx context.Context, c Credential) error
	// AddSlot adds a way to unlock it, which must be unlocked now. For
	// SlotRecovery c.Value is empty and the code is returned, the caller's to
	// show once and Wipe.
	AddSlot(ctx context.Context, c Credential) (SlotInfo, secret.Bytes, error)
	// RemoveSlot removes one, but the last of them never: ErrUnsupported.
	RemoveSlot(id string) error
	// ReplaceSlot changes a passphrase or a PIN in one step: there is no moment
	// at which neither or both would do.
	ReplaceSlot(ctx context.Context, id string, c Credential) (SlotInfo, error)
}

// A CollectionStore holds collections, and the names that they go by.
type CollectionStore interface {
	// Collections lists all of them, the oldest first.
	Collections() []Collection
	// Create makes an empty collection that is unlocked and has one slot, which c
	// opens. id "": one is chosen. ErrUnsupported (also fs.ErrExist) if there is
	// one of that ID.
	Create(ctx context.Context, id, label string, c Credential) (Lockable, error)
	// Delete removes a collection and all in it, for ever.
	Delete(id string) error
	// Aliases are names for collections, by name. SetAlias with an empty id
	// removes one.
	Aliases() map[string]string
	SetAlias(name, id string) error
}
