package tpm

import (
	"context"
	"errors"
	"sort"
	"time"
)

// Behind a resource manager every resident key has a space, and with it a
// descriptor, of its own: the manager swaps in and out all that a descriptor
// has loaded around each command.

// errRetired: the space was closed while its turn was waited for.
var errRetired = errors.New("the space is closed")

// useFor runs op with a turn at the space where k lives.
func (d *Device) useFor(ctx context.Context, k *Key, op func(context.Context, *space) error) error {
	if !d.addr.ResourceManager {
		return d.use(ctx, d.common, op)
	}
	for {
		err := d.use(ctx, d.room(k), op)
		if !errors.Is(err, errRetired) {
			return err
		}
	}
}

// room returns the space of k, making one if need be. Where that is one too
// many, the least recently used one that is not in use is closed.
func (d *Device) room(k *Key) *space {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clock++
	if s := d.rooms[k]; s != nil {
		s.stamp = d.clock
		return s
	}
	s := newSpace(d)
	s.stamp = d.clock
	if d.closed {
		return s // it will not get a turn
	}
	if n := len(d.rooms) + 1 - d.o.MaxResident; n > 0 {
		d.retireLocked(n)
	}
	d.rooms[k] = s
	return s
}

// retireLocked closes n spaces if there are as many that nobody uses.
func (d *Device) retireLocked(n int) {
	type room struct {
		key *Key
		*space
	}
	all := make([]room, 0, len(d.rooms))
	for k, s := range d.rooms {
		all = append(all, room{k, s})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].stamp < all[j].stamp })
	for _, r := range all {
		if n == 0 {
			return
		}
		if !r.turn.TryAcquire(1) {
			continue
		}
		n--
		delete(d.rooms, r.key)
		r.retired = true
		d.running.Add(1)
		go func() {
			defer d.running.Done()
			defer r.turn.Release(1)
			r.close()
		}()
	}
}

// close closes a space that will not be used again. The caller has its turn.
func (s *space) close() {
	if s.idle != nil {
		s.idle.Stop()
	}
	s.disconnect()
}

// forgetKey gives up what a closed key occupies. Without a resource manager its
// slot is the first to be given up when one is needed.
func (d *Device) forgetKey(k *Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.rooms[k]
	if s == nil || d.closed {
		return
	}
	delete(d.rooms, k)
	d.running.Add(1)
	go func() {
		defer d.running.Done()
		if s.turn.Acquire(context.Background(), 1) != nil {
			return
		}
		defer s.turn.Release(1)
		s.retired = true
		s.close()
	}()
}

// rest ends a turn: nothing is in use, and what is idle too long will be
// closed.
func (s *space) rest() {
	s.inUse, s.inUsePar, s.inUseSes = nil, nil, nil
	s.foreign, s.probing = false, false
	s.lastUse = time.Now()
	s.arm()
}

// arm sets the timer to when something will have been idle too long.
func (s *space) arm() {
	if s.link == nil || s.retired {
		return
	}
	next := s.lastUse.Add(linkIdleFactor * s.d.o.SessionIdle)
	for _, ses := range []*session{s.hmac, s.policy} {
		if ses == nil {
			continue
		}
		if t := ses.used.Add(s.d.o.SessionIdle); t.Before(next) {
			next = t
		}
	}
	wait := max(time.Until(next), time.Millisecond)
	if s.idle == nil {
		s.idle = time.AfterFunc(wait, s.nap)
		return
	}
	s.idle.Reset(wait)
}

// nap closes what was idle too long. A session left open would after some time
// keep everybody else from starting one: saved contexts of sessions may not
// become too old.
func (s *space) nap() {
	if !s.d.begin() {
		return
	}
	defer s.d.running.Done()
	if !s.turn.TryAcquire(1) {
		return // whoever has the turn will set the timer again
	}
	defer s.turn.Release(1)
	defer s.arm()
	if s.link == nil || s.retired || s.epoch != s.d.epoch.Load() {
		return
	}
	idle := s.d.o.SessionIdle
	var err error
	if s.hmac != nil && time.Since(s.hmac.used) >= idle {
		err = s.dropHMAC()
	}
	if err == nil && s.policy != nil && time.Since(s.policy.used) >= idle {
		err = s.dropPolicy()
	}
	switch {
	case err != nil && stale(err):
		s.lost(err)
	case err != nil:
		s.distrust()
	case time.Since(s.lastUse) >= linkIdleFactor*idle:
		if !s.d.addr.ResourceManager {
			s.tidy()
		}
		s.disconnect()
		s.blank()
	}
}
