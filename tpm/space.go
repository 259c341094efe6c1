package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sync/semaphore"

	"github.com/keyringd/keyringd/tpm/link"
)

// A space is a TPM's working memory as seen through one link: the keys, parents
// and sessions that are loaded there. Whoever has its turn owns all of it.
type space struct {
	d    *Device
	turn *semaphore.Weighted // first come, first served; left when ctx ends

	link   *link.Link
	epoch  uint64 // the device's when the link was last known good
	worked bool   // the link has carried an answer

	// When the TPM could not be reached, for those who had been waiting already.
	failure   error
	failureAt time.Time

	slots    int  // objects that fit, as far as is known
	measured bool // slots was found out and is not only assumed

	keys     []*resident // least recently used first
	parents  map[parentID]*loadedParent
	hmac     *session // authorizes any key; salted
	policy   *session // executes the policy of any key
	halfway  bool     // steps were executed in policy and not yet used
	saved    map[*Key]tpm2.TPMSContext
	savedPar map[parentID]tpm2.TPMSContext
	used     map[*Key]uint64 // when each key was last used, on clock
	clock    uint64
	inUse    *Key                        // must not be evicted now
	inUsePar *loadedParent               // nor this
	inUseSes *session                    // nor this
	live     map[tpm2.TPMHandle]struct{} // every object loaded through this link
	orphans  map[tpm2.TPMHandle]struct{} // what was loaded when we lost sight of it
	probing  bool                        // running out of slots is expected
	swept    bool                        // objects of strangers were flushed since the last reset
	sweptSes bool                        // sessions too
	foreign  bool                        // somebody's fn runs, whose handles are not ours to flush
	lastUse  time.Time
	stamp    uint64 // the device's, for finding the least recently used
	retired  bool   // behind a resource manager: closed for good, take another
	idle     *time.Timer
}

// A resident is a key that has a slot.
type resident struct {
	key    *Key
	handle tpm2.TPMHandle
}

// assumedSlots is how many objects every PC Client TPM can hold at least, and
// what the kernel's resource manager gives each descriptor.
const assumedSlots = 3

func newSpace(d *Device) *space {
	s := &space{d: d, turn: semaphore.NewWeighted(1), lastUse: time.Now(),
		orphans: make(map[tpm2.TPMHandle]struct{}), used: make(map[*Key]uint64)}
	s.blank()
	return s
}

// blank makes the books say that nothing is loaded.
func (s *space) blank() {
	// They may still be there if the TPM was not reset after all.
	for h := range s.live {
		s.orphans[h] = struct{}{}
	}
	for _, ses := range []*session{s.hmac, s.policy} {
		if ses != nil {
			s.orphans[ses.handle] = struct{}{}
		}
	}
	s.keys, s.hmac, s.policy, s.halfway = nil, nil, nil, false
	s.parents = make(map[parentID]*loadedParent)
	s.saved = make(map[*Key]tpm2.TPMSContext)
	s.savedPar = make(map[parentID]tpm2.TPMSContext)
	s.live = make(map[tpm2.TPMHandle]struct{})
	s.inUse, s.inUsePar, s.inUseSes = nil, nil, nil
	s.swept, s.sweptSes, s.probing = false, false, false
	s.slots, s.measured = assumedSlots, s.d.addr.ResourceManager
}

// Times for finding a TPM again that went away while in use.
const (
	patience   = 2 * time.Second // since it went
	firstPause = 5 * time.Millisecond
	maxPause   = 100 * time.Millisecond
)

