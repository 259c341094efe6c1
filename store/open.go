package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/keyring"
)

const (
	database = "keyrings.db"
	lockFile = "keyrings.lock"

	// mapped is how much address space the database starts with, so that growing
	// does not have to wait for readers.
	mapped = 64 << 20
	// grown is by how much the file grows at a time; each time costs a sync.
	grown = 256 << 10
)

// Open opens the store in a folder, or makes an empty one if there has never
// been one. Damage is repaired as far as it can be, see [Store.Damage]; what
// cannot be read at all is an error, and so is a store that another process has
// open, unless Options.InUse wants to wait for it. ctx is for that wait and for the
// TPM, which may have to unseal the index key.
//
// Where the folder cannot be written to the store is read-only: everything that
// would write fails.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{
		dir: o.Dir, indexSealer: o.Index, tpm: o.TPM, log: o.Log, now: o.Now, hooks: o.hooks, cost: o.hooks.cost,
		stretching: make(chan struct{}, 1), names: &directory{aliases: map[string]string{}}, collections: map[string]*collection{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.cost == (cost{}) {
		s.cost = usualCost()
	}
	if err := s.open(ctx, o.InUse); err != nil {
		s.indexKey.Wipe()
		if s.db != nil {
			err = errors.Join(err, protect(s.db.Close))
		}
		if s.lock != nil {
			err = errors.Join(err, s.lock.Close())
		}
		return nil, fmt.Errorf("store %s: %w", s.dir, err)
	}
	s.backups.begin(s)
	return s, nil
}

func (s *Store) open(ctx context.Context, inUse func(error)) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return problem(keyring.ErrUnavailable, "%w", err)
	}
	if stat, err := os.Stat(s.dir); err == nil && stat.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(s.dir, 0o700); err != nil {
			s.log.Warn("the data folder is open to others", "err", err)
		}
	}
	if err := s.takeLock(ctx, inUse); err != nil {
		return err
	}
	s.loadIndexKey(ctx)
	if err := s.openDatabase(); err != nil {
		if errors.Is(err, keyring.ErrUnavailable) || errors.Is(err, keyring.ErrUnsupported) {
			return err
		}
		return problem(keyring.ErrUnavailable, "%w", err)
	}
	return s.load()
}

// openDatabase opens keyrings.db after it was checked, or what is left of it.
func (s *Store) openDatabase() error {
	err := s.checkFile(s.path())
	if errors.Is(err, errHalf) && s.readOnly == nil {
		err = s.recoverHead()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = s.noDatabase()
	case errors.Is(err, errImage):
		err = s.recoverDatabase(err)
	}
	if err != nil {
		return err
	}
	s.db, s.file, err = s.openBolt(s.path(), s.readOnly != nil)
	if notWritable(err) {
		s.readOnly = err
		s.db, s.file, err = s.openBolt(s.path(), true)
	}
	if s.readOnly != nil {
		s.log.Warn("the store is read-only", "err", s.readOnly)
	}
	return err
}

// checkFile checks a database before it is opened: its pages, and that all is in
// it that makes a store.
func (s *Store) checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	if err != nil {
		return err
	}
	var version byte
	var names *directory
	parts := map[string]int{}
	err = im.check(func(path []string, key, value []byte) error {
		switch {
		case len(path) == 1 && value == nil && slices.Contains([]string{itemsBucket, indexBucket, slotsBucket}, string(key)):
			parts[path[0]]++
		case len(path) == 1 && string(key) == lostKey:
			parts[path[0]] = 3 // nothing more can be done
		case len(path) != 1 || path[0] != topBucket:
		case string(key) == directoryKey:
			names, _ = decodeDirectory(value) // nil if it is damaged
		case string(key) == formatKey:
			version = formatOf(value)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case im.half:
		return errHalf
	case version > format:
		return problem(keyring.ErrUnsupported, "it was made by a newer keyringd")
	case version != format || names == nil:
		return fmt.Errorf("%w: its directory is not readable", errImage)
	}
	for _, id := range names.collections {
		if parts[collectionPrefix+id] != 3 {
			return fmt.Errorf("%w: collection %s is not whole", errImage, id)
		}
	}
	return nil
}

// openBolt opens a database that is there. The engine would make one of what is
// empty or missing.
func (s *Store) openBolt(path string, readOnly bool) (db *bolt.DB, file *os.File, err error) {
	err = protect(func() error {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockWait, ReadOnly: readOnly, InitialMmapSize: mapped, FreelistType: bolt.FreelistMapType, NoStatistics: true,
			OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
				file, err = s.openFile(name, flag&^os.O_CREATE, perm)
				return file, err
			},
		})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	db.AllocSize = grown
	return db, file, nil
}

// noDatabase makes an empty store where there has never been one.
func (s *Store) noDatabase() error {
	if _, err := os.Lstat(s.path()); err == nil {
		return problem(keyring.ErrUnavailable, "%s is a link to what is not there; hint: bring that back", database)
	}
	if len(s.copies()) > 0 {
		return s.recoverDatabase(fmt.Errorf("%s is gone: %w", database, fs.ErrNotExist))
	}
	for _, trace := range []string{indexKeyFile, database + ".corrupt-*"} {
		if found, _ := filepath.Glob(filepath.Join(globEscape(s.dir), trace)); len(found) > 0 {
			return problem(keyring.ErrUnavailable,
				"%s is gone, and so are its copies; hint: bring it back, or move %s away to begin anew", database, found[0])
		}
	}
	if s.readOnly != nil {
		return s.readOnly
	}
	return s.build(func(tx *bolt.Tx) error {
		return putTop(tx, s.names)
	})
}

// putTop writes the bucket that makes a database ours.
func putTop(tx *bolt.Tx, names *directory) error {
	top, err := tx.CreateBucketIfNotExists([]byte(topBucket))
	if err != nil {
		return err
	}
	if err := top.Put([]byte(formatKey), markOf(format)); err != nil {
		return err
	}
	return top.Put([]byte(directoryKey), names.encode())
}

// build makes a new database and puts it in place of keyrings.db, whole or not
// at all.
func (s *Store) build(fill func(*bolt.Tx) error) error {
	temp := s.path() + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := protect(func() error {
		db, err := bolt.Open(temp, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType, NoStatistics: true})
		if err != nil {
			return err
		}
		return errors.Join(db.Update(fill), db.Close())
	})
	if err == nil {
		err = s.checkFile(temp)
	}
	if err == nil {
		err = s.place(temp)
	}
	if err != nil {
		_ = os.Remove(temp)
		return unwritten(database, err)
	}
	return nil
}

// place makes a file that is on disk keyrings.db.
func (s *Store) place(temp string) error {
	f, err := os.Open(temp)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, s.path()); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.dir)
}

// readFull reads until b is full or the file ends.
func readFull(r io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(r, b)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// globEscape makes a folder's name stand for itself in a pattern.
func globEscape(dir string) string {
	b := make([]byte, 0, len(dir))
	for _, c := range []byte(dir) {
		if c == '*' || c == '?' || c == '[' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return string(b)
}
