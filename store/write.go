package store

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// maxItem bounds what one item can be, far above what the front ends let in.
const maxItem = 16 << 20

func checkItem(i *info, plain secret.Bytes) error {
	n := len(i.label) + len(i.contentType) + plain.Len()
	for name, value := range i.attributes {
		n += len(name) + len(value)
	}
	if n > maxItem {
		return problem(keyring.ErrUnsupported, "an item has at most %d bytes, not %d", maxItem, n)
	}
	return nil
}

// update changes the collection, and tries again if something that was in the
// way could be restored.
func (c *collection) update(do func(*change) error) error {
	for again := false; ; again = true {
		err := c.s.update(func(b *batch) error {
			ch, err := b.change(c)
			if err != nil {
				return err
			}
			return do(ch)
		})
		c.mu.RLock()
		inner := c.inner
		c.mu.RUnlock()
		if again || inner == nil || !errors.Is(err, errDamaged) || !c.mend(inner, 0) {
			return err
		}
	}
}

// Create adds an item; see keyring.Collection.
func (c *collection) Create(item keyring.NewItem, replace bool) (id string, replaced bool, err error) {
	i := &info{label: item.Label, contentType: item.ContentType, attributes: maps.Clone(item.Attributes)}
	if err := checkItem(i, item.Secret); err != nil {
		return "", false, err
	}
	err = c.update(func(ch *change) error {
		now := c.s.now()
		i.created, i.modified = nanos(item.Created, now), nanos(item.Modified, now)
		if replace {
			n, old, was, err := ch.twin(i.attributes)
			if err != nil {
				return err
			}
			if n != 0 {
				id, replaced = itemID(n), true
				i.created = was.created
				return ch.put(n, i, item.Secret, old)
			}
		}
		n := ch.state.next
		id, replaced = itemID(n), false
		if err := ch.put(n, i, item.Secret, nil); err != nil {
			return err
		}
		ch.state.next++
		return ch.indexed(nil, ch.outer.entries(n, i.attributes))
	})
	if err != nil {
		return "", false, err
	}
	return id, replaced, nil
}

// nanos returns t, or now where it is not given.
func nanos(t, now time.Time) int64 {
	if t.IsZero() {
		return now.UnixNano()
	}
	return t.UnixNano()
}

// twin finds the newest item that has exactly these attributes; 0 if there is
// none.
func (ch *change) twin(attributes map[string]string) (uint64, *record, *info, error) {
	n, ok := posting{ch.index.Cursor(), ch.outer.exactly(attributes)}.last()
	if !ok {
		return 0, nil, nil, nil
	}
	rec, was, err := ch.open(n)
	if err != nil {
		return 0, nil, nil, err
	}
	if !maps.Equal(was.attributes, attributes) {
		return 0, nil, nil, damaged("the index of collection %s is wrong", ch.c.id)
	}
	return n, rec, was, nil
}

// open reads an item that is to be changed.
func (ch *change) open(n uint64) (*record, *info, error) {
	b := ch.items.Get(numberKey(n))
	if b == nil {
		return nil, nil, ch.c.noItem(itemID(n))
	}
	// The page may move when the bucket is written to.
	rec, err := parseRecord(slices.Clone(b))
	if err == nil {
		var i *info
		if i, err = ch.inner.openInfo(ch.c.id, n, rec); err == nil {
			return &rec, i, nil
		}
	}
	return nil, nil, damagedItem(ch.c.id, itemID(n))
}

// Change changes an item; see keyring.Collection.
func (c *collection) Change(id string, to keyring.ItemChange) error {
	n := itemNumber(id)
	return c.update(func(ch *change) error {
		old, i, err := ch.open(n)
		if err != nil {
			return err
		}
		before := i.attributes
		if to.Label != nil {
			i.label = *to.Label
		}
		if to.ContentType != nil {
			i.contentType = *to.ContentType
		}
		if to.Attributes != nil {
			i.attributes = maps.Clone(to.Attributes)
		}
		var plain secret.Bytes
		if to.Secret != nil {
			plain = *to.Secret
		} else {
			if plain, err = ch.inner.openSecret(c.id, n, *old); err != nil {
				return damagedItem(c.id, id)
			}
			defer plain.Wipe()
		}
		if err := checkItem(i, plain); err != nil {
			return err
		}
		i.modified = max(c.s.now().UnixNano(), i.modified)
		if err := ch.put(n, i, plain, old); err != nil {
			return err
		}
		if to.Attributes == nil || maps.Equal(before, i.attributes) {
			return nil
		}
		return ch.indexed(ch.outer.entries(n, before), ch.outer.entries(n, i.attributes))
	})
}

// Delete removes an item, also one that is damaged.
func (c *collection) Delete(id string) error {
	n := itemNumber(id)
	return c.update(func(ch *change) error {
		raw := ch.items.Get(numberKey(n))
		if raw == nil {
			return c.noItem(id)
		}
		rec, err := parseRecord(slices.Clone(raw))
		broken := err != nil
		var i *info
		if !broken {
			i, err = ch.inner.openInfo(c.id, n, rec)
			broken = err != nil
		}
		ch.write()
		if err := ch.items.Delete(numberKey(n)); err != nil {
			return err
		}
		if !broken {
			ch.subtract(n, rec)
			return ch.indexed(ch.outer.entries(n, i.attributes), nil)
		}
		// What it added to the sums and the index cannot be told from it.
		if err := ch.unlist(n); err != nil {
			return err
		}
		return ch.recount()
	})
}

// SetLabel renames the collection.
func (c *collection) SetLabel(label string) error {
	if len(label) > maxItem {
		return problem(keyring.ErrUnsupported, "a label has at most %d bytes", maxItem)
	}
	return c.update(func(ch *change) error {
		ch.write()
		ch.state.label = label
		return nil
	})
}
