package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A dump is what could be read of a database that is not open: a copy of ours,
// or a damaged one. It is in memory whole, for as long as a repair takes.
type dump struct {
	path        string
	time        time.Time // when it was last written to
	txid        uint64
	names       *directory // nil: damaged
	format      byte
	collections map[string]*raw
	lost        error // the first part that could not be read; nil: all could
}

// A raw is one collection of a dump.
type raw struct {
	from  *dump
	keys  map[string][]byte
	items map[uint64][]byte
	slots map[uint64][]byte
	index [][]byte
	lost  error
}

// readDump reads a database; only names the collection that is wanted, "" is
// all. Parts that cannot be read are passed over.
func readDump(path, only string) (*dump, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	if err != nil {
		return nil, err
	}
	d := &dump{path: path, txid: im.txid, collections: map[string]*raw{}}
	if stat, err := f.Stat(); err == nil {
		d.time = stat.ModTime()
	}
	w := &walk{image: im,
		each: func(path []string, key, value []byte) error { d.add(only, path, key, value); return nil },
		lost: func(path []string, err error) {
			if d.lost == nil {
				d.lost = err
			}
			if r := d.collection(only, path); r != nil && r.lost == nil {
				r.lost = err
			}
		},
	}
	if err := w.run(); err != nil {
		return nil, err
	}
	if im.high > uint64(im.size)/uint64(im.pageSize) && d.lost == nil {
		d.lost = fmt.Errorf("%w: it is cut off", errImage)
	}
	return d, nil
}

// collection returns the one that a path leads into.
func (d *dump) collection(only string, path []string) *raw {
	if len(path) == 0 {
		return nil
	}
	id, ok := strings.CutPrefix(path[0], collectionPrefix)
	if !ok || !validID(id) || (only != "" && id != only) {
		return nil
	}
	r := d.collections[id]
	if r == nil {
		r = &raw{from: d, keys: map[string][]byte{}, items: map[uint64][]byte{}, slots: map[uint64][]byte{}}
		d.collections[id] = r
	}
	return r
}

func (d *dump) add(only string, path []string, key, value []byte) {
	if len(path) == 1 && path[0] == topBucket {
		switch string(key) {
		case directoryKey:
			d.names, _ = decodeDirectory(value) // nil if it is damaged
		case formatKey:
			d.format = formatOf(value)
		}
		return
	}
	if len(path) == 0 && value == nil {
		path = []string{string(key)}
	}
	r := d.collection(only, path)
	switch {
	case r == nil:
	case len(path) == 1 && value != nil:
		r.keys[string(key)] = value
	case len(path) != 2 || value == nil:
	case path[1] == itemsBucket && number(key) != 0:
		r.items[number(key)] = value
	case path[1] == slotsBucket && number(key) != 0:
		r.slots[number(key)] = value
	case path[1] == indexBucket && len(key) == entrySize:
		r.index = append(r.index, key)
	}
}

// write puts the collection into a database that is being made.
func (r *raw) write(tx *bolt.Tx, id string) error {
	root, err := tx.CreateBucket([]byte(collectionPrefix + id))
	if err != nil {
		return err
	}
	for key, value := range r.keys {
		if err := root.Put([]byte(key), value); err != nil {
			return err
		}
	}
	items, err1 := root.CreateBucket([]byte(itemsBucket))
	slots, err2 := root.CreateBucket([]byte(slotsBucket))
	index, err3 := root.CreateBucket([]byte(indexBucket))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for n, value := range r.items {
		if err := items.Put(numberKey(n), value); err != nil {
			return err
		}
	}
	for n, value := range r.slots {
		if err := slots.Put(numberKey(n), value); err != nil {
			return err
		}
	}
	for _, key := range r.index {
		if err := index.Put(key, []byte{}); err != nil {
			return err
		}
	}
	return nil
}

// whole reports whether the collection is as it was written, as far as that can
// be told while it is locked.
func (r *raw) whole(s *Store, id string) bool {
	if r.lost != nil {
		return false
	}
	if s.indexKey.Len() == 0 {
		return r.keys[metaKey] != nil && len(r.slots) > 0
	}
	xk, err := unwrapKey(s.indexKey, id, r.keys[xkeyKey])
	if err != nil {
		// It is wrapped with a key that is lost, or it is damaged; the one who
		// unlocks it will see.
		return r.keys[metaKey] != nil && len(r.slots) > 0
	}
	outer := newOuterKeys(xk)
	defer outer.wipe()
	st, err := outer.openHeader(id, r.keys[headerKey])
	if err != nil {
		return false
	}
	t := total{count: uint64(len(r.items))}
	for n, b := range r.items {
		if rec, err := parseRecord(b); err == nil {
			t.outer.add(outer.sum.record(n, rec))
		}
	}
	for _, e := range r.index {
		t.index.add(outer.index.entry(e))
	}
	for _, l := range st.slots {
		if string(checksum(r.slots[l.id])) != string(l.tag[:]) {
			return false
		}
	}
	return t.differs(id, st) == nil
}
