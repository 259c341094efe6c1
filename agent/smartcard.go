package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// Providers reach keys that live in other hardware, through programs that load
// its libraries: never in this process. Methods may be called concurrently, end
// with ctx, and return errors of package keyring: ErrAuthFailed for a wrong PIN.
type Providers interface {
	// AddCard loads a PKCS #11 library, an absolute path, and returns the keys
	// that it shows with the PIN, on loan. A key's Info has its Label, and Kind
	// added; Sign needs no further PIN. A library that is loaded already is asked
	// again.
	AddCard(ctx context.Context, library string, pin secret.Bytes) ([]keyring.Key, error)
	// RemoveCard unloads a library; ErrNotFound if it is not loaded.
	RemoveCard(ctx context.Context, library string) error
	// SignSK has a security key sign, and returns an SSH signature: string type,
	// string signature, byte flags, uint32 counter (OpenSSH, PROTOCOL.u2f).
	SignSK(ctx context.Context, r SKRequest) ([]byte, error)
}

// An SKRequest is the wish that a security key sign. All of it is on loan.
type SKRequest struct {
	Provider    string       // "internal", or an absolute path
	Type        string       // "sk-ssh-ed25519@openssh.com", …
	Application string       // "ssh:", …
	PublicKey   []byte       // SSH wire form
	Handle      []byte       // by which the token knows the key
	Flags       byte         // of the key: 1 wants a touch, 4 a PIN
	Data        []byte       // what is to be signed, not hashed
	PIN         secret.Bytes // empty: none
}

// errRemote is what an asker on another machine may not do.
var errRemote = errors.New("not for other machines")

// cardSource is the name under which a library's keys are published.
func cardSource(library string) string { return "card " + library }

// addCard answers ADD_SMARTCARD_KEY and its constrained form.
func (s *session) addCard(body []byte) []byte {
	d := decoder{rest: body}
	library, pin := d.text(), secret.Copy(d.string())
	defer pin.Wipe()
	var c constraints
	err := errMalformed
	if !d.bad {
		c, err = parseConstraints(&d, ofCard)
	}
	if err == nil {
		err = s.loadCard(library, pin, c)
	}
	if err != nil {
		return s.fail(fmt.Errorf("add card: %w", err))
	}
	s.changed("smart card added", library)
	return successReply
}

func (s *session) loadCard(library string, pin secret.Bytes, c constraints) error {
	if s.server.Providers == nil {
		return fmt.Errorf("%w: smart cards", errNotServed)
	}
	path, err := s.allowed(library)
	if err != nil {
		return err
	}
	return s.watched(func() error {
		done, err := s.server.cards.wait(s.ctx, path)
		if err != nil {
			return err
		}
		defer done()
		keys, err := s.server.Providers.AddCard(s.ctx, path, pin)
		if err != nil {
			return err
		}
		return s.server.added.putCard(path, keys, c)
	})
}

// removeCard answers REMOVE_SMARTCARD_KEY. The PIN that comes with it is of no
// use to anybody.
func (s *session) removeCard(body []byte) []byte {
	d := decoder{rest: body}
	library := d.text()
	d.string()
	if d.bad {
		return s.fail(fmt.Errorf("remove card: %w", errMalformed))
	}
	if s.server.Providers == nil {
		return s.fail(fmt.Errorf("remove card: %w", errNotServed))
	}
	path, err := s.allowed(library)
	if err == nil {
		err = s.watched(func() error {
			done, err := s.server.cards.wait(s.ctx, path)
			if err != nil {
				return err
			}
			defer done()
			s.server.added.removeCard(path)
			return s.server.Providers.RemoveCard(s.ctx, path)
		})
	}
	if err != nil {
		return s.fail(fmt.Errorf("remove card: %w", err))
	}
	s.changed("smart card removed", path)
	return successReply
}

// turns lets one at a time load or unload a library: keys that are put in the
// place of later ones belong to a process that has ended. The zero value is ready.
type turns struct {
	mu    sync.Mutex
	lines map[string]*line // by library
}

