package store

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const saltSize = 16

// maxSealed is the largest that a Sealer's output may be; the TPM's is some 250
// bytes, and more with a policy.
const maxSealed = 16 << 10

// A cost is what a passphrase is made slow with: Argon2id, RFC 9106.
type cost struct {
	time    uint32
	memory  uint32 // KiB
	threads uint8
}

// usualCost takes about a tenth of a second.
func usualCost() cost { return cost{time: 3, memory: 64 << 10, threads: 4} }

// sane bounds what a slot on disk may ask for, as nobody has vouched for it when
// it is read.
func (c cost) sane() bool {
	return c.time >= 1 && c.time <= 16 && c.memory >= 8*uint32(c.threads) && c.memory <= 256<<10 && c.threads >= 1 && c.threads <= 16
}

// A slot is one way to a collection key.
type slot struct {
	id      uint64
	kind    keyring.SlotKind
	pin     bool
	pcrs    string
	created int64
	cost    cost   // of a passphrase
	salt    []byte // of a passphrase or a recovery code
	sealed  []byte // by the TPM: the key that wraps the collection key

	head []byte // all of the above as it is on disk
	box  []byte // the collection key, bound to head
	tag  [checksumSize]byte
}

// kinds are the slots' kinds by how they are written.
func kinds() []keyring.SlotKind {
	return []keyring.SlotKind{1: keyring.SlotPassphrase, 2: keyring.SlotTPM, 3: keyring.SlotRecovery}
}

func (s *slot) info() keyring.SlotInfo {
	return keyring.SlotInfo{
		ID: strconv.FormatUint(s.id, 10), Kind: s.kind, PIN: s.pin, PCRs: s.pcrs, Created: time.Unix(0, s.created),
	}
}

func (s *slot) encodeHead() []byte {
	b := []byte{format, byte(slices.Index(kinds(), s.kind)), 0}
	if s.pin {
		b[2] = 1
	}
	b = putUint(b, uint64(s.created))
	b = putBytes(b, s.pcrs)
	b = putUint(b, uint64(s.cost.time))
	b = putUint(b, uint64(s.cost.memory))
	b = append(b, s.cost.threads)
	b = putBytes(b, s.salt)
	return putBytes(b, s.sealed)
}

func (s *slot) encode() []byte { return append(slices.Clone(s.head), s.box...) }

// decodeSlot reads a slot. It keeps nothing of b.
func decodeSlot(id uint64, b []byte) (*slot, error) {
	b = slices.Clone(b)
	r := &reader{b: b}
	version, kind, pin := r.byte(), r.byte(), r.byte()
	s := &slot{id: id, pin: pin == 1, created: int64(r.uint()), pcrs: r.text()}
	passes, memory := r.uint(), r.uint()
	s.cost = cost{uint32(passes), uint32(memory), r.byte()}
	s.salt, s.sealed = r.bytes(), r.bytes()
	s.box = r.b
	s.head = b[:len(b)-len(s.box)]
	if r.err != nil || version != format || kind == 0 || int(kind) >= len(kinds()) || pin > 1 ||
		uint64(s.cost.time) != passes || uint64(s.cost.memory) != memory || len(s.box) != nonceSize+keySize+tagSize {
		return nil, errMalformed
	}
	s.kind = kinds()[kind]
	fits := false
	switch s.kind {
	case keyring.SlotPassphrase:
		fits = s.cost.sane() && len(s.salt) == saltSize && len(s.sealed) == 0 && !s.pin && s.pcrs == ""
	case keyring.SlotTPM:
		fits = s.cost == cost{} && len(s.salt) == 0 && len(s.sealed) > 0 && len(s.sealed) <= maxSealed
	case keyring.SlotRecovery:
		fits = s.cost == cost{} && len(s.salt) == saltSize && len(s.sealed) == 0 && !s.pin && s.pcrs == ""
	}
	if !fits {
		return nil, errMalformed
	}
	copy(s.tag[:], checksum(b))
	return s, nil
}

// bindsTo is what the wrapped collection key is bound to.
func (s *slot) bindsTo(collection string) []byte {
	return append(bound("slot", collection, s.id), s.head...)
}

// wrap puts the collection key into the slot; kek opens it.
func (s *slot) wrap(collection string, kek, ck secret.Bytes) {
	s.head = s.encodeHead()
	kek.Use(func(k []byte) {
		ck.Use(func(plain []byte) {
			a, _ := chacha20poly1305.NewX(k) // fails for other lengths only
			s.box = seal(a, plain, s.bindsTo(collection))
		})
	})
	copy(s.tag[:], checksum(s.encode()))
}

// unwrap returns the collection key, the caller's to Wipe.
func (s *slot) unwrap(collection string, kek secret.Bytes) (ck secret.Bytes, err error) {
	kek.Use(func(k []byte) {
		var plain []byte
		a, bad := chacha20poly1305.NewX(k)
		if bad != nil {
			err = bad
			return
		}
		if plain, err = unseal(a, nil, s.box, s.bindsTo(collection)); err == nil {
			ck = secret.From(plain)
		}
	})
	return ck, err
}

