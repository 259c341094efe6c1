package p11rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The ways in which a message is wrong.
var (
	ErrMalformed = errors.New("malformed message")
	// ErrCall is a call whose number is not known.
	ErrCall = errors.New("unknown call")
	// ErrMechanism is a mechanism whose parameters are not known, so that what
	// follows it cannot be read.
	ErrMechanism = errors.New("unknown mechanism")
)

const (
	null = 0xffffffff // the length of an array that is not there

	// maxDepth is how deep templates may lie in templates; p11-kit's limit since
	// 50,000 nested ones, 650 KB, killed its server (CVE-2026-13757).
	maxDepth = 8
	// maxAttributes is how many attributes one message may have, nested ones
	// included. Objects have some forty. Each costs twenty times the memory that
	// it takes on the wire.
	maxAttributes = 1024
)

// A Decoder takes a message apart, field after field. The first error stays: all
// that is read after it is zero, and [Decoder.End] returns it. What it returns
// lies in the message and is borrowed as the message is.
type Decoder struct {
	rest       []byte
	framing    Framing
	attributes int
	err        error
}

// NewDecoder returns a Decoder of fields alone.
func NewDecoder(fields []byte, f Framing) *Decoder {
	return &Decoder{rest: fields, framing: f}
}

// ParseRequest reads the call and signature at the head of a request, and
// returns a Decoder for its fields. Errors are [ErrCall] and [ErrMalformed],
// the latter with the call if that much could be read.
func ParseRequest(body []byte, f Framing) (Call, *Decoder, error) {
	return parse(body, f, Call.Request)
}

// ParseResponse does the same for a response, which may be [CallError].
func ParseResponse(body []byte, f Framing) (Call, *Decoder, error) {
	return parse(body, f, Call.Response)
}

func parse(body []byte, f Framing, signature func(Call) string) (Call, *Decoder, error) {
	d := NewDecoder(body, f)
	call := Call(d.uint32())
	given, there := d.array()
	switch {
	case d.err != nil:
		return call, nil, d.err
	case !call.Known():
		return call, nil, fmt.Errorf("%w: number %d", ErrCall, uint32(call))
	case !there || string(given) != signature(call):
		return call, nil, fmt.Errorf("%w: %v with another signature", ErrMalformed, call)
	}
	return call, d, nil
}

// Err returns the first error.
func (d *Decoder) Err() error { return d.err }

// End returns the first error; bytes that are left over are one.
func (d *Decoder) End() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail("%d bytes too many", len(d.rest))
	}
	return d.err
}

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	d.rest = nil
}

// take returns the next n bytes, nil after an error.
func (d *Decoder) take(n uint64) []byte {
	if d.err != nil {
		return nil
	}
	if n > uint64(len(d.rest)) {
		d.fail("%d bytes wanted, %d left", n, len(d.rest))
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

// Byte reads y.
func (d *Decoder) Byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// flag reads a byte that says yes or no.
func (d *Decoder) flag() bool {
	b := d.Byte()
	if b > 1 {
		d.fail("flag %d", b)
	}
	return b == 1
}

func (d *Decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Ulong reads u.
func (d *Decoder) Ulong() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Version reads v.
func (d *Decoder) Version() (major, minor byte) { return d.Byte(), d.Byte() }

// array reads a length and as many bytes; there is false for a NULL array.
func (d *Decoder) array() (b []byte, there bool) {
	n := d.uint32()
	if n == null {
		return nil, false
	}
	b = d.take(uint64(n))
	return b, d.err == nil
}

// Text reads s or z. A NULL array is not a string.
func (d *Decoder) Text() []byte {
	b, there := d.array()
	if !there {
		d.fail("no string")
	}
	return b
}

// Bytes reads ay.
func (d *Decoder) Bytes() Bytes {
	if !d.flag() {
		return Bytes{Length: d.uint32(), LengthOnly: true}
	}
	b, _ := d.array()
	return Bytes{Data: b, Length: uint32(len(b))}
}

// Ulongs reads au.
func (d *Decoder) Ulongs() Ulongs {
	there, n := d.flag(), d.uint32()
	if !there {
		return Ulongs{Length: n, LengthOnly: true}
	}
	return Ulongs{Values: d.ulongs(n), Length: n}
}

func (d *Decoder) ulongs(n uint32) []uint64 {
	b := d.take(8 * uint64(n))
	if d.err != nil {
		return nil
	}
	values := make([]uint64, n)
	for i := range values {
		values[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return values
}

// Room reads fy or fu: how many bytes or numbers the caller has room for. 0 is a
// question for the length.
func (d *Decoder) Room() uint32 { return d.uint32() }

// Bytes is an array of bytes that a call passes: the bytes, or only their number
// where the other side did not give them room. Data is nil for a NULL array.
type Bytes struct {
	Data       []byte
	Length     uint32
	LengthOnly bool
}

// Ulongs is an array of numbers that a call passes, or only their number.
type Ulongs struct {
	Values     []uint64
	Length     uint32
	LengthOnly bool
}
