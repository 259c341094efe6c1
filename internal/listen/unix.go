package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPath is what fits into sockaddr_un, unix(7), with its final NUL.
	maxPath = 107
	// watchEvery is how often a listener looks whether its socket is still
	// there. Something that cleans temporary files needs no faster answer.
	watchEvery = 5 * time.Second
	// lockWait is how long another process may hold the directory's lock. It
	// is held for a few system calls.
	lockWait = 2 * time.Second
	lockPoll = 10 * time.Millisecond
)

// ErrInUse is wrapped when another process serves the socket.
var ErrInUse = errors.New("another keyringd is running")

// A Listener is a unix socket that stays where it is: when its path or its
// directory is removed it is made anew, unless somebody else serves there by
// then. Its methods may be called concurrently.
type Listener struct {
	path string
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	l      *net.UnixListener
	id     inode
	closed bool
	lost   bool // somebody else serves at path; said once
}

// inode names a file as long as it exists. The kernel keeps that of a bound
// socket until the socket is closed, so that the number cannot come again.
type inode struct{ dev, ino uint64 }

// Unix listens on path, which only the process's user can reach: the directory
// is made with mode 0700 where it does not exist, and refused where it belongs
// to somebody else or is open to others; the socket has mode 0600. A socket
// that nobody answers on is replaced; one that is served is an [ErrInUse].
//
// Close removes the socket, unless it has become another one.
func Unix(path string) (*Listener, error) { return newUnix(path, watchEvery) }

func newUnix(path string, every time.Duration) (*Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l := &Listener{path: path, stop: make(chan struct{}), done: make(chan struct{})}
	if l.l, l.id, err = bind(path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	go l.watch(every)
	return l, nil
}

// Accept waits for the next connection, a *net.UnixConn.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		cur := l.l
		l.mu.Unlock()
		c, err := cur.AcceptUnix()
		if err == nil {
			return c, nil
		}
		l.mu.Lock()
		moved := !l.closed && l.l != cur
		l.mu.Unlock()
		if !moved {
			return nil, err
		}
	}
}

// Addr returns the socket's address.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close removes the socket and stops listening. It may be called again.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	close(l.stop)
	l.mu.Unlock()
	<-l.done

	l.mu.Lock()
	defer l.mu.Unlock()
	// The path goes first: as long as the socket is open, its inode's number
	// is its own.
	if dir, err := openDir(filepath.Dir(l.path)); err == nil {
		unlock := lockDir(dir)
		if id, err := lookup(l.path); err == nil && id == l.id {
			_ = os.Remove(l.path)
		}
		unlock()
		dir.Close()
	}
	return l.l.Close()
}

func (l *Listener) watch(every time.Duration) {
	defer close(l.done)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
			l.check()
		}
	}
}

// check makes the socket anew if it is no longer at its path.
func (l *Listener) check() {
	if id, err := lookup(l.path); err == nil && id == l.id {
		l.lost = false
		return
	}
	fresh, id, err := bind(l.path)
	if err != nil {
		if !l.lost {
			slog.Default().Warn("socket was taken away and cannot be made again", "path", l.path, "err", err)
		}
		l.lost = true
		return
	}
	l.lost = false
	slog.Default().Info("socket was taken away; made again", "path", l.path)
	l.mu.Lock()
	old := l.l
	l.l, l.id = fresh, id
	l.mu.Unlock()
	old.Close()
}

// bind makes a listening socket at path.
func bind(path string) (*net.UnixListener, inode, error) {
	if len(path) > maxPath {
		return nil, inode{}, fmt.Errorf("path of %d bytes is too long; at most %d fit", len(path), maxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, inode{}, err
	}
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return nil, inode{}, err
	}
	defer dir.Close()
	// Two daemons that start together must not each find the other's socket
	// stale and remove it.
	defer lockDir(dir)()

	if err := removeStale(path); err != nil {
		return nil, inode{}, err
	}
	// Until chmod the umask decides the socket's mode, but nobody else can
	// enter the directory.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, inode{}, err
	}
	l.SetUnlinkOnClose(false) // Close removes it, if it is still ours
	err = os.Chmod(path, 0o600)
	id, lookErr := lookup(path)
	if err = errors.Join(err, lookErr); err != nil {
		l.Close()
		return nil, inode{}, err
	}
	return l, id, nil
}

// openDir opens the directory of a socket, which must be the user's alone.
func openDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	switch {
	case err != nil:
	case int(st.Uid) != os.Geteuid():
		err = fmt.Errorf("directory %s belongs to uid %d", path, st.Uid)
	case st.Mode&0o077 != 0:
		err = fmt.Errorf("directory %s is open to other users (mode %04o); hint: chmod 700 %[1]s", path, st.Mode&0o7777)
	default:
		return f, nil
	}
	f.Close()
	return nil, err
}

// lockDir takes the directory's lock, so that what its holder finds is still
// so when it acts. A lock that cannot be had (NFS; a stopped process holds it)
// is done without: it guards against two daemons of one user starting in the
// same millisecond, and must not keep one from starting.
func lockDir(dir *os.File) (unlock func()) {
	fd := int(dir.Fd())
	for end := time.Now().Add(lockWait); ; time.Sleep(lockPoll) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = unix.Flock(fd, unix.LOCK_UN) }
		}
		if (err != unix.EWOULDBLOCK && err != unix.EINTR) || time.Now().After(end) {
			return func() {}
		}
	}
}

// removeStale removes a socket at path that nobody answers on.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return errors.New("something that is not a socket is in its place")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case unix.ECONNREFUSED:
		return os.Remove(path)
	case unix.ENOENT:
		return nil
	case nil, unix.EAGAIN, unix.EPROTOTYPE, unix.EINPROGRESS:
		// EAGAIN: served, but busy. EPROTOTYPE: served, in another way.
		return ErrInUse
	default:
		return fmt.Errorf("is anybody serving it: %w", err)
	}
}

func lookup(path string) (inode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode{}, err
	}
	return inode{dev: uint64(st.Dev), ino: st.Ino}, nil
}
