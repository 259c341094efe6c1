package agent

import (
	"context"
	"crypto"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

// frontEnd is this front end's name in a keyring.Caller.
const frontEnd = "ssh-agent"

// An added identity is what a client handed over, with what it asked for. It
// does not change.
type added struct {
	blob    []byte // of the identity: the key's, or its certificate's
	keyBlob []byte // of the key
	comment string
	key     keyring.KeyID    // zero of a security key
	public  crypto.PublicKey // nil of a security key
	cert    *ssh.Certificate // nil: the plain key
	sk      *securityKey     // nil: not in a security key
	card    string           // the provider of a smart card's key; "": it is none
	from    time.Time        // when it was added
	constraints
}

// expired reports whether its time is over. The monotonic clock stands still
// while the machine is suspended and the wall clock may be set back, so the
// one that is further counts.
func (a *added) expired(now time.Time) bool { return a.limited && age(a.from, now) >= a.lifetime }

func age(from, now time.Time) time.Duration {
	return max(now.Sub(from), now.Round(0).Sub(from.Round(0)))
}

// An addedSet is what clients changed: the identities they added, in order, and
// those from files that they removed.
//
// Whoever adds a key for an hour, for some hosts or with a question before each
// use does not mean its file to be offered besides, or again afterwards. So the
// file's identities give way to an added one with constraints, and removing or
// outliving one hides the file's.
type addedSet struct {
	keys       *keyring.Keys
	holder     func() Holder
	generation atomic.Uint64 // counts changes

	mu     sync.Mutex
	list   []*added
	timer  *time.Timer     // runs at the next end of a lifetime
	hidden map[string]mark // files' identities that are not offered, by blob
	cards  map[string][]keyring.Key
}

// A mark hides what is in a key's files, as long as they are the same files.
type mark struct {
	key      keyring.KeyID
	revision uint64
}

func newAddedSet(keys *keyring.Keys, holder func() Holder) *addedSet {
	return &addedSet{keys: keys, holder: holder, hidden: map[string]mark{}, cards: map[string][]keyring.Key{}}
}

// put adds an identity, or replaces the one with the same blob where it stands,
// if the asker can see that.
func (t *addedSet) put(a *added, signer crypto.Signer, asker *bindings) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(a.from)
	i := slices.IndexFunc(t.list, func(other *added) bool { return string(other.blob) == string(a.blob) })
	if i >= 0 && !asker.permitted(t.list[i].destinations, nil) {
		return errUnknownKey
	}
	if a.limited && a.lifetime == 0 {
		// At once dead, as in OpenSSH: it was never there, and nor is what it replaces.
		if i >= 0 {
			t.dropLocked(t.list[i])
		}
		t.hideLocked(a)
		t.changedLocked()
		return nil
	}
	before := slices.Clone(t.list)
	var old *added
	if i >= 0 {
		old = t.list[i]
		t.list[i] = a
	} else {
		t.list = append(t.list, a)
	}
	if signer != nil {
		if err := t.holder().Hold(signer, t.termsLocked(a)); err != nil {
			t.list = before
			return err
		}
	}
	if old != nil && old.card != "" && !slices.ContainsFunc(t.list, func(a *added) bool { return a.card == old.card && a.key == old.key }) {
		t.dropCardKeyLocked(old.card, old.key)
	}
	delete(t.hidden, string(a.blob))
	delete(t.hidden, allOf(a.key))
	t.changedLocked()
	return nil
}

// termsLocked is what the core is told of a key: what any of its identities
// demands.
func (t *addedSet) termsLocked(a *added) keyring.KeyInfo {
	info := keyring.KeyInfo{Label: a.label()}
	for _, other := range t.list {
		if other.sk != nil || other.key != a.key {
			continue
		}
		info.Confirm = info.Confirm || other.confirm
		if other.destinations != nil {
			info.Only = frontEnd
		}
	}
	return info
}

func (a *added) label() string {
	if text := caller.Sanitize(a.comment, maxComment); text != "" {
		return text
	}
	return fingerprint(a.keyBlob)
}

// changedLocked takes note that the set is another, and sets the timer.
func (t *addedSet) changedLocked() {
	t.generation.Add(1)
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	now := time.Now()
	next := time.Duration(-1)
	for _, a := range t.list {
		if a.limited {
			if left := max(0, a.lifetime-age(a.from, now)); next < 0 || left < next {
				next = left
			}
		}
	}
	if next >= 0 {
		t.timer = time.AfterFunc(next, t.expire)
	}
}

// expire drops what is past its lifetime.
func (t *addedSet) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(time.Now())
	t.changedLocked() // the timer may have been early, by the clock that counts
}

func (t *addedSet) expireLocked(now time.Time) {
	var over []*added
	for _, a := range t.list {
		if a.expired(now) {
			over = append(over, a)
		}
	}
	if len(over) > 0 {
		t.dropLocked(over...)
		t.changedLocked()
	}
}

