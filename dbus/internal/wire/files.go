package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

const (
	// maxControl is room for all the files that Linux lets through at once,
	// SCM_MAX_FD in net/scm.h: a smaller one would let hostile senders decide
	// which are cut off.
	maxControl = 253
	// maxLine bounds the bus's answer about files: a word and a reason.
	maxLine = 512
)

// files receives a connection's file descriptors. It is for the goroutine that
// reads.
type files struct {
	agreed  bool
	control []byte
	waiting []*os.File
}

// negotiate asks the bus to pass files on: D-Bus Specification, "Authentication
// Protocol", NEGOTIATE_UNIX_FD. It is called right before BEGIN, while nobody
// reads. A bus that will not is as good without.
func (f *files) negotiate(c net.Conn) error {
	if _, ok := c.(*net.UnixConn); !ok {
		return nil // nothing else carries files
	}
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("NEGOTIATE_UNIX_FD\r\n")); err != nil {
		return err
	}
	// A byte at a time: what follows the line is not ours to read.
	var line []byte
	for one := make([]byte, 1); !bytes.HasSuffix(line, []byte("\r\n")); line = append(line, one...) {
		if len(line) > maxLine {
			return malformed("an answer of more than %d bytes in the authentication", maxLine)
		}
		if _, err := io.ReadFull(c, one); err != nil {
			return err
		}
	}
	switch word, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); string(word) {
	case "AGREE_UNIX_FD":
		f.agreed = true
		f.control = make([]byte, syscall.CmsgSpace(4*maxControl))
	case "ERROR":
	default:
		return malformed("%q in the authentication", word)
	}
	return nil
}

// read reads bytes and keeps the files that come with them.
func (f *files) read(c net.Conn, b []byte) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok || !f.agreed {
		return c.Read(b)
	}
	n, control, _, _, err := u.ReadMsgUnix(b, f.control)
	if control > 0 {
		if failed := f.keep(f.control[:control]); failed != nil && err == nil {
			err = failed
		}
	}
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// keep takes the files out of control messages: the first few, so that who
// sends hundreds does not use up what the process may have open.
func (f *files) keep(control []byte) error {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return fmt.Errorf("message bus: control message: %w", err)
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue // something else than files
		}
		for _, fd := range fds {
			if len(f.waiting) >= maxFiles {
				_ = syscall.Close(fd)
				continue
			}
			f.waiting = append(f.waiting, os.NewFile(uintptr(fd), "from the bus"))
		}
	}
	return nil
}

// take returns the files that came since the last time.
func (f *files) take() []*os.File {
	all := f.waiting
	f.waiting = nil
	return all
}

func closeAll(all []*os.File) {
	for _, f := range all {
		_ = f.Close()
	}
}

// SendFilesAs is SendAs with files that go along, which stay the caller's. An
// argument of type h is a place in all.
func (t *Tap) SendFilesAs(h Header, body []byte, all []*os.File) error {
	u, ok := t.conn.(*net.UnixConn)
	if !ok || !t.files.agreed {
		return errNoFiles
	}
	h.Files = uint32(len(all))
	message := AppendMessage(make([]byte, 0, 512+len(body)), h, body)
	defer clear(message)
	fds := make([]int, len(all))
	for i, f := range all {
		fds[i] = int(f.Fd())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := u.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("message bus: %w", err)
	}
	// The files go with the first bytes. What then does not fit follows.
	n, _, err := u.WriteMsgUnix(message, syscall.UnixRights(fds...), nil)
	if err == nil && n < len(message) {
		_, err = u.Write(message[n:])
	}
	runtime.KeepAlive(all)
	if err != nil {
		_ = u.Close() // half a message may be out, after which nothing can follow
		return fmt.Errorf("message bus: %w", err)
	}
	return nil
}

var errNoFiles = errors.New("this message bus passes no files on")
