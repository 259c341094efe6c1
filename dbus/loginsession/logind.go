package loginsession

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

// What we use of org.freedesktop.login1(5).
const (
	loginName    = "org.freedesktop.login1"
	loginPath    = godbus.ObjectPath("/org/freedesktop/login1")
	loginManager = "org.freedesktop.login1.Manager"
	loginSession = "org.freedesktop.login1.Session"
	loginUser    = "org.freedesktop.login1.User"
	noSuchUser   = "org.freedesktop.login1.NoSuchUser"

	// hinted is the source that says in LockedHint whether the screen is locked.
	hinted = "logind"
)

// A logind is what we know of it. All but owner is the visiting goroutine's.
type logind struct {
	owner atomic.Value // string, its unique name; "": it is not there

	session, user godbus.ObjectPath // ours; "": there is none
	in            bool              // the user is logged in
	idle          bool
	sleeping      bool     // the machine is about to sleep, and we have said so
	inhibitor     *os.File // nil: the machine does not wait for us
	refused       bool     // logind gives us none, which was said
}

// fromLogind keeps what logind says, and what the bus says of logind.
func (w *watcher) fromLogind(f *wire.Frame) bool {
	if f.Sender == driver {
		return f.Member == "NameOwnerChanged"
	}
	owner, _ := w.logind.owner.Load().(string)
	return owner != "" && f.Sender == owner
}

