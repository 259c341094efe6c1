package store

import (
	"context"
	"errors"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// Unlock tries the slots of cr's kind; see keyring.Lockable.
func (c *collection) Unlock(ctx context.Context, cr keyring.Credential) error {
	c.mu.RLock()
	slots, gone := c.slots, c.gone
	c.mu.RUnlock()
	if gone {
		return c.goneError()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var worst error
	tried := false
	for _, l := range slots {
		if l.kind != cr.Kind {
			continue
		}
		tried = true
		ck, err := c.s.openSlot(ctx, c.id, l, cr.Value)
		if err == nil {
			err = c.admit(ctx, newInnerKeys(ck), l)
		}
		if err == nil {
			return nil
		}
		worst = graver(worst, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if !tried {
		return problem(keyring.ErrNotFound, "collection %s has no %s slot", c.id, cr.Kind)
	}
	return worst
}

// graver returns which of the errors of several slots says more: a value that is
// wrong for one may be right for the one that could not be tried.
func graver(a, b error) error {
	for _, kind := range []error{keyring.ErrLockedOut, keyring.ErrUnavailable, keyring.ErrAuthFailed} {
		switch {
		case errors.Is(a, kind):
			return a
		case errors.Is(b, kind):
			return b
		}
	}
	return b
}

// admit unlocks the collection with its key, which a slot gave, after it has
// looked whether everything is there.
func (c *collection) admit(ctx context.Context, inner *innerKeys, by *slot) error {
	c.mending.Lock()
	defer c.mending.Unlock()
	c.mu.RLock()
	unlocked := c.inner != nil
	c.mu.RUnlock()
	if unlocked {
		inner.ck.Wipe()
		return nil
	}
	// Who began to write before it was locked comes to an end first, so that what
	// is looked at is what stays. Others have no key to begin with.
	_ = c.s.update(func(*batch) error { return nil })
	f, err := c.inspect(inner)
	if fn := c.s.hooks.inspected; fn != nil {
		fn()
	}
	if err == nil && f.state != nil && !slices.Contains(f.state.slots, slotTag{by.id, by.tag}) && f.meta {
		err = problem(keyring.ErrAuthFailed, "slot %d of collection %s was removed", by.id, c.id)
	}
	if err != nil {
		inner.ck.Wipe()
		return err
	}
	suspect := f.wrong
	if f.wrong != nil || f.salvage {
		if f.wrong != nil {
			c.s.log.Error("a collection is not as it was left", "collection", c.id, "err", f.wrong)
		}
		st, err := c.repair(inner, f.outer, f.base(c))
		if err == nil {
			f.state, suspect = st, nil
		} else {
			c.s.log.Error("a collection cannot be repaired", "collection", c.id, "err", err)
		}
	}
	c.mu.Lock()
	old := c.outer
	c.inner, c.outer, c.state, c.suspect = inner, f.outer, f.state, suspect
	gone := c.gone
	c.mu.Unlock()
	if gone {
		c.forget()
		return c.goneError()
	}
	if old == nil {
		c.rewrap(ctx, f.outer)
	}
	return nil
}

// A finding is what a collection looks like to who has its key.
type finding struct {
	state   *state // nil: not even a copy of it is left
	outer   *outerKeys
	meta    bool  // state is the collection's own, and not from a copy or the header
	wrong   error // what is not as it should be
	salvage bool
}

// inspect looks at a locked collection with its key.
func (c *collection) inspect(inner *innerKeys) (*finding, error) {
	c.mu.RLock()
	f := &finding{outer: c.outer, wrong: c.suspect}
	header := c.state
	c.mu.RUnlock()
	err := c.read(func(at buckets) error {
		st, xk, err := inner.openMeta(c.id, at.root.Get([]byte(metaKey)))
		if err != nil {
			f.wrong = damaged("the state of collection %s is damaged", c.id)
			f.state = header
		} else {
			f.state, f.meta = st, true
			if f.outer == nil || !f.outer.xk.Equal(xk) {
				f.outer = newOuterKeys(xk)
			} else {
				xk.Wipe()
			}
		}
		f.salvage = at.root.Get([]byte(salvageKey)) != nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !f.meta {
		for _, r := range c.s.sources(c.id, "") {
			st, xk, err := inner.openMeta(c.id, r.keys[metaKey])
			if err != nil {
				continue
			}
			if f.outer == nil {
				f.outer = newOuterKeys(xk)
			} else {
				xk.Wipe()
			}
			if f.state == nil {
				f.state = st
			}
			break
		}
		if f.outer == nil {
			f.outer = newOuterKeys(newKey())
		}
	}
	if f.state != nil && f.wrong == nil {
		err = c.read(func(at buckets) error {
			t := tally(at, inner, f.outer)
			f.wrong = t.differs(c.id, f.state)
			if h, err := f.outer.openHeader(c.id, at.root.Get([]byte(headerKey))); f.wrong == nil && (err != nil || h.revision != f.state.revision) {
				f.wrong = damaged("the header of collection %s is damaged", c.id)
			}
			return nil
		})
	}
	return f, err
}

// base is the state to repair from; where there is none at all it is made up,
// and made right by the repair.
func (f *finding) base(c *collection) *state {
	if f.state != nil {
		return f.state
	}
	now := c.s.now().UnixNano()
	st := &state{label: c.id, created: now, modified: now, next: 1, nextSlot: 1}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, l := range c.slots {
		st.slots = append(st.slots, slotTag{l.id, l.tag})
		st.nextSlot = max(st.nextSlot, l.id+1)
	}
	return st
}

// A total is what the state should say.
type total struct {
	count                 uint64
	records, outer, index sum
}

// tally adds up what there is; inner is nil while it is locked.
func tally(at buckets, inner *innerKeys, outer *outerKeys) (t total) {
	records, sealed, index := adder{summer: outer.sum}, adder{}, adder{summer: outer.index}
	if inner != nil {
		sealed.summer = inner.sum
	}
	c := at.items.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		t.count++
		rec, err := parseRecord(v)
		if err != nil {
			continue // and the sum is not what it was
		}
		records.record(number(k), rec)
		if inner != nil {
			sealed.record(number(k), rec)
		}
	}
	c = at.index.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if len(k) == entrySize {
			index.entry(k)
		}
	}
	t.records, t.outer, t.index = sealed.total, records.total, index.total
	return t
}

// differs says what the state says otherwise; sums that were not made are not
// compared.
func (t total) differs(collection string, st *state) error {
	switch {
	case t.count != st.count:
		return damaged("collection %s has %d items, and should have %d", collection, t.count, st.count)
	case t.outer != st.outer || (t.records != sum{} && t.records != st.records):
		return damaged("collection %s has other items than it should", collection)
	case t.index != st.index:
		return damaged("the index of collection %s is damaged", collection)
	}
	return nil
}

// rewrap makes the collection findable while it is locked, after the index key
// was lost. It works without, until it is locked by a restart.
func (c *collection) rewrap(ctx context.Context, outer *outerKeys) {
	err := c.s.withIndexKey(ctx, func(key secret.Bytes) error {
		wrapped := wrapKey(key, c.id, outer.xk)
		return c.s.update(func(b *batch) error {
			at, err := c.of(b.tx)
			if err != nil {
				return err
			}
			b.writes++
			return at.root.Put([]byte(xkeyKey), wrapped)
		})
	})
	if err != nil {
		c.s.log.Warn("the collection cannot be searched while it is locked", "collection", c.id, "err", err)
	}
}

// AddSlot adds a way to unlock the collection; see keyring.Lockable.
func (c *collection) AddSlot(ctx context.Context, cr keyring.Credential) (keyring.SlotInfo, secret.Bytes, error) {
	return c.newSlot(ctx, "", cr)
}

// ReplaceSlot takes one away and adds another in one step. The new one has an ID
// of its own.
func (c *collection) ReplaceSlot(ctx context.Context, id string, cr keyring.Credential) (keyring.SlotInfo, error) {
	if cr.Kind == keyring.SlotRecovery {
		return keyring.SlotInfo{}, problem(keyring.ErrUnsupported, "a recovery code is not changed: add another one, and remove this")
	}
	info, code, err := c.newSlot(ctx, id, cr)
	code.Wipe()
	return info, err
}

// maxSlots bounds how long a wrong passphrase takes.
const maxSlots = 32

func (c *collection) newSlot(ctx context.Context, replaces string, cr keyring.Credential) (info keyring.SlotInfo, code secret.Bytes, err error) {
	c.mu.RLock()
	var ck secret.Bytes
	if c.inner != nil {
		ck = c.inner.ck.Clone()
	}
	c.mu.RUnlock()
	defer ck.Wipe()
	if ck.Len() == 0 {
		return keyring.SlotInfo{}, secret.Bytes{}, c.lockedError()
	}
	// The number is taken first, as the slot is bound to it and takes its time.
	var id uint64
	err = c.s.update(func(b *batch) error {
		ch, err := b.change(c)
		if err != nil {
			return err
		}
		if _, err := c.slotAt(ch, replaces); err != nil {
			return err
		}
		ch.write()
		id = ch.state.nextSlot
		ch.state.nextSlot++
		return nil
	})
	if err != nil {
		return keyring.SlotInfo{}, secret.Bytes{}, err
	}
	made, code, err := c.s.newSlot(ctx, c.id, id, cr, ck)
	if err != nil {
		return keyring.SlotInfo{}, secret.Bytes{}, err
	}
	err = c.s.update(func(b *batch) error {
		ch, err := b.change(c)
		if err != nil {
			return err
		}
		list := ch.slotList()
		at, err := c.slotAt(ch, replaces)
		switch {
		case err != nil:
			return err
		case at >= 0:
			list[at] = made
		case len(list) >= maxSlots:
			return problem(keyring.ErrUnsupported, "collection %s has %d slots already", c.id, len(list))
		default:
			list = append(list, made)
		}
		return ch.setSlots(list)
	})
	if err != nil {
		code.Wipe()
		return keyring.SlotInfo{}, secret.Bytes{}, err
	}
	return made.info(), code, nil
}

// slotList returns the slots as the batch has them so far, to be changed.
func (ch *change) slotList() []*slot {
	if ch.slots != nil {
		return slices.Clone(ch.slots)
	}
	ch.c.mu.RLock()
	defer ch.c.mu.RUnlock()
	return slices.Clone(ch.c.slots)
}

// slotAt finds a slot by its ID; -1 for "".
func (c *collection) slotAt(ch *change, id string) (int, error) {
	if id == "" {
		return -1, nil
	}
	at := slices.IndexFunc(ch.slotList(), func(l *slot) bool { return strconv.FormatUint(l.id, 10) == id })
	if at < 0 {
		return -1, problem(keyring.ErrNotFound, "collection %s has no slot %s", c.id, id)
	}
	return at, nil
}

// RemoveSlot removes a slot of an unlocked collection; see keyring.Lockable.
func (c *collection) RemoveSlot(id string) error {
	last := problem(keyring.ErrUnsupported, "the last slot of collection %s cannot be removed: nothing would open it", c.id)
	if only := c.Slots(); len(only) == 1 && only[0].ID == id {
		return last // locked or not
	}
	return c.s.update(func(b *batch) error {
		ch, err := b.change(c)
		if err != nil {
			return err
		}
		at, err := c.slotAt(ch, id)
		if err != nil {
			return err
		}
		list := ch.slotList()
		if at < 0 {
			return problem(keyring.ErrNotFound, "collection %s has no slot %q", c.id, id)
		}
		if len(list) < 2 {
			return last
		}
		return ch.setSlots(slices.Delete(list, at, at+1))
	})
}

// load reads what can be known of a locked collection.
func (c *collection) load(tx *bolt.Tx) error {
	at, err := c.of(tx)
	if errors.Is(err, errDamaged) {
		c.suspect = err // it is there all the same, and no other can take its name
		return nil
	}
	if err != nil {
		return err
	}
	err = at.slots.ForEach(func(k, v []byte) error {
		l, err := decodeSlot(number(k), v)
		if err != nil || l.id == 0 {
			c.suspect = damaged("a slot of collection %s is damaged", c.id)
			return nil
		}
		c.slots = append(c.slots, l)
		return nil
	})
	if err != nil || c.s.indexKey.Len() == 0 {
		return err
	}
	xk, err := unwrapKey(c.s.indexKey, c.id, at.root.Get([]byte(xkeyKey)))
	if err != nil {
		c.s.log.Warn("the collection cannot be searched before it was unlocked: the index key is another", "collection", c.id)
		return nil
	}
	outer := newOuterKeys(xk)
	c.outer = outer
	st, err := outer.openHeader(c.id, at.root.Get([]byte(headerKey)))
	if err != nil {
		c.suspect = damaged("the header of collection %s is damaged", c.id)
		return nil
	}
	c.state = st
	if wrong := tally(at, nil, outer).differs(c.id, st); wrong != nil {
		c.suspect = wrong
	}
	return nil
}
