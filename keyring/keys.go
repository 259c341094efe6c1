package keyring

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keyringd/keyringd/internal/secret"
)

// Keys is every key that can be used now, gathered from sources such as a
// folder of key files. All methods may be called concurrently, and none but
// Sign, Decrypt and Derive ever waits for a prompt, a device or a file: readers
// look at a snapshot that is never changed, only succeeded.
type Keys struct {
	// Passphrases returns what becomes the use's Recall and Keep, for a key in an
	// ordinary file whose passphrase the user need not type again; either may be
	// nil. It never gets a TPM key: a PIN is worth nothing without that TPM, and
	// its wrong tries are counted. nil: that is not offered. It is set before the
	// first Sign; see [Secrets.Passphrases].
	Passphrases func(c Caller, key KeyInfo) (recall func(context.Context) (secret.Bytes, bool), keep func(context.Context, secret.Bytes))
	// Demand reports whether each use of a key wants the user's permission
	// although the key itself does not ask for that. It is the user's setting,
	// set before the first Replace, and like a key's own wish it is in
	// KeyInfo.Confirm. It is called with locks held and looks at nothing else.
	// nil: no key.
	Demand func(KeyInfo) bool

	gate *Gate
	now  atomic.Pointer[snapshot]

	mu       sync.Mutex // one writer at a time
	sources  map[string][]holding
	watchers map[chan struct{}]struct{}
	revision uint64 // the last KeyInfo.Revision given out
}

// A snapshot is the whole set at one moment. It is immutable.
type snapshot struct {
	generation uint64
	list       []KeyInfo
	all        []holding     // one for each key, in no order
	byID       map[KeyID]int // in all
}

func (s *snapshot) find(id KeyID) (holding, bool) {
	i, ok := s.byID[id]
	if !ok {
		return holding{}, false
	}
	return s.all[i], true
}

// A holding is a key with what it said of itself when its source gave it.
type holding struct {
	key  Key
	info KeyInfo // with the revision that Keys gave it
}

// NewKeys returns an empty set whose keys are used through g.
func NewKeys(g *Gate) *Keys {
	k := &Keys{
		gate:     g,
		sources:  map[string][]holding{},
		watchers: map[chan struct{}]struct{}{},
	}
	k.now.Store(&snapshot{})
	return k
}

// Replace makes keys the whole set of one source, at once: no reader sees half
// of it. Keys with the same KeyID become one identity, whichever source they
// come from: it signs with a TPM key rather than an added one, and with either
// rather than a key file; it has that key's label, all their paths, and asks
// for confirmation where any of them does.
//
// What the Gate remembered of a key that is gone, or that is another object
// now, is forgotten. Replace asks each key for its Info once; it takes the
// slice's contents and does not keep the slice.
func (k *Keys) Replace(source string, keys []Key) {
	holdings := make([]holding, len(keys))
	for i, key := range keys {
		holdings[i] = holding{key, key.Info()}
	}
	before, after := k.replace(source, holdings)
	// The new snapshot is in place before anything is forgotten, so that no use
	// which begins in between remembers a value for the old key.
	for _, old := range before.all {
		if now, _ := after.find(old.info.ID); !sameKey(old.key, now.key) {
			k.gate.Forget(old.info.ID.String())
		}
	}
}

// Refresh asks every key for its Info again, for a key that has learnt something
// of itself in use.
func (k *Keys) Refresh() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, holdings := range k.sources {
		for i := range holdings {
			revision := holdings[i].info.Revision
			holdings[i].info = holdings[i].key.Info()
			holdings[i].info.Revision = revision
		}
	}
	k.publishLocked()
}

func (k *Keys) replace(source string, holdings []holding) (before, after *snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.numberLocked(k.sources[source], holdings)
	if len(holdings) == 0 {
		delete(k.sources, source)
	} else {
		k.sources[source] = holdings
	}
	return k.publishLocked()
}

// numberLocked gives holdings with files their revisions: the one that the same
// object had before, or a new one.
func (k *Keys) numberLocked(before, now []holding) {
	if !slices.ContainsFunc(now, func(h holding) bool { return len(h.info.Paths) > 0 }) {
		return
	}
	had := make(map[KeyID][]holding, len(before))
	for _, h := range before {
		had[h.info.ID] = append(had[h.info.ID], h)
	}
	for i, h := range now {
		now[i].info.Revision = 0
		if len(h.info.Paths) == 0 {
			continue
		}
		same := slices.IndexFunc(had[h.info.ID], func(old holding) bool { return sameKey(old.key, h.key) })
		if same >= 0 {
			now[i].info.Revision = had[h.info.ID][same].info.Revision
			continue
		}
		k.revision++
		now[i].info.Revision = k.revision
	}
}

