package loginsession

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/logindtest"
)

// patience is how long an event may take on a busy machine.
const patience = time.Minute

// A room is a watcher and what it told.
type room struct {
	*testing.T
	told   chan string
	asleep chan struct{} // the Sleep function waits here
}

// watch watches both buses; "" is none.
func watch(t *testing.T, system, session string) *room {
	t.Helper()
	r := &room{T: t, told: make(chan string, 256), asleep: make(chan struct{})}
	say := func(what string) func() { return func() { r.told <- what } }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, Options{
			SystemBus: system, SessionBus: session, UID: os.Getuid(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}, Events{
			Locked: say("locked"), Unlocked: say("unlocked"), Resumed: say("resumed"), LoggedOut: say("logged out"),
			Idle: func(idle bool) { r.told <- map[bool]string{true: "idle", false: "busy"}[idle] },
			Sleep: func() {
				r.told <- "sleep"
				select {
				case <-r.asleep:
				case <-ctx.Done():
				}
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Watch: %v", err)
			}
		case <-time.After(patience):
			t.Error("Watch does not return")
		}
	})
	return r
}

// wants waits for these events, in this order and no others between them.
func (r *room) wants(events ...string) {
	r.Helper()
	for _, want := range events {
		select {
		case got := <-r.told:
			if got != want {
				r.Fatalf("told %q, want %q", got, want)
			}
		case <-time.After(patience):
			r.Fatalf("not told: %q", want)
		}
	}
}

// wantsPast wants an event, before which another may be told once.
func (r *room) wantsPast(may, want string) {
	r.Helper()
	for range 2 {
		select {
		case got := <-r.told:
			if got == want {
				return
			}
			if got != may {
				r.Fatalf("told %q, want %q", got, want)
			}
		case <-time.After(patience):
			r.Fatalf("not told: %q", want)
		}
	}
	r.Fatalf("told %q twice, want %q", may, want)
}

func TestSleepWaitsForUs(t *testing.T) {
	bus := bustest.Start(t)
	logind := logindtest.Start(t, bus.Address)
	r := watch(t, bus.Address, "")
	if why := logind.AwaitInhibitor(); why != "sleep delay" {
		t.Errorf("inhibitor for %q, want sleep, delay", why)
	}
	for range 3 {
		logind.Sleep()
		r.wants("sleep")
		if !logind.Held() {
			t.Error("the machine may sleep before all is forgotten")
		}
		r.asleep <- struct{}{}
		logind.AwaitRelease()
		logind.Wake()
		r.wants("resumed")
		logind.AwaitInhibitor()
	}
}

// TestSleepWithoutInhibitor is told all the same.
func TestSleepWithoutInhibitor(t *testing.T) {
	bus := bustest.Start(t)
	logind := logindtest.Start(t, bus.Address)
	logind.Refuse()
	r := watch(t, bus.Address, "")
	r.awaitSession(logind)
	logind.Sleep()
	r.wants("sleep")
	r.asleep <- struct{}{}
	logind.Wake()
	r.wants("resumed")
}

// awaitSession returns once the session is watched: requests come through.
func (r *room) awaitSession(l *logindtest.Logind) {
	r.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); ; {
		select {
		case got := <-r.told:
			if got != "idle" {
				r.Fatalf("told %q, want idle", got)
			}
			l.SetIdle(false)
			r.wants("busy")
			return
		case <-tick.C:
			l.SetIdle(true)
		case <-end:
			r.Fatal("the session is not watched")
		}
	}
}

func TestScreenIsLocked(t *testing.T) {
	bus := bustest.Start(t)
	logind := logindtest.Start(t, bus.Address)
	r := watch(t, bus.Address, "")
	r.awaitSession(logind)

	logind.SetLocked(true)
	r.wants("locked")
	logind.SetLocked(false)
	r.wants("unlocked")
	// Requests, which leave no state behind: each counts.
	logind.Ask(true)
	logind.Ask(true)
	logind.Ask(false)
	r.wants("locked", "locked", "unlocked")
	logind.SetLocked(true)
	r.wants("locked")
	logind.Ask(false) // but it is locked still
	logind.SetLocked(false)
	r.wants("unlocked")
	logind.SetIdle(true)
	r.wants("idle")
	logind.SetIdle(false)
	r.wants("busy")
}

