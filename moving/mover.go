package moving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// maxPassphrase is the longest that is asked for, in bytes.
const maxPassphrase = 1024

// A Mover is a keyring.Mover. Its fields are set before its first use.
type Mover struct {
	Secrets *keyring.Secrets
	Gate    *keyring.Gate
	Log     *slog.Logger
	// Elsewhere writes an archive that may not be written here, because of err, if
	// it can; otherwise it returns err. Nil: nobody does.
	Elsewhere func(err error, file atomicfile.File) error
}

var _ keyring.Mover = (*Mover)(nil)

// An item is one on its way, with a borrowed secret.
type item struct {
	label, contentType string
	attributes         map[string]string
	secret             secret.Bytes
	created, modified  time.Time
}

// A batch is a keyring on its way in.
type batch struct {
	name    string // what it is called where it comes from, such as "login"
	label   string
	aliases []string
	items   []item
}

// schema is the attribute that says of what kind an item is. The Secret Service
// gives one to items that have none (Secret Service 0.2, "Lookup Attributes").
const (
	schema        = "xdg:schema"
	genericSchema = "org.freedesktop.Secret.Generic"
)

// put puts a keyring into the collection of its name.
func (m *Mover) put(ctx context.Context, c keyring.Caller, b batch, into string, moved *keyring.Moved) error {
	id, err := m.target(ctx, c, b, into)
	if err != nil {
		return err
	}
	moved.Collection = id
	if err := m.Secrets.Unlock(ctx, c, id); err != nil {
		return err
	}
	beside := 0
	// What was written last there is written last here, as searches tell of it first.
	slices.SortStableFunc(b.items, func(a, b item) int { return a.modified.Compare(b.modified) })
	for _, it := range b.items {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		attributes := maps.Clone(it.attributes)
		if attributes == nil {
			attributes = map[string]string{}
		}
		if attributes[schema] == "" {
			attributes[schema] = genericSchema
		}
		same, other, err := m.there(ctx, c, id, it, attributes)
		if err != nil {
			return err
		}
		if same {
			moved.There++
			continue
		}
		_, err = m.Secrets.CreateItem(ctx, c, id, keyring.NewItem{
			Label: it.label, Attributes: attributes, ContentType: it.contentType, Secret: it.secret,
			Created: it.created, Modified: it.modified,
		}, false)
		if err != nil {
			return fmt.Errorf("%d of %d items are in: %w", moved.Items+moved.There, len(b.items), err)
		}
		moved.Items++
		if other {
			beside++
		}
	}
	if beside > 0 {
		moved.Notes = append(moved.Notes, fmt.Sprintf(
			"%d of them are beside others with the same attributes and another secret: nothing was replaced, and programs find both.", beside))
	}
	return nil
}

// there reports whether an item is in the collection already, and whether there
// is another one with the same attributes.
func (m *Mover) there(ctx context.Context, c keyring.Caller, id string, it item, attributes map[string]string) (same, other bool, err error) {
	found, err := m.Secrets.SearchIn(id, attributes)
	if err != nil {
		return false, false, err
	}
	for _, ref := range found {
		info, err := m.Secrets.Item(ref)
		if err != nil || !maps.Equal(info.Attributes, attributes) {
			continue // damaged, or of more attributes
		}
		value, _, err := m.Secrets.Secret(ctx, c, ref)
		if err != nil {
			continue
		}
		equal := value.Equal(it.secret)
		value.Wipe()
		if equal && info.Label == it.label {
			return true, false, nil
		}
		other = true
	}
	return false, other, nil
}

// target returns the collection that a keyring goes into, and makes it if there
// is none: the one that the user named, or the one of the same name or label.
func (m *Mover) target(ctx context.Context, c keyring.Caller, b batch, into string) (string, error) {
	if into != "" {
		return m.named(into)
	}
	if b.name == keyring.LoginCollection || slices.Contains(b.aliases, keyring.LoginCollection) {
		return keyring.LoginCollection, nil
	}
	for _, info := range m.Secrets.Collections() {
		if info.ID != keyring.SessionCollection && (info.Label == b.label || info.ID == b.name) {
			return info.ID, nil
		}
	}
	return m.Secrets.CreateCollection(ctx, c, b.label, "")
}

// named returns the ID of a collection that goes by an ID, an alias or a label.
func (m *Mover) named(name string) (string, error) {
	if info, err := m.Secrets.Collection(name); err == nil {
		return info.ID, nil
	}
	if id, ok := m.Secrets.Alias(name); ok {
		return id, nil
	}
	for _, info := range m.Secrets.Collections() {
		if info.Label == name {
			return info.ID, nil
		}
	}
	return "", fmt.Errorf("keyring %.200q: %w", name, keyring.ErrNotFound)
}

// ask returns what opens a file, which try is given again and again until it
// says that it was right, the caller's to Wipe.
func (m *Mover) ask(ctx context.Context, c keyring.Caller, path, subject, reason string, try func(secret.Bytes) error) error {
	return m.Gate.Use(ctx, keyring.Use{
		ID: "file " + path, Subject: subject, NeedsAuth: true, Once: true, Caller: c, Reason: reason,
	}, try)
}

// wrong is a wrong passphrase of a file, for the Gate.
func wrong(err error) error { return fmt.Errorf("%w: %w", keyring.ErrAuthFailed, err) }

func (m *Mover) log() *slog.Logger {
	if m.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return m.Log
}

// tell tells the journal what was moved.
func (m *Mover) tell(c keyring.Caller, what string, all []keyring.Moved) {
	for _, moved := range all {
		attrs := []any{"caller", c.String(), "path", moved.Path, "collection", moved.Collection, "items", moved.Items}
		if moved.Err != nil && !errors.Is(moved.Err, context.Canceled) {
			attrs = append(attrs, "err", moved.Err)
		}
		m.log().Info(what, attrs...)
	}
}
