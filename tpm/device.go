package tpm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/link"
)

// Options say how a [Device] behaves. The zero value is useful.
type Options struct {
	// Log hears of resets and of what was left behind in the TPM; nil for none.
	Log *slog.Logger

	// PinFile remembers the names of the parents that auth values were sent to.
	// A name is trusted the first time; another one later is an error before
	// anything secret is sent. "" remembers them in memory only.
	PinFile string

	// Place is what the TPM is called in PinFile, which may know several: where
	// the user says it is. "" for its address.
	Place string

	// MaxResident is how many keys stay loaded behind a resource manager, each
	// with a descriptor of its own; 0 for 16.
	MaxResident int

	// SessionIdle is how long a TPM session that authorizes keys stays open
	// unused; 0 for 60 s. A link is closed after ten times that.
	SessionIdle time.Duration

	// ParentAuth is asked for the auth value of a parent, a hierarchy or an
	// object in a policy that turns out to have one; retry says that the last
	// answer was wrong. The answer becomes the device's. It is called with no
	// turn and no lock held. Nil means there is nobody to ask.
	ParentAuth func(ctx context.Context, parent uint32, retry bool) (secret.Bytes, error)
}

const (
	defaultMaxResident = 16
	defaultSessionIdle = time.Minute
	linkIdleFactor     = 10 // a link holds nothing that others need, as a session does
	maxReplays         = 2  // of one operation, after the TPM lost what was loaded
)

// A Device is one TPM. All methods may be called concurrently.
type Device struct {
	addr     link.Address
	o        Options
	log      *slog.Logger
	counters link.Counters
	pins     pins

	epoch   atomic.Uint64 // advances whenever the TPM lost what was loaded
	lostAt  atomic.Int64  // when a link that had worked was lost, in ns since 1970
	closing chan struct{}
	running sync.WaitGroup // turns taken or waited for, and what happens in the background
	wanted  atomic.Int64   // turns taken or waited for

	// mu guards what follows. It is never held while the TPM, a file or a
	// person is waited for.
	mu     sync.Mutex
	closed bool
	common *space          // the only one without a resource manager
	rooms  map[*Key]*space // behind one: a space for each resident key
	clock  uint64

	// Known in this epoch.
	tries    tries
	parents  map[parentID]*parent
	rootKey  *parent
	rootRead bool
	lacks    map[tpm2.TPMIAlgHash]bool // hashes the TPM cannot sign with

	auths  map[uint32]secret.Bytes // of parents and other entities
	asking map[uint32]chan struct{}
}

// New makes a Device of the TPM at addr, which must be resolved. It touches
// nothing: the TPM is dialled when it is first needed.
func New(addr link.Address, o Options) *Device {
	if o.MaxResident <= 0 {
		o.MaxResident = defaultMaxResident
	}
	if o.SessionIdle <= 0 {
		o.SessionIdle = defaultSessionIdle
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Device{
		addr:    addr,
		o:       o,
		log:     o.Log,
		closing: make(chan struct{}),
		rooms:   make(map[*Key]*space),
		parents: make(map[parentID]*parent),
		lacks:   make(map[tpm2.TPMIAlgHash]bool),
		auths:   make(map[uint32]secret.Bytes),
		asking:  make(map[uint32]chan struct{}),
	}
	d.pins.path, d.pins.scope, d.pins.log = o.PinFile, cmp.Or(o.Place, addr.String()), o.Log
	d.common = newSpace(d)
	return d
}

// Counters returns the counts of all commands sent, which go on counting.
func (d *Device) Counters() *link.Counters { return &d.counters }

var errClosed = fmt.Errorf("%w: it was closed", ErrUnavailable)

// begin registers something that Close must wait for; the caller calls
// d.running.Done. It reports false once the device is closed.
func (d *Device) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.running.Add(1)
	return true
}

// Close waits for the commands that run, refuses those that wait, flushes what
// was loaded and closes all links. The Device cannot be used after.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	close(d.closing)
	d.mu.Unlock()

	d.running.Wait() // from here on nobody else is here
	spaces := []*space{d.common}
	for _, s := range d.rooms {
		spaces = append(spaces, s)
	}
	for _, s := range spaces {
		if s.idle != nil {
			s.idle.Stop()
		}
		if s.link != nil && !d.addr.ResourceManager {
			s.tidy()
		}
		s.disconnect()
	}
	for _, a := range d.auths {
		a.Wipe()
	}
	return nil
}

// Forget takes everything that is loaded for lost, and all that was looked up
// for outdated; it is looked up and loaded again when it is needed. Call it
// when the machine woke up or the TPM may have been reset. It does not wait.
func (d *Device) Forget() { d.newEpoch(d.epoch.Load()) }

