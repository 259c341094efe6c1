package outside

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/caller"
)

const (
	// maxMessage bounds a message. The longest is a question as a program's
	// argument.
	maxMessage = 64 << 10
	// maxFiles bounds the files that come with one.
	maxFiles = 8
)

// Operations. Each but opGone has an ID of the daemon's own; answers have their
// question's.
const (
	opLook  = "look"  // at PID; answered with Seen, Known
	opStart = "start" // Kind, Path, Args, Extra and files; answered with PID or Err
	opEnd   = "end"   // what was started as ID
	opKill  = "kill"
	opPut   = "put"  // Put and files; answered with Err, Errno, Path
	opGone  = "gone" // what was started as ID has ended with Status; no answer
)

// message is what is said, in either direction, one in a packet.
type message struct {
	ID     uint64      `json:"id"`
	Op     string      `json:"op"`
	PID    int         `json:"pid,omitempty"`
	Kind   string      `json:"kind,omitempty"`
	Path   string      `json:"path,omitempty"`
	Args   []string    `json:"args,omitempty"`
	Extra  []string    `json:"extra,omitempty"`
	Given  []bool      `json:"given,omitempty"` // which descriptors there is a file for
	Death  int         `json:"death,omitempty"`
	Seen   caller.Seen `json:"seen,omitzero"`
	Known  bool        `json:"known,omitempty"`
	Status uint32      `json:"status,omitempty"`
	Put    []putFile   `json:"put,omitempty"`
	Err    string      `json:"err,omitempty"`
	Errno  int         `json:"errno,omitempty"`

	files []*os.File // the receiver's to close
}

// link is one end of the pair.
type link struct {
	conn *net.UnixConn
	// limit is how long the other side may take nothing of what is sent, before it
	// is given up; 0: for ever.
	limit time.Duration
	mu    sync.Mutex // held while sending
}

// pair returns a link and the file of its other end.
func pair() (*link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "outside")
	l, err := newLink(os.NewFile(uintptr(fds[0]), "inside"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return l, theirs, nil
}

// newLink takes f over.
func newLink(f *os.File) (*link, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("not a unix socket")
	}
	return &link{conn: u}, nil
}

// send sends m with its files, which stay the sender's.
func (l *link) send(m message) error {
	b, err := json.Marshal(m.with(wide))
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(b))
	}
	var rights []byte
	if len(m.files) > 0 {
		fds := make([]int, len(m.files))
		for i, f := range m.files {
			fds[i] = int(f.Fd()) // makes it wait when it is read, as programs expect
		}
		rights = unix.UnixRights(fds...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limit > 0 {
		_ = l.conn.SetWriteDeadline(time.Now().Add(l.limit))
	}
	_, _, err = l.conn.WriteMsgUnix(b, rights, nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = l.conn.Close() // and whoever waits to send need not
	}
	return err
}

// receive reads one message; io.EOF: the other side is gone.
func (l *link) receive(buf []byte) (m message, err error) {
	rights := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(buf, rights)
	if err != nil {
		return m, err
	}
	if oobn > 0 {
		if m.files, err = files(rights[:oobn]); err != nil {
			return m, err
		}
	}
	if n == 0 {
		return m, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		m.close()
		return m, errors.New("a message is too long")
	}
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		m.close()
		return m, err
	}
	return m.with(narrow), nil
}

func files(rights []byte) ([]*os.File, error) {
	controls, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var found []*os.File
	for _, c := range controls {
		fds, err := syscall.ParseUnixRights(&c)
		if err != nil {
			continue // something else
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			found = append(found, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return found, nil
}

func (m message) close() {
	for _, f := range m.files {
		if f != nil {
			_ = f.Close()
		}
	}
}
