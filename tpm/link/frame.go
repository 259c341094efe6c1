package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

const (
	headerSize = 10 // tag, size, command or response code

	// maxFrame caps a length from the wire, so that a 10-byte header cannot ask
	// for 4 GiB. TPMs in use take and give at most 4 KiB.
	maxFrame = 16 << 10

	// readSize is what one read asks for: room for any response of a TPM in
	// use, so that a character device gives all of it at once, as kernels
	// before 5.0 must (they throw away what a short read leaves behind).
	readSize = 4 << 10
)

// commandCode returns the code of a whole command.
func commandCode(cmd []byte) (tpm2.TPMCC, error) {
	if len(cmd) < headerSize {
		return 0, fmt.Errorf("TPM command of %d bytes has no header", len(cmd))
	}
	if n := binary.BigEndian.Uint32(cmd[2:]); uint64(n) != uint64(len(cmd)) {
		return 0, fmt.Errorf("TPM command of %d bytes says it has %d", len(cmd), n)
	}
	if len(cmd) > maxFrame {
		return 0, fmt.Errorf("TPM command of %d bytes is too long", len(cmd))
	}
	return tpm2.TPMCC(binary.BigEndian.Uint32(cmd[6:])), nil
}

// responseCode returns the code of a whole response.
func responseCode(rsp []byte) tpm2.TPMRC {
	return tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:]))
}

// readResponse reads one response into buf, which must have room for readSize
// bytes, or into a larger one. It fails if more than the response came with it,
// which would be taken for the answer to the next command.
func readResponse(r io.Reader, buf []byte) ([]byte, error) {
	buf = buf[:cap(buf)]
	have, err := io.ReadAtLeast(r, buf, headerSize)
	if err != nil {
		return nil, short(err)
	}
	size := binary.BigEndian.Uint32(buf[2:])
	if size < headerSize || size > maxFrame {
		return nil, fmt.Errorf("response says it has %d bytes", size)
	}
	n := int(size)
	if have > n {
		return nil, fmt.Errorf("response of %d bytes is followed by %d more", n, have-n)
	}
	if n > len(buf) {
		buf = append(make([]byte, 0, n), buf[:have]...)
	}
	if _, err := io.ReadFull(r, buf[have:n]); err != nil {
		return nil, short(err)
	}
	return buf[:n], nil
}

// short says what an end of file in the middle of an exchange means.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the TPM hung up")
	}
	return err
}
