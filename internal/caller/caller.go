// Package caller finds out who is on the other end of a unix socket: a [Peer],
// with the program it runs and the chain of processes that started it.
//
// Everything but the user and group IDs is advice: processes of one user can
// pretend to be each other (by exec, by a debugger, by a preloaded library), so
// it is for the user's eyes and choices. It deliberately knows no protocol and
// decides nothing.
package caller

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// A Peer is the process on the other end of a connection, as far as it can be
// known. UID and GID are always known; the rest is empty where it is not.
type Peer struct {
	UID, GID uint32
	PID      int    // 0: not known, such as in another PID namespace
	Program  string // absolute path of the executable in our file system; "" where it is not known or not in it
	Process  string // the chain to show: "ssh (4711) ← git ← zsh"; sanitised
	App      string // Flatpak application ID; sanitised
}

// FromConn returns who opened c. It fails only where the kernel does not name
// the peer's user. It never waits: what cannot be read at once stays unknown.
//
// The process is the one that connected; where the connection was handed on,
// it is still that one.
func FromConn(c *net.UnixConn) (Peer, error) { return fromConn(c, Look) }

func fromConn(c *net.UnixConn, look func(int) (Seen, bool)) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	pidfd := -1
	var pidfdErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if credErr != nil {
			return
		}
		pidfd, pidfdErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	p := Peer{UID: cred.Uid, GID: cred.Gid, PID: int(cred.Pid)}
	alive := func() bool { return true }
	switch pidfdErr {
	case nil:
		defer unix.Close(pidfd)
		alive = func() bool {
			// ESRCH once the process is gone and reaped, and only then can its
			// number be somebody else's.
			return unix.PidfdSendSignal(pidfd, 0, nil, 0) != unix.ESRCH
		}
	case unix.ENOPROTOOPT: // Linux before 6.5: the number has to do
	default: // the process is already gone
		alive = func() bool { return false }
	}
	p.describe(look, alive)
	return p, nil
}

// describe fills in what there is to see of p.PID. alive is asked after looking,
// so that what was seen of a recycled PID is dropped.
func (p *Peer) describe(look func(int) (Seen, bool), alive func() bool) {
	if p.PID <= 0 {
		return
	}
	if s, ok := look(p.PID); ok && alive() {
		p.Program, p.Process, p.App = s.Program, s.Process, s.App
	}
}

// look is Look at this /proc.
func (r proc) look(pid int) (s Seen, ok bool) {
	if pid <= 0 {
		return s, false
	}
	first, ok := r.stat(pid)
	if !ok {
		return s, false
	}
	exe := r.exe(pid)
	s.Program = exe
	if r.foreign(pid) {
		s.Program, s.App = r.sandbox(pid, exe)
	}
	s.Process = r.chain(pid, first, exe, s.App)
	again, ok := r.stat(pid)
	return s, ok && again.start == first.start
}