// TestLockedBeforeWeCame finds the screen locked, and the machine awake again.
func TestLockedBeforeWeCame(t *testing.T) {
	bus := bustest.Start(t)
	logind := logindtest.Start(t, bus.Address)
	logind.SetLocked(true)
	r := watch(t, bus.Address, "")
	r.wants("locked")
}

func TestLastLogout(t *testing.T) {
	for _, lingers := range []bool{false, true} {
		bus := bustest.Start(t)
		logind := logindtest.Start(t, bus.Address)
		r := watch(t, bus.Address, "")
		r.awaitSession(logind)
		logind.Logout(lingers)
		r.wants("logged out")
	}
}

func TestScreenSavers(t *testing.T) {
	bus := bustest.Start(t)
	gnome := logindtest.StartSaver(t, bus.Address, "org.gnome.ScreenSaver", "/org/gnome/ScreenSaver")
	gnome.SetActive(true)
	r := watch(t, "", bus.Address)
	r.wants("locked") // it was before we came
	kde := logindtest.StartSaver(t, bus.Address, "org.freedesktop.ScreenSaver", "/org/freedesktop/ScreenSaver")
	kde.SetActive(true)
	r.wants("locked")
	gnome.SetActive(false) // the other says that it is locked
	kde.SetActive(false)
	r.wants("unlocked")
}

// TestBusesComeBack restarts a bus, and logind on it.
func TestBusesComeBack(t *testing.T) {
	bus := bustest.Start(t)
	r := watch(t, bus.Address, "")
	for range 3 {
		logind := logindtest.Start(t, bus.Address)
		r.awaitSession(logind)
		logind.AwaitInhibitor()
		logind.SetLocked(true)
		r.wantsPast("unlocked", "locked")
		logind.Stop() // what it said last counts no more
		again := logindtest.Start(t, bus.Address)
		again.AwaitInhibitor()
		again.SetLocked(true)
		r.wantsPast("unlocked", "locked") // the new one may be asked before it is locked
		bus.Restart()
	}
}

// TestWakesUnseen sleeps when the bus goes, and is awake when it comes back.
func TestWakesUnseen(t *testing.T) {
	bus := bustest.Start(t)
	logind := logindtest.Start(t, bus.Address)
	r := watch(t, bus.Address, "")
	logind.AwaitInhibitor()
	logind.Sleep()
	r.wants("sleep")
	bus.Restart()
	r.asleep <- struct{}{}
	logindtest.Start(t, bus.Address)
	r.wants("resumed")
}

// TestOthersAreNotBelieved sends what logind would, from another program, to
// our own connection: on the system bus every user may.
func TestOthersAreNotBelieved(t *testing.T) {
	bus := bustest.Start(t)
	logind := logindtest.Start(t, bus.Address)
	r := watch(t, bus.Address, "")
	r.awaitSession(logind)
	rude, err := godbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer rude.Close()
	var names []string
	if err := rude.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
		t.Fatal(err)
	}
	send := func(to string, at godbus.ObjectPath, iface, member string, values ...any) {
		m := &godbus.Message{Type: godbus.TypeSignal, Flags: godbus.FlagNoReplyExpected, Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldDestination: godbus.MakeVariant(to), godbus.FieldPath: godbus.MakeVariant(at),
			godbus.FieldInterface: godbus.MakeVariant(iface), godbus.FieldMember: godbus.MakeVariant(member),
		}, Body: values}
		if len(values) > 0 {
			m.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(values...))
		}
		rude.Send(m, nil)
	}
	for _, to := range names {
		if !strings.HasPrefix(to, ":") || slices.Contains(rude.Names(), to) {
			continue
		}
		send(to, loginPath, loginManager, "PrepareForSleep", true)
		send(to, "/org/freedesktop/login1/session/_32", loginSession, "Lock")
		send(to, loginPath, loginManager, "PrepareForSleep", strings.Repeat("x", 2*maxBody))
	}
	// What the bus answers now comes behind all that was sent.
	if err := rude.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil {
		t.Fatal(err)
	}
	logind.SetLocked(true)
	r.wants("locked")
}

