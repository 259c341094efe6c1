package tpm

import (
	"context"
	"fmt"
	"math"

	"github.com/google/go-tpm/tpm2"
)

// maxUsefulSlots is the largest TPM that it pays to look for: a key that was
// used longer ago than this many others is not worth a try.
const maxUsefulSlots = 8

// resident returns the handle of k, loading it if it has no slot. On return k
// counts as the most recently used key and cannot be evicted until the turn
// ends.
func (s *space) resident(ctx context.Context, k *Key) (tpm2.TPMHandle, error) {
	s.inUse = k
	distance := s.distance(k)
	s.clock++
	s.used[k] = s.clock
	for i, r := range s.keys {
		if r.key == k {
			s.keys = append(append(s.keys[:i:i], s.keys[i+1:]...), r)
			return r.handle, nil
		}
	}
	s.purge()
	h, err := s.bring(ctx, k, distance)
	if err != nil {
		return 0, err
	}
	s.keys = append(s.keys, &resident{k, h})
	return h, nil
}

// distance returns how many other keys were used since k was: with more slots
// than that k would still be loaded.
func (s *space) distance(k *Key) int {
	last, ok := s.used[k]
	if !ok {
		return math.MaxInt
	}
	n := 0
	for other, at := range s.used {
		if other != k && at > last {
			n++
		}
	}
	return n
}

// purge forgets the keys that were closed, all but their slots, which are the
// first to be given up.
func (s *space) purge() {
	for k := range s.used {
		if k.closed.Load() {
			delete(s.used, k)
			delete(s.saved, k)
		}
	}
}

// bring gets k into a slot. Where the keys in use would all fit if the parent's
// slot were given up, the one that has to make room is saved so that it can
// come back without a parent; elsewhere a saved context would only cost a
// command, and the key is flushed and loaded again when needed.
func (s *space) bring(ctx context.Context, k *Key, distance int) (tpm2.TPMHandle, error) {
	near := distance < s.slots
	if saved, ok := s.saved[k]; ok {
		if near {
			if err := s.dropParents(1); err != nil {
				return 0, err
			}
		}
		if err := s.makeRoom(1, near); err != nil {
			return 0, err
		}
		rsp, err := tpm2.ContextLoad{Context: saved}.Execute(s)
		if err == nil {
			return tpm2.TPMHandle(rsp.LoadedHandle), nil
		}
		// The TPM was reset since.
		return 0, staleIf(fmt.Errorf("load a saved key: %w", err), tpm2.TPMRCIntegrity, tpm2.TPMRCHandle)
	}
	// Whether the TPM has more slots than it must have is worth one try that
	// may fail, if it had spared us this load.
	s.probing = !s.measured && distance >= s.slots && distance < maxUsefulSlots
	defer func() { s.probing = false }()
	return s.load(ctx, k, near)
}

// need returns how many slots are occupied now.
func (s *space) occupied() int { return len(s.live) }

// makeRoom evicts until n more objects fit. With save set, what is evicted is
// saved first, once.
func (s *space) makeRoom(n int, save bool) error {
	for !s.probing && s.occupied()+n > s.slots {
		evicted, err := s.evict(save)
		if err != nil {
			return err
		}
		if !evicted {
			return nil // the TPM will say whether it fits after all
		}
	}
	return nil
}

// evict takes the least recently used key out of its slot, or a closed one, or
// if there is none a parent.
func (s *space) evict(save bool) (bool, error) {
	victim := -1
	for i, r := range s.keys {
		if r.key == s.inUse {
			continue
		}
		if r.key.closed.Load() {
			victim, save = i, false
			break
		}
		if victim < 0 {
			victim = i
		}
	}
	if victim < 0 {
		return s.evictParent()
	}
	r := s.keys[victim]
	if _, have := s.saved[r.key]; save && !have {
		rsp, err := tpm2.ContextSave{SaveHandle: r.handle}.Execute(s)
		if err != nil {
			return false, staleIf(fmt.Errorf("save a key: %w", err), tpm2.TPMRCHandle)
		}
		s.saved[r.key] = rsp.Context
	}
	s.keys = append(s.keys[:victim:victim], s.keys[victim+1:]...)
	return true, s.flush(r.handle)
}

