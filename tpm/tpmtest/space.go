package tpmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	spaceObjects  = 3
	spaceSessions = 3
	spaceBytes    = 16 << 10 // for the saved objects, and again for the sessions

	firstVirtual = 0x80FFFFFF

	// layerRM marks a response code that comes from a resource manager.
	layerRM = 0xB0000

	// The kernel repeats what a TPM asks to be repeated, from 20 ms to 2 s apart.
	kernelFirstDelay = 20 * time.Millisecond
	kernelMaxDelay   = 2 * time.Second
)

// errForgotten is what loading or saving something ends with that is no more.
var errForgotten = errors.New("not in the TPM")

// A space is the objects and sessions of one connection.
type space struct {
	objects  [spaceObjects]spaceObject
	sessions [spaceSessions]spaceSessionContext
}

type spaceObject struct {
	used   bool
	handle uint32 // in the TPM, while a command runs
	saved  []byte // TPMS_CONTEXT, between commands
}

type spaceSessionContext struct {
	handle uint32 // 0: free
	saved  []byte
}

type exchange func(cmd []byte) ([]byte, error)

// transmit carries one command. What it fails with is an errno in the kernel;
// the space is then as it was before.
func (s *space) transmit(cmd []byte, attributes map[tpm2.TPMCC]handleCount, do exchange) ([]byte, error) {
	code := commandCode(cmd)
	a, known := attributes[code]
	if !known {
		return respond(layerRM | tpm2.TPMRCCommandCode), nil
	}
	if len(cmd) < headerSize+4*a.command {
		return nil, fmt.Errorf("command %#x is too short for its handles", uint32(code))
	}
	work := *s // like the kernel, which only keeps what went well
	rsp, err := work.run(cmd, code, a, do)
	if err != nil {
		work.flush(do)
		return nil, err
	}
	*s = work
	return rsp, nil
}

func (s *space) run(cmd []byte, code tpm2.TPMCC, a handleCount, do exchange) ([]byte, error) {
	if err := s.load(do); err != nil {
		return nil, err
	}
	mapped := append([]byte(nil), cmd...)
	for i := range a.command {
		if err := s.toPhysical(mapped[headerSize+4*i:]); err != nil {
			return nil, err
		}
	}
	rsp, err := repeat(mapped, code, do)
	if err != nil {
		return nil, err
	}
	if responseCode(rsp) == tpm2.TPMRCSuccess {
		if a.response {
			if err := s.adopt(rsp, do); err != nil {
				return nil, err
			}
		}
		if code == tpm2.TPMCCGetCapability {
			if rsp, err = s.mapHandleList(rsp); err != nil {
				return nil, err
			}
		}
	}
	return rsp, s.save(do)
}

// repeat sends a command until the TPM does not ask for it again.
func repeat(cmd []byte, code tpm2.TPMCC, do exchange) ([]byte, error) {
	for delay := kernelFirstDelay; ; delay *= 2 {
		rsp, err := do(cmd)
		if err != nil {
			return nil, err
		}
		rc := responseCode(rsp)
		again := rc == tpm2.TPMRCRetry || rc == tpm2.TPMRCTesting && code != tpm2.TPMCCSelfTest
		if !again || delay > kernelMaxDelay {
			return rsp, nil
		}
		<-time.After(delay)
	}
}

// load puts everything into the TPM.
func (s *space) load(do exchange) error {
	for i := range s.objects {
		o := &s.objects[i]
		if !o.used {
			continue
		}
		h, err := loadContext(o.saved, do)
		if err != nil {
			return err
		}
		o.handle, o.saved = h, nil
	}
	for i := range s.sessions {
		c := &s.sessions[i]
		if c.handle == 0 {
			continue
		}
		h, err := loadContext(c.saved, do)
		if errors.Is(err, errForgotten) {
			*c = spaceSessionContext{}
			continue
		}
		if err != nil {
			return err
		}
		if h != c.handle {
			return fmt.Errorf("session %#x came back as %#x", c.handle, h)
		}
		c.saved = nil
	}
	return nil
}

// save takes everything out of the TPM again.
func (s *space) save(do exchange) error {
	size := 0
	for i := range s.objects {
		o := &s.objects[i]
		if !o.used {
			continue
		}
		saved, err := saveContext(o.handle, do)
		if errors.Is(err, errForgotten) { // flushed by the command
			*o = spaceObject{}
			continue
		}
		if err != nil {
			return err
		}
		if size += len(saved); size > spaceBytes {
			return errors.New("no room for saved objects")
		}
		if err := flushContext(o.handle, do); err != nil {
			return err
		}
		o.handle, o.saved = 0, saved
	}
	size = 0
	for i := range s.sessions {
		c := &s.sessions[i]
		if c.handle == 0 {
			continue
		}
		saved, err := saveContext(c.handle, do)
		if errors.Is(err, errForgotten) {
			*c = spaceSessionContext{}
			continue
		}
		if err != nil {
			return err
		}
		if size += len(saved); size > spaceBytes {
			return errors.New("no room for saved sessions")
		}
		c.saved = saved
	}
	return nil
}

