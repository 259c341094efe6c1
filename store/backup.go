package store

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/internal/atomicfile"
)

// generations is how many copies of the database are kept.
const generations = 3

// A rotation decides when the database is copied. A copy is made in the
// background: it reads what was committed when it began, and holds nobody up.
type rotation struct {
	mu      sync.Mutex
	last    time.Time
	changes int // since
	running bool
	begun   bool // last is known
	stopped bool
	all     sync.WaitGroup
}

// due says whether a copy is to be made after so many changes: at the first, and
// then often enough that not much is lost, and seldom enough that the oldest one
// is from before whatever happened.
func due(last time.Time, changes int, now time.Time) bool {
	age := now.Sub(last)
	switch {
	case changes == 0:
		return false
	case last.IsZero(), age < 0: // the clock was put back
		return true
	case changes >= 100:
		return age >= 10*time.Minute
	default:
		return age >= 6*time.Hour
	}
}

// begin looks whether the newest copy is of what there is.
func (r *rotation) begin(s *Store) {
	newest := s.path() + ".1"
	changes := 0
	r.mu.Lock()
	r.begun = true
	if copied, err := os.Stat(newest); err == nil {
		r.last = copied.ModTime()
	}
	r.mu.Unlock()
	if s.txid(newest) != s.txid(s.path()) && len(s.names.collections) > 0 {
		changes = 1
	}
	r.changed(s, changes)
}

func (s *Store) txid(path string) uint64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	if err != nil {
		return 0
	}
	return im.txid
}

// changed counts changes, and copies when it is time.
func (r *rotation) changed(s *Store, n int) {
	wanted := due
	if s.hooks.backup != nil {
		wanted = s.hooks.backup
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes += n
	now := s.now()
	if r.running || !r.begun || r.stopped || s.readOnly != nil || !wanted(r.last, r.changes, now) {
		return
	}
	r.running, r.changes, r.last = true, 0, now
	r.all.Go(func() {
		if err := s.Backup(); err != nil {
			s.log.Warn("no copy of the store was made", "err", err)
		}
		r.mu.Lock()
		r.running = false
		r.mu.Unlock()
	})
}

func (r *rotation) stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.all.Wait()
}

// errNotCopied is why a damaged store is not copied.
var errNotCopied = errors.New("the store is damaged, and the copies from before are kept")

// Backup copies the database to keyrings.db.1, what was there to keyrings.db.2,
// and so on, and drops the oldest. A store in which there is damage that could
// not be undone is not copied, so that the copies that have what it lacks stay.
// It is done by itself from time to time; two at once wait for each other.
func (s *Store) Backup() error {
	s.copying.Lock()
	defer s.copying.Unlock()
	if err := s.prove(); err != nil {
		return err
	}
	temp := s.path() + ".copy"
	err := s.writeFile(temp, func(f *os.File) error {
		return s.view(func(tx *bolt.Tx) error {
			_, err := tx.WriteTo(f)
			return err
		})
	})
	if err != nil {
		return unwritten("copy", err)
	}
	if err := s.checkFile(temp); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	for n := generations; n > 1; n-- {
		if err := os.Rename(s.copyPath(n-1), s.copyPath(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unwritten("copy", err)
		}
	}
	if err := os.Rename(temp, s.copyPath(1)); err != nil {
		return unwritten("copy", err)
	}
	return atomicfile.SyncDir(s.dir)
}

// prove looks whether the copies have something that the store itself lacks, and
// puts it right where it can. A few copies later nothing would have it any more.
func (s *Store) prove() error {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.collections))
	s.mu.Unlock()
	for _, c := range all {
		c.mu.RLock()
		inner, suspect := c.inner, c.suspect
		c.mu.RUnlock()
		if suspect != nil {
			return errNotCopied // until it is unlocked
		}
		if inner != nil {
			c.prove(inner)
		}
	}
	for _, d := range s.Damage() {
		if !d.Restored {
			return errNotCopied
		}
	}
	return nil
}

// prove reads every record, as damage in one that nobody reads shows nowhere
// else, and mends those that are in a copy.
func (c *collection) prove(inner *innerKeys) {
	var bad []uint64
	err := c.read(func(at buckets) error {
		return at.items.ForEach(func(k, v []byte) error {
			rec, err := parseRecord(v)
			if err == nil {
				if _, ok := inner.authentic(c.id, number(k), rec); ok {
					return nil
				}
			}
			bad = append(bad, number(k))
			return nil
		})
	})
	if err != nil || len(bad) == 0 {
		return // what cannot be read at all cannot be copied either
	}
	there := candidates(inner, c.id, c.s.sources(c.id, ""))
	for _, n := range bad {
		if len(there[n]) > 0 {
			c.mend(inner, n)
		}
	}
}

func (s *Store) copyPath(n int) string { return s.path() + "." + strconv.Itoa(n) }

// copies returns the paths of all copies, the newest first.
func (s *Store) copies() []string {
	var paths []string
	for n := 1; n <= generations; n++ {
		if _, err := os.Stat(s.copyPath(n)); err == nil {
			paths = append(paths, s.copyPath(n))
		}
	}
	return paths
}
