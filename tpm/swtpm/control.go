package swtpm

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Commands of the control channel: swtpm_ioctls(3). A request is the command, a
// response begins with a result code; both are big-endian 32-bit numbers.
const (
	cmdCapability = 0x01 // answered with 4 more bytes
	cmdShutdown   = 0x03
)

// controlPair returns both ends of a control channel. The child's end is passed
// on as an open file, so there is no second socket in the file system to guard.
func controlPair() (ours net.Conn, childs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "swtpm control")
	defer f.Close() // FileConn has a copy
	childs = os.NewFile(uintptr(fds[1]), "swtpm control")
	ours, err = net.FileConn(f)
	if err != nil {
		childs.Close()
		return nil, nil, err
	}
	return ours, childs, nil
}

// ready waits until swtpm answers, which it does once its data socket listens.
func ready(control net.Conn, limit time.Duration) error {
	return ask(control, cmdCapability, 4, limit)
}

// shutdown tells swtpm to store what it has and to exit.
func shutdown(control net.Conn, limit time.Duration) error {
	return ask(control, cmdShutdown, 0, limit)
}

// ask sends a command and reads the result and the given number of bytes.
func ask(control net.Conn, command uint32, extra int, limit time.Duration) error {
	if err := control.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := control.Write(binary.BigEndian.AppendUint32(nil, command)); err != nil {
		return err
	}
	rsp := make([]byte, 4+extra)
	if _, err := io.ReadFull(control, rsp); err != nil {
		return err
	}
	if rc := binary.BigEndian.Uint32(rsp); rc != 0 {
		return fmt.Errorf("control command %d: result %#x", command, rc)
	}
	return nil
}