// stretch turns a passphrase into a key, slowly. One at a time, so that the
// memory that it takes is taken once; that is given back to the system, as
// nobody will need it for hours.
func (s *Store) stretch(ctx context.Context, passphrase secret.Bytes, c cost, salt []byte) (kek secret.Bytes, err error) {
	select {
	case s.stretching <- struct{}{}:
		defer func() { <-s.stretching }()
	case <-ctx.Done():
		return secret.Bytes{}, ctx.Err()
	}
	passphrase.Use(func(p []byte) {
		kek = secret.From(argon2.IDKey(p, salt, c.time, c.memory, c.threads, keySize))
	})
	debug.FreeOSMemory()
	return kek, nil
}

func codeKey(value secret.Bytes, salt []byte) (kek secret.Bytes) {
	value.Use(func(v []byte) {
		k, _ := hkdf.Key(sha256.New, v, salt, "keyringd store recovery code", keySize) // fails for huge lengths only
		kek = secret.From(k)
	})
	return kek
}

// A pcrSealer can bind what it seals to some of the TPM's registers. A
// keyring.Sealer may be one.
type pcrSealer interface {
	SealPCRs(ctx context.Context, auth, plain secret.Bytes, pcrs string) ([]byte, error)
}

// newSlot makes a slot for c, and for a recovery code the code.
func (s *Store) newSlot(ctx context.Context, collection string, id uint64, c keyring.Credential, ck secret.Bytes) (*slot, secret.Bytes, error) {
	if c.PCRs != "" && c.Kind != keyring.SlotTPM {
		return nil, secret.Bytes{}, problem(keyring.ErrUnsupported, "a %s slot cannot be bound to the TPM's registers", c.Kind)
	}
	made := &slot{id: id, kind: c.Kind, pcrs: c.PCRs, created: s.now().UnixNano()}
	var kek, code secret.Bytes
	var err error
	switch c.Kind {
	case keyring.SlotPassphrase:
		if c.Value.Len() == 0 {
			return nil, secret.Bytes{}, problem(keyring.ErrUnsupported, "a passphrase cannot be empty")
		}
		made.cost, made.salt = s.cost, newSalt()
		kek, err = s.stretch(ctx, c.Value, made.cost, made.salt)
	case keyring.SlotTPM:
		made.pin = c.Value.Len() > 0
		kek = newKey()
		made.sealed, err = s.sealTPM(ctx, c, kek)
	case keyring.SlotRecovery:
		if c.Value.Len() > 0 {
			return nil, secret.Bytes{}, problem(keyring.ErrUnsupported, "a recovery code is made, not chosen")
		}
		var value secret.Bytes
		code, value = newCode()
		made.salt = newSalt()
		kek = codeKey(value, made.salt)
		value.Wipe()
	default:
		err = problem(keyring.ErrUnsupported, "there are no slots of kind %q", c.Kind)
	}
	defer kek.Wipe()
	if err != nil {
		code.Wipe()
		return nil, secret.Bytes{}, err
	}
	made.wrap(collection, kek, ck)
	return made, code, nil
}

func newSalt() []byte {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt)
	return salt
}

var errNoTPM = errors.New("there is no TPM; hint: keyringctl status says what was looked for")

func (s *Store) sealTPM(ctx context.Context, c keyring.Credential, kek secret.Bytes) ([]byte, error) {
	if s.tpm == nil {
		return nil, problem(keyring.ErrUnavailable, "%w", errNoTPM)
	}
	var sealed []byte
	var err error
	if c.PCRs == "" {
		sealed, err = s.tpm.Seal(ctx, c.Value, kek)
	} else if p, ok := s.tpm.(pcrSealer); ok {
		sealed, err = p.SealPCRs(ctx, c.Value, kek, c.PCRs)
	} else {
		return nil, problem(keyring.ErrUnsupported, "this TPM cannot bind a slot to registers")
	}
	if err == nil && (len(sealed) == 0 || len(sealed) > maxSealed) {
		return nil, problem(keyring.ErrUnsupported, "what the TPM sealed has %d bytes", len(sealed))
	}
	return sealed, err
}

// openSlot tries one slot with a value of its kind. The collection key is the
// caller's to Wipe.
func (s *Store) openSlot(ctx context.Context, collection string, l *slot, value secret.Bytes) (secret.Bytes, error) {
	var kek secret.Bytes
	var err error
	switch l.kind {
	case keyring.SlotPassphrase:
		kek, err = s.stretch(ctx, value, l.cost, l.salt)
	case keyring.SlotRecovery:
		v, ok := readCode(value)
		if !ok {
			return secret.Bytes{}, problem(keyring.ErrAuthFailed, "this is not a recovery code: a letter is wrong or missing")
		}
		kek = codeKey(v, l.salt)
		v.Wipe()
	case keyring.SlotTPM:
		switch {
		case s.tpm == nil:
			return secret.Bytes{}, problem(keyring.ErrUnavailable, "%w", errNoTPM)
		case l.pin != (value.Len() > 0):
			// Without asking the TPM, which counts wrong tries.
			return secret.Bytes{}, problem(keyring.ErrAuthFailed, "slot %d: a PIN is wanted, or none is", l.id)
		}
		kek, err = s.tpm.Unseal(ctx, value, l.sealed)
	}
	defer kek.Wipe()
	if err != nil {
		return secret.Bytes{}, err
	}
	ck, err := l.unwrap(collection, kek)
	if err != nil && l.kind == keyring.SlotTPM {
		return secret.Bytes{}, damaged("slot %d of %s does not hold what its TPM sealed", l.id, collection)
	}
	if err != nil {
		return secret.Bytes{}, problem(keyring.ErrAuthFailed, "slot %d does not open with that %s", l.id, l.kind)
	}
	return ck, nil
}
