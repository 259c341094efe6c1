package p11rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxFrame is how long a message may be, options included. Programs sign
	// digests and list attributes: a few hundred bytes. The largest real one is
	// a long message for CKM_EDDSA or a large part for C_DigestUpdate, which
	// programs cut at tens of kilobytes.
	MaxFrame = 1 << 20

	headerSize = 12 // u32 code, u32 length of options, u32 length of body

	// A reader's buffer begins at this size, and a larger one is given back once
	// it is empty.
	smallBuffer = 4 << 10
	keptBuffer  = 64 << 10
)

// Handshake is what a client sends in C_Initialize to show that it speaks this
// protocol; unchanged since 2008.
const Handshake = "PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"

// MaxVersion is the highest version of the protocol that is known: the one byte
// that a client sends first.
const MaxVersion = 2

// Negotiate returns the version to answer to a client that offers one. It never
// refuses: a refused client comes back with a lower number, but with the same
// framing.
func Negotiate(offered byte) byte { return min(offered, MaxVersion) }

// A Framing is how a message holds a mechanism. Clients changed it with version
// 2 of the protocol, by what they offer and not by what is agreed.
type Framing byte

// The two framings.
const (
	FramingOld Framing = iota // a mechanism without parameters is followed by a NULL array
	FramingNew                // nothing follows it; others say whether there are any
)

// FramingOf returns the framing of a client that offered this version.
func FramingOf(offered byte) Framing {
	if offered >= 2 {
		return FramingNew
	}
	return FramingOld
}

// A Frame is one message on the wire.
type Frame struct {
	Code uint32 // names the request; its response bears the same
	Body []byte // call, signature and fields
}

// ErrFrame is a frame that nothing can follow: its length cannot be believed.
var ErrFrame = errors.New("malformed frame")

// A FrameReader reads frames. Its memory follows what has arrived, not what a
// header announces. It may not be used concurrently.
type FrameReader struct {
	r          io.Reader
	begun      func(bool)
	buf        []byte
	start, end int // what was read and not yet returned
	frame      int // where the frame that was returned last begins
}

// NewFrameReader returns a FrameReader. begun, if not nil, is called with true
// when the rest of a frame has to be waited for, and with false once it is
// there, so that a slow sender can be given a time limit.
func NewFrameReader(r io.Reader, begun func(bool)) *FrameReader {
	if begun == nil {
		begun = func(bool) {}
	}
	return &FrameReader{r: r, begun: begun}
}

// Next returns the next frame. Its body is borrowed until the next call, which
// wipes it: it may hold a PIN. Errors are io.EOF between two frames,
// io.ErrUnexpectedEOF inside one, [ErrFrame], and the reader's own.
func (f *FrameReader) Next() (Frame, error) {
	clear(f.buf[f.frame:f.start])
	if f.start == f.end {
		f.start, f.end = 0, 0
		if len(f.buf) > keptBuffer {
			f.buf = nil
		}
	}
	f.frame = f.start
	if err := f.need(1); err != nil {
		return Frame{}, err
	}
	// Whatever is waited for from here on belongs to a frame that has begun.
	waiting := false
	need := func(n int) error {
		if f.end-f.start < n && !waiting {
			waiting = true
			f.begun(true)
		}
		if err := f.need(n); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		return nil
	}
	if err := need(headerSize); err != nil {
		return Frame{}, err
	}
	header := f.buf[f.start:]
	code := binary.BigEndian.Uint32(header)
	options := uint64(binary.BigEndian.Uint32(header[4:]))
	body := uint64(binary.BigEndian.Uint32(header[8:]))
	if code == 0 || options+body > MaxFrame {
		return Frame{}, fmt.Errorf("%w: code %d, %d bytes", ErrFrame, code, options+body)
	}
	size := headerSize + int(options+body)
	if err := need(size); err != nil {
		return Frame{}, err
	}
	if waiting {
		f.begun(false)
	}
	frame := Frame{Code: code, Body: f.buf[f.start+headerSize+int(options) : f.start+size : f.start+size]}
	f.frame, f.start = f.start, f.start+size
	return frame, nil
}

// need reads until n bytes are there.
func (f *FrameReader) need(n int) error {
	for f.end-f.start < n {
		if f.end == len(f.buf) {
			f.makeRoom()
		}
		k, err := f.r.Read(f.buf[f.end:])
		f.end += k
		if f.end-f.start >= n {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeRoom moves what is there to the front, of a larger buffer if it fills
// half of this one or more. Nothing of it stays behind.
func (f *FrameReader) makeRoom() {
	have := f.end - f.start
	if 2*have >= len(f.buf) {
		larger := make([]byte, max(smallBuffer, 2*len(f.buf)))
		copy(larger, f.buf[f.start:f.end])
		clear(f.buf)
		f.buf = larger
	} else {
		copy(f.buf, f.buf[f.start:f.end])
		clear(f.buf[have:])
	}
	f.frame, f.start, f.end = 0, 0, have
}

// AppendFrame appends a whole frame, without options.
func AppendFrame(b []byte, f Frame) []byte {
	b = binary.BigEndian.AppendUint32(b, f.Code)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.Body)))
	return append(b, f.Body...)
}
