package notify

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/bustest"
)

// A desktop shows notifications.
type desktop struct {
	shown chan [2]string
	wait  chan struct{} // nil: it answers at once
}

func (d *desktop) Notify(_ string, _ uint32, _, title, body string, _ []string, _ map[string]godbus.Variant, _ int32) (uint32, *godbus.Error) {
	d.shown <- [2]string{title, body}
	if d.wait != nil {
		<-d.wait
	}
	return 1, nil
}

func start(t *testing.T, address string) *Notifier {
	n := New(address, slog.New(slog.DiscardHandler))
	n.every = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return n
}

func serve(t *testing.T, bus *bustest.Bus, d *desktop) {
	t.Helper()
	conn, err := godbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.Export(d, place, name); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(name, 0); err != nil {
		t.Fatal(err)
	}
}

func TestShow(t *testing.T) {
	bus := bustest.Start(t)
	d := &desktop{shown: make(chan [2]string, 10)}
	serve(t, bus, d)
	n := start(t, bus.Address)
	n.Show(Text{"a key was used", "by <b>ssh</b> & co"})
	if got := <-d.shown; got != [2]string{"a key was used", "by &lt;b&gt;ssh&lt;/b&gt; &amp; co"} {
		t.Errorf("%q", got)
	}
}

// TestManyBecomeFew shows the last of what came while it was busy.
func TestManyBecomeFew(t *testing.T) {
	bus := bustest.Start(t)
	d := &desktop{shown: make(chan [2]string, 10), wait: make(chan struct{})}
	serve(t, bus, d)
	n := start(t, bus.Address)
	n.Show(Text{Title: "first"})
	<-d.shown
	for range 500 { // and never waits, however slow the desktop is
		n.Show(Text{Title: "later"})
	}
	close(d.wait)
	if got := <-d.shown; got[0] != "later" || !strings.Contains(got[1], "99 more") {
		t.Errorf("%q", got)
	}
}

func TestNoDesktop(t *testing.T) {
	bus := bustest.Start(t)
	n := start(t, bus.Address)
	n.Show(Text{Title: "to nobody"})
	n = start(t, "unix:path=/nonexistent")
	n.Show(Text{Title: "to nobody"})
	// What ends with the test ends soon.
}
