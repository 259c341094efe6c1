// Package logindtest is a logind and a screen saver for tests: it has their names
// on a private bus, one user with one graphical session, and says what a test
// makes it say.
package logindtest

import (
	"io"
	"os"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

const (
	name        = "org.freedesktop.login1"
	root        = godbus.ObjectPath("/org/freedesktop/login1")
	sessionPath = root + "/session/_32"
	userPath    = root + "/user/_1000"
	manager     = name + ".Manager"
	session     = name + ".Session"
	user        = name + ".User"

	// patience is how long an inhibitor may take to come or to go.
	patience = 20 * time.Second
)

// A Logind has org.freedesktop.login1 on a bus. Its methods are for one
// goroutine.
type Logind struct {
	tb    testing.TB
	conn  *godbus.Conn
	props map[godbus.ObjectPath]*prop.Properties

	mu       sync.Mutex
	refuse   bool
	gone     bool // the user
	held     []*os.File
	taken    chan struct{} // one for each inhibitor that is taken
	released chan struct{} // one for each that is given back
	why      []string      // what each was taken for: "sleep delay"
}

// Start takes the name on the bus at address, until the test ends.
func Start(tb testing.TB, address string) *Logind {
	tb.Helper()
	l := &Logind{tb: tb, props: map[godbus.ObjectPath]*prop.Properties{}, taken: make(chan struct{}, 64), released: make(chan struct{}, 64)}
	conn, err := godbus.Connect(address)
	if err != nil {
		tb.Fatal(err)
	}
	l.conn = conn
	tb.Cleanup(l.Stop)
	if err := conn.Export(calls{l}, root, manager); err != nil {
		tb.Fatal(err)
	}
	l.export(root, manager, map[string]*prop.Prop{"PreparingForSleep": {Value: false}})
	l.export(sessionPath, session, map[string]*prop.Prop{
		"LockedHint": {Value: false, Emit: prop.EmitTrue}, "IdleHint": {Value: false, Emit: prop.EmitInvalidates},
	})
	l.export(userPath, user, map[string]*prop.Prop{"State": {Value: "active", Emit: prop.EmitTrue}})
	if reply, err := conn.RequestName(name, godbus.NameFlagDoNotQueue); err != nil || reply != godbus.RequestNameReplyPrimaryOwner {
		tb.Fatalf("the name %s: %v, %v", name, reply, err)
	}
	return l
}

func (l *Logind) export(at godbus.ObjectPath, iface string, values map[string]*prop.Prop) {
	l.tb.Helper()
	p, err := prop.Export(l.conn, at, prop.Map{iface: values})
	if err != nil {
		l.tb.Fatal(err)
	}
	l.props[at] = p
}

// Stop leaves the bus, as a logind that crashes does. Its inhibitors stand.
func (l *Logind) Stop() { _ = l.conn.Close() }

// calls are the methods of the manager.
type calls struct{ l *Logind }

// GetSession is org.freedesktop.login1(5).
func (c calls) GetSession(id string) (godbus.ObjectPath, *godbus.Error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.l.gone || (id != "auto" && id != "2") {
		return "/", godbus.NewError(name+".NoSessionForPID", []any{"no session"})
	}
	return sessionPath, nil
}

// GetUser is org.freedesktop.login1(5).
func (c calls) GetUser(uint32) (godbus.ObjectPath, *godbus.Error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.l.gone {
		return "/", godbus.NewError(name+".NoSuchUser", []any{"no user"})
	}
	return userPath, nil
}

// Inhibit is org.freedesktop.login1(5).
func (c calls) Inhibit(what, _, _, mode string) (godbus.UnixFD, *godbus.Error) {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse {
		return 0, godbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"not for you"})
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return 0, godbus.MakeFailedError(err)
	}
	l.held = append(l.held, theirs) // open until the answer is out
	l.why = append(l.why, what+" "+mode)
	l.taken <- struct{}{}
	go func() {
		_, _ = io.Copy(io.Discard, ours) // ends when nobody holds theirs
		_ = ours.Close()
		l.released <- struct{}{}
	}()
	return godbus.UnixFD(theirs.Fd()), nil
}

// Refuse makes it grant no inhibitor from now on.
func (l *Logind) Refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = true
}

