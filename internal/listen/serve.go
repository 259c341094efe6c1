package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/panicsite"
)

const (
	// maxConns is how many connections one socket serves at a time. A desktop
	// has tens; each costs a goroutine and its buffers, so that a thousand
	// stay around ten megabytes. Further ones are closed at once: a client
	// that reads EOF goes on, one that waits in a queue hangs the desktop.
	maxConns = 1024
	// maxConnsPerProcess keeps one leaking program from taking all of them.
	maxConnsPerProcess = 256

	// When the process is out of descriptors or memory, the loop waits this
	// long, doubling, before it tries again; clients wait in the backlog.
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Serve accepts connections on l, and calls handle for each in a goroutine of
// its own, until ctx ends. It then closes l and every connection, and returns
// nil once all calls of handle have returned. It returns an error, after the
// same, when l cannot accept any more.
//
// Only peers of the process's own user and root are let in, as ssh-agent does;
// others read EOF. handle's context ends with ctx; the connection is closed
// when handle returns. A panic in handle ends its connection only, and is
// logged by its type and place: its value may be a secret.
func Serve(ctx context.Context, l net.Listener, handle func(context.Context, *net.UnixConn)) error {
	s := server{handle: handle, perProcess: make(map[int32]int), log: slog.Default()}
	return s.serve(ctx, l)
}

type server struct {
	handle func(context.Context, *net.UnixConn)
	log    *slog.Logger
	refuse refusals // used by the accept loop alone
	short  refusals // and so is this, of what accept could not do
	wg     sync.WaitGroup

	mu         sync.Mutex
	total      int
	perProcess map[int32]int
}

func (s *server) serve(ctx context.Context, l net.Listener) error {
	// Handlers end with Serve, whatever made it end.
	handlers, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		if stop() {
			l.Close()
		}
	}()

	pause := firstPause
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = firstPause
			s.admit(handlers, c)
		case ctx.Err() != nil:
			return nil
		case temporary(err):
			if n := s.short.next(); n > 0 {
				s.log.Warn("cannot accept connections for now", "err", err, "times", n)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			pause = min(2*pause, lastPause)
		default:
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// temporary reports whether accept(2) may succeed later.
func temporary(err error) bool {
	for _, e := range []error{
		unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR, unix.EPERM,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit starts c's handler, or closes c.
func (s *server) admit(ctx context.Context, conn net.Conn) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return
	}
	cred, err := credentials(c)
	if err != nil || (int(cred.Uid) != os.Geteuid() && cred.Uid != 0) {
		c.Close()
		if n := s.refuse.next(); n > 0 {
			s.log.Warn("refused a connection of another user", "uid", cred.Uid, "pid", cred.Pid, "refused", n)
		}
		return
	}
	if !s.enter(cred.Pid) {
		c.Close()
		if n := s.refuse.next(); n > 0 {
			s.log.Warn("refused a connection: too many are open", "pid", cred.Pid, "refused", n)
		}
		return
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer s.leave(cred.Pid)
		s.run(ctx, c)
	}()
}

func (s *server) run(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.Close()
	// A handler that reads notices the end of ctx by this.
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("a connection's handler panicked", "type", fmt.Sprintf("%T", v), "at", panicsite.Of())
		}
	}()
	s.handle(ctx, c)
}

func (s *server) enter(pid int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxConns || s.perProcess[pid] >= maxConnsPerProcess {
		return false
	}
	s.total++
	s.perProcess[pid]++
	return true
}

func (s *server) leave(pid int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.perProcess[pid]--; s.perProcess[pid] == 0 {
		delete(s.perProcess, pid)
	}
}

func credentials(c *net.UnixConn) (unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return unix.Ucred{}, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return unix.Ucred{}, err
	}
	if credErr != nil {
		return unix.Ucred{}, credErr
	}
	return *cred, nil
}

// refusals counts what would fill the log if each were logged.
type refusals uint64

// next counts one more, and returns the count where it is worth a line: at
// every power of two. Otherwise it returns 0.
func (r *refusals) next() uint64 {
	*r++
	if n := uint64(*r); n&(n-1) == 0 {
		return n
	}
	return 0
}
