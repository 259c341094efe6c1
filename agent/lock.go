package agent

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/keyringd/keyringd/keyring"
)

const (
	// Argon2id's cost for the passphrase of ssh-add -x: some 20 ms and 4 MiB, so
	// that many tries at once cost the daemon little.
	lockPasses  = 8
	lockMemory  = 4 << 10 // KiB
	lockSalt    = 16
	lockHash    = 32
	unlockDelay = 100 * time.Millisecond // for each wrong try so far, as in OpenSSH
	maxDelay    = 10 * time.Second
)

// A lock hides everything until the passphrase it was locked with is given
// again. That is not kept, only a hash of it.
//
// Wrong tries cost the one who makes them time, and the next one who tries, so
// that hanging up does not help; requests of other kinds never wait.
type lock struct {
	locked atomic.Bool

	turn chan struct{} // its holder alone touches what follows
	salt [lockSalt]byte
	hash [lockHash]byte
	// wrong tries since the last right one; and when the next may be made.
	wrong int
	next  time.Time
}

func newLock() *lock { return &lock{turn: make(chan struct{}, 1)} }

func (l *lock) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait waits, and reports whether ctx did not end before.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lock) hashOf(passphrase []byte) []byte {
	return argon2.IDKey(passphrase, l.salt[:], lockPasses, lockMemory, 1, lockHash)
}

// lock locks with a passphrase, on loan.
func (l *lock) lock(ctx context.Context, passphrase []byte) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer func() { <-l.turn }()
	if l.locked.Load() {
		return fmt.Errorf("lock: %w", keyring.ErrLocked)
	}
	if _, err := rand.Read(l.salt[:]); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	// Nobody sees a key any more, before the time is spent.
	l.locked.Store(true)
	copy(l.hash[:], l.hashOf(passphrase))
	return nil
}

// unlock unlocks if the passphrase, on loan, is the one. A wrong one is
// ErrAuthFailed, after a while.
func (l *lock) unlock(ctx context.Context, passphrase []byte) error {
	if !l.locked.Load() {
		return fmt.Errorf("unlock: not locked: %w", errNotServed)
	}
	delay, err := l.try(ctx, passphrase)
	if err == nil || delay == 0 {
		return err
	}
	if late := wait(ctx, delay); late != nil {
		return late
	}
	return err
}

// try makes one try once its time has come. The delay is what an answer to a
// wrong one has to wait.
func (l *lock) try(ctx context.Context, passphrase []byte) (delay time.Duration, err error) {
	if err := l.take(ctx); err != nil {
		return 0, err
	}
	defer func() { <-l.turn }()
	if err := wait(ctx, time.Until(l.next)); err != nil {
		return 0, err
	}
	if !l.locked.Load() {
		return 0, fmt.Errorf("unlock: not locked: %w", errNotServed)
	}
	if subtle.ConstantTimeCompare(l.hashOf(passphrase), l.hash[:]) == 1 {
		clear(l.hash[:])
		l.wrong = 0
		l.locked.Store(false)
		return 0, nil
	}
	l.wrong++
	delay = min(time.Duration(l.wrong)*unlockDelay, maxDelay)
	l.next = time.Now().Add(delay)
	return delay, fmt.Errorf("unlock: %w", keyring.ErrAuthFailed)
}

// setLock answers LOCK and UNLOCK. An empty passphrase is refused, as in
// OpenSSH.
func (s *session) setLock(body []byte, locked bool) []byte {
	d := decoder{rest: body}
	passphrase := d.string()
	if d.bad || len(passphrase) == 0 {
		return s.fail(fmt.Errorf("lock: %w", errMalformed))
	}
	stop := s.watch()
	defer stop()
	if locked {
		if err := s.server.lock.lock(s.ctx, passphrase); err != nil {
			return s.fail(err)
		}
		s.server.Keys.Gate().Lock() // permissions were given until then
		s.changed("agent locked", "")
		return successReply
	}
	if err := s.server.lock.unlock(s.ctx, passphrase); err != nil {
		return s.fail(err)
	}
	s.changed("agent unlocked", "")
	return successReply
}
