package tpmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	headerSize = 10
	maxFrame   = 16 << 10
	// tpmLimit ends a test that waits for a TPM which does not answer.
	tpmLimit = 2 * time.Minute
)

var errDown = errors.New("the TPM is down")

// upstream is the one connection to swtpm, made when it is first needed and
// ended when nobody is connected.
type upstream struct {
	path string

	mu   sync.Mutex // held for as long as one command of a user takes
	conn net.Conn

	stateMu sync.Mutex    // may be taken with mu held, but not the other way round
	dead    chan struct{} // closed between Kill and Restart

	usersMu sync.Mutex // may be held when mu is taken
	users   int
}

func newUpstream(path string) *upstream {
	return &upstream{path: path, dead: make(chan struct{})}
}

// isDead returns what is closed while the TPM is down.
func (u *upstream) isDead() <-chan struct{} {
	u.stateMu.Lock()
	defer u.stateMu.Unlock()
	return u.dead
}

// exchange sends one command and returns the response. u.mu is held.
func (u *upstream) exchange(cmd []byte) ([]byte, error) {
	select {
	case <-u.isDead():
		return nil, errDown
	default:
	}
	if u.conn == nil {
		conn, err := net.Dial("unix", u.path)
		if err != nil {
			return nil, err
		}
		u.conn = conn
	}
	rsp, err := u.roundTrip(cmd)
	if err != nil {
		u.conn.Close()
		u.conn = nil
	}
	return rsp, err
}

func (u *upstream) roundTrip(cmd []byte) ([]byte, error) {
	if err := u.conn.SetDeadline(time.Now().Add(tpmLimit)); err != nil {
		return nil, err
	}
	if _, err := u.conn.Write(cmd); err != nil {
		return nil, err
	}
	return readFrame(u.conn)
}

// join and leave count who is connected, so that swtpm is free when nobody is.
func (u *upstream) join() {
	u.usersMu.Lock()
	defer u.usersMu.Unlock()
	u.users++
}

func (u *upstream) leave() {
	u.usersMu.Lock()
	defer u.usersMu.Unlock()
	if u.users--; u.users == 0 {
		u.disconnect()
	}
}

func (u *upstream) disconnect() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn != nil {
		u.conn.Close()
		u.conn = nil
	}
}

// down waits for the command that is running, which a TPM that was killed ends.
func (u *upstream) down() {
	u.stateMu.Lock()
	close(u.dead)
	u.stateMu.Unlock()
	u.disconnect()
}

func (u *upstream) up() {
	u.stateMu.Lock()
	defer u.stateMu.Unlock()
	u.dead = make(chan struct{})
}

// busy is a TPM that takes its time. u.mu is held.
func (u *upstream) busy(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-u.isDead():
	}
}

// readFrame reads one command or response. Nothing is allocated before the
// length that the header names has been judged.
func readFrame(r io.Reader) ([]byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[2:])
	if n < headerSize || n > maxFrame {
		return nil, fmt.Errorf("frame says it has %d bytes", n)
	}
	b := make([]byte, n)
	copy(b, h[:])
	_, err := io.ReadFull(r, b[headerSize:])
	return b, err
}

func commandCode(cmd []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(cmd[6:])) }

func responseCode(rsp []byte) tpm2.TPMRC { return tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) }

// respond makes a response that is only a header.
func respond(rc tpm2.TPMRC) []byte {
	b := []byte{0x80, 0x01, 0, 0, 0, headerSize}
	return binary.BigEndian.AppendUint32(b, uint32(rc))
}

// command makes a command without sessions.
func command(code tpm2.TPMCC, body ...byte) []byte {
	b := []byte{0x80, 0x01}
	b = binary.BigEndian.AppendUint32(b, uint32(headerSize+len(body)))
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, body...)
}
