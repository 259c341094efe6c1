package store

import (
	"cmp"
	"errors"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// A collection implements keyring.Lockable.
type collection struct {
	s  *Store
	id string

	mending sync.Mutex // held while records are looked for in copies

	mu      sync.RWMutex
	inner   *innerKeys // nil: locked
	outer   *outerKeys // nil: the index key is lost, until it is unlocked
	state   *state     // nil: it cannot be read, until it is unlocked
	slots   []*slot
	suspect error           // why what lies on disk is not to be believed while it is locked
	lost    map[uint64]bool // items that no copy has, so that they are not looked for again
	gone    bool            // deleted, or the store is closed
}

var _ keyring.Lockable = (*collection)(nil)

// Info says what may be said; without the index key that is the ID.
func (c *collection) Info() keyring.CollectionInfo {
	c.mu.RLock()
	defer c.mu.RUnlock()
	info := keyring.CollectionInfo{ID: c.id, Label: c.id, Locked: c.inner == nil}
	if c.state != nil {
		info.Label = c.state.label
		info.Created, info.Modified = time.Unix(0, c.state.created), time.Unix(0, c.state.modified)
	}
	return info
}

// Slots lists what opens the collection, the oldest first.
func (c *collection) Slots() []keyring.SlotInfo {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]keyring.SlotInfo, 0, len(c.slots))
	for _, l := range c.slots {
		list = append(list, l.info())
	}
	return list
}

// set installs what a transaction has written.
func (c *collection) set(st *state, slots []*slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = st
	if slots != nil {
		c.slots = slots
	}
}

func (c *collection) lockedError() error {
	return problem(keyring.ErrLocked, "collection %s is locked", c.id)
}

// goneError is for a collection that was deleted, or whose store is closed: what
// is in that is not gone.
func (c *collection) goneError() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.closed {
		return problem(keyring.ErrUnavailable, "the store is closed")
	}
	return problem(keyring.ErrNotFound, "there is no collection %s", c.id)
}

func (c *collection) noItem(id string) error {
	return problem(keyring.ErrNotFound, "collection %s has no item %s", c.id, id)
}

// itemNumber reads an item's ID; 0 is none.
func itemNumber(id string) uint64 {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil || itemID(n) != id {
		return 0
	}
	return n
}

func itemID(n uint64) string { return strconv.FormatUint(n, 10) }

// readable returns the keys for reading lists, and why they cannot be believed.
// A list that may lack something is an error: there are clients that make a new
// secret, and overwrite what the old one was for, when theirs is not in it.
func (c *collection) readable() (*innerKeys, *outerKeys, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case c.gone:
		return nil, nil, c.goneError()
	case c.suspect != nil:
		return nil, nil, c.suspect
	case c.outer == nil:
		return nil, nil, problem(keyring.ErrLocked, "collection %s is locked, and cannot be searched until it was unlocked: the index key is lost", c.id)
	}
	return c.inner, c.outer, nil
}

