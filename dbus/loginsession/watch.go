package loginsession

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

const (
	// A bus that is not there is tried again after firstPause, then after twice
	// as long each time, up to lastPause.
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
	// answerTime is how long logind or a screen saver may take to answer. What
	// it would have said then comes with its next signal.
	answerTime = 5 * time.Second
	// maxWaiting is how many events may wait for a slow function. More than that
	// come from a desktop gone wild, and then the bus waits.
	maxWaiting = 64
)

// Options say where to look. The zero value looks nowhere.
type Options struct {
	SystemBus  string       // address of the bus that logind is on; "": not watched
	SessionBus string       // address of the bus that the screen saver is on; "": not watched
	UID        int          // whose login
	Log        *slog.Logger // told once of each thing that is missing; not nil
}

// Events are called one at a time and in the order of what happened, on one
// goroutine of Watch's; any may be nil. A function that takes its time delays
// the next ones and nothing else.
type Events struct {
	// Locked: the screen was locked, or somebody asked for it to be. One locking
	// may be told several times, by several sources.
	Locked func()
	// Unlocked: a source says so, and no other says that it is locked.
	Unlocked func()
	// Idle: nobody has touched the machine for a while, or has again.
	Idle func(idle bool)
	// Sleep: the machine is about to sleep. It waits until the function returns,
	// as long as logind lets it (InhibitDelayMaxSec in logind.conf(5), 5 s).
	Sleep func()
	// Resumed: the machine is awake, or did not sleep after all.
	Resumed func()
	// LoggedOut: the user's last session has ended. This process may live on, as
	// lingering users' do.
	LoggedOut func()
}

// SystemAddress returns the address of the system bus: what the environment
// says in DBUS_SYSTEM_BUS_ADDRESS, or else the well-known one (D-Bus
// Specification, "System message bus").
func SystemAddress(getenv func(string) string) string {
	if a := getenv("DBUS_SYSTEM_BUS_ADDRESS"); a != "" {
		return a
	}
	return "unix:path=/run/dbus/system_bus_socket;unix:path=/var/run/dbus/system_bus_socket"
}

// Watch watches until ctx ends, and returns its error when every goroutine that
// it started is done. A bus or a logind that is not there is waited for. Another
// error means that an address is none.
func Watch(ctx context.Context, o Options, e Events) error {
	w := &watcher{Options: o, events: e, queue: make(chan func(), maxWaiting), locked: map[string]bool{}}
	buses := []struct {
		name, address string
		visit         func(context.Context, *link) error
		take          func(*wire.Frame) bool
	}{
		{"system", o.SystemBus, w.system, w.fromLogind},
		{"session", o.SessionBus, w.session, fromScreenSaver},
	}
	for _, b := range buses {
		if b.address == "" {
			continue
		}
		if err := wire.CheckAddress(b.address); err != nil {
			return err
		}
	}
	var all sync.WaitGroup
	for _, b := range buses {
		if b.address != "" {
			all.Go(func() { w.keepVisiting(ctx, b.name, b.address, b.take, b.visit) })
		}
	}
	all.Go(func() {
		for {
			select {
			case f := <-w.queue:
				f()
			case <-ctx.Done():
				return
			}
		}
	})
	all.Wait()
	return ctx.Err()
}

// A watcher is one run of Watch.
type watcher struct {
	Options
	events Events
	queue  chan func()
	logind logind // of the goroutine that visits the system bus

	mu     sync.Mutex
	locked map[string]bool // by source
}

// keepVisiting connects to a bus again and again.
func (w *watcher) keepVisiting(ctx context.Context, name, address string, take func(*wire.Frame) bool, visit func(context.Context, *link) error) {
	pause, told := firstPause, false
	for ctx.Err() == nil {
		began := time.Now()
		l, err := dial(ctx, address, take)
		if err == nil {
			told = false
			err = visit(ctx, l)
			l.close()
			if time.Since(began) > lastPause {
				pause = firstPause
			}
		}
		if ctx.Err() != nil {
			return
		}
		if !told {
			w.Log.Warn("not told when the screen locks or the machine sleeps; trying again", "bus", name, "err", err)
			told = true
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		pause = min(2*pause, lastPause)
	}
}

// tell calls f in its turn.
func (w *watcher) tell(ctx context.Context, f func()) {
	if f == nil {
		return
	}
	select {
	case w.queue <- f:
	case <-ctx.Done():
	}
}

// screen notes what a source says of the screen.
func (w *watcher) screen(ctx context.Context, source string, locked bool) {
	w.mu.Lock()
	was := w.locked[source]
	w.locked[source] = locked
	other := false
	for _, l := range w.locked {
		other = other || l
	}
	w.mu.Unlock()
	switch {
	case locked && !was:
		w.tell(ctx, w.events.Locked)
	case !locked && was && !other:
		w.tell(ctx, w.events.Unlocked)
	}
}

// asked passes on a request to lock or unlock. It is no state: many lockers say
// nothing when they are done.
func (w *watcher) asked(ctx context.Context, lock bool) {
	if lock {
		w.tell(ctx, w.events.Locked)
		return
	}
	w.mu.Lock()
	still := false
	for _, l := range w.locked {
		still = still || l
	}
	w.mu.Unlock()
	if !still {
		w.tell(ctx, w.events.Unlocked)
	}
}

// silent forgets what a source said last: it is not there any more.
func (w *watcher) silent(source string) {
	w.mu.Lock()
	delete(w.locked, source)
	w.mu.Unlock()
}
