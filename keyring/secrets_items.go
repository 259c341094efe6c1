package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keyringd/keyringd/internal/secret"
)

// Items lists the items of a collection, locked or not, the oldest first.
func (s *Secrets) Items(collection string) ([]ItemRef, error) {
	c, err := s.find(collection)
	if err != nil {
		return nil, err
	}
	ids, err := c.Items()
	if err != nil {
		return nil, fmt.Errorf("items: %w", err)
	}
	return refs(collection, ids), nil
}

func refs(collection string, ids []string) []ItemRef {
	list := make([]ItemRef, len(ids))
	for i, id := range ids {
		list[i] = ItemRef{collection, id}
	}
	return list
}

// Search lists the items of all collections that have all of attributes, one
// collection after the other, in each the one that was written last first. If one
// collection cannot be searched, the error says so and there is no answer at
// all: a program that is told of no items makes new ones, and loses what the old
// ones were the key to.
func (s *Secrets) Search(attributes map[string]string) (unlocked, locked []ItemRef, err error) {
	list, err := s.all()
	if err != nil {
		return nil, nil, err
	}
	for _, c := range list {
		ids, err := c.Search(attributes)
		info := c.Info()
		if errors.Is(err, ErrNotFound) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return nil, nil, fmt.Errorf("search in %s: %w", info.ID, err)
		}
		if info.Locked {
			locked = append(locked, refs(info.ID, ids)...)
		} else {
			unlocked = append(unlocked, refs(info.ID, ids)...)
		}
	}
	return unlocked, locked, nil
}

// SearchIn lists the items of one collection, locked or not, that have all of
// attributes, the one that was written last first.
func (s *Secrets) SearchIn(collection string, attributes map[string]string) ([]ItemRef, error) {
	c, err := s.find(collection)
	if err != nil {
		return nil, err
	}
	ids, err := c.Search(attributes)
	if err != nil {
		return nil, fmt.Errorf("search in %s: %w", collection, err)
	}
	return refs(collection, ids), nil
}

// Item returns an item without its secret; ErrLocked while its collection is
// locked.
func (s *Secrets) Item(r ItemRef) (ItemInfo, error) {
	c, err := s.find(r.Collection)
	if err != nil {
		return ItemInfo{}, err
	}
	return c.Item(r.Item)
}

// Secret returns an item's secret, the caller's to Wipe, and its content type.
// The user is not asked: what a collection holds is for every program of the
// user's while it is unlocked.
func (s *Secrets) Secret(_ context.Context, c Caller, r ItemRef) (secret.Bytes, string, error) {
	coll, err := s.find(r.Collection)
	if err != nil {
		return secret.Bytes{}, "", err
	}
	info, err := coll.Item(r.Item)
	var value secret.Bytes
	if err == nil {
		value, err = coll.Secret(r.Item)
	}
	if err != nil {
		s.logDamaged(c, r, err)
		return secret.Bytes{}, "", err
	}
	s.logRead(c, r)
	return value, info.ContentType, nil
}

// logDamaged notes, now and then, that somebody asked for what is damaged:
// whoever asks for several is given the others, and need not be told.
func (s *Secrets) logDamaged(c Caller, r ItemRef, err error) {
	if !errors.Is(err, ErrDamaged) {
		return
	}
	if _, ok := s.seldom("damaged\x00" + r.Collection + "\x00" + r.Item); ok {
		s.log().Error("a secret cannot be read", "caller", c.String(), "collection", r.Collection, "item", r.Item, "err", err)
	}
}

// logRead notes who reads secrets: the first of each program and collection in
// a while, so that a program which reads ten thousand leaves a line and no more.
// Labels and attributes are secrets at rest, and so the log has none of them.
func (s *Secrets) logRead(c Caller, r ItemRef) {
	if s.Log == nil {
		return
	}
	who := c.Program
	if who == "" {
		who = c.String()
	}
	if unsaid, ok := s.seldom("read\x00" + who + "\x00" + r.Collection); ok {
		s.Log.Info("secret read", "caller", c.String(), "collection", r.Collection, "item", r.Item, "before", unsaid)
		return
	}
	s.Log.Debug("secret read", "caller", c.String(), "collection", r.Collection, "item", r.Item)
}

// CreateItem adds an item, whose secret is borrowed. With replace, the newest
// item of the collection with exactly these attributes is replaced, and keeps
// its ID. ErrLocked while the collection is locked.
func (s *Secrets) CreateItem(_ context.Context, c Caller, collection string, item NewItem, replace bool) (ItemRef, error) {
	coll, err := s.find(collection)
	if err != nil {
		return ItemRef{}, err
	}
	id, replaced, err := coll.Create(item, replace)
	if err != nil {
		return ItemRef{}, fmt.Errorf("new item: %w", err)
	}
	kind := ItemCreated
	if replaced {
		kind = ItemChanged
	}
	s.tell(kind, c, collection, id)
	return ItemRef{collection, id}, nil
}

// ChangeItem changes an item; ErrLocked while its collection is locked.
func (s *Secrets) ChangeItem(_ context.Context, c Caller, r ItemRef, change ItemChange) error {
	coll, err := s.find(r.Collection)
	if err != nil {
		return err
	}
	if err := coll.Change(r.Item, change); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	s.tell(ItemChanged, c, r.Collection, r.Item)
	return nil
}

// DeleteItem deletes an item for ever; ErrLocked while its collection is locked.
func (s *Secrets) DeleteItem(_ context.Context, c Caller, r ItemRef) error {
	coll, err := s.find(r.Collection)
	if err != nil {
		return err
	}
	if err := coll.Delete(r.Item); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	s.tell(ItemDeleted, c, r.Collection, r.Item)
	return nil
}

// SetCollectionLabel gives a collection another label; ErrLocked while it is
// locked. The one in memory keeps its own.
func (s *Secrets) SetCollectionLabel(_ context.Context, c Caller, collection, label string) error {
	coll, err := s.find(collection)
	if err != nil {
		return err
	}
	if collection == SessionCollection {
		return fmt.Errorf("another label for %s: %w", collection, ErrUnsupported)
	}
	if err := coll.SetLabel(strings.ToValidUTF8(label, "\uFFFD")); err != nil {
		return fmt.Errorf("label: %w", err)
	}
	s.tell(CollectionChanged, c, collection, "")
	return nil
}
