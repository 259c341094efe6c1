package store

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/keyring"
)

// The limits that tests reach.
const (
	MaxSlots   = maxSlots
	MaxSealed  = maxSealed
	MaxAliases = maxAliases
)

// Cheap makes passphrases quick for tests that are about something else.
func (o Options) Cheap() Options {
	o.hooks.cost = cost{time: 1, memory: 64, threads: 1}
	return o
}

// BackupWhen replaces the rule for when copies are made.
func (o Options) BackupWhen(rule func(last time.Time, changes int, now time.Time) bool) Options {
	o.hooks.backup = rule
	return o
}

// OpenWith replaces how files are opened for writing.
func (o Options) OpenWith(open func(string, int, os.FileMode) (*os.File, error)) Options {
	o.hooks.openFile = open
	return o
}

// RecordSize returns how long an item's record is.
func RecordSize(t testing.TB, s *Store, id string, n uint64) (size int) {
	t.Helper()
	err := s.collections[id].read(func(at buckets) error {
		size = len(at.items.Get(numberKey(n)))
		return nil
	})
	if err != nil || size == 0 {
		t.Fatalf("item %d: %d bytes, %v", n, size, err)
	}
	return size
}

// RecordBytes returns an item's record.
func RecordBytes(t testing.TB, s *Store, id string, n uint64) (b []byte) {
	t.Helper()
	err := s.collections[id].read(func(at buckets) error {
		b = append(b, at.items.Get(numberKey(n))...)
		return nil
	})
	if err != nil || len(b) == 0 {
		t.Fatalf("item %d: %v", n, err)
	}
	return b
}

// Txid returns the last transaction.
func Txid(t testing.TB, s *Store) (id uint64) {
	t.Helper()
	err := s.view(func(tx *bolt.Tx) error { id = uint64(tx.ID()); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Uncertain is what happens when the transaction after good failed.
func Uncertain(s *Store, good uint64, cause error) { s.uncertain(good, cause) }

// Items are the records of a collection, for tests that change them behind the
// store's back.
type Items struct{ b *bolt.Bucket }

func (i Items) Get(n uint64) []byte          { return i.b.Get(numberKey(n)) }
func (i Items) Put(n uint64, b []byte) error { return i.b.Put(numberKey(n), b) }
func (i Items) Delete(n uint64) error        { return i.b.Delete(numberKey(n)) }

// Tamper changes records and tells nobody.
func Tamper(s *Store, id string, fn func(Items) error) error {
	return s.update(func(b *batch) error {
		at, err := s.collections[id].of(b.tx)
		if err != nil {
			return err
		}
		b.writes++
		return fn(Items{at.items})
	})
}

// RuinIndex damages the pages of a database that hold a collection's index.
func RuinIndex(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	if err != nil {
		t.Fatal(err)
	}
	var page []uint64
	var current uint64
	w := &walk{image: im,
		used: func(id, _ uint64) error { current = id; return nil },
		each: func(path []string, _, _ []byte) error {
			if len(path) == 2 && path[1] == indexBucket && (len(page) == 0 || page[len(page)-1] != current) {
				page = append(page, current)
			}
			return nil
		}}
	if err := w.run(); err != nil || len(page) == 0 {
		t.Fatal(err)
	}
	for _, id := range page {
		if _, err := f.WriteAt([]byte{0xff}, int64(id)*int64(im.pageSize)+8); err != nil {
			t.Fatal(err)
		}
	}
}

// Reading calls fn while a reader is at work.
func Reading(s *Store, fn func()) error {
	return s.view(func(*bolt.Tx) error { fn(); return nil })
}

// TamperSlot changes what opens a collection and tells nobody.
func TamperSlot(s *Store, id string, n uint64, change func([]byte)) error {
	return s.update(func(b *batch) error {
		at, err := s.collections[id].of(b.tx)
		if err != nil {
			return err
		}
		b.writes++
		l := slices.Clone(at.slots.Get(numberKey(n)))
		change(l)
		return at.slots.Put(numberKey(n), l)
	})
}

// Inspected is called when a collection that is to be unlocked was looked at.
func (o Options) Inspected(fn func()) Options {
	o.hooks.inspected = fn
	return o
}

// CreateSlowly adds an item, with something in the middle.
func CreateSlowly(s *Store, id string, item keyring.NewItem, middle func()) error {
	return s.update(func(b *batch) error {
		ch, err := b.change(s.collections[id])
		if err != nil {
			return err
		}
		middle()
		n := ch.state.next
		ch.state.next++
		i := &info{label: item.Label, attributes: item.Attributes}
		return errors.Join(ch.put(n, i, item.Secret, nil), ch.indexed(nil, ch.outer.entries(n, i.attributes)))
	})
}

// Queued reports whether somebody waits to write.
func Queued(s *Store) bool {
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	return len(s.turns.queue) > 0
}