// ready makes sure that there is a link, and that the books are of this epoch.
func (s *space) ready(ctx context.Context) error {
	epoch := s.d.epoch.Load()
	if s.link != nil && s.epoch != epoch {
		s.blank()
		if s.d.addr.ResourceManager {
			// The manager flushes what the old descriptor had.
			s.disconnect()
		}
	}
	s.epoch = epoch
	if s.link != nil {
		return nil
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		l, err := link.Dial(ctx, s.d.addr, &s.d.counters)
		if err == nil {
			s.link, s.worked = l, false
			s.blank()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.pause(ctx, pause, err); err != nil {
			return err
		}
	}
}

// pause waits before the TPM is looked for again, unless it has been away for
// so long that err is the answer.
func (s *space) pause(ctx context.Context, d time.Duration, err error) error {
	if time.Since(time.Unix(0, s.d.lostAt.Load()))+d > patience {
		return s.unreachable(err)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.d.closing:
		return errClosed
	}
}

func (s *space) unreachable(err error) error {
	s.failure, s.failureAt = fmt.Errorf("%w: %w", ErrUnavailable, err), time.Now()
	return s.failure
}

func (s *space) disconnect() {
	if s.link != nil {
		_ = s.link.Close()
		s.link = nil
	}
	if s.d.addr.ResourceManager {
		s.blank()
		clear(s.orphans)
	}
}

// lost takes everything for lost, here and in every other space.
func (s *space) lost(err error) {
	s.d.log.Debug("the TPM lost what was loaded", "tpm", s.d.addr.String(), "err", err)
	s.d.newEpoch(s.epoch)
	s.blank()
	if errors.Is(err, link.ErrGone) || s.d.addr.ResourceManager {
		if s.worked {
			s.d.lostAt.Store(time.Now().UnixNano())
		}
		s.disconnect()
	}
}

// Send implements go-tpm's transport on the space: when the TPM has no room, it
// makes some and asks again, and it keeps the books of what is loaded.
func (s *space) Send(cmd []byte) ([]byte, error) {
	for tries := 0; ; tries++ {
		if s.link == nil {
			return nil, fmt.Errorf("no connection: %w", link.ErrGone)
		}
		rsp, err := s.link.Send(cmd)
		if err != nil {
			return nil, err
		}
		s.worked = true
		if len(cmd) < headerSize || len(rsp) < headerSize {
			return rsp, nil
		}
		if tries < maxRoomTries {
			var made bool
			switch tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) {
			case tpm2.TPMRCObjectMemory, tpm2.TPMRCObjectHandles:
				made, err = s.outOfSlots()
			case tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap:
				made, err = s.outOfSessions()
			}
			if err != nil {
				return nil, err
			}
			if made {
				continue
			}
		}
		return s.book(cmd, rsp)
	}
}

const (
	headerSize   = 10
	maxRoomTries = 8 // more than there are slots to give up for one command
)

// book notes which objects a command loaded or flushed.
func (s *space) book(cmd, rsp []byte) ([]byte, error) {
	if binary.BigEndian.Uint32(rsp[6:]) != uint32(tpm2.TPMRCSuccess) {
		return rsp, nil
	}
	switch tpm2.TPMCC(binary.BigEndian.Uint32(cmd[6:])) {
	case tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCCreatePrimary, tpm2.TPMCCContextLoad, tpm2.TPMCCCreateLoaded:
		if len(rsp) < headerSize+4 {
			return rsp, nil
		}
		h := tpm2.TPMHandle(binary.BigEndian.Uint32(rsp[headerSize:]))
		if h>>24 != tpm2.TPMHandle(tpm2.TPMHTTransient) {
			return rsp, nil
		}
		if _, taken := s.live[h]; taken {
			// A slot that we believe to be ours was free: the TPM was reset.
			return nil, fmt.Errorf("%w: slot %#x was given out twice", errStale, uint32(h))
		}
		s.live[h] = struct{}{}
		delete(s.orphans, h)
	case tpm2.TPMCCFlushContext:
		if len(cmd) >= headerSize+4 {
			delete(s.live, tpm2.TPMHandle(binary.BigEndian.Uint32(cmd[headerSize:])))
		}
	}
	return rsp, nil
}

// flush takes one object or session out of the TPM.
func (s *space) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(s)
	if err != nil {
		return staleIf(fmt.Errorf("flush: %w", err), tpm2.TPMRCHandle, tpm2.TPMRCValue)
	}
	return nil
}

// tidy flushes whatever is loaded, as far as the TPM lets it: without a resource
// manager it would stay there after the link is closed.
func (s *space) tidy() {
	for h := range s.orphans {
		if _, again := s.live[h]; !again {
			_ = s.flush(h)
		}
	}
	for h := range s.live {
		_ = s.flush(h)
	}
	for _, ses := range []*session{s.hmac, s.policy} {
		if ses != nil {
			_ = s.flush(ses.handle)
		}
	}
	s.blank()
	clear(s.orphans)
}

// distrust drops everything after an answer that made no sense: what the books
// say may be wrong.
func (s *space) distrust() {
	if s.link == nil {
		s.blank()
		return
	}
	if s.d.addr.ResourceManager {
		s.disconnect()
		s.blank()
		return
	}
	s.d.newEpoch(s.epoch)
	s.tidy()
}