// publishLocked makes a new snapshot of the sources, and tells the watchers if
// the list is another now.
func (k *Keys) publishLocked() (before, after *snapshot) {
	before, after = k.now.Load(), k.mergeLocked()
	after.generation = before.generation
	if changed := !slices.EqualFunc(before.list, after.list, sameInfo); changed {
		after.generation++
	}
	k.now.Store(after)
	if after.generation != before.generation {
		for w := range k.watchers {
			select {
			case w <- struct{}{}:
			default: // one is waiting there already, and says the same
			}
		}
	}
	return before, after
}

// mergeLocked makes one identity of all holdings of a KeyID, and puts them in order.
func (k *Keys) mergeLocked() *snapshot {
	n := 0
	for _, holdings := range k.sources {
		n += len(holdings)
	}
	s := &snapshot{all: make([]holding, 0, n), byID: make(map[KeyID]int, n)}
	for _, name := range slices.Sorted(maps.Keys(k.sources)) {
		for _, h := range k.sources[name] {
			h.info.Paths = slices.Clone(h.info.Paths)
			// Each is looked at by itself, too: the label that the user has named
			// may not be the one that is shown.
			h.info.Confirm = h.info.Confirm || k.Demand != nil && k.Demand(h.info)
			if i, ok := s.byID[h.info.ID]; ok {
				s.all[i] = unite(s.all[i], h)
				continue
			}
			s.byID[h.info.ID] = len(s.all)
			s.all = append(s.all, h)
		}
	}
	s.list = make([]KeyInfo, len(s.all))
	for i := range s.all {
		info := &s.all[i].info
		slices.Sort(info.Paths)
		info.Paths = slices.Compact(info.Paths)
		info.Confirm = info.Confirm || k.Demand != nil && k.Demand(*info)
		s.list[i] = *info
	}
	slices.SortStableFunc(s.list, func(a, b KeyInfo) int {
		return cmp.Or(
			cmp.Compare(btoi(a.Kind != KindTPM), btoi(b.Kind != KindTPM)),
			cmp.Compare(btoi(len(a.Paths) == 0), btoi(len(b.Paths) == 0)),
			cmp.Compare(firstPath(a), firstPath(b)),
		)
	})
	return s
}

// unite returns the better of two holdings of one key, with what is true of
// both. On a tie the first path decides, so that the order in which sources
// report does not matter.
func unite(a, b holding) holding {
	if c := cmp.Or(cmp.Compare(rank(a.info.Kind), rank(b.info.Kind)), cmp.Compare(firstPath(a.info), firstPath(b.info))); c > 0 {
		a, b = b, a
	}
	a.info.Paths = append(a.info.Paths, b.info.Paths...)
	// Whoever asked to be asked is asked.
	a.info.Confirm = a.info.Confirm || b.info.Confirm
	a.info.Only = cmp.Or(a.info.Only, b.info.Only)
	a.info.Revision = max(a.info.Revision, b.info.Revision)
	return a
}

// rank orders kinds by which signs: a TPM key cannot have been copied, and an
// added key needs no passphrase any more.
func rank(k Kind) int { return slices.Index([]Kind{KindTPM, KindAdded, KindFile}, k) }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func firstPath(i KeyInfo) string {
	if len(i.Paths) == 0 {
		return ""
	}
	return slices.Min(i.Paths)
}

// sameInfo compares all of a KeyInfo; the ID stands for the public key.
func sameInfo(a, b KeyInfo) bool {
	return a.ID == b.ID && a.Label == b.Label && a.Kind == b.Kind && slices.Equal(a.Paths, b.Paths) &&
		a.NeedsAuth == b.NeedsAuth && a.Confirm == b.Confirm && a.Usages == b.Usages && a.Origin == b.Origin &&
		a.Only == b.Only && a.Revision == b.Revision
}

// sameKey reports whether two keys are one object. A type that cannot be
// compared is taken for another object: forgetting too much is safe.
func sameKey(a, b Key) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// Gate returns what stands before every use of these keys, for uses of what is
// not among them.
func (k *Keys) Gate() *Gate { return k.gate }

// List returns all keys in an order that stays: TPM keys first, then by first
// path, keys without a file last. The slice is shared: do not modify it.
func (k *Keys) List() []KeyInfo { return k.now.Load().list }

// Generation returns a number that changes whenever List does.
func (k *Keys) Generation() uint64 { return k.now.Load().generation }

// Find returns what is known of one key, or ErrNotFound.
func (k *Keys) Find(id KeyID) (KeyInfo, error) {
	h, err := k.find(id)
	return h.info, err
}

func (k *Keys) find(id KeyID) (holding, error) {
	h, ok := k.now.Load().find(id)
	if !ok {
		return holding{}, fmt.Errorf("key %.12s: %w", id, ErrNotFound)
	}
	return h, nil
}

// Watch returns a channel that receives after List has changed. Changes that
// come faster than they are received become one. The channel is closed when
// ctx ends.
func (k *Keys) Watch(ctx context.Context) <-chan struct{} {
	w := make(chan struct{}, 1)
	k.mu.Lock()
	k.watchers[w] = struct{}{}
	k.mu.Unlock()
	context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.watchers, w)
		close(w)
	})
	return w
}

