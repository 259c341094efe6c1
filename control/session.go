package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/keyringd/keyringd/internal/panicsite"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

var (
	errUnknown = errors.New("unknown operation")
	errQuit    = errors.New("who ends keyringd is the service manager")
	errPanic   = errors.New("panic")
)

// serveConn serves one request: clients of this protocol make a connection for
// each.
func (s *Server) serveConn(ctx context.Context, c *net.UnixConn) {
	if c.SetReadDeadline(time.Now().Add(s.requestTimeout)) != nil {
		return
	}
	op, body, err := readRequest(c)
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelDebug, "control request unreadable", slog.Any("err", err))
		return
	}
	defer body.Wipe()
	r, err := s.serve(ctx, c, op, body)
	if errors.Is(err, errUnknown) {
		return // as gnome-keyring does: an answer could be taken for another's
	}
	if c.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
		return
	}
	_, _ = c.Write(answer(op, r)) // a client that is gone has no use for it
}

// serve does what a request wants and tells the log.
func (s *Server) serve(ctx context.Context, c *net.UnixConn, op operation, body secret.Bytes) (r result, err error) {
	who := keyring.Caller{FrontEnd: "login"}
	// Without an answer the caller is unknown, and is shown as that.
	if p, err := s.Callers.FromConn(c); err == nil {
		who.PID, who.Program, who.Process = p.PID, p.Program, p.Process
	}
	defer func() {
		if v := recover(); v != nil {
			// The value could show what is secret.
			r, err = resultFailed, fmt.Errorf("%w of type %T at %s", errPanic, v, panicsite.Of())
		}
		s.tell(ctx, op, who, err)
	}()
	ctx, cancel := context.WithTimeout(ctx, s.loginTimeout)
	defer cancel()
	switch op {
	case opInitialize:
		return resultOK, nil
	case opUnlock:
		err = s.inTurn(ctx, body, 1, func(p []secret.Bytes) error { return s.login.Login(ctx, who, p[0]) })
	case opChange:
		err = s.inTurn(ctx, body, 2, func(p []secret.Bytes) error { return s.login.ChangeLogin(ctx, who, p[0], p[1]) })
	case opQuit:
		return resultDenied, errQuit
	default:
		return resultFailed, errUnknown
	}
	return outcome(err), err
}

// inTurn calls do with the n passwords of a request's body, in its turn: few are
// tried at a time. They are wiped afterwards.
func (s *Server) inTurn(ctx context.Context, body secret.Bytes, n int, do func(passwords []secret.Bytes) error) error {
	p, err := passwords(body, n)
	if err != nil {
		return err
	}
	defer wipe(p)
	done, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	return do(p)
}

// tell writes a line about a request. What clients ask in vain by custom is
// nothing to worry about.
func (s *Server) tell(ctx context.Context, op operation, who keyring.Caller, err error) {
	level, message := slog.LevelInfo, "control request served"
	attrs := []slog.Attr{slog.String("operation", op.String()), slog.String("caller", who.String())}
	switch {
	case err == nil:
		if op == opInitialize {
			level = slog.LevelDebug
		}
	case errors.Is(err, errString), errors.Is(err, errQuit), errors.Is(err, errUnknown):
		level, message = slog.LevelDebug, "control request refused"
	default:
		level, message = slog.LevelWarn, "control request failed"
	}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	s.log.LogAttrs(ctx, level, message, attrs...)
}
