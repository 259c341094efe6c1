package keyring

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"github.com/keyringd/keyringd/internal/secret"
)

// Names of collections and aliases that mean something to clients.
const (
	// LoginCollection is the ID, and an alias, of the collection that the login
	// password opens.
	LoginCollection = "login"
	// SessionCollection is the ID, and an alias, of the collection in memory.
	SessionCollection = "session"
	// DefaultAlias is where programs keep things that name no collection.
	DefaultAlias = "default"
)

const loginLabel = "Login"

// Secrets is every collection that the user has, and the rules for using them:
// when the user is asked, and who is told of changes.
//
// One collection, [SessionCollection], lives in memory: it is always there,
// never locked, and cannot be deleted. All others are the store's. As long as
// the store has no [LoginCollection], there seems to be one, empty and locked:
// Unlock makes it, after it asked for a passphrase, so that programs which only
// know how to unlock need not know how to make one.
//
// The fields are set before the first call. All methods may be called
// concurrently; no lock is held while a question is open or while a store or a
// TPM is at work. Errors are ctx's or wrap one of [Errors].
type Secrets struct {
	// Log gets a line for each program that begins to read secrets, and for what
	// goes wrong without anybody being told; nil: none.
	Log *slog.Logger
	// TPM says that there is a TPM to seal with: who types a passphrase is offered
	// to be asked no more.
	TPM bool

	gate    *Gate
	session *Memory
	opened  chan struct{} // closed once held is set
	held    atomic.Pointer[storage]

	mu       sync.Mutex
	states   map[string]*lockState // by collection
	flights  map[string]*flight
	watchers map[*watcher]struct{}
	lines    map[string]*lines // in the log, by what they are about
}

// A storage is what became of opening the store.
type storage struct {
	store      CollectionStore // nil: none
	unreadable error           // why there is none, where there should be one
}

// A lockState is how a collection came to be locked.
type lockState struct {
	locks  uint64 // how often it was
	byHand bool   // by the user's own wish, and not unlocked since
}

// NewSecrets returns the collections of store, and one in memory, which are
// unlocked through g. store may be nil.
func NewSecrets(g *Gate, store CollectionStore) *Secrets {
	s := OpeningSecrets(g)
	s.SetStore(store, nil)
	return s
}

// OpeningSecrets returns collections whose store is still being opened. Whoever
// needs it waits until SetStore was called, so that nobody takes what is not
// there yet for missing; see Opened.
func OpeningSecrets(g *Gate) *Secrets {
	return &Secrets{
		gate:     g,
		session:  NewMemory(SessionCollection, "Session"),
		opened:   make(chan struct{}),
		states:   map[string]*lockState{},
		flights:  map[string]*flight{},
		watchers: map[*watcher]struct{}{},
		lines:    map[string]*lines{},
	}
}

// SetStore says which store there is, or why there is none where there should
// be one. What would need it fails then, searches too: "nothing was found" makes
// programs replace keys which are only out of reach. It is called once, and once
// more if a store that was out of reach was opened after all. Calls are made one
// after the other.
func (s *Secrets) SetStore(store CollectionStore, unreadable error) {
	if before := s.held.Swap(&storage{store, unreadable}); before == nil {
		close(s.opened)
		return
	}
	s.tell(Everything, ourselves, "", "")
}

// Opened is closed once it is known which store there is. From then on no method
// waits for that.
func (s *Secrets) Opened() <-chan struct{} { return s.opened }

// Unreadable returns why the store cannot be read, or nil.
func (s *Secrets) Unreadable() error {
	<-s.opened
	return s.held.Load().unreadable
}

// store returns the store, nil where there is none; ErrUnavailable where there
// should be one.
func (s *Secrets) store() (CollectionStore, error) {
	if err := s.Unreadable(); err != nil {
		return nil, fmt.Errorf("%w: the stored keyrings cannot be read: %w", ErrUnavailable, err)
	}
	return s.held.Load().store, nil
}

// An unborn is the login collection while there is none.
type unborn struct{}

func (unborn) Info() CollectionInfo {
	return CollectionInfo{ID: LoginCollection, Label: loginLabel, Locked: true}
}
func (unborn) Items() ([]string, error)                   { return nil, nil }
func (unborn) Search(map[string]string) ([]string, error) { return nil, nil }
func (unborn) Item(id string) (ItemInfo, error)           { return ItemInfo{}, noItem(id) }
func (unborn) Secret(id string) (secret.Bytes, error)     { return secret.Bytes{}, noItem(id) }
func (unborn) Create(NewItem, bool) (string, bool, error) { return "", false, errUnborn }
func (unborn) Change(id string, _ ItemChange) error       { return noItem(id) }
func (unborn) Delete(id string) error                     { return noItem(id) }
func (unborn) SetLabel(string) error                      { return errUnborn }
func (unborn) Lock()                                      {}

func noItem(id string) error {
	return fmt.Errorf("item %s of %s: %w", id, LoginCollection, ErrNotFound)
}