// AwaitInhibitor waits until somebody holds up sleep, and returns what for.
func (l *Logind) AwaitInhibitor() string {
	l.tb.Helper()
	select {
	case <-l.taken:
	case <-time.After(patience):
		l.tb.Fatal("nobody takes an inhibitor")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why[len(l.why)-1]
}

// Held reports whether somebody holds up sleep.
func (l *Logind) Held() bool {
	l.forgetOurs()
	select {
	case <-l.released:
		l.released <- struct{}{}
		return false
	default:
		return true
	}
}

// AwaitRelease waits until the inhibitor is given back.
func (l *Logind) AwaitRelease() {
	l.tb.Helper()
	l.forgetOurs()
	select {
	case <-l.released:
	case <-time.After(patience):
		l.tb.Fatal("the inhibitor is not given back")
	}
}

// forgetOurs closes our halves: whoever asked has had the answer by now, as
// AwaitInhibitor came before, and the next call on the bus came behind it.
func (l *Logind) forgetOurs() {
	_ = l.conn.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.held {
		_ = f.Close()
	}
	l.held = nil
}

// Sleep announces that the machine goes to sleep, and Wake that it is awake.
func (l *Logind) Sleep() { l.prepare(true) }

// Wake announces that the machine is awake.
func (l *Logind) Wake() { l.prepare(false) }

func (l *Logind) prepare(begins bool) {
	l.tb.Helper()
	l.props[root].SetMust(manager, "PreparingForSleep", begins)
	l.emit(root, manager+".PrepareForSleep", begins)
}

// Ask asks the session to lock or unlock, as `loginctl lock-session` does.
func (l *Logind) Ask(lock bool) {
	l.tb.Helper()
	member := map[bool]string{true: ".Lock", false: ".Unlock"}[lock]
	l.emit(sessionPath, session+member)
}

// SetLocked says that the screen is locked, or is not.
func (l *Logind) SetLocked(locked bool) { l.props[sessionPath].SetMust(session, "LockedHint", locked) }

// SetIdle says that nobody is there, or somebody is.
func (l *Logind) SetIdle(idle bool) { l.props[sessionPath].SetMust(session, "IdleHint", idle) }

// Logout ends the user's last session. What lingers stays known to logind.
func (l *Logind) Logout(lingers bool) {
	l.tb.Helper()
	if lingers {
		l.props[userPath].SetMust(user, "State", "lingering")
	}
	l.mu.Lock()
	l.gone = !lingers
	l.mu.Unlock()
	l.emit(root, manager+".SessionRemoved", "2", sessionPath)
}

func (l *Logind) emit(at godbus.ObjectPath, signal string, values ...any) {
	l.tb.Helper()
	if err := l.conn.Emit(at, signal, values...); err != nil {
		l.tb.Fatal(err)
	}
}

// A Saver has a screen saver's name on a bus.
type Saver struct {
	tb   testing.TB
	conn *godbus.Conn
	name string
	path godbus.ObjectPath

	mu     sync.Mutex
	active bool
}

// StartSaver takes a screen saver's name, org.gnome.ScreenSaver for one, on the
// bus at address, until the test ends.
func StartSaver(tb testing.TB, address, name string, path godbus.ObjectPath) *Saver {
	tb.Helper()
	conn, err := godbus.Connect(address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	s := &Saver{tb: tb, conn: conn, name: name, path: path}
	if err := conn.Export(saverCalls{s}, path, name); err != nil {
		tb.Fatal(err)
	}
	if reply, err := conn.RequestName(name, godbus.NameFlagDoNotQueue); err != nil || reply != godbus.RequestNameReplyPrimaryOwner {
		tb.Fatalf("the name %s: %v, %v", name, reply, err)
	}
	return s
}

type saverCalls struct{ s *Saver }

// GetActive reports whether the screen is locked.
func (c saverCalls) GetActive() (bool, *godbus.Error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.active, nil
}

// SetActive says that the screen is locked, or is not.
func (s *Saver) SetActive(active bool) {
	s.tb.Helper()
	s.mu.Lock()
	s.active = active
	s.mu.Unlock()
	if err := s.conn.Emit(s.path, s.name+".ActiveChanged", active); err != nil {
		s.tb.Fatal(err)
	}
}

// Say sends any signal as logind.
func (l *Logind) Say(at godbus.ObjectPath, signal string, values ...any) {
	l.emit(at, signal, values...)
}