// A line is who waits for a turn, and whoever has it.
type line struct {
	in   int
	turn chan struct{} // holds one token while it is nobody's turn
}

// wait returns once nobody else has the turn; done gives it back.
func (t *turns) wait(ctx context.Context, library string) (done func(), err error) {
	t.mu.Lock()
	l := t.lines[library]
	if l == nil {
		if t.lines == nil {
			t.lines = map[string]*line{}
		}
		l = &line{turn: make(chan struct{}, 1)}
		l.turn <- struct{}{}
		t.lines[library] = l
	}
	l.in++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.in--; l.in == 0 {
			delete(t.lines, library)
		}
	}
	select {
	case <-l.turn:
		return func() { l.turn <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// A cardKey is a smart card's key with what was asked for when it was added.
type cardKey struct {
	keyring.Key
	info keyring.KeyInfo
}

func (k *cardKey) Info() keyring.KeyInfo { return k.info }

// putCard adds a library's keys, but those that are there already. It is an
// error if there is none. Those that are there go on with what keys has, as the
// process that had them before has ended.
func (t *addedSet) putCard(library string, keys []keyring.Key, c constraints) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.expireLocked(now)
	held := slices.Clone(t.cards[library])
	n := len(t.list)
	for _, key := range keys {
		info := key.Info()
		plain, err := newIdentity(info)
		if err != nil {
			continue
		}
		info.Label = caller.Sanitize(info.Label, maxComment)
		if info.Label == "" {
			info.Label = caller.Sanitize(library, maxComment)
		}
		info.Confirm = info.Confirm || c.confirm
		if c.destinations != nil {
			info.Only = frontEnd
		}
		at := slices.IndexFunc(held, func(k keyring.Key) bool { return k.Info().ID == info.ID })
		if at >= 0 {
			held[at] = &cardKey{key, held[at].Info()}
		}
		a := added{blob: plain.blob, keyBlob: plain.blob, comment: info.Label, key: info.ID, public: info.Public,
			card: library, from: now, constraints: c}
		if c.limited && c.lifetime == 0 {
			continue
		}
		before := len(t.list)
		for _, cert := range c.associated {
			if bytes.Equal(cert.Key.Marshal(), plain.blob) {
				with := a
				with.blob, with.cert = cert.Marshal(), cert
				t.putNewLocked(&with)
			}
		}
		if !c.certsOnly {
			t.putNewLocked(&a)
		}
		switch {
		case len(t.list) == before:
		case at >= 0:
			was := held[at].Info()
			info.Label, info.Confirm, info.Only = was.Label, info.Confirm || was.Confirm, cmp.Or(info.Only, was.Only)
			held[at] = &cardKey{key, info}
		default:
			held = append(held, &cardKey{key, info})
		}
	}
	if len(held) > 0 {
		t.cards[library] = held
		t.keys.Replace(cardSource(library), held)
	}
	if len(t.list) == n {
		return fmt.Errorf("%w: no key that is not there already", errUnknownKey)
	}
	t.changedLocked()
	return nil
}

func (t *addedSet) putNewLocked(a *added) {
	if !slices.ContainsFunc(t.list, func(other *added) bool { return bytes.Equal(other.blob, a.blob) }) {
		t.list = append(t.list, a)
	}
}

// removeCard removes what a library brought.
func (t *addedSet) removeCard(library string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var gone []*added
	for _, a := range t.list {
		if a.card == library {
			gone = append(gone, a)
		}
	}
	t.dropLocked(gone...)
	t.changedLocked()
}

func (t *addedSet) dropCardKeyLocked(library string, id keyring.KeyID) {
	left := slices.DeleteFunc(slices.Clone(t.cards[library]), func(k keyring.Key) bool { return k.Info().ID == id })
	if len(left) == 0 {
		delete(t.cards, library)
	} else {
		t.cards[library] = left
	}
	t.keys.Replace(cardSource(library), left)
}