// flush takes everything out of the TPM and forgets it.
func (s *space) flush(do exchange) {
	for _, o := range s.objects {
		if o.used && o.handle != 0 {
			_ = flushContext(o.handle, do)
		}
	}
	s.end(do)
}

// end flushes the sessions, which live in the TPM even when saved. Saved objects
// do not.
func (s *space) end(do exchange) {
	for _, c := range s.sessions {
		if c.handle != 0 {
			_ = flushContext(c.handle, do)
		}
	}
}

// toPhysical replaces a virtual handle at the start of b.
func (s *space) toPhysical(b []byte) error {
	h := binary.BigEndian.Uint32(b)
	if !transient(h) {
		return nil
	}
	i := firstVirtual - h
	if i >= spaceObjects || !s.objects[i].used {
		return fmt.Errorf("handle %#x is not of this connection", h)
	}
	binary.BigEndian.PutUint32(b, s.objects[i].handle)
	return nil
}

// adopt takes what a response begins with into the space.
func (s *space) adopt(rsp []byte, do exchange) error {
	if len(rsp) < headerSize+4 {
		return errors.New("response without its handle")
	}
	h := binary.BigEndian.Uint32(rsp[headerSize:])
	switch {
	case transient(h):
		for i := range s.objects {
			if !s.objects[i].used {
				s.objects[i] = spaceObject{used: true, handle: h}
				binary.BigEndian.PutUint32(rsp[headerSize:], virtual(i))
				return nil
			}
		}
	case isSession(h):
		for i := range s.sessions {
			if s.sessions[i].handle == 0 {
				s.sessions[i].handle = h
				return nil
			}
		}
	default:
		return nil
	}
	_ = flushContext(h, do)
	return fmt.Errorf("no slot for %#x", h)
}

// mapHandleList replaces the handles in a list of them, and hides those of
// others.
func (s *space) mapHandleList(rsp []byte) ([]byte, error) {
	const list = headerSize + 9 // moreData, capability, count
	if len(rsp) < list {
		return nil, errors.New("short capability")
	}
	if tpm2.TPMCap(binary.BigEndian.Uint32(rsp[headerSize+1:])) != tpm2.TPMCapHandles {
		return rsp, nil
	}
	n := binary.BigEndian.Uint32(rsp[list-4:])
	if uint64(len(rsp)-list) != 4*uint64(n) {
		return nil, errors.New("capability handles: wrong count")
	}
	out := append([]byte(nil), rsp[:list]...)
	for i := list; i < len(rsp); i += 4 {
		h := binary.BigEndian.Uint32(rsp[i:])
		if transient(h) {
			var mine bool
			if h, mine = s.toVirtual(h); !mine {
				continue
			}
		}
		out = binary.BigEndian.AppendUint32(out, h)
	}
	binary.BigEndian.PutUint32(out[2:], uint32(len(out)))
	binary.BigEndian.PutUint32(out[list-4:], uint32(len(out)-list)/4)
	return out, nil
}

func (s *space) toVirtual(h uint32) (uint32, bool) {
	for i, o := range s.objects {
		if o.used && o.handle == h {
			return virtual(i), true
		}
	}
	return 0, false
}

func virtual(i int) uint32 { return firstVirtual - uint32(i) }

func transient(h uint32) bool { return h>>24 == 0x80 }

func isSession(h uint32) bool { return h>>24 == 0x02 || h>>24 == 0x03 }

func loadContext(saved []byte, do exchange) (uint32, error) {
	rsp, err := do(command(tpm2.TPMCCContextLoad, saved...))
	if err != nil {
		return 0, err
	}
	rc := responseCode(rsp)
	switch {
	case withoutPlace(rc) == tpm2.TPMRCHandle || rc == tpm2.TPMRCReferenceH0:
		return 0, errForgotten
	case rc != tpm2.TPMRCSuccess:
		return 0, fmt.Errorf("load context: %w", rc)
	case len(rsp) < headerSize+4:
		return 0, errors.New("load context: no handle")
	}
	return binary.BigEndian.Uint32(rsp[headerSize:]), nil
}

func saveContext(h uint32, do exchange) ([]byte, error) {
	rsp, err := do(command(tpm2.TPMCCContextSave, binary.BigEndian.AppendUint32(nil, h)...))
	if err != nil {
		return nil, err
	}
	switch rc := responseCode(rsp); rc {
	case tpm2.TPMRCSuccess:
		return rsp[headerSize:], nil
	case tpm2.TPMRCReferenceH0:
		return nil, errForgotten
	default:
		return nil, fmt.Errorf("save context %#x: %w", h, rc)
	}
}

// flushContext fails only if the TPM cannot be reached: what is not there need
// not be flushed.
func flushContext(h uint32, do exchange) error {
	_, err := do(command(tpm2.TPMCCFlushContext, binary.BigEndian.AppendUint32(nil, h)...))
	return err
}

// withoutPlace takes from a response code which handle, session or parameter it
// is about (Part 2, section 6.6.3).
func withoutPlace(rc tpm2.TPMRC) tpm2.TPMRC {
	if rc&0x80 != 0 {
		return rc & 0xBF
	}
	return rc
}
