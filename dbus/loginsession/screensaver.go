package loginsession

import (
	"context"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

// savers are the screen savers' names on the session bus, which are those of
// their interfaces, too, and where they answer. KDE and most lockers have the
// first, GNOME and those that came from it their own.
var savers = []struct {
	name string
	path godbus.ObjectPath
}{
	{"org.freedesktop.ScreenSaver", "/org/freedesktop/ScreenSaver"},
	{"org.gnome.ScreenSaver", "/org/gnome/ScreenSaver"},
	{"org.cinnamon.ScreenSaver", "/org/cinnamon/ScreenSaver"},
	{"org.mate.ScreenSaver", "/org/mate/ScreenSaver"},
}

// fromScreenSaver keeps what a screen saver may have said. Programs of one user
// can all say so: it locks them out of nothing but the convenience of what is
// remembered.
func fromScreenSaver(f *wire.Frame) bool {
	for _, s := range savers {
		if f.Interface == s.name && f.Member == "ActiveChanged" {
			return true
		}
	}
	return false
}

// session is one visit to the session bus.
func (w *watcher) session(ctx context.Context, l *link) error {
	defer func() {
		for _, s := range savers {
			w.silent(s.name)
		}
	}()
	for _, s := range savers {
		if err := l.match(ctx, "type='signal',sender='"+s.name+"',interface='"+s.name+"',member='ActiveChanged'"); err != nil {
			return err
		}
	}
	for _, s := range savers {
		var active bool
		// One that is not there, or has no such method, will tell by its signal.
		if l.call(ctx, s.name, s.path, s.name, "GetActive", nil, &active) == nil {
			w.screen(ctx, s.name, active)
		}
	}
	for {
		select {
		case s := <-l.signals:
			var active bool
			if s.decode("b", &active) {
				w.screen(ctx, s.Interface, active)
			}
		case <-l.tap.Ended():
			return errLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
