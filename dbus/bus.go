package dbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

const (
	// driver is the name that the bus itself sends under. Nobody else can.
	driver = "org.freedesktop.DBus"
	// handshakeTimeout is how long a bus may take to let us in.
	handshakeTimeout = 10 * time.Second
)

// A bus is one connection to the message bus, from its beginning to its end.
type bus struct {
	server *Server
	tap    *wire.Tap
	conn   *godbus.Conn
	ctx    context.Context // ends with the connection
	calls  sync.WaitGroup
	settle chan chan struct{} // to the announcer; see settled
	// watched is closed once the announcer knows the secrets; see awaitSecrets.
	watched chan struct{}
	senders
}

var errLost = errors.New("the bus is gone")

// visit connects, serves until the connection or ctx ends, and returns when
// everything that it started is done. joined is called once the name is asked
// for.
func (s *Server) visit(ctx context.Context, address string, joined func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket, err := wire.Dial(ctx, address)
	if err != nil {
		return err
	}
	b := &bus{server: s, ctx: ctx, settle: make(chan chan struct{}), watched: make(chan struct{}), senders: senders{byName: map[string]*sender{}}}
	b.tap = wire.NewTap(socket, b.take)
	defer b.tap.Close()
	// Whatever is being waited for ends with the socket.
	stop := context.AfterFunc(ctx, func() { _ = b.tap.Close() })
	defer stop()

	if err = b.join(); err == nil {
		joined()
		select {
		case <-b.tap.Ended():
			err = errLost
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	cancel() // the calls, and the signals
	if b.conn != nil {
		b.conn.Close()
	}
	b.tap.Wait() // nobody adds calls any more
	b.calls.Wait()
	return err
}

// join authenticates, says hello, and asks for the name.
func (b *bus) join() (err error) {
	if err := b.tap.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if b.conn, err = godbus.NewConn(b.tap); err != nil {
		return err
	}
	if err := wire.Join(b.conn); err != nil {
		return err
	}
	// An empty new owner is a connection that ended.
	if err := b.conn.AddMatchSignalContext(b.ctx, godbus.WithMatchSender(driver), godbus.WithMatchInterface(driver),
		godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(2, "")); err != nil {
		return fmt.Errorf("watch for programs that leave: %w", err)
	}
	b.announce()
	if b.server.Secrets != nil {
		b.announceSecrets()
		if err := b.claimSecrets(); err != nil {
			return err
		}
	}
	reply, err := b.conn.RequestName(busName, 0)
	if err != nil {
		return fmt.Errorf("ask for the name %s: %w", busName, err)
	}
	if reply == godbus.RequestNameReplyInQueue {
		b.server.log.Warn("another program has our name on the bus; it is ours when that one ends", "name", busName)
	}
	return b.tap.SetDeadline(time.Time{})
}

// take sees every message that comes in, in order, on the goroutine that reads.
// Calls are ours; from the bus itself, godbus waits for replies; from anybody
// else, nothing is waited for, and a reply would be a forgery.
func (b *bus) take(f *wire.Frame) (pass bool) {
	switch {
	case f.Type == godbus.TypeMethodCall:
		b.receive(f)
		return false
	case f.Sender != driver:
		return false
	case f.Type == godbus.TypeSignal && f.Member == "NameOwnerChanged":
		b.ownerChanged(f)
		return false
	case f.Type == godbus.TypeSignal && (f.Member == "NameLost" || f.Member == "NameAcquired"):
		b.nameChanged(f)
		return false
	}
	return true
}

// receive admits a call and starts it, or refuses it. Refusing writes to the
// bus, so that a flood is slowed down to what the bus takes off our hands.
func (b *bus) receive(f *wire.Frame) {
	if f.Sender == "" {
		return
	}
	s, err := b.admit(f.Sender, f.BodySize)
	if err != nil {
		name, level := outcome(err)
		b.server.log.LogAttrs(b.ctx, level, "call refused", slog.String("sender", f.Sender), slog.Any("err", err))
		b.refuse(f.Header, name, err.Error())
		return
	}
	body, err := f.Body()
	if err != nil {
		b.release(s, f.BodySize)
		return // the connection is lost, which the next read says
	}
	c := &call{bus: b, sender: s, ctx: s.ctx, header: f.Header, body: body, attached: f.TakeFiles()}
	b.calls.Go(func() {
		defer func() { b.release(s, len(body)+c.held) }()
		c.serve()
	})
}

func (b *bus) ownerChanged(f *wire.Frame) {
	if f.BodySize > maxArguments || f.Signature != "sss" {
		return
	}
	body, err := f.Body()
	if err != nil {
		return
	}
	var name, from, to string
	if err := wire.Unmarshal(f.Order, body, &name, &from, &to); err == nil && to == "" {
		b.left(name)
	}
}

// announce tells the bus of every change to the keys from now on.
func (b *bus) announce() {
	watch := b.server.keys.Watch(b.ctx)
	before, err := b.server.catalog()
	b.calls.Go(func() {
		for range watch {
			after, failed := b.server.catalog()
			if err == nil && failed == nil {
				b.emit(changes(before, after))
			}
			if before, err = after, failed; err != nil {
				b.server.log.Error("the keys cannot be told to the bus", "err", err)
			}
		}
	})
}

func (b *bus) emit(all []change) {
	for _, c := range all {
		body, err := wire.Append(nil, c.values...)
		if err != nil {
			b.server.log.Error("a change cannot be told to the bus", "err", err)
			continue
		}
		h := wire.Header{
			Type: godbus.TypeSignal, Flags: godbus.FlagNoReplyExpected,
			Path: c.path, Interface: c.iface, Member: c.member, Signature: wire.Signature(c.values...),
		}
		if _, err := b.tap.Send(h, body); err != nil {
			return // the bus is gone, and whoever comes back asks for all
		}
	}
}
