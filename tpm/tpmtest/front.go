package tpmtest

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/keyringd/keyringd/tpm/link"
)

// A session is one client's view of the TPM.
type session interface {
	// handle carries one command; an error hangs up on the client. The TPM is
	// kept busy for delay first.
	handle(cmd []byte, delay time.Duration) ([]byte, error)
	close()
}

// A front serves clients on a socket: what Relay and RM have in common. It
// embeds the faults, so that they are methods of both.
type front struct {
	*faults

	path       string
	upstream   *upstream
	persistent bool           // outlives a TPM that goes down, as a device node does
	open       func() session // set before listen
	done       chan struct{}  // closed by close
	wg         sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while suspended
	conns    map[net.Conn]struct{}
}

func newFront(u *upstream, path string, persistent bool) *front {
	return &front{
		faults:     newFaults(),
		path:       path,
		upstream:   u,
		persistent: persistent,
		done:       make(chan struct{}),
		conns:      make(map[net.Conn]struct{}),
	}
}

// TCTI is how the tools of the TCG software stack are told of this address, in
// TPM2TOOLS_TCTI and TPM2OPENSSL_TCTI. It needs the program socat.
func (f *front) TCTI() string { return "cmd:socat - UNIX-CONNECT:" + f.path }

func (f *front) address() link.Address { return link.Address{Kind: link.Unix, Target: f.path} }

func (f *front) listen() error {
	l, err := net.Listen("unix", f.path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.listener = l
	f.mu.Unlock()
	f.wg.Go(func() { f.accept(l) })
	return nil
}

func (f *front) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		if f.listener != l { // suspended meanwhile
			f.mu.Unlock()
			conn.Close()
			continue
		}
		f.conns[conn] = struct{}{}
		f.mu.Unlock()
		f.upstream.join()
		f.wg.Go(func() { f.serve(conn) })
	}
}

func (f *front) serve(conn net.Conn) {
	defer f.upstream.leave()
	defer func() {
		f.mu.Lock()
		delete(f.conns, conn)
		f.mu.Unlock()
		conn.Close()
	}()
	s := f.open()
	defer s.close()
	for {
		cmd, err := readFrame(conn)
		if err != nil {
			return
		}
		rsp, err := f.pass(s, cmd)
		if err != nil {
			return
		}
		if _, err := conn.Write(rsp); err != nil {
			return
		}
	}
}

var errDropped = errors.New("dropped by a fault")

// pass carries one command through the faults and the session.
func (f *front) pass(s session, cmd []byte) ([]byte, error) {
	f.record(cmd, true)
	todo := f.match(commandCode(cmd))
	for _, gate := range todo.gates {
		if !gate.wait(f.done) {
			return nil, os.ErrClosed
		}
	}
	var rsp []byte
	switch {
	case todo.drop == Lost:
		return nil, errDropped
	case todo.answer != 0:
		rsp = respond(todo.answer)
	default:
		var err error
		if rsp, err = s.handle(cmd, todo.delay); err != nil {
			return nil, err
		}
	}
	for _, bit := range todo.flips {
		rsp[bit/8%len(rsp)] ^= 1 << (bit % 8)
	}
	f.record(rsp, false)
	if todo.drop == Unanswered {
		return nil, errDropped
	}
	return rsp, nil
}

// Disconnect hangs up on all clients. They may dial again at once.
func (f *front) Disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
	}
}

// suspend is what a TPM that goes down does to its clients.
func (f *front) suspend() {
	if f.persistent {
		return
	}
	f.stopListening()
	f.Disconnect()
}

func (f *front) stopListening() {
	f.mu.Lock()
	l := f.listener
	f.listener = nil
	f.mu.Unlock()
	if l != nil {
		l.Close()
	}
}

func (f *front) resume() error {
	f.mu.Lock()
	listening := f.listener != nil
	f.mu.Unlock()
	if listening {
		return nil
	}
	return f.listen()
}

func (f *front) close() {
	close(f.done)
	f.stopListening()
	f.Disconnect()
	f.wg.Wait()
}
