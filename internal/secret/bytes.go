package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
)

// Bytes is a handle on some secret bytes. Copying a Bytes copies the handle;
// [Bytes.Clone] copies what it holds. The zero value is the empty secret.
//
// A Bytes that is returned is the receiver's to Wipe; one that is passed in is
// borrowed for the call. All methods may be called concurrently.
type Bytes struct{ *region }

// region is one allocation of the arena, shared by every copy of a handle.
type region struct {
	mu  sync.RWMutex
	buf []byte // in the arena; nil once wiped
	len int
}

// New returns n zero bytes to be filled through [Bytes.Use].
func New(n int) Bytes {
	if n == 0 {
		return Bytes{}
	}
	r := &region{buf: arena.alloc(n), len: n}
	// A forgotten handle is wiped when it is collected: late, but not never.
	runtime.AddCleanup(r, arena.free, r.buf)
	return Bytes{r}
}

// From moves src into a new Bytes: it copies src and overwrites it.
func From(src []byte) Bytes {
	b := Copy(src)
	clear(src)
	return b
}

// Copy returns a Bytes with a copy of src, which stays as it is.
func Copy(src []byte) Bytes {
	b := New(len(src))
	b.Use(func(p []byte) { copy(p, src) })
	return b
}

// Len returns the number of bytes, 0 after Wipe.
func (b Bytes) Len() int {
	if b.region == nil {
		return 0
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.buf == nil {
		return 0
	}
	return b.len
}

// Use calls fn with the bytes themselves, nil if there are none. The slice is
// valid until fn returns: fn must not keep it, and must not call Wipe on b.
func (b Bytes) Use(fn func([]byte)) {
	if b.region == nil {
		fn(nil)
		return
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.buf == nil {
		fn(nil)
		return
	}
	fn(b.buf[:b.len:b.len])
}

// Clone returns an independent copy, to be wiped on its own.
func (b Bytes) Clone() Bytes {
	var c Bytes
	b.Use(func(p []byte) { c = Copy(p) })
	return c
}

// Equal reports whether two secrets hold the same bytes, in time that depends
// on their lengths only.
func (b Bytes) Equal(other Bytes) bool {
	if b.region != nil && b.region == other.region {
		return true
	}
	equal := false
	b.Use(func(p []byte) {
		other.Use(func(q []byte) { equal = subtle.ConstantTimeCompare(p, q) == 1 })
	})
	return equal
}

// Wipe overwrites the bytes and gives their memory back. Every copy of the
// handle is empty from then on. It waits for a running Use.
func (b Bytes) Wipe() {
	if b.region == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf != nil {
		clear(b.buf)
		b.buf = nil // the cleanup returns the region to the arena
	}
}

const redacted = "[secret]"

var errEncode = errors.New("a secret cannot be encoded")

// String returns "[secret]".
func (b Bytes) String() string { return redacted }

// GoString returns "[secret]".
func (b Bytes) GoString() string { return redacted }

// Format writes "[secret]" for every verb.
func (b Bytes) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue logs as "[secret]".
func (b Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON refuses.
func (b Bytes) MarshalJSON() ([]byte, error) { return nil, errEncode }

// MarshalText refuses.
func (b Bytes) MarshalText() ([]byte, error) { return nil, errEncode }

// MarshalBinary refuses, and with it encoding/gob.
func (b Bytes) MarshalBinary() ([]byte, error) { return nil, errEncode }
