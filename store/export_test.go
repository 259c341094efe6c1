package store

import (
	"os"
	"testing"
	"time"
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
