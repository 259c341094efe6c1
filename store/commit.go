package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/keyring"
)

// writers are those who want to write. The first writes at once; who comes while
// that one waits for the disk is put together with others into one transaction.
type writers struct {
	mu    sync.Mutex
	queue []*op
	busy  bool           // somebody writes, and will call the first of the queue
	all   sync.WaitGroup // calls of update
}

func (w *writers) wait() { w.all.Wait() }

// An op is one change. do looks before it writes: an error that comes first
// changes nothing, one that comes later costs the others a second try.
type op struct {
	do   func(*batch) error
	err  error
	done bool          // somebody else has done it
	turn chan struct{} // it is done, or it is the turn of who waits for it to write
}

// update makes one change, which is on disk when it returns.
func (s *Store) update(do func(*batch) error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return problem(keyring.ErrUnavailable, "the store is closed")
	}
	w := &s.turns
	w.all.Add(1)
	s.mu.Unlock()
	defer w.all.Done()

	o := &op{do: do, turn: make(chan struct{}, 1)}
	w.mu.Lock()
	w.queue = append(w.queue, o)
	first := !w.busy
	w.busy = true
	w.mu.Unlock()
	if !first {
		if <-o.turn; o.done {
			return o.err
		}
	}
	w.mu.Lock()
	group := w.queue
	w.queue = nil
	w.mu.Unlock()
	s.write(group)

	w.mu.Lock()
	if len(w.queue) > 0 {
		w.queue[0].turn <- struct{}{}
	} else {
		w.busy = false
	}
	w.mu.Unlock()
	for _, other := range group {
		if other != o {
			other.done = true
			other.turn <- struct{}{}
		}
	}
	return o.err
}

// errAlone is that a group has to be tried one by one.
var errAlone = errors.New("one of several changes went wrong in the middle")

func (s *Store) write(group []*op) {
	if err := s.transact(group); errors.Is(err, errAlone) && len(group) > 1 {
		for _, o := range group {
			_ = s.transact([]*op{o}) // it is o.err
		}
	}
}

// transact makes the changes of a group in one transaction, and sets their
// errors.
func (s *Store) transact(group []*op) error {
	fail := func(err error) error {
		for _, o := range group {
			if o.err == nil || errors.Is(err, errAlone) {
				o.err = err
			}
		}
		return err
	}
	for _, o := range group {
		o.err = nil
	}
	if s.readOnly != nil {
		return fail(unwritten("the store is read-only", s.readOnly))
	}
	if err := s.settle(); err != nil {
		return fail(unwritten("the store waits for a disk that works", err))
	}
	b := &batch{s: s, touched: map[*collection]*change{}}
	good, err := s.commit(b, group)
	if err != nil && good > 0 {
		s.uncertain(good, err)
		err = unwritten("write", err)
	}
	if err != nil {
		return fail(err)
	}
	if b.writes > 0 {
		for _, f := range b.after {
			f()
		}
		s.backups.changed(s, len(group))
	}
	return nil
}

