package manager

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// The first one has the place, others have it shown, until it goes.
func TestOnlyOneManager(t *testing.T) {
	display := t.TempDir()
	first := NewOnly(display, true)
	if first == nil || first.l == nil {
		t.Fatalf("the first one: %v", first)
	}
	other := NewOnly(display+"'", true)
	if other == nil || other.l == nil {
		t.Error("another display has the same one")
	}
	other.Close()

	var shown atomic.Int32
	first.Serve(func() { shown.Add(1) })
	done := make(chan *Only)
	for range 5 {
		go func() { done <- NewOnly(display, true) }()
	}
	for range 5 {
		if o := <-done; o != nil {
			t.Errorf("another one began: %v", o)
		}
	}
	if n := shown.Load(); n != 5 {
		t.Errorf("shown %d times, want 5", n)
	}
	// Who says something else, or nothing, is not heard, and in nobody's way.
	for _, text := range []string{"", "sh", strings.Repeat("x", 1000)} {
		c, err := net.Dial("unix", first.l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(text)); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if o := NewOnly(display, true); o != nil || shown.Load() != 6 {
		t.Errorf("after nonsense: %v, shown %d times", o, shown.Load())
	}
	if o := NewOnly(display, false); o != nil || shown.Load() != 6 {
		t.Errorf("one that would not be seen: %v, shown %d times", o, shown.Load())
	}
	first.Close()
	first.wg.Wait()
	next := NewOnly(display, true)
	if next == nil || next.l == nil {
		t.Errorf("after the first one's end: %v", next)
	}
	next.Close()
}

// One that ends while it is told is waited for, and its place taken.
func TestOnlyOneThatLeaves(t *testing.T) {
	display := t.TempDir()
	first := NewOnly(display, true)
	done := make(chan *Only)
	go func() { done <- NewOnly(display, true) }()
	c, err := first.l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	c.Close()
	next := <-done
	if next == nil || next.l == nil {
		t.Fatalf("the next one: %v", next)
	}
	next.Close()
}

func TestDisplay(t *testing.T) {
	display := func(env ...string) string {
		return Display(func(name string) string {
			for _, kv := range env {
				if value, ok := strings.CutPrefix(kv, name+"="); ok {
					return value
				}
			}
			return ""
		})
	}
	if a, b := display("DISPLAY=:0"), display("DISPLAY=:0.1"); a != b {
		t.Errorf("two screens: %q, %q", a, b)
	}
	all := map[string]bool{}
	for _, d := range []string{
		display(), display("DISPLAY=:0"), display("DISPLAY=:1"), display("DISPLAY=host.example:0.0"), display("DISPLAY=host.other:0"),
		display("DISPLAY=:0", "WAYLAND_DISPLAY=wayland-0", "XDG_RUNTIME_DIR=/run/user/1"),
		display("DISPLAY=:0", "WAYLAND_DISPLAY=wayland-0", "XDG_RUNTIME_DIR=/run/user/2"),
	} {
		if all[d] {
			t.Errorf("%q twice", d)
		}
		all[d] = true
	}
}
