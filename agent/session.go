package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/panicsite"
	"github.com/keyringd/keyringd/keyring"
)

// A session is one connection. One goroutine reads a request, answers it and
// only then reads on, so that answers come in order and a client that sends
// ahead costs no memory; while a request may wait for the user or a device, a
// second goroutine watches for the client to hang up.
type session struct {
	server *Server
	conn   *net.UnixConn
	raw    syscall.RawConn
	ctx    context.Context // of the connection: ends when the client hangs up
	cancel context.CancelFunc
	frames frameReader

	peer     *keyring.Caller // nil until first asked for
	bound    bindings
	upstream *upstream // nil: there is none
}

// serveConn serves c until the client hangs up or misbehaves, or until ctx
// ends, with which package listen closes c.
func (s *Server) serveConn(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	n := &session{server: s, conn: c, raw: raw, ctx: ctx, cancel: cancel,
		frames: frameReader{conn: c, timeout: s.frameTimeout}, upstream: s.newUpstream()}
	defer n.upstream.close()
	n.serve()
}

func (s *session) serve() {
	for {
		request, err := s.frames.next()
		if err != nil {
			if s.ctx.Err() == nil && !errors.Is(err, io.EOF) {
				s.log(slog.LevelDebug, fmt.Errorf("read: %w", err))
			}
			return
		}
		reply := s.answer(request)
		clear(request) // it may have held a passphrase or a private key
		if s.ctx.Err() != nil {
			return
		}
		if err := s.write(reply); err != nil {
			if s.ctx.Err() == nil {
				s.log(slog.LevelDebug, fmt.Errorf("write: %w", err))
			}
			return
		}
	}
}

func (s *session) write(reply []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.server.writeTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(reply)
	return err
}

// answer serves one request, a type and a body, and returns the whole reply
// frame, which the caller may not modify. A panic costs the request and not
// the connection.
func (s *session) answer(request []byte) (reply []byte) {
	defer func() {
		if r := recover(); r != nil {
			// The value and a whole traceback could show what is secret.
			reply = s.fail(fmt.Errorf("request type %d: %w of type %T at %s", request[0], errPanic, r, panicsite.Of()))
		}
	}()
	kind, body := request[0], request[1:]
	if s.server.lock.locked.Load() && !whileLocked(kind, body) {
		if kind == msgRequestIdentities {
			return nothingReply
		}
		return s.fail(fmt.Errorf("type %d: %w", kind, keyring.ErrLocked))
	}
	if changes(kind) && s.bound.remote() && !s.server.AllowRemoteChanges {
		return s.fail(fmt.Errorf("type %d: %w", kind, errRemote))
	}
	switch kind {
	case msgRequestIdentities:
		return s.list()
	case msgSignRequest:
		return s.sign(body)
	case msgAddIdentity, msgAddConstrained:
		return s.add(body)
	case msgRemoveIdentity:
		return s.remove(body)
	case msgRemoveAll, msgRemoveAllV1:
		return s.removeAll()
	case msgAddCard, msgAddCardConstr:
		return s.addCard(body)
	case msgRemoveCard:
		return s.removeCard(body)
	case msgLock, msgUnlock:
		return s.setLock(body, kind == msgLock)
	case msgExtension:
		return s.extension(body)
	default:
		return s.fail(fmt.Errorf("type %d: %w", kind, errNotServed))
	}
}

// changes reports whether a request changes what is offered, to anybody.
func changes(kind byte) bool {
	switch kind {
	case msgAddIdentity, msgAddConstrained, msgRemoveIdentity, msgRemoveAll, msgRemoveAllV1,
		msgAddCard, msgAddCardConstr, msgRemoveCard, msgLock, msgUnlock:
		return true
	}
	return false
}

// whileLocked reports whether a locked agent serves a request: the way out, and
// session-bind, without which a connection that outlives the lock would pass
// for a local one.
func whileLocked(kind byte, body []byte) bool {
	if kind == msgUnlock {
		return true
	}
	d := decoder{rest: body}
	return kind == msgExtension && d.text() == extensionBind
}

// fail tells the journal of err and returns the reply for it.
func (s *session) fail(err error, attrs ...slog.Attr) []byte {
	reply, level := outcome(err)
	s.log(level, err, attrs...)
	if reply == msgFailure {
		return failureReply
	}
	return endFrame(newFrame(reply, 1))
}

func (s *session) log(level slog.Level, err error, attrs ...slog.Attr) {
	if !s.server.journal.log.Enabled(s.ctx, level) {
		return // finding out who called is not free
	}
	attrs = append([]slog.Attr{slog.String("caller", s.caller().String())}, attrs...)
	s.server.journal.line(s.ctx, level, "request failed", append(attrs, slog.Any("err", err))...)
}

// caller returns who is on the other end, found out once.
func (s *session) caller() keyring.Caller {
	if s.peer == nil {
		s.peer = &keyring.Caller{FrontEnd: frontEnd}
		// Without an answer the caller is unknown, and is shown as that.
		if p, err := s.server.Callers.FromConn(s.conn); err == nil {
			s.peer.PID, s.peer.Program, s.peer.Process = p.PID, p.Program, p.Process
		}
	}
	return *s.peer
}

// watch ends the session's context when the client hangs up, until stop is
// called. In between nobody may read from the connection; stop returns when
// that is possible again.
//
// It looks at the connection's state and not at its bytes, so that requests
// sent ahead stay where they are, in the kernel's small buffer. It begins after
// watchAfter: most signatures are made before, and a goroutine for each would
// cost as much as the signature.
func (s *session) watch() (stop func()) {
	done := make(chan struct{})
	stopped := make(chan struct{})
	begin := time.AfterFunc(watchAfter, func() {
		defer close(done)
		var state hangUp
		// Read returns to us each time something happens to the socket.
		err := s.raw.Read(func(fd uintptr) bool {
			state = hungUp(fd)
			return state != connected
		})
		if err != nil {
			return // stopped, or the connection was closed on our side
		}
		if state == halfClosed {
			grace := time.NewTimer(s.server.halfCloseGrace)
			defer grace.Stop()
			select {
			case <-grace.C:
			case <-stopped:
				return
			}
		}
		s.cancel()
	})
	return func() {
		if begin.Stop() {
			return
		}
		close(stopped)
		// Errors mean that the connection is closed: the next read says so too.
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
		<-done
		_ = s.conn.SetReadDeadline(time.Time{})
	}
}

// watchAfter is how long a request may go on before anybody looks whether its
// client is still there.
const watchAfter = 5 * time.Millisecond

type hangUp int

const (
	connected  hangUp = iota
	halfClosed        // the client sends nothing more, but may still read
	gone
)

// hungUp asks the kernel, which knows whether or not unread bytes come first.
func hungUp(fd uintptr) hangUp {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(p, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0:
			return gone
		case p[0].Revents&unix.POLLRDHUP != 0:
			return halfClosed
		}
		return connected
	}
}