// Items lists all items, the oldest first.
func (c *collection) Items() ([]string, error) {
	if _, _, err := c.readable(); err != nil {
		return nil, err
	}
	ids := []string{}
	err := c.read(func(at buckets) error {
		return at.items.ForEach(func(k, _ []byte) error {
			ids = append(ids, itemID(number(k)))
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// read calls fn with the collection's buckets.
func (c *collection) read(fn func(buckets) error) error {
	return c.s.view(func(tx *bolt.Tx) error {
		at, err := c.of(tx)
		if err != nil {
			return err
		}
		return fn(at)
	})
}

// A hit is an item that a search found, and the revision that it was written in.
type hit struct{ id, revision uint64 }

// Search lists the items that have all of attributes, the one that was written
// last first. Revisions tell, and not the clock: they can be read while the
// collection is locked. What no longer is a record comes last.
func (c *collection) Search(attributes map[string]string) ([]string, error) {
	inner, outer, err := c.readable()
	if err != nil {
		return nil, err
	}
	var hits []hit
	err = c.read(func(at buckets) error {
		if len(attributes) == 0 {
			return at.items.ForEach(func(k, v []byte) error {
				rec, _ := parseRecord(v)
				hits = append(hits, hit{number(k), rec.revision})
				return nil
			})
		}
		for _, id := range outer.find(at.index, attributes) {
			rec, err := parseRecord(at.items.Get(numberKey(id)))
			if inner == nil || err != nil || c.has(inner, id, rec, attributes) {
				hits = append(hits, hit{id, rec.revision})
			}
		}
		return nil
	})
	if err == nil {
		// Keys that were dropped meanwhile find nothing.
		_, _, err = c.readable()
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(hits, func(a, b hit) int {
		return cmp.Or(cmp.Compare(b.revision, a.revision), cmp.Compare(b.id, a.id))
	})
	ids := make([]string, len(hits))
	for i, h := range hits {
		ids[i] = itemID(h.id)
	}
	return ids, nil
}

// has reports whether an item has all of attributes. One that cannot be read is
// said to: it is there, and asking for it says what is wrong.
func (c *collection) has(inner *innerKeys, id uint64, rec record, attributes map[string]string) bool {
	i, err := inner.openInfo(c.id, id, rec)
	if err != nil {
		return true
	}
	for name, value := range attributes {
		if got, ok := i.attributes[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// item calls fn with an item's record, and again if it was damaged and could be
// restored.
func (c *collection) item(id string, fn func(k *innerKeys, n uint64, rec record) error) error {
	for again := false; ; again = true {
		c.mu.RLock()
		inner, gone := c.inner, c.gone
		c.mu.RUnlock()
		if gone {
			return c.goneError()
		}
		n := itemNumber(id)
		there := false
		err := c.read(func(at buckets) error {
			b := at.items.Get(numberKey(n))
			if b == nil {
				return c.noItem(id)
			}
			there = true
			if inner == nil {
				return c.lockedError()
			}
			rec, err := parseRecord(b)
			if err == nil {
				err = fn(inner, n, rec)
			}
			if err != nil {
				return damagedItem(c.id, id)
			}
			return nil
		})
		if again || !there || !errors.Is(err, errDamaged) || !c.mend(inner, n) {
			return err
		}
	}
}

// Item says what an item is.
func (c *collection) Item(id string) (keyring.ItemInfo, error) {
	var found keyring.ItemInfo
	err := c.item(id, func(k *innerKeys, n uint64, rec record) error {
		i, err := k.openInfo(c.id, n, rec)
		if err == nil {
			found = keyring.ItemInfo{
				ItemRef: keyring.ItemRef{Collection: c.id, Item: id}, Label: i.label, Attributes: i.attributes,
				ContentType: i.contentType, Created: time.Unix(0, i.created), Modified: time.Unix(0, i.modified),
			}
		}
		return err
	})
	return found, err
}

// Secret returns an item's secret, the caller's to Wipe.
func (c *collection) Secret(id string) (secret.Bytes, error) {
	var found secret.Bytes
	err := c.item(id, func(k *innerKeys, n uint64, rec record) (err error) {
		found, err = k.openSecret(c.id, n, rec)
		return err
	})
	return found, err
}

// Lock drops the collection's keys.
func (c *collection) Lock() {
	c.mu.Lock()
	inner := c.inner
	c.inner = nil
	c.mu.Unlock()
	if inner == nil {
		return
	}
	inner.ck.Wipe()
	// The ciphers are Go's, and so are the copies of the subkeys in them: nothing
	// points to them any more.
	debug.FreeOSMemory()
}

// forget drops all keys: the collection is deleted or the store is closed.
func (c *collection) forget() {
	c.mu.Lock()
	inner, outer := c.inner, c.outer
	c.inner, c.outer, c.gone = nil, nil, true
	c.mu.Unlock()
	if inner != nil {
		inner.ck.Wipe()
	}
	outer.wipe()
}