// system is one visit to the system bus.
func (w *watcher) system(ctx context.Context, l *link) error {
	defer w.left()
	for _, rule := range []string{
		"type='signal',sender='" + driver + "',member='NameOwnerChanged',arg0='" + loginName + "'",
		"type='signal',sender='" + loginName + "',path_namespace='" + string(loginPath) + "'",
	} {
		if err := l.match(ctx, rule); err != nil {
			return err
		}
	}
	owner, err := l.owner(ctx, loginName)
	if err != nil {
		return err
	}
	if owner == "" {
		w.Log.Info("no logind: sleep and logout are not noticed")
	}
	w.meet(ctx, l, owner)
	for {
		select {
		case s := <-l.signals:
			w.heard(ctx, l, s)
		case <-l.tap.Ended():
			return errLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// left is the end of a visit: nothing holds up the machine's sleep.
func (w *watcher) left() {
	w.logind.owner.Store("")
	w.release()
	w.silent(hinted)
}

// release lets the machine sleep.
func (w *watcher) release() {
	if w.logind.inhibitor != nil {
		_ = w.logind.inhibitor.Close()
		w.logind.inhibitor = nil
	}
}

// meet begins with a logind that is there: it looks at all that may have
// changed unseen.
func (w *watcher) meet(ctx context.Context, l *link, owner string) {
	w.logind.owner.Store(owner)
	w.release()
	if owner == "" {
		w.silent(hinted)
		return
	}
	// The inhibitor first: from then on the machine does not sleep unnoticed.
	w.inhibit(ctx, l)
	if v, err := l.property(ctx, loginName, loginPath, loginManager, "PreparingForSleep"); err == nil {
		if sleeping, ok := v.(bool); ok && sleeping != w.logind.sleeping {
			w.sleep(ctx, l, sleeping)
		}
	}
	w.findSession(ctx, l)
	w.lookAtUser(ctx, l)
}

// heard is one signal.
func (w *watcher) heard(ctx context.Context, l *link, s signal) {
	switch {
	case s.Sender == driver:
		var name, from, to string
		if s.decode("sss", &name, &from, &to) && name == loginName {
			w.meet(ctx, l, to)
		}
	case s.Path == loginPath && s.Interface == loginManager:
		w.managerSaid(ctx, l, s)
	case s.Path == w.logind.session && s.Interface == loginSession:
		// A request, which any program of the user's may make.
		if s.Member == "Lock" || s.Member == "Unlock" {
			w.asked(ctx, s.Member == "Lock")
		}
	case s.Interface == properties && s.Member == "PropertiesChanged":
		w.changed(ctx, l, s)
	}
}

func (w *watcher) managerSaid(ctx context.Context, l *link, s signal) {
	switch s.Member {
	case "PrepareForSleep":
		var begins bool
		if s.decode("b", &begins) {
			w.sleep(ctx, l, begins)
		}
	case "SessionNew", "SessionRemoved", "UserNew", "UserRemoved":
		w.findSession(ctx, l)
		w.lookAtUser(ctx, l)
	}
}

// changed is a change of properties, of which the values may or may not be in
// the signal: they are asked for.
func (w *watcher) changed(ctx context.Context, l *link, s signal) {
	var iface string
	var values map[string]godbus.Variant
	var names []string
	if !s.decode("sa{sv}as", &iface, &values, &names) {
		return
	}
	for name := range values {
		names = append(names, name)
	}
	switch {
	case s.Path == w.logind.session && iface == loginSession:
		if slices.Contains(names, "LockedHint") || slices.Contains(names, "IdleHint") {
			w.lookAtSession(ctx, l)
		}
	case s.Path == w.logind.user && iface == loginUser:
		if slices.Contains(names, "Display") || slices.Contains(names, "Sessions") {
			w.findSession(ctx, l)
		}
		if slices.Contains(names, "State") || slices.Contains(names, "Sessions") {
			w.lookAtUser(ctx, l)
		}
	}
}

// sleep passes on that the machine is about to sleep, or is awake.
func (w *watcher) sleep(ctx context.Context, l *link, begins bool) {
	was := w.logind.sleeping
	if begins && was {
		return // told by the property and by the signal
	}
	w.logind.sleeping = begins
	if !begins {
		if was {
			w.tell(ctx, w.events.Resumed)
		}
		w.release()
		w.inhibit(ctx, l)
		return
	}
	held := w.logind.inhibitor
	w.logind.inhibitor = nil
	if held == nil {
		w.tell(ctx, w.events.Sleep)
		return
	}
	// Nobody may be left to call the function, and then nobody is waited for.
	over := context.AfterFunc(ctx, func() { _ = held.Close() })
	w.tell(ctx, func() {
		if w.events.Sleep != nil {
			w.events.Sleep()
		}
		over()
		_ = held.Close() // now it may
	})
}

// inhibit makes the machine wait for us before it sleeps.
func (w *watcher) inhibit(ctx context.Context, l *link) {
	f, err := l.inhibit(ctx)
	if err == nil {
		w.logind.inhibitor, w.logind.refused = f, false
		return
	}
	if ctx.Err() == nil && !w.logind.refused {
		w.logind.refused = true
		w.Log.Warn("the machine does not wait for keyringd before it sleeps; what is remembered is forgotten as it does", "err", err)
	}
}

// inhibit takes logind's promise to wait for us before the machine sleeps
// (https://systemd.io/INHIBITOR_LOCKS). It stands until the file is closed.
func (l *link) inhibit(ctx context.Context) (*os.File, error) {
	r, err := l.ask(ctx, loginName, loginPath, loginManager, "Inhibit",
		[]any{"sleep", "keyringd", "Forgets what it remembers", "delay"})
	if err != nil {
		return nil, err
	}
	var at godbus.UnixFDIndex
	if !r.decode("h", &at) || at != 0 || len(r.files) != 1 {
		r.drop()
		return nil, fmt.Errorf("inhibitor: an answer of type %q with %d files", r.Signature, len(r.files))
	}
	return r.files[0], nil
}

// findSession finds the login session whose screen is ours: the one that this
// process runs in, or the user's graphical one for a process of the user
// manager's, which runs in none (org.freedesktop.login1(5), "GetSession").
func (w *watcher) findSession(ctx context.Context, l *link) {
	var path godbus.ObjectPath
	err := l.call(ctx, loginName, loginPath, loginManager, "GetSession", []any{"auto"}, &path)
	var remote remoteError
	switch {
	case errors.As(err, &remote):
		path = ""
	case err != nil:
		return // it does not answer; nothing is known to have changed
	}
	if path != w.logind.session {
		w.logind.session = path
		w.silent(hinted)
	}
	w.lookAtSession(ctx, l)
}

func (w *watcher) lookAtSession(ctx context.Context, l *link) {
	if w.logind.session == "" {
		return
	}
	if v, err := l.property(ctx, loginName, w.logind.session, loginSession, "LockedHint"); err == nil {
		if locked, ok := v.(bool); ok {
			w.screen(ctx, hinted, locked)
		}
	}
	v, err := l.property(ctx, loginName, w.logind.session, loginSession, "IdleHint")
	idle, ok := v.(bool)
	if err != nil || !ok || idle == w.logind.idle {
		return
	}
	w.logind.idle = idle
	if w.events.Idle != nil {
		w.tell(ctx, func() { w.events.Idle(idle) })
	}
}

// lookAtUser looks whether the user is still logged in.
func (w *watcher) lookAtUser(ctx context.Context, l *link) {
	in, err := w.loggedIn(ctx, l)
	if err != nil {
		return // it does not answer; nothing is known to have changed
	}
	was := w.logind.in
	w.logind.in = in
	if was && !in {
		w.tell(ctx, w.events.LoggedOut)
	}
}

func (w *watcher) loggedIn(ctx context.Context, l *link) (bool, error) {
	var remote remoteError
	w.logind.user = ""
	err := l.call(ctx, loginName, loginPath, loginManager, "GetUser", []any{uint32(w.UID)}, &w.logind.user)
	if errors.As(err, &remote) && remote == noSuchUser {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	v, err := l.property(ctx, loginName, w.logind.user, loginUser, "State")
	if err != nil {
		return false, err
	}
	switch state, _ := v.(string); state {
	case "active", "online", "opening":
		return true, nil
	case "lingering", "closing", "offline":
		return false, nil
	default:
		return false, fmt.Errorf("user state %q", state)
	}
}