// evictParent takes a transient parent out of its slot. It is saved the first
// time: on most TPMs loading it again is far quicker than making it.
func (s *space) evictParent() (bool, error) {
	for id, p := range s.parents {
		if p == s.inUsePar {
			continue
		}
		if _, have := s.savedPar[id]; !have && !s.d.addr.ResourceManager {
			rsp, err := tpm2.ContextSave{SaveHandle: p.handle}.Execute(s)
			if err != nil {
				return false, staleIf(fmt.Errorf("save a parent: %w", err), tpm2.TPMRCHandle)
			}
			s.savedPar[id] = rsp.Context
		}
		delete(s.parents, id)
		return true, s.flush(p.handle)
	}
	return false, nil
}

// dropParents evicts parents while n more objects do not fit.
func (s *space) dropParents(n int) error {
	for len(s.parents) > 0 && s.occupied()+n > s.slots {
		if evicted, err := s.evictParent(); err != nil || !evicted {
			return err
		}
	}
	return nil
}

// outOfSlots is called when the TPM has no slot left although the books say
// there is one. It reports whether it made room.
func (s *space) outOfSlots() (bool, error) {
	if s.probing {
		s.probing, s.measured = false, true
		if evicted, err := s.evict(false); evicted || err != nil {
			return evicted, err
		}
	}
	switch {
	case s.foreign:
		// What fn has loaded is not in our books.
	case !s.swept:
		// Left over from a connection that broke, or from another program.
		s.swept = true
		if swept, err := s.sweep(tpm2.TPMHandle(tpm2.TPMHTTransient) << 24); swept || err != nil {
			return swept, err
		}
		fallthrough
	default:
		s.slots, s.measured = max(2, s.occupied()), true
	}
	return s.evict(false)
}

// outOfSessions is called when the TPM has no room for one more session.
func (s *space) outOfSessions() (bool, error) {
	switch {
	case s.policy != nil && s.policy != s.inUseSes:
		return true, s.dropPolicy()
	case s.hmac != nil && s.hmac != s.inUseSes:
		return true, s.dropHMAC()
	case s.foreign || s.sweptSes:
		return false, nil
	}
	s.sweptSes = true
	return s.sweep(tpm2.TPMHandle(tpm2.TPMHTHMACSession) << 24)
}

// sweep flushes the objects or sessions from first on that are not in our
// books. Without a resource manager only one program at a time has the TPM, and
// what it finds there nobody will come back for.
func (s *space) sweep(first tpm2.TPMHandle) (bool, error) {
	if s.d.addr.ResourceManager {
		return false, nil
	}
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 64}.Execute(s)
	if err != nil {
		return false, fmt.Errorf("list what is loaded: %w", err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return false, fmt.Errorf("list what is loaded: %w", err)
	}
	swept := 0
	for _, h := range list.Handle {
		if _, ours := s.live[h]; ours || s.hmac != nil && h == s.hmac.handle || s.policy != nil && h == s.policy.handle {
			continue
		}
		if err := s.flush(h); err != nil {
			return false, err
		}
		swept++
	}
	if swept > 0 {
		s.d.log.Info("flushed what was left in the TPM", "tpm", s.d.addr.String(), "handles", swept)
	}
	return swept > 0, nil
}

// slotsFree notes what the TPM says about free slots.
func (s *space) slotsFree(n int) {
	if s.d.addr.ResourceManager || s.foreign {
		return
	}
	// Never fewer than assumed: what is left over from a connection that broke
	// takes room too, and is flushed when it is in the way.
	s.slots, s.measured = max(s.slots, s.occupied()+n), true
}
