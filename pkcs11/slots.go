package pkcs11

import (
	"slices"

	"github.com/keyringd/keyringd/internal/p11uri"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

const manufacturer = p11uri.Manufacturer

// The CKF_ flags of slots, tokens, sessions and mechanisms, §3.
const (
	flagTokenPresent = 0x1
	flagRemovable    = 0x2
	flagHWSlot       = 0x4

	flagRNG                = 0x1
	flagWriteProtected     = 0x2
	flagLoginRequired      = 0x4
	flagUserPINInitialized = 0x8
	flagProtectedAuthPath  = 0x100
	flagTokenInitialized   = 0x400

	flagHW       = 0x1
	flagDecrypt  = 0x200
	flagDigest   = 0x400
	flagSign     = 0x800
	flagVerify   = 0x2000
	flagUnwrap   = 0x40000
	flagDerive   = 0x80000
	flagECFp     = 0x100000
	flagECNamed  = 0x800000
	flagECUncomp = 0x1000000

	flagGenerateKeyPair = 0x10000
)

// A slot is one of the two places for tokens. Its token comes when the first
// such key does, and goes with the last.
type slot struct {
	id          uint64
	token       func() p11uri.Token
	description string
	hardware    bool
	holds       func(keyring.Kind) bool
}

// slots are those there are.
var slots = []slot{
	{
		id: 1, token: p11uri.TPM, hardware: true,
		description: "Keys in this machine's TPM",
		holds:       func(k keyring.Kind) bool { return k == keyring.KindTPM },
	},
	{
		id: 2, token: p11uri.Files,
		description: "Private keys in files",
		holds:       func(k keyring.Kind) bool { return k != keyring.KindTPM },
	},
}

// slotOf returns the slot for keys of a kind.
func slotOf(kind keyring.Kind) uint64 {
	for _, s := range slots {
		if s.holds(kind) {
			return s.id
		}
	}
	return 0
}

// slot returns a slot by its number.
func (q *request) slot(id uint64) (slot, error) {
	for _, s := range slots {
		if s.id == id {
			return s, nil
		}
	}
	return slot{}, p11rpc.SlotIDInvalid
}

// token returns a slot that has a token.
func (q *request) token(id uint64) (slot, error) {
	s, err := q.slot(id)
	if err == nil && !q.server.objects().present(id) {
		err = p11rpc.TokenNotPresent
	}
	return s, err
}

// getSlotList is C_GetSlotList, §5.5. Slots with keys come first, then those whose
// token is empty: programs that are told nothing else take the first one.
func (q *request) getSlotList() error {
	onlyPresent, room := q.in.Byte(), q.in.Room()
	if err := q.in.End(); err != nil {
		return err
	}
	now := q.server.objects()
	var full, empty, absent []uint64
	for _, s := range slots {
		switch stocked, present := now.tokens[s.id]; {
		case stocked:
			full = append(full, s.id)
		case present:
			empty = append(empty, s.id)
		case onlyPresent == 0:
			absent = append(absent, s.id)
		}
	}
	q.numbers(slices.Concat(full, empty, absent), room)
	return nil
}

// numbers writes a list of numbers, or only its length if there is no room.
func (q *request) numbers(list []uint64, room uint32) {
	if uint64(room) < uint64(len(list)) {
		q.out.Length(len(list))
		return
	}
	q.out.Numbers(list)
}

// getSlotInfo is C_GetSlotInfo, §5.5.
func (q *request) getSlotInfo() error {
	id := q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	s, err := q.slot(id)
	if err != nil {
		return err
	}
	flags := uint64(flagRemovable)
	if q.server.objects().present(id) {
		flags |= flagTokenPresent
	}
	if s.hardware {
		flags |= flagHWSlot
	}
	q.out.Padded(s.description, 64)
	q.out.Padded(manufacturer, 32)
	q.out.Ulong(flags)
	q.out.Version(0, 0)
	q.out.Version(0, 0)
	return nil
}

// getTokenInfo is C_GetTokenInfo, §5.5. It is asked for often and answered from
// memory.
func (q *request) getTokenInfo() error {
	id := q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	s, err := q.token(id)
	if err != nil {
		return err
	}
	// A program that insists on a login is told not to ask for a PIN itself. It
	// may open sessions for writing, as OpenSSH does without writing anything.
	flags := uint64(flagRNG | flagUserPINInitialized | flagProtectedAuthPath | flagTokenInitialized)
	if !q.server.writable(s) {
		flags |= flagWriteProtected
	}
	if q.server.strict {
		flags |= flagLoginRequired
	}
	open := q.countSessions(id)
	token := s.token()
	q.out.Padded(token.Label, 32)
	q.out.Padded(manufacturer, 32)
	q.out.Padded(token.Model, 16)
	q.out.Padded(token.Serial, 16)
	q.out.Ulong(flags)
	q.out.Ulong(maxSessions)
	q.out.Ulong(open.all)
	q.out.Ulong(maxSessions)
	q.out.Ulong(open.writing)
	q.out.Ulong(maxPIN)
	q.out.Ulong(0)
	for range 4 {
		q.out.Ulong(p11rpc.Unavailable) // of memory
	}
	q.out.Version(0, 0)
	q.out.Version(0, 0)
	q.out.Padded("", 16) // it has no clock
	return nil
}

// maxPIN is the longest PIN that programs may pass to C_Login, which ignores it.
const maxPIN = 255

// getMechanismList is C_GetMechanismList, §5.5.
func (q *request) getMechanismList() error {
	id, room := q.in.Ulong(), q.in.Room()
	if err := q.in.End(); err != nil {
		return err
	}
	s, err := q.token(id)
	if err != nil {
		return err
	}
	var list []uint64
	for _, m := range mechanisms {
		if q.has(s.id, m) {
			list = append(list, uint64(m.typ))
		}
	}
	q.numbers(list, room)
	return nil
}

// getMechanismInfo is C_GetMechanismInfo, §5.5.
func (q *request) getMechanismInfo() error {
	id, typ := q.in.Ulong(), q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	s, err := q.token(id)
	if err != nil {
		return err
	}
	m, ok := mechanismOf(typ)
	if !ok || !q.has(s.id, m) {
		return p11rpc.MechanismInvalid
	}
	low, high, flags := m.info()
	if s.hardware && m.scheme != schemeDigest {
		flags |= flagHW
	}
	q.out.Ulong(low)
	q.out.Ulong(high)
	q.out.Ulong(flags)
	return nil
}

// waitForSlotEvent is C_WaitForSlotEvent, §5.5. Events are not told; programs
// that want them look at the slots themselves, which costs nothing.
func (q *request) waitForSlotEvent() error {
	const dontBlock = 1
	flags := q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	if flags&dontBlock != 0 {
		return p11rpc.NoEvent
	}
	return p11rpc.FunctionNotSupported
}