// errUnborn is what a collection says that is yet to be made. Unlocking makes
// it, and so it passes for locked.
var errUnborn = fmt.Errorf("there is no login keyring yet: %w", ErrLocked)

// all lists the collections: the store's, and last the one in memory.
func (s *Secrets) all() ([]Collection, error) {
	store, err := s.store()
	if err != nil {
		return []Collection{s.session}, err
	}
	var list []Collection
	if store != nil {
		list = store.Collections()
		if !has(list, LoginCollection) {
			list = append([]Collection{unborn{}}, list...)
		}
	}
	return append(list, s.session), nil
}

func has(list []Collection, id string) bool {
	for _, c := range list {
		if c.Info().ID == id {
			return true
		}
	}
	return false
}

// find returns one collection.
func (s *Secrets) find(id string) (Collection, error) {
	if id == SessionCollection {
		return s.session, nil
	}
	list, err := s.all()
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if c.Info().ID == id {
			return c, nil
		}
	}
	return nil, noCollection(id)
}

func noCollection(id string) error { return fmt.Errorf("collection %s: %w", id, ErrNotFound) }

// stored returns one of the store's collections: ErrUnsupported for the one in
// memory, errUnborn for the one to be made.
func (s *Secrets) stored(id string) (Lockable, error) {
	c, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if _, ok := c.(unborn); ok {
		return nil, errUnborn
	}
	if l, ok := c.(Lockable); ok {
		return l, nil
	}
	return nil, fmt.Errorf("collection %s has no lock: %w", id, ErrUnsupported)
}

// existing is stored for what does not make the login collection.
func (s *Secrets) existing(id string) (Lockable, error) {
	l, err := s.stored(id)
	if errors.Is(err, errUnborn) {
		err = fmt.Errorf("there is no login keyring yet: %w", ErrNotFound)
	}
	return l, err
}

// Collections lists all collections, the one in memory last. Without a store
// that can be read, it is the only one.
func (s *Secrets) Collections() []CollectionInfo {
	list, _ := s.all()
	infos := make([]CollectionInfo, len(list))
	for i, c := range list {
		infos[i] = c.Info()
	}
	return infos
}

// Collection returns what may be said of one collection.
func (s *Secrets) Collection(id string) (CollectionInfo, error) {
	c, err := s.find(id)
	if err != nil {
		return CollectionInfo{}, err
	}
	return c.Info(), nil
}

// Alias returns the ID of the collection that goes by a name. [DefaultAlias] is
// the login collection, unless set otherwise. Also where the store cannot be
// read there is one: it only cannot be had, see Collection.
func (s *Secrets) Alias(name string) (id string, ok bool) {
	switch name {
	case SessionCollection:
		return SessionCollection, true
	case LoginCollection, DefaultAlias:
		id = LoginCollection
	}
	list, err := s.all()
	if err != nil {
		return id, id != ""
	}
	if store, err := s.store(); err == nil && store != nil && name != LoginCollection {
		if set := store.Aliases()[name]; set != "" && has(list, set) {
			id = set
		}
	}
	return id, id != "" && has(list, id)
}

// SetAlias makes name mean a collection of the store, or, with an empty id,
// nothing any more. The names login and session cannot be set.
func (s *Secrets) SetAlias(name, id string) error {
	if name == "" || name == LoginCollection || name == SessionCollection || id == SessionCollection {
		return fmt.Errorf("alias %q for %q: %w", name, id, ErrUnsupported)
	}
	store, err := s.store()
	if err != nil {
		return err
	}
	if id != "" {
		if _, err := s.find(id); err != nil {
			return err
		}
	}
	if store == nil {
		return fmt.Errorf("aliases without a store: %w", ErrUnsupported)
	}
	if name == DefaultAlias && id == LoginCollection {
		id = "" // that is what it is when it is not set, and also before there is one
	}
	if err := store.SetAlias(name, id); err != nil {
		return fmt.Errorf("alias %s: %w", name, err)
	}
	return nil
}

// use is a use of a collection, for the Gate.
func (s *Secrets) use(info CollectionInfo, c Caller, reason string) Use {
	return Use{ID: useID(info.ID), Subject: subject(info.Label), Caller: c, Reason: reason}
}

func useID(collection string) string { return "collection " + collection }

// maxLabel is how many characters of a label are shown in a question.
const maxLabel = 60

// subject is what the user calls a collection. Its label may come from any
// program, so that nothing in it may pass for another part of the question.
func subject(label string) string {
	label = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(label, " "))
	if runes := []rune(label); len(runes) > maxLabel {
		label = string(runes[:maxLabel-1]) + "…"
	}
	return fmt.Sprintf("keyring “%s”", strings.TrimSpace(label))
}

// ourselves is the caller where the daemon acts on its own.
var ourselves = Caller{FrontEnd: "keyringd", Process: "keyringd"}

// log is where lines go.
func (s *Secrets) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}
