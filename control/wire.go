package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keyringd/keyringd/internal/secret"
)

// An operation is what a client wants.
type operation uint32

const (
	opInitialize operation = 0
	opUnlock     operation = 1
	opChange     operation = 2
	opQuit       operation = 3
)

// String is the operation as a log shows it.
func (o operation) String() string {
	switch o {
	case opInitialize:
		return "initialize"
	case opUnlock:
		return "unlock"
	case opChange:
		return "change"
	case opQuit:
		return "quit"
	default:
		return fmt.Sprintf("operation %d", uint32(o))
	}
}

const (
	headerSize = 8
	// maxRequest leaves room for a desktop's environment, which INITIALIZE
	// carries. A length from the wire is memory that a client asks us for.
	maxRequest = 64 << 10
)

var (
	errFrame  = errors.New("not the control protocol")
	errString = errors.New("its strings are not what the operation needs")
)

// readRequest reads the credentials byte and one request. The body is the
// receiver's to Wipe.
func readRequest(r io.Reader) (operation, secret.Bytes, error) {
	var head [1 + headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, secret.Bytes{}, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if head[0] != 0 || length < headerSize || length > maxRequest {
		return 0, secret.Bytes{}, errFrame
	}
	// Straight from the kernel into memory that is locked.
	body := secret.New(int(length - headerSize))
	var err error
	body.Use(func(p []byte) { _, err = io.ReadFull(r, p) })
	if err != nil {
		body.Wipe()
		return 0, secret.Bytes{}, err
	}
	return operation(binary.BigEndian.Uint32(head[5:])), body, nil
}

// passwords reads exactly n strings, each the receiver's to Wipe. One that is
// not there and one with a NUL in it are none that a person has typed.
func passwords(body secret.Bytes, n int) ([]secret.Bytes, error) {
	var all []secret.Bytes
	var err error
	body.Use(func(p []byte) {
		for range n {
			if len(p) < 4 || uint64(binary.BigEndian.Uint32(p)) > uint64(len(p)-4) {
				err = errString
				return
			}
			size := binary.BigEndian.Uint32(p)
			s := p[4 : 4+size]
			p = p[4+size:]
			for _, c := range s {
				if c == 0 {
					err = errString
				}
			}
			all = append(all, secret.Copy(s))
		}
		if len(p) > 0 {
			err = errString
		}
	})
	if err != nil {
		wipe(all)
		return nil, err
	}
	return all, nil
}

func wipe(all []secret.Bytes) {
	for _, b := range all {
		b.Wipe()
	}
}

// answer encodes an answer. That to INITIALIZE has a list of strings more, which
// is empty.
func answer(op operation, r result) []byte {
	a := binary.BigEndian.AppendUint32(make([]byte, 4, 12), uint32(r))
	if op == opInitialize {
		a = binary.BigEndian.AppendUint32(a, 0)
	}
	binary.BigEndian.PutUint32(a, uint32(len(a)))
	return a
}