// TestStrangeSignalsAreIgnored has logind itself say what nobody understands.
func TestStrangeSignalsAreIgnored(t *testing.T) {
	bus := bustest.Start(t)
	logind := logindtest.Start(t, bus.Address)
	r := watch(t, bus.Address, "")
	r.awaitSession(logind)
	logind.Say(loginPath, loginManager+".PrepareForSleep", "yes", uint32(3))
	logind.Say(loginPath, loginManager+".PrepareForSleep")
	logind.Say("/org/freedesktop/login1/session/_32", properties+".PropertiesChanged", "LockedHint")
	logind.Say("/org/freedesktop/login1/session/_32", loginSession+".Lock", strings.Repeat("x", maxBody))
	logind.SetLocked(true)
	r.wants("locked")
	logind.SetLocked(false)
	r.wants("unlocked") // and nothing came of the long one
}

// TestInhibitorIsAFile has logind answer with something else.
func TestInhibitorIsAFile(t *testing.T) {
	for name, answer := range map[string]any{
		"a text":       func(_, _, _, _ string) (string, *godbus.Error) { return "yes", nil },
		"nothing":      func(_, _, _, _ string) *godbus.Error { return nil },
		"no file":      func(_, _, _, _ string) (godbus.UnixFDIndex, *godbus.Error) { return 0, nil },
		"another file": func(_, _, _, _ string) (godbus.UnixFDIndex, *godbus.Error) { return 1, nil },
		"two files":    func(_, _, _, _ string) (godbus.UnixFD, godbus.UnixFD, *godbus.Error) { return 0, 0, nil },
	} {
		t.Run(name, func(t *testing.T) {
			bus := bustest.Start(t)
			strange, err := godbus.Connect(bus.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer strange.Close()
			if err := strange.ExportMethodTable(map[string]any{"Inhibit": answer}, loginPath, loginManager); err != nil {
				t.Fatal(err)
			}
			if _, err := strange.RequestName(loginName, 0); err != nil {
				t.Fatal(err)
			}
			l, err := dial(t.Context(), bus.Address, func(*wire.Frame) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if f, err := l.inhibit(t.Context()); err == nil || !strings.Contains(err.Error(), "an answer of type") {
				t.Errorf("%v, %v", f, err)
			}
			// The connection is as good as before.
			if owner, err := l.owner(t.Context(), loginName); err != nil || owner == "" {
				t.Errorf("owner %q, %v", owner, err)
			}
		})
	}
}

// TestNoBus waits for one, and ends when it is told to; an address that is none
// is said at once.
func TestNoBus(t *testing.T) {
	r := watch(t, "unix:path="+filepath.Join(t.TempDir(), "none"), "")
	select {
	case got := <-r.told:
		t.Errorf("told %q", got)
	default:
	}
	err := Watch(t.Context(), Options{SystemBus: "tcp:host=localhost", Log: slog.New(slog.DiscardHandler)}, Events{})
	if err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a bus that is not on a unix socket: %v", err)
	}
}

func TestSystemAddress(t *testing.T) {
	env := map[string]string{"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/x"}
	if got := SystemAddress(func(k string) string { return env[k] }); got != "unix:path=/x" {
		t.Errorf("got %s", got)
	}
	if got := SystemAddress(func(string) string { return "" }); !strings.Contains(got, "/run/dbus/system_bus_socket") {
		t.Errorf("got %s", got)
	}
}
