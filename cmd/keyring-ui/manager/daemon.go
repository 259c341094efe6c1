package manager

import (
	"context"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/secret"
)

// A Daemon is keyringd. All methods may be called concurrently, and wait no
// longer than ctx; where the user is being asked, the question then goes away.
type Daemon interface {
	Keys
	Keyrings
	Items
	Uses

	// Watch tells of what changes until ctx ends, and begins with whether the
	// daemon is there: [client.DaemonBegan] or [client.DaemonEnded]. tell returns
	// soon. A bus that is gone is tried again.
	Watch(ctx context.Context, tell func(what client.Change, keyring string))
	// Status returns how the daemon is, by name; one that can be started on
	// demand is.
	Status(ctx context.Context) (map[string]any, error)
}

// Keys are the keys, by the IDs that the daemon gives them.
type Keys interface {
	Keys(ctx context.Context) ([]client.Key, error)
	Create(ctx context.Context, c client.Creation) (client.Made, error)
	Import(ctx context.Context, source string, t client.Target) (client.Made, error)
	ChangeAuth(ctx context.Context, f client.File, noPIN bool, progress func(string)) (client.Made, error)
	SetLabel(ctx context.Context, f client.File, label string) error
	Remove(ctx context.Context, f client.File) error
	RequestCertificate(ctx context.Context, id string, r client.Request) ([]byte, error)
}

// Keyrings are the keyrings, by ID.
type Keyrings interface {
	Keyrings(ctx context.Context) ([]client.Keyring, error)
	CreateKeyring(ctx context.Context, label string) (id string, err error)
	LockKeyring(ctx context.Context, keyring string) error
	UnlockKeyring(ctx context.Context, keyring string) error
	ChangePassphrase(ctx context.Context, keyring string) error
	Slots(ctx context.Context, keyring string) ([]client.Slot, error)
	AddSlot(ctx context.Context, keyring, kind string, pin bool, pcrs string) (id string, err error)
	AddRecoverySlot(ctx context.Context, keyring string) (id string, code []byte, err error)
	RemoveSlot(ctx context.Context, keyring, slot string) error
	ImportKeyrings(ctx context.Context, paths []string, into string, archive bool) ([]client.Moved, error)
	ExportKeyrings(ctx context.Context, e client.Export) ([]client.Moved, error)
}

// Items are what is in keyrings; both go by the paths of their objects.
type Items interface {
	Items(ctx context.Context, keyring string) ([]client.Item, error)
	Secret(ctx context.Context, item string) (value secret.Bytes, contentType string, err error)
	CreateItem(ctx context.Context, keyring, label string, attributes map[string]string, value secret.Bytes) (item string, err error)
	ChangeItem(ctx context.Context, item string, c ItemChange) error
	DeleteItem(ctx context.Context, item string) error
	SetKeyringLabel(ctx context.Context, keyring, label string) error
	DeleteKeyring(ctx context.Context, keyring string) error
}

// An ItemChange says what of an item becomes another: what is nil stays.
type ItemChange struct {
	Label      *string
	Attributes map[string]string
	Secret     *secret.Bytes // borrowed
}

// Uses are what keys are and were used for.
type Uses interface {
	Approvals(ctx context.Context) ([]client.Approval, error)
	Revoke(ctx context.Context, id uint64) error
	History(ctx context.Context) ([]client.Past, error)
	// Lock forgets PINs, passphrases and approvals.
	Lock(ctx context.Context) error
}
