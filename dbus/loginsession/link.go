package loginsession

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
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
	// maxLine is more than a line of the authentication is long.
	maxLine = 1024
	// maxSignals is how many signals may wait to be looked at.
	maxSignals = 64
)

var errLost = errors.New("the bus ended the connection")

// A remoteError is what another program answered: its name on the bus.
type remoteError string

func (e remoteError) Error() string { return string(e) }

// A signal is one that take wanted.
type signal struct {
	wire.Header
	body []byte
}

func (s signal) decode(signature string, into ...any) bool {
	return s.Signature == signature && wire.Unmarshal(s.Order, s.body, into...) == nil
}

// A link is one connection to a bus. Calls are for one goroutine.
type link struct {
	tap     *wire.Tap
	take    func(*wire.Frame) bool // which signals to keep
	signals chan signal
	stop    func() bool
	done    chan struct{} // the reader is

	mu      sync.Mutex
	waiting map[uint32]chan signal // replies, by serial
}

// dial connects, authenticates and says hello.
func dial(ctx context.Context, address string, take func(*wire.Frame) bool) (*link, error) {
	socket, err := wire.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return join(ctx, socket, take, nil)
}

// join makes a link of a connected socket, which it owns. negotiate, if there is
// any, is a last line of the authentication and the answer that it wants.
func join(ctx context.Context, socket net.Conn, take func(*wire.Frame) bool, negotiate []string) (*link, error) {
	l := &link{take: take, signals: make(chan signal, maxSignals), done: make(chan struct{}), waiting: map[uint32]chan signal{}}
	l.tap = wire.NewTap(socket, l.receive)
	l.stop = context.AfterFunc(ctx, func() { _ = l.tap.Close() })
	if err := l.authenticate(negotiate); err != nil {
		l.stop()
		_ = l.tap.Close()
		return nil, err
	}
	go func() {
		defer close(l.done)
		// Nothing is passed on, so that Read returns when the connection ends.
		_, _ = l.tap.Read(make([]byte, 1))
	}()
	var name string
	if err := l.call(ctx, driver, driverPath, driver, "Hello", nil, &name); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// authenticate is the D-Bus Specification's "Authentication Protocol": the
// kernel has told the bus who we are.
func (l *link) authenticate(negotiate []string) error {
	if err := l.tap.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if err := l.line("\x00AUTH EXTERNAL "+uid+"\r\n", "OK "); err != nil {
		return err
	}
	if len(negotiate) == 2 {
		if err := l.line(negotiate[0]+"\r\n", negotiate[1]); err != nil {
			return err
		}
	}
	if _, err := l.tap.Write([]byte("BEGIN\r\n")); err != nil {
		return err
	}
	return l.tap.SetDeadline(time.Time{})
}

// line sends a line and wants an answer that begins so.
func (l *link) line(send, want string) error {
	if _, err := l.tap.Write([]byte(send)); err != nil {
		return err
	}
	var got []byte
	for !bytes.HasSuffix(got, []byte("\r\n")) {
		b := make([]byte, 1)
		if _, err := l.tap.Read(b); err != nil {
			return fmt.Errorf("authentication: %w", err)
		}
		if got = append(got, b...); len(got) > maxLine {
			return errors.New("authentication: the bus does not end its line")
		}
	}
	if !bytes.HasPrefix(got, []byte(want)) {
		return fmt.Errorf("authentication: the bus said %.80q", got)
	}
	return nil
}

// close ends the connection and returns when its reader is done.
func (l *link) close() {
	l.stop()
	_ = l.tap.Close()
	<-l.done
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
		delete(l.waiting, f.ReplySerial)
		l.mu.Unlock()
		if reply == nil {
			return false
		}
		body, err := f.Body()
		if err == nil {
			reply <- signal{f.Header, body}
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
		case l.signals <- signal{f.Header, body}:
		default:
			// What was missed is asked for on the next connection.
			_ = l.tap.Close()
		}
	}
	return false
}

// call calls a method and stores what it returns in the variables that into
// points to. It starts no program that is not there, and waits for answerTime.
func (l *link) call(ctx context.Context, to string, at godbus.ObjectPath, iface, member string, args []any, into ...any) error {
	body, err := wire.Append(nil, args...)
	if err != nil {
		return err
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
	}()
	if err := l.tap.SendAs(h, body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	select {
	case r := <-reply:
		if r.Type == godbus.TypeError {
			return fmt.Errorf("%s: %w", member, remoteError(r.ErrorName))
		}
		want := ""
		for _, p := range into {
			want += pointed(p)
		}
		if !r.decode(want, into...) {
			return fmt.Errorf("%s: answer of type %q, want %q", member, r.Signature, want)
		}
		return nil
	case <-l.tap.Ended():
		return errLost
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", member, ctx.Err())
	}
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
	case *handle:
		return "h"
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
