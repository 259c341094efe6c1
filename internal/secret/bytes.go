package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"unsafe"
)

// Bytes is a handle on some secret bytes. Copying a Bytes copies the handle;
// [Bytes.Clone] copies what it holds. The zero value is the empty secret.
//
// A Bytes that is returned is the receiver's to Wipe; one that is passed in is
// borrowed for the call. All methods may be called concurrently.
type Bytes struct{ *region }

// region is one allocation of the arena, shared by every copy of a handle.
//
// Users are counted instead of holding a read lock: a read lock that is taken
// twice, in one Use within another or in Equal from both sides, deadlocks as
// soon as somebody waits to Wipe in between.
type region struct {
	// start is the arena's piece. It is not a slice because fmt, where a verb
	// does not fit, prints what unexported pointers and slices point to.
	start   unsafe.Pointer
	n       int             // how much of the piece is the secret
	cleanup runtime.Cleanup // returns the piece to the arena when nobody wiped it

	mu     sync.Mutex
	users  int           // running calls of Use
	wiped  bool          // no new ones
	unused chan struct{} // made by the first Wipe that has to wait; closed when users is 0
}

// New returns n zero bytes to be filled through [Bytes.Use]. It panics if n is
// negative.
func New(n int) Bytes {
	if n < 0 {
		panic("secret: negative size")
	}
	if n == 0 {
		return Bytes{}
	}
	piece := arena.alloc(n)
	r := &region{start: unsafe.Pointer(&piece[0]), n: n}
	// A forgotten handle is wiped when it is collected: late, but not never.
	r.cleanup = runtime.AddCleanup(r, arena.free, piece)
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
	n := 0
	b.Use(func(p []byte) { n = len(p) })
	return n
}

// Use calls fn with the bytes themselves, nil if there are none. The slice is
// valid until fn returns: fn must not keep it, must not write to it unless the
// caller is the only one who has b, and must not call Wipe on b.
func (b Bytes) Use(fn func([]byte)) {
	if b.region == nil || !b.enter() {
		fn(nil)
		return
	}
	defer b.leave()
	fn(unsafe.Slice((*byte)(b.start), b.n))
}

func (r *region) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wiped {
		return false
	}
	r.users++
	return true
}

func (r *region) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users == 0 && r.unused != nil {
		close(r.unused)
	}
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
// handle is empty from then on. It waits for a running Use. Wiping twice is
// allowed.
func (b Bytes) Wipe() {
	r := b.region
	if r == nil {
		return
	}
	r.mu.Lock()
	first := !r.wiped
	r.wiped = true
	if r.users > 0 && r.unused == nil {
		r.unused = make(chan struct{})
	}
	wait := r.unused
	r.mu.Unlock()
	if wait != nil {
		<-wait
	}
	if first {
		// r is reachable, so its cleanup has not run and Stop prevents it.
		r.cleanup.Stop()
		arena.free(unsafe.Slice((*byte)(r.start), class(r.n)))
		runtime.KeepAlive(r)
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
