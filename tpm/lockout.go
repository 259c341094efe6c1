package tpm

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Lockout is what a TPM knows about wrong tries of auth values, of all the keys
// it protects against guessing taken together. Part 1, "Dictionary Attack
// Protection".
type Lockout struct {
	Counter  int           // tries that failed and are not yet forgiven
	Max      int           // the number at which the TPM locks; 0: it never does
	Locked   bool          // no tries are taken now
	Interval time.Duration // after each of these one try is forgiven; 0: the protection is off
	Recovery time.Duration // how long the lockout authorization itself is refused after it failed

	at time.Time // when this was so
}

// Left returns how many wrong tries it takes to lock the TPM, 0 if it is
// locked.
func (l Lockout) Left() int {
	if l.Interval == 0 && !l.Locked {
		return math.MaxInt
	}
	if l.Locked {
		return 0
	}
	return max(l.Max-l.Counter, 0)
}

// Wait returns how long it is at most until the TPM forgives a try, measured
// from now; 0 if it has none to forgive.
func (l Lockout) Wait() time.Duration {
	if l.Counter == 0 && !l.Locked {
		return 0
	}
	return max(l.Interval-time.Since(l.at), 0)
}

// tries is what a device remembers of the TPM's counter since the last reset.
type tries struct {
	known  bool
	judged bool // the user's side has looked at it and decides for itself
	Lockout
}

// fresh says whether the memory still holds: once an interval has passed the
// TPM may have forgiven a try.
func (t *tries) fresh() bool {
	return t.known && (t.Counter == 0 && !t.Locked || t.Wait() > 0)
}

// failed notes a try that the TPM has counted.
func (t *tries) failed() {
	t.at = time.Now()
	if !t.known {
		return
	}
	t.Counter++
	t.Locked = t.Max > 0 && t.Counter >= t.Max
}

// Lockout returns the state of the TPM's protection against guessing. The TPM
// is asked once after each reset, and again when it may have forgiven a try;
// between, the answer comes from memory. From then on [Key.Sign] takes it that
// its caller has judged whether a try may be spent.
func (d *Device) Lockout(ctx context.Context) (Lockout, error) {
	if l, ok := d.remembered(); ok {
		return l, nil
	}
	var l Lockout
	err := d.use(ctx, d.commons(), func(_ context.Context, s *space) (err error) {
		l, err = s.look()
		return err
	})
	if err != nil {
		return Lockout{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries.judged = true
	return l, nil
}

func (d *Device) remembered() (Lockout, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.tries.fresh() {
		return Lockout{}, false
	}
	d.tries.judged = true
	return d.tries.Lockout, true
}

// The properties that are read, which lie beside one another, so that one
// command brings them all.
const (
	firstProperty = uint32(tpm2.TPMPTPermanent)
	numProperties = uint32(tpm2.TPMPTLockoutRecovery-tpm2.TPMPTPermanent) + 1
	inLockout     = 1 << 9 // TPMA_PERMANENT.inLockout
)

// look asks the TPM about lockout, and learns on the way how many slots are
// free.
func (s *space) look() (Lockout, error) {
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      firstProperty,
		PropertyCount: numProperties,
	}.Execute(s)
	if err != nil {
		return Lockout{}, fmt.Errorf("read the lockout counter: %w", err)
	}
	props, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return Lockout{}, fmt.Errorf("read the lockout counter: %w", err)
	}
	l := Lockout{at: time.Now()}
	for _, p := range props.TPMProperty {
		v := p.Value
		switch p.Property {
		case tpm2.TPMPTPermanent:
			l.Locked = v&inLockout != 0
		case tpm2.TPMPTLockoutCounter:
			l.Counter = int(v)
		case tpm2.TPMPTMaxAuthFail:
			l.Max = int(v)
		case tpm2.TPMPTLockoutInterval:
			l.Interval = time.Duration(v) * time.Second
		case tpm2.TPMPTLockoutRecovery:
			l.Recovery = time.Duration(v) * time.Second
		case tpm2.TPMPTHRTransientAvail:
			s.slotsFree(int(v))
		}
	}
	if l.Interval > 0 && l.Counter >= l.Max {
		l.Locked = true
	}
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.epoch.Load() != s.epoch {
		return l, nil // the TPM was reset meanwhile
	}
	d.tries = tries{known: true, judged: d.tries.judged && d.tries.known, Lockout: l}
	return l, nil
}

// mayTry says whether an auth value may be spent on an entity that is protected
// against guessing. Where nobody has looked since the last reset it looks, and
// withholds the last try.
func (s *space) mayTry() error {
	d := s.d
	d.mu.Lock()
	t := d.tries
	d.mu.Unlock()
	l := t.Lockout
	if !t.fresh() {
		var err error
		if l, err = s.look(); err != nil {
			return err
		}
	}
	switch {
	case l.Locked:
		return &LockoutError{l}
	case l.Left() <= 1 && !t.judged:
		return ErrLastTry
	}
	return nil
}

// refused turns the TPM's answer to an auth value into an error to tell apart,
// and keeps count.
func (s *space) refused(err error) error {
	d := s.d
	switch {
	case isAny(err, tpm2.TPMRCAuthFail):
		d.mu.Lock()
		d.tries.failed()
		d.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrAuthFailed, err)
	case isAny(err, tpm2.TPMRCBadAuth):
		return fmt.Errorf("%w: %w", ErrAuthFailed, err)
	case isAny(err, tpm2.TPMRCLockout):
		// The time to wait is told if it can be learnt.
		l, lookErr := s.look()
		if lookErr != nil {
			l = Lockout{at: time.Now()}
		}
		l.Locked = true
		d.mu.Lock()
		d.tries.Locked = true
		d.mu.Unlock()
		return &LockoutError{l}
	}
	return err
}
