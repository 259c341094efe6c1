package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errTooSlow is what a command that outlasts its limit ends with.
var errTooSlow = errors.New("no answer in time")

func open(ctx context.Context, a Address) (channel, error) {
	switch a.Kind {
	case Device:
		return openDevice(a.Target)
	case Unix, TCP:
		network := "unix"
		if a.Kind == TCP {
			network = "tcp"
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, a.Target)
		if err != nil {
			return nil, fmt.Errorf("TPM %s: %w", a, err)
		}
		return socket{conn}, nil
	}
	return nil, fmt.Errorf("TPM %s: not an address that can be dialled", a)
}

// A socket is a channel over a stream.
type socket struct{ net.Conn }

func (s socket) exchange(cmd, buf []byte, limit time.Duration) ([]byte, error) {
	if err := s.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	if _, err := s.Write(cmd); err != nil {
		return nil, slow(err)
	}
	rsp, err := readResponse(s, buf)
	if err != nil {
		return nil, slow(err)
	}
	return rsp, nil
}

func slow(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errTooSlow
	}
	return err
}

// A device is a channel over a character device such as /dev/tpmrm0. Its driver
// does the whole command inside write(2) and offers no way to call it back: in
// non-blocking mode poll(2) and read(2) wait for the same mutex instead. So a
// goroutine of its own waits there, and exchange waits for the goroutine.
type device struct {
	file    *os.File
	cmd     []byte // the goroutine's between start and result, else exchange's
	start   chan struct{}
	result  chan result
	closing chan struct{}
}

type result struct {
	rsp []byte
	err error
}

// AccessError is a TPM device that may not be opened.
type AccessError struct {
	Path string
	Err  error
}

// Error says which device, and why not.
func (e *AccessError) Error() string { return "TPM device " + e.Path + ": " + e.Err.Error() }

// Unwrap returns the system's error.
func (e *AccessError) Unwrap() error { return e.Err }

// Hint says what a user can do about it.
func (e *AccessError) Hint() string {
	return "on most systems the members of the group tss may use " + e.Path + ": sudo usermod -aG tss $USER, then log in again"
}

func openDevice(path string) (channel, error) {
	// Not os.OpenFile: it would put the file into non-blocking mode.
	var fd int
	var err error
	for {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, &AccessError{path, err}
	}
	if err != nil {
		return nil, fmt.Errorf("TPM device %s: %w", path, err)
	}
	return newDevice(os.NewFile(uintptr(fd), path)), nil
}

func newDevice(f *os.File) *device {
	d := &device{
		file:    f,
		start:   make(chan struct{}),
		result:  make(chan result, 1), // the goroutine never waits for one that gave up
		closing: make(chan struct{}),
	}
	go d.run()
	return d
}

// run carries commands until the device is closed. It is not waited for, as the
// kernel may hold it for minutes.
func (d *device) run() {
	buf := make([]byte, 0, readSize)
	for {
		select {
		case <-d.start:
			rsp, err := d.carry(buf)
			d.result <- result{rsp, err}
		case <-d.closing:
			return
		}
	}
}

func (d *device) carry(buf []byte) ([]byte, error) {
	if _, err := d.file.Write(d.cmd); err != nil {
		return nil, err
	}
	return readResponse(d.file, buf)
}

func (d *device) exchange(cmd, _ []byte, limit time.Duration) ([]byte, error) {
	// A copy, as the kernel may still be at it when the caller was told that it
	// takes too long and uses its own again.
	d.cmd = append(d.cmd[:0], cmd...)
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case d.start <- struct{}{}:
	case <-d.closing:
		return nil, os.ErrClosed
	}
	select {
	case r := <-d.result:
		return r.rsp, r.err
	case <-t.C:
		return nil, errTooSlow
	case <-d.closing:
		return nil, os.ErrClosed
	}
}

func (d *device) Close() error {
	close(d.closing)
	return d.file.Close()
}
