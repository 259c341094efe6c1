package loginsession

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

const (
	driver     = "org.freedesktop.DBus"
	driverPath = godbus.ObjectPath("/org/freedesktop/DBus")
	properties = "org.freedesktop.DBus.Properties"

	// maxBody is more than any property or signal of logind's that we look at.
	maxBody = 64 << 10
	// maxSignals is how many signals may wait to be looked at.
	maxSignals = 64
)

var errLost = errors.New("the bus ended the connection")

// A remoteError is what another program answered: its name on the bus.
type remoteError string

func (e remoteError) Error() string { return string(e) }

// A signal is one that take wanted, or a reply, which may have brought files.
type signal struct {
	wire.Header
	body  []byte
	files []*os.File
}

func (s signal) decode(signature string, into ...any) bool {
	return s.Signature == signature && wire.Unmarshal(s.Order, s.body, into...) == nil
}

// drop closes what nobody took.
func (s signal) drop() {
	for _, f := range s.files {
		_ = f.Close()
	}
}

// A link is one connection to a bus. Calls are for one goroutine.
type link struct {
	tap     *wire.Tap
	conn    *godbus.Conn           // says hello, and reads for the tap
	take    func(*wire.Frame) bool // which signals to keep
	signals chan signal
	stop    func() bool

	mu      sync.Mutex
	waiting map[uint32]chan signal // replies, by serial
}

// dial connects, authenticates and says hello.
func dial(ctx context.Context, address string, take func(*wire.Frame) bool) (*link, error) {
	socket, err := wire.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	l := &link{take: take, signals: make(chan signal, maxSignals), waiting: map[uint32]chan signal{}}
	l.tap = wire.NewTap(socket, l.receive)
	l.stop = context.AfterFunc(ctx, func() { _ = l.tap.Close() })
	if err := l.join(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) join() (err error) {
	if err := l.tap.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if l.conn, err = godbus.NewConn(l.tap); err != nil {
		return err
	}
	if err := wire.Join(l.conn); err != nil {
		return err
	}
	return l.tap.SetDeadline(time.Time{})
}

// close ends the connection and returns when nothing comes any more.
func (l *link) close() {
	l.stop()
	if l.conn != nil {
		l.conn.Close()
	}
	_ = l.tap.Close()
	l.tap.Wait()
}

// receive looks at each message, on the reading goroutine.
func (l *link) receive(f *wire.Frame) (pass bool) {
	if f.BodySize > maxBody {
		return false
	}
	switch f.Type {
	case godbus.TypeMethodReply, godbus.TypeError:
		l.mu.Lock()
		reply := l.waiting[f.ReplySerial]
		l.mu.Unlock()
		if reply == nil {
			return f.Sender == driver // which answers the hello
		}
		body, err := f.Body()
		if err != nil {
			return false
		}
		got := signal{f.Header, body, f.TakeFiles()}
		l.mu.Lock()
		defer l.mu.Unlock()
		select {
		case l.waiting[f.ReplySerial] <- got:
		default: // given up meanwhile, or a second reply
			got.drop()
		}
	case godbus.TypeSignal:
		if !l.take(f) {
			return false
		}
		body, err := f.Body()
		if err != nil {
			return false
		}
		select {
		case l.signals <- signal{Header: f.Header, body: body}:
		default:
			// What was missed is asked for on the next connection.
			_ = l.tap.Close()
		}
	}
	return false
}

// ask calls a method and returns the reply, which is not an error and whose files
// are the caller's to drop. It starts no program that is not there, and waits for
// answerTime.
func (l *link) ask(ctx context.Context, to string, at godbus.ObjectPath, iface, member string, args []any) (signal, error) {
	body, err := wire.Append(nil, args...)
	if err != nil {
		return signal{}, err
	}
	h := wire.Header{
		Type: godbus.TypeMethodCall, Flags: godbus.FlagNoAutoStart, Serial: l.tap.NextSerial(), Destination: to,
		Path: at, Interface: iface, Member: member, Signature: wire.Signature(args...),
	}
	reply := make(chan signal, 1)
	l.mu.Lock()
	l.waiting[h.Serial] = reply
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, h.Serial)
		l.mu.Unlock()
		select {
		case r := <-reply: // it came as it was given up
			r.drop()
		default:
		}
	}()
	if err := l.tap.SendAs(h, body); err != nil {
		return signal{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	select {
	case r := <-reply:
		if r.Type == godbus.TypeError {
			r.drop()
			return signal{}, fmt.Errorf("%s: %w", member, remoteError(r.ErrorName))
		}
		return r, nil
	case <-l.tap.Ended():
		return signal{}, errLost
	case <-ctx.Done():
		return signal{}, fmt.Errorf("%s: %w", member, ctx.Err())
	}
}

// call is ask, and stores what comes back in the variables that into points to.
func (l *link) call(ctx context.Context, to string, at godbus.ObjectPath, iface, member string, args []any, into ...any) error {
	r, err := l.ask(ctx, to, at, iface, member, args)
	if err != nil {
		return err
	}
	defer r.drop()
	want := ""
	for _, p := range into {
		want += pointed(p)
	}
	if !r.decode(want, into...) {
		return fmt.Errorf("%s: answer of type %q, want %q", member, r.Signature, want)
	}
	return nil
}

// pointed is the signature of what p points to.
func pointed(p any) string {
	switch p.(type) {
	case *string:
		return "s"
	case *godbus.ObjectPath:
		return "o"
	case *bool:
		return "b"
	case *godbus.Variant:
		return "v"
	}
	return "?"
}

// match asks the bus for signals.
func (l *link) match(ctx context.Context, rule string) error {
	return l.call(ctx, driver, driverPath, driver, "AddMatch", []any{rule})
}

// owner returns the unique name of who has a name; "" if nobody has.
func (l *link) owner(ctx context.Context, name string) (string, error) {
	var owner string
	err := l.call(ctx, driver, driverPath, driver, "GetNameOwner", []any{name}, &owner)
	var remote remoteError
	if errors.As(err, &remote) {
		return "", nil
	}
	return owner, err
}

// property reads one, into a variable of its type; nil: it is not there.
func (l *link) property(ctx context.Context, to string, at godbus.ObjectPath, iface, name string) (any, error) {
	var v godbus.Variant
	if err := l.call(ctx, to, at, properties, "Get", []any{iface, name}, &v); err != nil {
		return nil, err
	}
	return v.Value(), nil
}
