package dbus

import (
	"context"
	"fmt"
	"os"
	"sync"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

const (
	// maxCalls is how many calls one sender may have open. A program that signs
	// in parallel has a few; a prompt for each of thousands helps nobody.
	maxCalls = 32
	// maxBytes bounds what the open calls of all senders hold, and the secrets
	// that answer them, so that many connections of one program come no further
	// than one.
	maxBytes = 64 << 20
	// maxBody bounds one call: the largest secret, the other arguments, and what
	// the encoding adds.
	maxBody = maxSecretSize + maxArguments + 64
)

// A sender is a program on the bus, by its unique name. It is known from its
// first call until it leaves.
type sender struct {
	name   string
	ctx    context.Context // ends when it leaves
	cancel context.CancelFunc

	// identity finds out once who it is.
	identity func() (keyring.Caller, error)
	app      string // its sandbox's name, "" for none; set by identity

	// Guarded by bus.mu.
	calls    int // open ones
	sessions map[godbus.ObjectPath]*session
	prompts  map[godbus.ObjectPath]*userPrompt
	requests map[godbus.ObjectPath]context.CancelFunc // of the portal
}

// senders is everybody who called, and what their open calls hold.
type senders struct {
	mu     sync.Mutex
	byName map[string]*sender
	bytes  int
	count  uint64 // of sessions and prompts, and of their uses
}

// admit counts a call of that size, or says why it may not be.
func (b *bus) admit(name string, size int) (*sender, error) {
	if size > maxBody {
		return nil, fmt.Errorf("%w: a call of %d bytes, and %d are the most", errLimit, size, maxBody)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.byName[name]
	if s == nil {
		s = &sender{
			name: name, sessions: map[godbus.ObjectPath]*session{}, prompts: map[godbus.ObjectPath]*userPrompt{},
			requests: map[godbus.ObjectPath]context.CancelFunc{},
		}
		s.ctx, s.cancel = context.WithCancel(b.ctx)
		s.identity = sync.OnceValues(func() (keyring.Caller, error) { return b.identify(s) })
		b.byName[name] = s
	}
	switch {
	case s.calls >= maxCalls:
		return nil, fmt.Errorf("%w: %d calls are open, and no program may have more", errLimit, maxCalls)
	case b.bytes+size > maxBytes:
		return nil, fmt.Errorf("%w: too much is going on; try again", errLimit)
	}
	s.calls++
	b.bytes += size
	return s, nil
}

// hold counts a secret that is on its way to the caller.
func (c *call) hold(size int) error {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	if c.bus.bytes+size > maxBytes {
		return fmt.Errorf("%w: too many secrets at once; ask for fewer, or try again", errLimit)
	}
	c.bus.bytes += size
	c.held += size
	return nil
}

// release ends what admit began.
func (b *bus) release(s *sender, size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.calls--
	b.bytes -= size
}

// left ends the calls of a sender that is gone, and their prompts.
func (b *bus) left(name string) {
	b.mu.Lock()
	s := b.byName[name]
	delete(b.byName, name)
	b.mu.Unlock()
	if s != nil {
		s.cancel()
	}
}

// identify asks the bus who a sender is.
func (b *bus) identify(s *sender) (keyring.Caller, error) {
	c := keyring.Caller{FrontEnd: "D-Bus"}
	var credentials map[string]godbus.Variant
	err := b.conn.BusObject().CallWithContext(s.ctx, "org.freedesktop.DBus.GetConnectionCredentials", 0, s.name).Store(&credentials)
	if err != nil {
		if s.ctx.Err() != nil {
			return c, s.ctx.Err()
		}
		return c, fmt.Errorf("%w: the bus does not know %s", errForeign, s.name)
	}
	// The session bus lets other users in only where its owner allows it. They
	// have nothing to ask here.
	uid, ok := credentials["UnixUserID"].Value().(uint32)
	if !ok || uid != 0 && uid != uint32(os.Geteuid()) {
		return c, errForeign
	}
	pid, ok := credentials["ProcessID"].Value().(uint32)
	if !ok {
		return c, nil // unknown, and shown as that
	}
	p := b.server.Callers.FromPID(int(pid), uid, func() bool { return s.ctx.Err() == nil })
	c.PID, c.Program, c.Process = p.PID, p.Program, p.Process
	s.app = p.App
	return c, nil
}