// dropLocked takes identities out, and their keys once no identity needs them.
// What their files hold is hidden.
func (t *addedSet) dropLocked(gone ...*added) {
	out := make(map[*added]bool, len(gone))
	for _, a := range gone {
		out[a] = true
		t.hideLocked(a)
	}
	t.list = slices.DeleteFunc(slices.Clone(t.list), func(a *added) bool { return out[a] })
	// One key may be in a card, and handed over as well.
	type place struct {
		key  keyring.KeyID
		card string
	}
	needed := make(map[place]bool, len(t.list))
	for _, a := range t.list {
		needed[place{a.key, a.card}] = true
	}
	var drop []keyring.KeyID
	for _, a := range gone {
		switch {
		case a.sk != nil:
			t.keys.Gate().Forget(useID(a.blob)) // of other keys the core sees to it
		case needed[place{a.key, a.card}]:
		case a.card != "":
			t.dropCardKeyLocked(a.card, a.key)
		default:
			drop = append(drop, a.key)
		}
	}
	if len(drop) > 0 {
		t.holder().Drop(drop...)
	}
}

// hideLocked hides the file's identities of an added one's key: the same one,
// and where it was constrained all.
func (t *addedSet) hideLocked(a *added) {
	info, err := t.keys.Find(a.key)
	if err != nil || a.sk != nil || info.Revision == 0 {
		return
	}
	m := mark{a.key, info.Revision}
	t.hidden[string(a.blob)] = m
	if a.any() {
		t.hidden[string(a.keyBlob)] = m
		t.hidden[allOf(a.key)] = m
	}
}

// allOf stands in hidden for every identity of a key.
func allOf(id keyring.KeyID) string { return "all of " + id.String() }

// isHiddenLocked reports whether a file's identity is not to be offered.
func (t *addedSet) isHiddenLocked(info keyring.KeyInfo, blob []byte) bool {
	m := mark{info.ID, info.Revision}
	return t.hidden[string(blob)] == m || t.hidden[allOf(info.ID)] == m
}

// tidyLocked forgets marks whose files were replaced or are gone.
func (t *addedSet) tidyLocked(infos []keyring.KeyInfo) {
	if len(t.hidden) == 0 {
		return
	}
	now := make(map[keyring.KeyID]uint64, len(infos))
	for _, info := range infos {
		now[info.ID] = info.Revision
	}
	maps.DeleteFunc(t.hidden, func(_ string, m mark) bool { return now[m.key] != m.revision })
}

// remove removes one identity.
func (t *addedSet) remove(id *identity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id.added != nil {
		t.dropLocked(id.added)
	} else {
		t.hidden[string(id.blob)] = mark{id.info.ID, id.info.Revision}
	}
	t.changedLocked()
}

// removeAll removes every added identity, and those from files that set has, with
// their certificates that are not valid yet.
func (t *addedSet) removeAll(set *identitySet, certificates *Certificates) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range set.all {
		if id.added != nil {
			continue
		}
		m := mark{id.info.ID, id.info.Revision}
		t.hidden[string(id.blob)] = m
		if certificates == nil {
			continue
		}
		for _, c := range certificates.of(id.info.ID) {
			t.hidden[string(c.blob)] = m
		}
	}
	t.dropLocked(t.list...)
	t.changedLocked()
}

// dropAdded removes every added identity.
func (t *addedSet) dropAdded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked(t.list...)
	t.changedLocked()
}

// holds reports whether an added identity is still there, and its time not over.
func (t *addedSet) holds(a *added) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.list, a) && !a.expired(time.Now())
}

// DropAdded forgets every key that a client added, as OpenSSH's agent does on
// SIGUSR1. It may be called concurrently.
func (s *Server) DropAdded() { s.added.dropAdded() }

// Expire drops the added keys whose time is over. They go by themselves, but on a
// clock that stands still while the machine sleeps, so that whoever notices its
// waking calls this: other front ends do not look. It may be called concurrently.
func (s *Server) Expire() { s.added.expire() }

// changed tells the journal that a client changed what is offered.
func (s *session) changed(what, key string) {
	s.server.changes.event(s.ctx, what, s.caller().String(), caller.Sanitize(key, maxComment))
}

// stillOffers reports whether what was offered when a request began still is:
// the user may have taken a while to answer.
func (s *Server) stillOffers(ctx context.Context, id *identity) error {
	if s.lock.locked.Load() {
		return fmt.Errorf("%w: locked meanwhile", keyring.ErrLocked)
	}
	if id.added != nil {
		if !s.added.holds(id.added) {
			return fmt.Errorf("%w: removed meanwhile", errUnknownKey)
		}
		return nil
	}
	if now, ok := s.identities(ctx).byBlob[string(id.blob)]; !ok || now.added != nil {
		return fmt.Errorf("%w: removed meanwhile", errUnknownKey)
	}
	return nil
}
