package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/big"
	"net"
	"time"
)

// Message numbers of RFC 9987; the first is of protocol 1, and OpenSSH's
// ssh-add -D still sends it.
const (
	msgRemoveAllV1 = 9

	msgFailure           = 5
	msgSuccess           = 6
	msgRequestIdentities = 11
	msgIdentitiesAnswer  = 12
	msgSignRequest       = 13
	msgSignResponse      = 14
	msgAddIdentity       = 17
	msgRemoveIdentity    = 18
	msgRemoveAll         = 19
	msgAddCard           = 20
	msgRemoveCard        = 21
	msgLock              = 22
	msgUnlock            = 23
	msgAddConstrained    = 25
	msgAddCardConstr     = 26
	msgExtension         = 27
	msgExtensionFailure  = 28 // the extension is known, and failed
	msgExtensionResponse = 29
)

// Signature flags of a sign request. OpenSSH ignores all others, and these two
// for keys that are not RSA.
const (
	flagSHA256 = 2
	flagSHA512 = 4
)

const (
	// maxRequest is the largest request, in bytes after the length; OpenSSH's
	// limit too. One byte more and the connection is dropped without a word.
	maxRequest = 256 << 10
	// maxReply and maxIdentities are what OpenSSH's clients take: a longer
	// answer would cost them every key, not the last ones.
	maxReply      = 256 << 10
	maxIdentities = 2048

	headerSize = 4
	// minBuffer takes nearly every request in one read.
	minBuffer = 1 << 10
	// keepBuffer is the largest buffer that an idle connection keeps.
	keepBuffer = 4 << 10
)

// The answers that are always the same; nobody writes to them.
var (
	failureReply = []byte{0, 0, 0, 1, msgFailure}
	successReply = []byte{0, 0, 0, 1, msgSuccess}
	nothingReply = []byte{0, 0, 0, 5, msgIdentitiesAnswer, 0, 0, 0, 0}
)

// errFrame is a length that no request can have: 0, or more than maxRequest.
var errFrame = errors.New("request length out of bounds")

// A frameReader cuts a connection's bytes into requests. It holds no more
// memory than has arrived, at most twice over: a length on the wire reserves
// nothing.
type frameReader struct {
	conn       net.Conn
	timeout    time.Duration // from the first byte that is waited on to the last
	buf        []byte
	start, end int // buf[start:end] was read and not yet returned
}

// next returns the next request: its type and body. The slice is valid until
// the following call; the caller may overwrite it. An error ends the
// connection: io.EOF between requests is its orderly end.
func (f *frameReader) next() ([]byte, error) {
	waiting := false
	for {
		have := f.buf[f.start:f.end]
		need := headerSize
		if len(have) >= headerSize {
			n := binary.BigEndian.Uint32(have)
			if n == 0 || n > maxRequest {
				return nil, errFrame
			}
			need += int(n)
			if len(have) >= need {
				f.start += need
				if waiting {
					if err := f.conn.SetReadDeadline(time.Time{}); err != nil {
						return nil, err
					}
				}
				return have[headerSize:need:need], nil
			}
		}
		if len(have) > 0 && !waiting {
			if err := f.conn.SetReadDeadline(time.Now().Add(f.timeout)); err != nil {
				return nil, err
			}
			waiting = true
		}
		f.makeRoom(need)
		n, err := f.conn.Read(f.buf[f.end:])
		f.end += n
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// makeRoom sees to it that at least one more byte of a frame of need bytes can
// be read.
func (f *frameReader) makeRoom(need int) {
	if f.start == f.end {
		f.start, f.end = 0, 0
		if len(f.buf) == 0 || len(f.buf) > keepBuffer {
			f.buf = make([]byte, minBuffer)
		}
		return
	}
	if f.end < len(f.buf) {
		return
	}
	held := f.buf[f.start:f.end]
	to := f.buf
	if len(held) > len(f.buf)/2 {
		to = make([]byte, max(min(2*len(f.buf), need), len(held)+1))
	}
	n := copy(to, held)
	// What was moved may be a private key or a passphrase on its way in.
	if len(to) == len(f.buf) && &to[0] == &f.buf[0] {
		clear(f.buf[n:])
	} else {
		clear(f.buf)
	}
	f.buf, f.start, f.end = to, 0, n
}

// A decoder takes apart a request's body, RFC 4251 §5. After the first value
// that does not fit, bad is set and every further one is zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad, d.rest = true, nil
		return nil
	}
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// string returns a part of what is decoded, not a copy.
func (d *decoder) string() []byte {
	n := d.uint32()
	if uint64(n) > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	return d.take(int(n))
}

// text is a string that C programs can hold: without a NUL, but that one at its
// end is left out.
func (d *decoder) text() string {
	v := d.string()
	if n := len(v); n > 0 && v[n-1] == 0 {
		v = v[:n-1]
	}
	if bytes.IndexByte(v, 0) >= 0 {
		d.bad, d.rest = true, nil
		return ""
	}
	return string(v)
}

// done reports whether all was decoded and nothing is left over.
func (d *decoder) done() bool { return !d.bad && len(d.rest) == 0 }

func appendUint32(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

func appendString[T []byte | string](b []byte, s T) []byte {
	return append(appendUint32(b, len(s)), s...)
}

// appendMpint appends n, which is not negative, RFC 4251 §5.
func appendMpint(b []byte, n *big.Int) []byte {
	size := n.BitLen()/8 + 1 // room for a sign bit
	if n.Sign() == 0 {
		size = 0
	}
	b = appendUint32(b, size)
	at := len(b)
	b = append(b, make([]byte, size)...)
	n.FillBytes(b[at:])
	return b
}

// newFrame begins a reply of type t with room for size bytes in all.
func newFrame(t byte, size int) []byte {
	return append(make([]byte, headerSize, headerSize+size), t)
}

// endFrame fills in the length of a reply begun with newFrame.
func endFrame(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-headerSize))
	return b
}
