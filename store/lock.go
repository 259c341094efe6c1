package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/keyring"
)

const (
	// lockWait is how long a daemon that is ending is waited for.
	lockWait = time.Second
	// lockEvery is how often the lock of one that is not is tried where nobody
	// tells of its end.
	lockEvery = 5 * time.Second
)

// errInUse is within the error of a lock that another process holds.
var errInUse = errors.New("another keyringd has it open")

// takeLock makes sure that nobody else has the store open. The database is
// locked by the engine, too, but its file may be exchanged for another. While
// somebody else has it, inUse is told, and it is waited for; nil: it is not.
func (s *Store) takeLock(ctx context.Context, inUse func(error)) error {
	path := filepath.Join(s.dir, lockFile)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if notWritable(err) {
			s.readOnly = err
			f, err = os.Open(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // and nobody can make one, so the engine's lock is all there is
			}
		}
		if err != nil {
			return problem(keyring.ErrUnavailable, "%w", unwritten(lockFile, err))
		}
		err = flock(ctx, f, lockWait)
		if errors.Is(err, errInUse) && inUse != nil {
			inUse(fmt.Errorf("store %s: %w", s.dir, err))
			inUse = func(error) {}
			err = awaitLock(ctx, f)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
		// The folder may have been moved away meanwhile.
		if same, err := isAt(f, path); err != nil || same {
			s.lock = f
			return err
		}
		if err := f.Close(); err != nil {
			return problem(keyring.ErrUnavailable, "%w", err)
		}
	}
}

// isAt reports whether a file is still the one at a path.
func isAt(f *os.File, path string) (bool, error) {
	own, err := f.Stat()
	if err != nil {
		return false, problem(keyring.ErrUnavailable, "%w", err)
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(own, there), nil
}

// flock locks a file until it is closed. It waits a while for another that has
// it.
func flock(ctx context.Context, f *os.File, wait time.Duration) error {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return problem(keyring.ErrUnavailable, "%s cannot be locked: %w; hint: put the data folder on a local disk with --data-dir", f.Name(), err)
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return problem(keyring.ErrUnavailable, "%w; hint: end that one, or give this one a folder of its own with --data-dir", errInUse)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awaitLock locks a file as soon as whoever has it closes it, which the kernel
// also does for a process that was killed.
func awaitLock(ctx context.Context, f *os.File) error {
	closed := make(chan struct{}, 1)
	if watch, err := watchClose(f.Name()); err == nil {
		ended := make(chan struct{})
		defer func() { _ = watch.Close(); <-ended }()
		go func() {
			defer close(ended)
			for events := make([]byte, 4096); ; {
				if _, err := watch.Read(events); err != nil {
					return // it was closed
				}
				select {
				case closed <- struct{}{}:
				default:
				}
			}
		}()
	}
	every := time.NewTicker(lockEvery)
	defer every.Stop()
	for wait := time.Duration(0); ; {
		// It may have been closed before it was watched.
		if err := flock(ctx, f, wait); !errors.Is(err, errInUse) {
			return err
		}
		select {
		case <-closed:
			wait = lockWait // who closes it is told of first, and lets go of the lock then
		case <-every.C:
			wait = 0
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watchClose returns what can be read from whenever a file is closed that was
// open for writing: inotify(7).
func watchClose(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE_WRITE); err != nil {
		_ = watch.Close()
		return nil, err
	}
	return watch, nil
}
