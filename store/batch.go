package store

import (
	"encoding/binary"
	"io/fs"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// The names of buckets and keys; see the package's comment.
const (
	topBucket    = "keyringd"
	formatKey    = "format"
	directoryKey = "directory"

	collectionPrefix = "c."
	itemsBucket      = "items"
	indexBucket      = "index"
	slotsBucket      = "slots"
	xkeyKey          = "xkey"
	headerKey        = "header"
	metaKey          = "meta"
	salvageKey       = "salvage"
	lostKey          = "lost" // alone in a bucket: nothing is left of the collection
)

func numberKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// number reads a key of items or slots; 0 is none.
func number(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// buckets are those of one collection. They are valid during a transaction.
type buckets struct{ root, items, index, slots *bolt.Bucket }

// of finds a collection's buckets.
func (c *collection) of(tx *bolt.Tx) (buckets, error) {
	root := tx.Bucket([]byte(collectionPrefix + c.id))
	if root == nil {
		return buckets{}, problem(keyring.ErrNotFound, "there is no collection %s", c.id)
	}
	b := buckets{root, root.Bucket([]byte(itemsBucket)), root.Bucket([]byte(indexBucket)), root.Bucket([]byte(slotsBucket))}
	if b.items == nil || b.index == nil || b.slots == nil {
		return buckets{}, damaged("collection %s is not whole", c.id)
	}
	return b, nil
}

// A batch is one transaction as the changes in it see it.
type batch struct {
	s       *Store
	tx      *bolt.Tx
	writes  int
	names   *directory // nil: not changed
	touched map[*collection]*change
	after   []func() // when it is on disk
}

// A change is what becomes of one collection in a batch.
type change struct {
	buckets
	c     *collection
	b     *batch
	state *state // a copy, to be changed
	inner *innerKeys
	outer *outerKeys
	slots []*slot // nil: they stay
	dirty bool
}

// change begins a change of an unlocked collection.
func (b *batch) change(c *collection) (*change, error) {
	c.mu.RLock()
	inner, outer, st := c.inner, c.outer, c.state
	c.mu.RUnlock()
	if ch := b.touched[c]; ch != nil && inner != nil {
		return ch, nil
	}
	at, err := c.of(b.tx)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return nil, c.lockedError()
	}
	return b.touch(c, at, inner, outer, st), nil
}

func (b *batch) touch(c *collection, at buckets, inner *innerKeys, outer *outerKeys, st *state) *change {
	copied := *st
	copied.slots = slices.Clone(st.slots)
	ch := &change{buckets: at, c: c, b: b, state: &copied, inner: inner, outer: outer}
	b.touched[c] = ch
	return ch
}

// write notes that the collection changes now.
func (ch *change) write() {
	ch.b.writes++
	if !ch.dirty {
		ch.dirty = true
		ch.state.revision++
	}
	// Never backwards, whatever the clock says: clients compare it.
	ch.state.modified = max(ch.c.s.now().UnixNano(), ch.state.modified)
}

// put writes an item, and what the state says of it; old is the record that it
// replaces, or nil. plain is borrowed.
func (ch *change) put(id uint64, i *info, plain secret.Bytes, old *record) error {
	ch.write()
	b := ch.inner.sealRecord(ch.c.id, id, ch.state.revision, i, plain)
	rec, err := parseRecord(b)
	if err != nil {
		return err
	}
	if old != nil {
		ch.subtract(id, *old)
	}
	ch.state.count++
	ch.state.records.add(ch.inner.sum.record(id, rec))
	ch.state.outer.add(ch.outer.sum.record(id, rec))
	ch.items.FillPercent = 0.9 // items are added at the end
	return ch.items.Put(numberKey(id), b)
}

// subtract takes a record out of the state.
func (ch *change) subtract(id uint64, old record) {
	ch.state.count--
	ch.state.records.add(ch.inner.sum.record(id, old))
	ch.state.outer.add(ch.outer.sum.record(id, old))
}

// indexed replaces entries of the index by others.
func (ch *change) indexed(old, entries [][]byte) error {
	ch.write()
	for _, e := range old {
		if slices.ContainsFunc(entries, func(o []byte) bool { return string(o) == string(e) }) {
			continue
		}
		if ch.index.Get(e) != nil {
			ch.state.index.add(ch.outer.index.entry(e))
		}
		if err := ch.index.Delete(e); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if ch.index.Get(e) != nil {
			continue
		}
		ch.state.index.add(ch.outer.index.entry(e))
		if err := ch.index.Put(e, []byte{}); err != nil {
			return err
		}
	}
	return nil
}

// setSlots writes the slots that differ from those there are, and the tags of
// all.
func (ch *change) setSlots(list []*slot) error {
	ch.write()
	ch.slots, ch.state.slots = list, nil
	for _, l := range list {
		ch.state.slots = append(ch.state.slots, slotTag{l.id, l.tag})
		if err := ch.buckets.slots.Put(numberKey(l.id), l.encode()); err != nil {
			return err
		}
	}
	var gone [][]byte
	err := ch.buckets.slots.ForEach(func(k, _ []byte) error {
		if !slices.ContainsFunc(list, func(l *slot) bool { return l.id == number(k) }) {
			gone = append(gone, slices.Clone(k))
		}
		return nil
	})
	for _, k := range gone {
		if err := ch.buckets.slots.Delete(k); err != nil {
			return err
		}
	}
	return err
}

// finish writes what all changes together come to.
func (b *batch) finish() error {
	for c, ch := range b.touched {
		if !ch.dirty {
			continue
		}
		if err := ch.seal(); err != nil {
			return err
		}
		b.after = append(b.after, func() { c.set(ch.state, ch.slots) })
	}
	return nil
}

// seal writes header and meta.
func (ch *change) seal() error {
	said := ch.state.encode()
	header := make([]byte, padded(len(said)))
	pad(header, said)
	err := ch.root.Put([]byte(headerKey), seal(ch.outer.header, header, bound("header", ch.c.id)))
	if err != nil {
		return err
	}
	meta := make([]byte, 0, padded(len(said)+keySize))
	ch.outer.xk.Use(func(k []byte) { meta = append(meta, k...) })
	meta = append(meta, said...)
	box := make([]byte, padded(len(meta)))
	pad(box, meta)
	err = ch.root.Put([]byte(metaKey), seal(ch.inner.meta, box, bound("meta", ch.c.id)))
	clear(meta)
	clear(box)
	return err
}

// openHeader reads a header as seal wrote it.
func (o *outerKeys) openHeader(collection string, b []byte) (*state, error) {
	plain, err := unseal(o.header, nil, b, bound("header", collection))
	if err != nil {
		return nil, err
	}
	if plain, err = unpad(plain); err != nil {
		return nil, err
	}
	r := &reader{b: plain}
	st := r.state()
	return st, r.end()
}

// openMeta reads the state as seal wrote it for those who have the collection
// key, and the collection's index key, the caller's to Wipe.
func (k *innerKeys) openMeta(collection string, b []byte) (*state, secret.Bytes, error) {
	plain, err := unseal(k.meta, nil, b, bound("meta", collection))
	if err != nil {
		return nil, secret.Bytes{}, err
	}
	defer clear(plain)
	said, err := unpad(plain)
	if err != nil {
		return nil, secret.Bytes{}, err
	}
	r := &reader{b: said}
	xk := r.take(keySize)
	st := r.state()
	if err := r.end(); err != nil {
		return nil, secret.Bytes{}, err
	}
	return st, secret.Copy(xk), nil
}

// directory returns the names, to be changed.
func (b *batch) directory() *directory {
	if b.names != nil {
		return b.names.clone()
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.names.clone()
}

func (b *batch) putDirectory(names *directory) error {
	b.writes++
	if b.names == nil {
		b.after = append(b.after, func() {
			b.s.mu.Lock()
			b.s.names = b.names
			b.s.mu.Unlock()
		})
	}
	b.names = names
	return b.tx.Bucket([]byte(topBucket)).Put([]byte(directoryKey), names.encode())
}

// create writes a collection that is new.
func (b *batch) create(c *collection) error {
	names := b.directory()
	if slices.Contains(names.collections, c.id) || b.tx.Bucket([]byte(collectionPrefix+c.id)) != nil {
		return problem(keyring.ErrUnsupported, "collection %s: %w", c.id, fs.ErrExist)
	}
	names.collections = append(names.collections, c.id)
	if err := b.putDirectory(names); err != nil {
		return err
	}
	root, err := b.tx.CreateBucket([]byte(collectionPrefix + c.id))
	if err != nil {
		return err
	}
	for _, name := range []string{itemsBucket, indexBucket, slotsBucket} {
		if _, err := root.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	if err := root.Put([]byte(xkeyKey), wrapKey(b.s.indexKey, c.id, c.outer.xk)); err != nil {
		return err
	}
	at, err := c.of(b.tx)
	if err != nil {
		return err
	}
	ch := b.touch(c, at, c.inner, c.outer, c.state)
	if err := ch.setSlots(c.slots); err != nil {
		return err
	}
	b.after = append(b.after, func() {
		b.s.mu.Lock()
		b.s.collections[c.id] = c
		b.s.mu.Unlock()
	})
	return nil
}

// remove deletes a collection and the aliases for it.
func (b *batch) remove(id string) error {
	names := b.directory()
	at := slices.Index(names.collections, id)
	if at < 0 {
		return problem(keyring.ErrNotFound, "there is no collection %s", id)
	}
	names.collections = slices.Delete(names.collections, at, at+1)
	for name, of := range names.aliases {
		if of == id {
			delete(names.aliases, name)
		}
	}
	if err := b.putDirectory(names); err != nil {
		return err
	}
	if b.tx.Bucket([]byte(collectionPrefix+id)) != nil {
		if err := b.tx.DeleteBucket([]byte(collectionPrefix + id)); err != nil {
			return err
		}
	}
	for c := range b.touched {
		if c.id == id {
			delete(b.touched, c)
		}
	}
	b.after = append(b.after, func() {
		b.s.mu.Lock()
		delete(b.s.collections, id)
		b.s.mu.Unlock()
	})
	return nil
}
