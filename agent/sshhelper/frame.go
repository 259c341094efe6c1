package sshhelper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keyringd/keyringd/keyring"
)

// maxReply bounds what a helper may answer: the keys of a card with thousands
// of certificates fit many times over.
const maxReply = 1 << 20

var errReply = fmt.Errorf("%w: OpenSSH's helper gave an answer that is not understood; is it of another version?", keyring.ErrUnavailable)

// frame puts the length before a message.
func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(message)), uint32(len(message))), message...)
}

// read reads one message, which is not empty.
func read(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxReply {
		return nil, errReply
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return message, err
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// A decoder reads a reply. After a fault all is zero and bad is set.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint32) []byte {
	if d.bad || uint64(n) > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) string() []byte { return d.take(d.uint32()) }
