package store

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// Options say where a store is and what binds it to the machine.
type Options struct {
	// Dir is the data folder, made with mode 0700 if it is not there.
	Dir string
	// Index seals the index key, with no PIN; nil: it is a file of mode 0600.
	Index keyring.Sealer
	// TPM is what TPM slots are made with; nil: there can be none.
	TPM keyring.Sealer
	// Log hears of damage, repairs and backups; nil: slog.Default().
	Log *slog.Logger
	// InUse is called, at most once, if another process has the store open, with
	// the error that says so. Open then waits until that one ends. nil: it is
	// Open's error.
	InUse func(error)
	// Now tells the time of what is written; nil: time.Now.
	Now func() time.Time

	hooks hooks
}

// hooks are for tests.
type hooks struct {
	cost     cost                                                  // zero: the usual one
	openFile func(string, int, os.FileMode) (*os.File, error)      // nil: os.OpenFile
	backup   func(last time.Time, changes int, now time.Time) bool // nil: due

	inspected func() // called when a collection that is to be unlocked was looked at
}

// A Store is the collections on disk. It implements keyring.CollectionStore. All
// methods may be called concurrently. One process at a time may have it open.
type Store struct {
	dir         string
	indexSealer keyring.Sealer
	tpm         keyring.Sealer
	log         *slog.Logger
	now         func() time.Time
	cost        cost
	hooks       hooks

	stretching chan struct{} // holds one while a passphrase is being stretched
	lock       *os.File      // keyrings.lock
	readOnly   error         // why nothing can be written; nil: it can

	// dbMu is held for reading as long as db is in use, which is while pages are
	// read; whoever exchanges the file waits for them.
	dbMu  sync.RWMutex
	db    *bolt.DB
	file  *os.File // db's
	unfit error    // what happened to the file on disk; db is a copy in memory

	// turns orders writers: see update.
	turns writers

	keyMu    sync.Mutex // held while an index key is being made
	indexKey secret.Bytes
	// noIndexKey is why there was none when the store was opened.
	noIndexKey error

	mu          sync.Mutex
	names       *directory
	collections map[string]*collection
	damage      []Damage
	closed      bool

	copying sync.Mutex // held while a copy is made
	backups rotation
}

var _ keyring.CollectionStore = (*Store)(nil)

// A Damage is something on disk that was not as it was written.
type Damage struct {
	Collection string // "": the store as a whole
	Item       string // "": the collection as a whole, or it is not known which
	What       string // a sentence
	// Restored reports that the item is there again. If What does not say
	// otherwise, it is exactly what was lost.
	Restored bool
	Time     time.Time // when it was found
}

// Damage lists what was found since the store was opened, the oldest first.
func (s *Store) Damage() []Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.damage)
}

// report notes damage and logs it.
func (s *Store) report(d Damage) {
	d.Time = s.now()
	s.mu.Lock()
	s.damage = append(s.damage, d)
	s.mu.Unlock()
	s.log.Error("damage in the store: "+d.What, "collection", d.Collection, "item", d.Item, "restored", d.Restored)
}

// Collections lists all of them, the oldest first.
func (s *Store) Collections() []keyring.Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]keyring.Collection, 0, len(s.names.collections))
	for _, id := range s.names.collections {
		if c := s.collections[id]; c != nil {
			list = append(list, c)
		}
	}
	return list
}

// maxID is how long the ID of a collection can be; it is part of file names'
// and object paths' limits elsewhere.
const maxID = 64

// validID reports whether id can name a collection here. "session" is the name
// of the one in memory.
func validID(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return id != "" && id != "session" && len(id) <= maxID
}

// newID returns an ID that says nothing: 80 bits of letters and digits.
func newID() string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return string(b)
}

// Create makes a collection; see keyring.CollectionStore.
func (s *Store) Create(ctx context.Context, id, label string, c keyring.Credential) (keyring.Lockable, error) {
	if id == "" {
		id = newID()
	}
	if !validID(id) {
		return nil, problem(keyring.ErrUnsupported, "%q cannot be a collection's ID", id)
	}
	if s.named(id) {
		return nil, problem(keyring.ErrUnsupported, "collection %s: %w", id, fs.ErrExist)
	}
	if c.Kind == keyring.SlotRecovery {
		return nil, problem(keyring.ErrUnsupported, "a recovery code is added to a collection that has another slot")
	}
	ck, xk := newKey(), newKey()
	first, code, err := s.newSlot(ctx, id, 1, c, ck)
	code.Wipe()
	if err == nil {
		err = s.withIndexKey(ctx, func(secret.Bytes) error { return nil })
	}
	if err != nil {
		ck.Wipe()
		xk.Wipe()
		return nil, err
	}
	now := s.now().UnixNano()
	made := &collection{
		s: s, id: id, inner: newInnerKeys(ck), outer: newOuterKeys(xk), slots: []*slot{first},
		state: &state{label: label, created: now, modified: now, next: 1, nextSlot: 2},
	}
	err = s.update(func(b *batch) error { return b.create(made) })
	if err != nil {
		made.forget()
		return nil, err
	}
	return made, nil
}

// withIndexKey calls use with the store's index key, which is made if need be.
func (s *Store) withIndexKey(ctx context.Context, use func(secret.Bytes) error) error {
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		// Close waits for keyMu before others may have the folder.
		return problem(keyring.ErrUnavailable, "the store is closed")
	}
	key, err := s.ensureIndexKey(ctx)
	if err != nil {
		return err
	}
	return use(key)
}

func (s *Store) named(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names.collections, id)
}

// Delete removes a collection; see keyring.CollectionStore. The copies of the
// database have it until they are replaced.
func (s *Store) Delete(id string) error {
	s.mu.Lock()
	c := s.collections[id]
	s.mu.Unlock()
	err := s.update(func(b *batch) error { return b.remove(id) })
	if err == nil && c != nil {
		c.forget()
	}
	return err
}

// Aliases lists the names for collections.
func (s *Store) Aliases() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.names.aliases)
}

// maxAliases and maxAlias bound what every write of the directory has to write.
const (
	maxAliases = 256
	maxAlias   = 256
)

// SetAlias names a collection, which must be there; see
// keyring.CollectionStore.
func (s *Store) SetAlias(name, id string) error {
	if name == "" || len(name) > maxAlias {
		return problem(keyring.ErrUnsupported, "an alias has from 1 to %d bytes", maxAlias)
	}
	return s.update(func(b *batch) error {
		names := b.directory()
		old, had := names.aliases[name]
		switch {
		case old == id && (had || id == ""):
			return nil
		case id == "":
			delete(names.aliases, name)
		case !slices.Contains(names.collections, id):
			return problem(keyring.ErrNotFound, "there is no collection %s", id)
		case !had && len(names.aliases) >= maxAliases:
			return problem(keyring.ErrUnsupported, "there are %d aliases already", maxAliases)
		default:
			names.aliases[name] = id
		}
		return b.putDirectory(names)
	})
}

// Close locks all collections and gives the store to others. It waits for what
// is being written.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	all := slices.Collect(maps.Values(s.collections))
	s.mu.Unlock()
	s.backups.stop()
	s.turns.wait()
	for _, c := range all {
		c.forget()
	}
	s.keyMu.Lock()
	s.indexKey.Wipe()
	s.keyMu.Unlock()
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	err := s.db.Close()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}