// newEpoch ends the epoch from, unless somebody else has done so already.
func (d *Device) newEpoch(from uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.epoch.CompareAndSwap(from, from+1) {
		return
	}
	d.tries = tries{}
	d.parents = make(map[parentID]*parent)
	d.rootKey, d.rootRead = nil, false
	d.lacks = make(map[tpm2.TPMIAlgHash]bool)
}

// Do runs fn with the TPM to itself: no key is used meanwhile, except behind a
// resource manager, where nobody can disturb anybody. It gives up if ctx ends
// before its turn comes; once begun, fn runs to its end, also when Do has
// returned because ctx ended.
//
// fn flushes what it loads; what it leaves behind is flushed for it. When the
// TPM has no room for fn, keys make place. If the TPM went away since it was
// last used, fn's first command is sent twice.
//
// The error is fn's own, or wraps ErrUnavailable.
func (d *Device) Do(ctx context.Context, fn func(transport.TPM) error) error {
	return d.use(ctx, d.commons(), func(_ context.Context, s *space) error {
		g := &guest{s: s}
		s.foreign = true
		err := fn(g)
		s.foreign = false
		if err == nil {
			g.leave()
			return nil
		}
		gone := errors.Is(err, link.ErrGone) || errors.Is(err, errStale)
		if gone && g.sent <= 1 {
			return err // played again
		}
		if gone {
			s.lost(err)
			return &finalError{public(err)}
		}
		g.leave()
		return &finalError{err}
	})
}

// A guest is the TPM as fn of Do sees it.
type guest struct {
	s    *space
	sent int
}

// Send sends a command; see transport.TPM.
func (g *guest) Send(cmd []byte) ([]byte, error) {
	g.sent++
	return g.s.Send(cmd)
}

// leave flushes what fn left behind.
func (g *guest) leave() {
	ours := make(map[tpm2.TPMHandle]bool)
	for _, r := range g.s.keys {
		ours[r.handle] = true
	}
	for _, p := range g.s.parents {
		ours[p.handle] = true
	}
	for h := range g.s.live {
		if !ours[h] {
			_ = g.s.flush(h)
		}
	}
}

// A finalError is not looked at any more: it is handed out as it is.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// commons returns the space for what concerns no key in particular.
func (d *Device) commons() *space { return d.common }

// use runs op with a turn at s, and again if the TPM turns out to have lost
// what was loaded. It returns when ctx ends, also while op runs.
func (d *Device) use(ctx context.Context, s *space, op func(context.Context, *space) error) error {
	if d.addr.Kind == link.None {
		return fmt.Errorf("%w: there is none", ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !d.begin() {
		return errClosed
	}
	asked := time.Now()
	d.wanted.Add(1)
	if err := s.turn.Acquire(ctx, 1); err != nil {
		d.wanted.Add(-1)
		d.running.Done()
		return err
	}
	run := func() (err error) {
		defer d.running.Done()
		defer d.wanted.Add(-1)
		defer s.turn.Release(1)
		defer s.rest()
		defer func() {
			// The TPM's bytes are decoded by others; what they trip over must
			// not take the daemon down.
			if r := recover(); r != nil {
				s.distrust()
				err = fmt.Errorf("%w: its answer could not be read (%T)", ErrUnavailable, r)
			}
		}()
		return s.attempt(ctx, asked, op)
	}
	if ctx.Done() == nil {
		return run()
	}
	done := make(chan error, 1)
	go func() { done <- run() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt runs op, and again after the TPM lost what was loaded.
func (s *space) attempt(ctx context.Context, asked time.Time, op func(context.Context, *space) error) error {
	select {
	case <-s.d.closing:
		return errClosed
	default:
	}
	if s.retired {
		return errRetired
	}
	if s.failure != nil && asked.Before(s.failureAt) {
		return s.failure // whoever waited for this answer gets it too
	}
	replays, pause := 0, firstPause
	for {
		if err := s.ready(ctx); err != nil {
			return public(err)
		}
		err := op(ctx, s)
		var final *finalError
		switch {
		case err == nil:
			s.failure = nil
			return nil
		case errors.As(err, &final):
			return final.error
		case stale(err):
			if errors.Is(err, link.ErrGone) && !s.worked {
				// Somebody answers the door, but the TPM is not at home yet.
				s.lost(err)
				if err := s.pause(ctx, pause, err); err != nil {
					return public(err)
				}
				pause = min(2*pause, maxPause)
				continue
			}
			s.lost(err)
		case errors.Is(err, errBadSignature):
			// A slot may hold another key than we believe.
			s.distrust()
		case garbled(err):
			s.distrust()
			return public(err)
		default:
			return public(err)
		}
		if replays++; replays > maxReplays {
			return public(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