// commit runs a group. good is not 0 if it came as far as writing to the disk:
// the transaction before.
func (s *Store) commit(b *batch, group []*op) (good uint64, err error) {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	err = protect(func() error {
		if b.tx, err = s.db.Begin(true); err != nil {
			return problem(keyring.ErrUnavailable, "%w", err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	defer func() { _ = protect(b.tx.Rollback) }() // says so if it is over already
	before := uint64(b.tx.ID()) - 1
	err = protect(func() error {
		for _, o := range group {
			writes := b.writes
			if o.err = o.do(b); o.err != nil && b.writes != writes {
				if len(group) > 1 {
					return errAlone
				}
				return o.err
			}
		}
		return b.finish()
	})
	if err != nil || b.writes == 0 {
		return 0, err
	}
	return before, protect(b.tx.Commit)
}

// view reads.
func (s *Store) view(fn func(*bolt.Tx) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	return viewDB(s.db, fn)
}

func viewDB(db *bolt.DB, fn func(*bolt.Tx) error) error {
	return protect(func() error {
		tx, err := db.Begin(false)
		if err != nil {
			return problem(keyring.ErrUnavailable, "%w", err)
		}
		defer func() { _ = tx.Rollback() }()
		return fn(tx)
	})
}

// protect turns a panic of the engine's, and a fault where a page should be,
// into an error.
func protect(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		switch r := recover().(type) {
		case nil:
		case runtime.Error:
			err = damaged("the database: %v", r)
		case string:
			err = damaged("the database: %s", r) // the engine names pages and numbers
		default:
			err = damaged("the database: %T", r)
		}
	}()
	return fn()
}

// uncertain is called when a transaction was not acknowledged. Where the disk
// was merely full nothing of it counts, and the engine has undone it. Otherwise
// the kernel may have kept some of it, and calls pages clean that are not on the
// disk: nothing is written to that file any more, but the state before it is
// copied to a new one.
func (s *Store) uncertain(good uint64, cause error) {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	var path *fs.PathError
	if (errors.As(cause, &path) && path.Op == "write" && full(cause)) || strings.HasPrefix(cause.Error(), "file resize error") {
		var now uint64
		if viewDB(s.db, func(tx *bolt.Tx) error { now = uint64(tx.ID()); return nil }) == nil && now == good {
			s.log.Error("there is no room for the store", "err", cause)
			return
		}
	}
	s.log.Error("the store's file is given up after a failed write, and copied", "err", cause)
	from, err := os.Open(s.path())
	if err == nil {
		err = s.replace(from, good)
		if err != nil {
			s.log.Error("there is no new file for the store either: it is read from memory until there is", "err", err)
			s.unfit = err
			err = s.toMemory(from, good)
		}
		err = errors.Join(err, from.Close())
	}
	if err != nil {
		s.unfit = errors.Join(cause, err)
		s.log.Error("the store cannot be copied to memory", "err", err)
	}
}

// settle brings a store that lives in memory back to the disk.
func (s *Store) settle() error {
	// Without waiting for readers, of which a copy being made is a slow one.
	s.dbMu.RLock()
	fit := s.unfit == nil
	s.dbMu.RUnlock()
	if fit {
		return nil
	}
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	if s.unfit == nil {
		return nil
	}
	var good uint64
	if err := viewDB(s.db, func(tx *bolt.Tx) error { good = uint64(tx.ID()); return nil }); err != nil {
		return err
	}
	if err := s.replace(s.file, good); err != nil {
		return err
	}
	s.log.Info("the store is on disk again")
	s.unfit = nil
	return nil
}

// replace puts a copy of a database, as it was after transaction good, in the
// place of keyrings.db, and opens it. dbMu is held.
func (s *Store) replace(from *os.File, good uint64) error {
	temp := s.path() + ".new"
	err := s.writeFile(temp, func(to *os.File) error { return copyUntil(to, from, good) })
	if err != nil {
		return err
	}
	next, file, err := s.openBolt(temp, false)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, s.path()); err != nil {
		return errors.Join(err, next.Close())
	}
	s.exchange(next, file)
	return atomicfile.SyncDir(s.dir)
}

// exchange uses another database from now on. dbMu is held.
func (s *Store) exchange(next *bolt.DB, file *os.File) {
	old := s.db
	s.db, s.file = next, file
	if old != nil {
		if err := protect(old.Close); err != nil {
			s.log.Warn("the former database does not close", "err", err)
		}
	}
}

// toMemory is replace without a disk: the copy can be read only.
func (s *Store) toMemory(from *os.File, good uint64) error {
	fd, err := unix.MemfdCreate("keyrings.db", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	// The engine opens its file itself, by the name that the kernel has for it.
	to := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	err = copyUntil(to, from, good)
	if err == nil {
		var next *bolt.DB
		var file *os.File
		if next, file, err = s.openBolt(to.Name(), true); err == nil {
			s.exchange(next, file)
		}
	}
	return errors.Join(err, to.Close())
}

// copyUntil copies a database as it was after transaction good.
func copyUntil(to, from *os.File, good uint64) error {
	stat, err := from.Stat()
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, io.NewSectionReader(from, 0, stat.Size())); err != nil {
		return err
	}
	if err := undo(to, good); err != nil {
		return err
	}
	im, err := readImage(to)
	if err != nil {
		return err
	}
	return im.check(nil)
}

// writeFile makes a new file that is on disk when it returns; if that fails
// there is none.
func (s *Store) writeFile(path string, fill func(*os.File) error) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.openFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

func (s *Store) openFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	if s.hooks.openFile != nil {
		return s.hooks.openFile(name, flag, perm)
	}
	return os.OpenFile(name, flag, perm)
}

func (s *Store) path() string { return s.inDir(database) }

func (s *Store) inDir(name string) string { return filepath.Join(s.dir, name) }