// A SignRequest is one wish for a signature.
type SignRequest struct {
	Caller Caller
	Key    KeyID
	Reason string // what the signature is for, as the user is told: "sign in as mia"
	Scope  string // what an approval is remembered for, beside key and program: the host, once known
	Digest []byte // as Key.Sign wants it
	Opts   crypto.SignerOpts
	Purpose
}

// maxReplaced is how often one request starts anew because its key turned into
// one with other needs while the user was being asked. Once is an edited file;
// more is a file that will not settle.
const maxReplaced = 3

// Sign signs with a key after the Gate let the caller through. A key that is
// replaced while the user is being asked signs with its replacement; one that
// is removed is ErrNotFound; one that does not sign is ErrUnsupported, and nobody
// is asked about it. Other errors are the Gate's and the key's.
func (k *Keys) Sign(ctx context.Context, r SignRequest) (sig []byte, err error) {
	if err := k.serves(r.Key, UsageSign, "sign"); err != nil {
		return nil, err
	}
	err = k.use(ctx, wish{r.Caller, r.Key, r.Reason, r.Scope, r.Purpose}, func(key Key, auth secret.Bytes) (err error) {
		sig, err = key.Sign(ctx, auth, r.Digest, r.Opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// A wish is what all requests to use a key have in common.
type wish struct {
	Caller Caller
	Key    KeyID
	Reason string
	Scope  string
	Purpose
}

// use calls do with the wish's key and its authorization value, on loan, as
// soon as the Gate lets it.
func (k *Keys) use(ctx context.Context, w wish, do func(Key, secret.Bytes) error) error {
	for range maxReplaced {
		h, err := k.find(w.Key)
		if err != nil {
			return err
		}
		err = k.useAs(ctx, w, h.info, do)
		if errors.Is(err, errReplaced) || errors.Is(err, ErrAuthFailed) && !h.info.NeedsAuth && k.needsAuth(w.Key) {
			continue
		}
		return err
	}
	return fmt.Errorf("key %.12s keeps changing: %w", w.Key, ErrUnavailable)
}

// needsAuth reports whether a key wants an authorization value by now: the file
// of one may have said otherwise until it was tried.
func (k *Keys) needsAuth(id KeyID) bool {
	h, err := k.find(id)
	return err == nil && h.info.NeedsAuth
}

// errReplaced stops a use whose key has needs now that the user was not asked
// about. It does not leave this file.
var errReplaced = errors.New("the key was replaced by one with other needs")

// useAs uses whatever key has the wish's ID by then, if it still asks for what
// info says.
func (k *Keys) useAs(ctx context.Context, w wish, info KeyInfo, do func(Key, secret.Bytes) error) error {
	if info.Only != "" && info.Only != w.Caller.FrontEnd {
		return fmt.Errorf("%s: %w: whoever added it allowed only some destinations, and only the %s can tell them apart",
			info.Label, ErrDenied, info.Only)
	}
	var used atomic.Pointer[holding] // the key that has seen the value last
	u := Use{
		ID:          info.ID.String(),
		Subject:     info.Label,
		NeedsAuth:   info.NeedsAuth,
		Confirm:     info.Confirm,
		PIN:         info.Kind == KindTPM,
		Caller:      w.Caller,
		Reason:      w.Reason,
		Scope:       w.Scope,
		Purpose:     w.Purpose,
		Fingerprint: Fingerprint(info.Public),
		Guard:       guard{k, info.ID},
		Forget: func() {
			if h := used.Load(); h != nil {
				if f, ok := h.key.(Forgetter); ok {
					f.Forget()
				}
			}
		},
	}
	if k.Passphrases != nil && info.Kind == KindFile && info.NeedsAuth {
		u.Recall, u.Keep = k.Passphrases(w.Caller, info)
	}
	return k.gate.Use(ctx, u, func(auth secret.Bytes) error {
		h, err := k.find(w.Key)
		if err != nil {
			return err
		}
		if h.info.NeedsAuth != info.NeedsAuth || h.info.Confirm && !info.Confirm || h.info.Only != info.Only {
			return errReplaced
		}
		if info.NeedsAuth && h.info.Kind != info.Kind {
			return errReplaced // a file's passphrase is no PIN, whose tries count and which nobody keeps
		}
		used.Store(&h)
		return do(h.key, auth)
	})
}

// A guard answers for whichever key has the ID when it is asked, because that
// is the key whose device counts.
type guard struct {
	keys *Keys
	id   KeyID
}

func (g guard) Tries(ctx context.Context) (Tries, error) {
	h, err := g.keys.find(g.id)
	if err != nil {
		return Tries{}, err
	}
	if guarded, ok := h.key.(Guarded); ok {
		return guarded.Tries(ctx)
	}
	return Tries{}, nil
}
