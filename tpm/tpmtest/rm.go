package tpmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/tpm/link"
)

// An RM does what the resource manager of Linux does behind /dev/tpmrm0
// (drivers/char/tpm/tpm2-space.c): every connection has up to three objects and
// three sessions of its own. Before each command all of them are loaded into
// the TPM, after it all are saved and the objects flushed. Objects have virtual
// handles from 0x80FFFFFF downwards; sessions keep theirs, and are flushed when
// the connection ends.
//
// The kernel tells of what it cannot do by an errno; there is none on a socket,
// so the RM hangs up instead, which a program sees as it sees the errno: the
// connection is of no more use. A connection outlives a restart of the TPM as
// an open /dev/tpmrm0 does: with objects, whose contexts the TPM then refuses,
// every command on it fails; without, it just works on.
//
// Sent and Total count what clients sent, Physical what reached the TPM. The
// other methods are those of all fronts, on the clients' side: Reset, Recorded,
// Contains, Inject, Delay, Hold, Flip, Drop, Clear, Disconnect, TCTI.
type RM struct {
	*front

	mu       sync.Mutex
	physical map[tpm2.TPMCC]int
	handles  map[tpm2.TPMCC]handleCount // nil until a TPM was asked
}

// handleCount is what an RM must know of a command.
type handleCount struct {
	command  int  // handles in the handle area
	response bool // the response begins with a handle
}

// ResourceManager returns a new resource manager in front of the TPM. It ends
// with the test. Several of them, and relays, may be used at the same time; a
// relay's objects take the TPM's slots from everybody.
func (t *TPM) ResourceManager() *RM {
	t.tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rmLocked()
}

func (t *TPM) rmLocked() *RM {
	t.tb.Helper()
	rm := &RM{
		front:    newFront(t.upstream, t.nextPath(), true),
		physical: make(map[tpm2.TPMCC]int),
	}
	rm.open = func() session { return &spaceSession{rm: rm} }
	t.serveLocked(rm.front)
	return rm
}

// Address is the resource manager's address.
func (rm *RM) Address() link.Address {
	a := rm.address()
	a.ResourceManager = true
	return a
}

// User returns how many commands of each code clients sent: Sent by another
// name.
func (rm *RM) User() map[tpm2.TPMCC]int { return rm.Sent() }

// Physical returns how many commands of each code the TPM got because of what
// clients sent, since the start or the last Reset.
func (rm *RM) Physical() map[tpm2.TPMCC]int {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	return maps.Clone(rm.physical)
}

// PhysicalTotal returns the sum of Physical.
func (rm *RM) PhysicalTotal() int {
	rm.mu.Lock()
	defer rm.mu.Unlock()
	n := 0
	for _, c := range rm.physical {
		n += c
	}
	return n
}

// Reset sets the counts to zero.
func (rm *RM) Reset() {
	rm.front.Reset()
	rm.mu.Lock()
	defer rm.mu.Unlock()
	clear(rm.physical)
}

// exchange sends one command to the TPM and counts it. The upstream's mu is
// held.
func (rm *RM) exchange(cmd []byte) ([]byte, error) {
	rm.mu.Lock()
	rm.physical[commandCode(cmd)]++
	rm.mu.Unlock()
	return rm.upstream.exchange(cmd)
}

// attributes returns what the TPM says of its commands, asked once. The
// upstream's mu is held.
func (rm *RM) attributes() (map[tpm2.TPMCC]handleCount, error) {
	if rm.handles != nil {
		return rm.handles, nil
	}
	const all = 0x1FF // more than the library defines
	ask := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCapCommands))
	ask = binary.BigEndian.AppendUint32(ask, 0)
	ask = binary.BigEndian.AppendUint32(ask, all)
	rsp, err := rm.upstream.exchange(command(tpm2.TPMCCGetCapability, ask...))
	if err != nil {
		return nil, err
	}
	m, err := parseAttributes(rsp)
	if err != nil {
		return nil, err
	}
	rm.handles = m
	return m, nil
}

// parseAttributes reads a list of TPMA_CC (Part 2, section 8.9).
func parseAttributes(rsp []byte) (map[tpm2.TPMCC]handleCount, error) {
	if rc := responseCode(rsp); rc != tpm2.TPMRCSuccess {
		return nil, fmt.Errorf("capability commands: %w", rc)
	}
	const list = headerSize + 9 // moreData, capability, count
	if len(rsp) < list {
		return nil, errors.New("capability commands: short response")
	}
	n := binary.BigEndian.Uint32(rsp[list-4:])
	if uint64(len(rsp)-list) != 4*uint64(n) {
		return nil, errors.New("capability commands: wrong count")
	}
	m := make(map[tpm2.TPMCC]handleCount, n)
	for i := list; i < len(rsp); i += 4 {
		a := binary.BigEndian.Uint32(rsp[i:])
		code := tpm2.TPMCC(a & 0xFFFF)
		if a&(1<<29) != 0 { // a vendor's
			code |= 1 << 29
		}
		m[code] = handleCount{command: int(a >> 25 & 7), response: a&(1<<28) != 0}
	}
	// Its handle is a parameter to the TPM, but one that must be mapped.
	m[tpm2.TPMCCFlushContext] = handleCount{command: 1}
	return m, nil
}

// spaceSession is one client of an RM.
type spaceSession struct {
	rm    *RM
	space space
}

func (s *spaceSession) handle(cmd []byte, delay time.Duration) ([]byte, error) {
	s.rm.upstream.mu.Lock()
	defer s.rm.upstream.mu.Unlock()
	s.rm.upstream.busy(delay)
	attributes, err := s.rm.attributes()
	if err != nil {
		return nil, err
	}
	return s.space.transmit(cmd, attributes, s.rm.exchange)
}

func (s *spaceSession) close() {
	s.rm.upstream.mu.Lock()
	defer s.rm.upstream.mu.Unlock()
	s.space.end(s.rm.exchange)
}
