package dbus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/secret"
)

// handOverTimeout is how long whoever reads the other end may take.
const handOverTimeout = 10 * time.Second

// file returns a file that came with the call, which closes it at its end.
func (c *call) file(i godbus.UnixFDIndex) (*os.File, error) {
	if int64(i) >= int64(len(c.attached)) {
		return nil, badArgument("file %d of %d that came along", i, len(c.attached))
	}
	return c.attached[i], nil
}

// handOver writes a secret to a file of the caller's, and does not wait for
// ever for somebody to read it.
func handOver(to *os.File, value secret.Bytes) error {
	err := write(to, value)
	if err != nil {
		return badArgument("the file that came along: %v", err)
	}
	return nil
}

func write(to *os.File, value secret.Bytes) (err error) {
	info, err := to.Stat()
	if err != nil {
		return err
	}
	// Nothing, which fails on what was not opened for writing.
	if _, err := to.Write(nil); err != nil {
		return err
	}
	put := func(f *os.File) { value.Use(func(b []byte) { _, err = f.Write(b) }) }
	switch mode := info.Mode(); {
	case mode.IsRegular():
		put(to)
	case mode&fs.ModeSocket != 0:
		value.Use(func(b []byte) {
			err = syscall.Sendmsg(int(to.Fd()), b, nil, nil, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		})
	case mode&(fs.ModeNamedPipe|fs.ModeCharDevice) != 0:
		// Opened anew, because whether writing waits is a matter of the open file,
		// which the other side has, too, and may not expect to change.
		again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", to.Fd()), os.O_WRONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
		if errors.Is(err, fs.ErrPermission) && mode&fs.ModeNamedPipe != 0 {
			// A pipe that has a name is not ours to open. For the moment of writing,
			// then, the flag changes.
			if err := syscall.SetNonblock(int(to.Fd()), true); err != nil {
				return err
			}
			defer func() { _ = syscall.SetNonblock(int(to.Fd()), false) }()
			var fd int
			if fd, err = syscall.Dup(int(to.Fd())); err == nil {
				syscall.CloseOnExec(fd)
				again = os.NewFile(uintptr(fd), to.Name())
			}
		}
		if err != nil {
			return err
		}
		defer again.Close()
		if err := again.SetWriteDeadline(time.Now().Add(handOverTimeout)); err != nil {
			return err
		}
		value.Use(func(b []byte) { _, err = again.Write(b) })
		return err
	default:
		return fmt.Errorf("a %s is nothing to write to", mode.Type())
	}
	return err
}
