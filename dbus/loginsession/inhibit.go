package loginsession

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

// A handle is the place of a file descriptor among those that came with a
// message, as it stands in the body.
type handle uint32

// inhibit takes logind's promise to wait for us before the machine sleeps
// (https://systemd.io/INHIBITOR_LOCKS). It stands until the file is closed.
//
// It uses a connection of its own, which lasts for this one answer: descriptors
// come beside messages and not in them, and on a connection that others send to
// as well it would not be sure whose they are.
func inhibit(ctx context.Context, address string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	socket, err := wire.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	c, ok := socket.(*net.UnixConn)
	if !ok {
		socket.Close()
		return nil, errors.New("the bus is not on a unix socket")
	}
	files := &catcher{UnixConn: c}
	defer files.drop()
	l, err := join(ctx, files, func(*wire.Frame) bool { return false }, []string{"NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD"})
	if err != nil {
		return nil, err
	}
	var at handle
	err = l.call(ctx, loginName, loginPath, loginManager, "Inhibit",
		[]any{"sleep", "keyringd", "Forgets what it remembers", "delay"}, &at)
	l.close()
	if err != nil {
		return nil, err
	}
	return files.only()
}

// A catcher is a socket that keeps the file descriptors which come in.
type catcher struct {
	*net.UnixConn

	mu    sync.Mutex
	files []int
}

// maxFiles bounds what is taken at a time; the kernel closes what does not fit.
const maxFiles = 4

// Read reads bytes, and notes what comes beside them.
func (c *catcher) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, m, _, _, err := c.ReadMsgUnix(p, oob) // Go sets close-on-exec
	messages, parseErr := unix.ParseSocketControlMessage(oob[:m])
	if parseErr != nil {
		messages = nil
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			c.mu.Lock()
			c.files = append(c.files, fds...)
			c.mu.Unlock()
		}
	}
	if n == 0 && err == nil && len(p) > 0 {
		return 0, net.ErrClosed // the end, which ReadMsgUnix does not call one
	}
	return n, err
}

// only returns the one descriptor that came.
func (c *catcher) only() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.files) != 1 {
		return nil, fmt.Errorf("inhibitor: %d file descriptors came with the answer", len(c.files))
	}
	f := os.NewFile(uintptr(c.files[0]), "inhibitor")
	c.files = nil
	return f, nil
}

// drop closes those that nobody took.
func (c *catcher) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range c.files {
		_ = unix.Close(fd)
	}
	c.files = nil
}
