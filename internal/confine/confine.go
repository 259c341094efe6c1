// Package confine puts the process that it runs in into a Landlock domain
// (landlock(7)): from then on neither it nor what it starts can open, make or
// remove other files than those it said before, run a program, reach a TCP port
// that it did not name, signal a process outside of the domain, or look into
// one. There is no way back.
//
// Files that are open already, and those that are passed in, stay usable.
// Sockets that have a path can still be connected to.
package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// ErrUnsupported says that the kernel has no Landlock, or that it is not turned
// on.
var ErrUnsupported = errors.New("this kernel has no Landlock")

// ErrHeld says that a thread of this process takes no signal, as one that the
// kernel holds in a file system or a device that does not answer. All threads
// enter a domain together, and all of them would stand still until the last one
// is there. It may be different in a moment.
var ErrHeld = errors.New("a thread is held by the kernel")

// heedWait is how long a thread may take to heed a signal: on a busy machine it
// is not its turn at once.
const heedWait = time.Second

// A Domain is what a process may still reach. Paths are absolute and may be
// files or folders, which stand for all that is in them, now or later; what
// bears a path now counts, and not what comes in its place. Those that do not
// exist are left out.
type Domain struct {
	Read    []string // to be read
	Write   []string // to be read, written, made and removed
	Sockets []string // folders in which folders and sockets may be made
	Devices []string // to be read, written and controlled with ioctl
	Files   []string // to be read and written, not made; nor controlled

	ConnectTCP []uint16 // the TCP ports that may be connected to
	// Abstract lets it connect to abstract sockets of processes outside.
	Abstract bool
}

const (
	read  = ll.AccessFSReadFile | ll.AccessFSReadDir
	write = ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSRemoveFile | ll.AccessFSRemoveDir |
		ll.AccessFSMakeReg | ll.AccessFSMakeDir | ll.AccessFSMakeSock
	// ofFiles are those rights that a file can have.
	ofFiles = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSIoctlDev
	// abstract is LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET.
	abstract landlock.ScopedSet = 1 << 0
)

// Version returns the version of the kernel's Landlock, which is what it can
// restrict, or an ErrUnsupported.
func Version() (int, error) {
	v, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if v < 1 {
		return 0, ErrUnsupported
	}
	return v, nil
}

// Enter puts this process, with all its threads, into the domain, as far as the
// kernel's version can. An error means that it is not in it; ErrHeld, that it may
// be tried again.
func (d Domain) Enter() error {
	if _, err := Version(); err != nil {
		return err
	}
	// Later versions forbid to connect to sockets by their paths.
	c := landlock.V8
	if d.Abstract {
		c.Scoped &^= abstract
	}
	var rules []landlock.Rule
	for _, of := range []struct {
		rights landlock.AccessFSSet
		paths  []string
	}{
		{read, d.Read},
		{read | write, d.Write},
		{ll.AccessFSMakeDir | ll.AccessFSMakeSock | ll.AccessFSReadDir, d.Sockets},
		{read | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSIoctlDev, d.Devices},
		{read | ll.AccessFSWriteFile | ll.AccessFSTruncate, d.Files},
	} {
		for _, path := range of.paths {
			info, err := os.Stat(path)
			if err != nil {
				continue // it is not there, or could not be opened either
			}
			rights := of.rights
			if !info.IsDir() {
				rights &= ofFiles
			}
			if rights != 0 {
				rules = append(rules, landlock.PathAccess(rights, path).IgnoreIfMissing())
			}
		}
	}
	for _, port := range d.ConnectTCP {
		rules = append(rules, landlock.ConnectTCP(port))
	}
	if held(heedWait) {
		return ErrHeld
	}
	return c.BestEffort().Restrict(rules...)
}

// TopBut returns the folders and files in /, without the named ones.
func TopBut(names ...string) ([]string, error) {
	entries, err := os.ReadDir("/")
	if err != nil {
		return nil, err
	}
	var paths []string
next:
	for _, e := range entries {
		for _, name := range names {
			if e.Name() == name {
				continue next
			}
		}
		paths = append(paths, filepath.Join("/", e.Name()))
	}
	return paths, nil
}
