package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/panicsite"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// maxWaiting is how many bytes of messages may wait on one connection for the
// user or a device. Digests are copied out at once; only a message for CKM_EDDSA
// waits whole.
const maxWaiting = 4 << 20

// A connection is one application. One goroutine reads its requests and answers
// them in order; only what may wait for the user or a device goes on in a
// goroutine of its own, and is answered when it is done. So a program's threads
// do not wait for one another's prompts, and as the reader always reads, it
// knows when the client has hung up.
type connection struct {
	server  *Server
	conn    *net.UnixConn
	ctx     context.Context // ends when the client hangs up
	framing p11rpc.Framing
	peer    func() keyring.Caller // who is on the other end, found out once
	wg      sync.WaitGroup

	write sync.Mutex // one answer at a time

	mu          sync.Mutex
	initialized bool
	sessions    map[uint64]*session
	lastSession uint64
	loggedIn    map[uint64]bool // by slot
	waiting     int             // bytes
	secrets     map[uint64]*secretKey
}

// A request is one call that is being answered.
type request struct {
	*connection
	call p11rpc.Call
	in   *p11rpc.Decoder
	out  *p11rpc.Encoder
	// later, if a handler sets it, is the part that may wait. It may not use in.
	later func() error
}

// serveConn serves c until the client hangs up or misbehaves, or until ctx
// ends, with which package listen closes c.
func (s *Server) serveConn(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	n := &connection{
		server:   s,
		conn:     c,
		ctx:      ctx,
		sessions: map[uint64]*session{},
		loggedIn: map[uint64]bool{},
		secrets:  map[uint64]*secretKey{},
	}
	n.peer = sync.OnceValue(n.whoCalls)
	defer n.wg.Wait()
	defer cancel()
	if err := n.serve(); ctx.Err() == nil && !errors.Is(err, io.EOF) {
		n.log(slog.LevelDebug, "connection ended", slog.Any("err", err))
	}
}

// serve serves the connection until it ends, and says why it did.
func (n *connection) serve() error {
	if err := n.greet(); err != nil {
		return err
	}
	frames := p11rpc.NewFrameReader(n.conn, func(begun bool) {
		var deadline time.Time
		if begun {
			deadline = time.Now().Add(n.server.frameTimeout)
		}
		_ = n.conn.SetReadDeadline(deadline) // an error shows in the next read, too
	})
	for {
		frame, err := frames.Next()
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if err := n.answer(frame); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
}

// greet agrees on the protocol's version: one byte each way.
func (n *connection) greet() error {
	offer := make([]byte, 1)
	if err := n.conn.SetReadDeadline(time.Now().Add(n.server.frameTimeout)); err != nil {
		return err
	}
	if _, err := io.ReadFull(n.conn, offer); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if err := n.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	n.framing = p11rpc.FramingOf(offer[0])
	return n.send([]byte{p11rpc.Negotiate(offer[0])})
}

// answer answers one request, or begins to. Its errors are those of writing.
func (n *connection) answer(frame p11rpc.Frame) error {
	q := &request{connection: n}
	call, in, err := p11rpc.ParseRequest(frame.Body, n.framing)
	q.call, q.in = call, in
	if err == nil {
		q.out = p11rpc.NewResponse(call, n.framing)
		err = q.guard(q.handle)
	}
	if err != nil || q.later == nil {
		return n.reply(frame.Code, q, err)
	}
	code := frame.Code // the frame itself is only borrowed
	n.wg.Go(func() {
		err := q.guard(q.later)
		if err := n.reply(code, q, err); err != nil && n.ctx.Err() == nil {
			// The reader may be waiting for this client; it is of no use now.
			_ = n.conn.Close()
		}
	})
	return nil
}

// reply sends a request's answer.
func (n *connection) reply(code uint32, q *request, err error) error {
	var message []byte
	if err == nil {
		message = q.out.Message()
	} else {
		rv, level := outcome(err)
		n.log(level, "call refused", slog.String("call", q.call.String()), slog.Any("err", err))
		message = p11rpc.ErrorResponse(rv)
	}
	frame := p11rpc.AppendFrame(make([]byte, 0, 12+len(message)), p11rpc.Frame{Code: code, Body: message})
	// An answer may hold what was decrypted.
	defer clear(frame)
	clear(message)
	return n.send(frame)
}

func (n *connection) send(b []byte) error {
	n.write.Lock()
	defer n.write.Unlock()
	if err := n.conn.SetWriteDeadline(time.Now().Add(n.server.writeTimeout)); err != nil {
		return err
	}
	_, err := n.conn.Write(b)
	return err
}

// guard calls f. A panic costs the request and not the connection.
func (q *request) guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value and a whole traceback could show what is secret.
			err = fmt.Errorf("%v: %w of type %T at %s", q.call, errPanic, r, panicsite.Of())
		}
	}()
	return f()
}

func (n *connection) log(level slog.Level, msg string, attrs ...slog.Attr) {
	if !n.server.journal.log.Enabled(n.ctx, level) {
		return // finding out who called is not free
	}
	attrs = append([]slog.Attr{slog.String("caller", n.peer().String())}, attrs...)
	n.server.journal.line(n.ctx, level, msg, attrs...)
}

func (n *connection) whoCalls() keyring.Caller {
	who := keyring.Caller{FrontEnd: "PKCS#11"}
	// Without an answer the caller is unknown, and is shown as that.
	if p, err := n.server.callers.FromConn(n.conn); err == nil {
		who.PID, who.Program, who.Process = p.PID, p.Program, p.Process
	}
	return who
}

// wait has the request answered when work is done, which may wait for the user
// or a device, with n bytes of the program's.
func (q *request) wait(n int, work func() error) error {
	release, err := q.hold(waiter + n)
	if err != nil {
		return err
	}
	q.later = func() error {
		defer release()
		return work()
	}
	return nil
}

// waiter is about what a request costs that waits, however short: enough of them
// would fill the memory, too.
const waiter = 4 << 10

// hold makes room for a message that waits; release gives it back.
func (n *connection) hold(bytes int) (release func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting+bytes > maxWaiting {
		return nil, p11rpc.DeviceMemory
	}
	n.waiting += bytes
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.waiting -= bytes
	}, nil
}
