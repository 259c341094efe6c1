package caller

import (
	"os"
	"testing"
)

// TestWitness has somebody else look, and drops what was seen of a process that
// is gone by then.
func TestWitness(t *testing.T) {
	self := uint32(os.Getuid())
	w := &Witness{}
	yes, no := func() bool { return true }, func() bool { return false }
	want := FromPID(os.Getpid(), self, yes)
	if want.Program == "" {
		t.Fatalf("this process is %+v", want)
	}
	if got := w.FromPID(os.Getpid(), self, yes); got != want {
		t.Errorf("looked at here: %+v, want %+v", got, want)
	}
	if got := (*Witness)(nil).FromPID(os.Getpid(), self, yes); got != want {
		t.Errorf("looked at by nobody: %+v, want %+v", got, want)
	}
	w.Use(func(pid int) (Seen, bool) {
		return Seen{Program: "/other", Process: "other", App: "app"}, pid == 7
	})
	if got := w.FromPID(7, 5, yes); got != (Peer{UID: 5, PID: 7, Program: "/other", Process: "other", App: "app"}) {
		t.Errorf("looked at elsewhere: %+v", got)
	}
	if got := w.FromPID(8, 5, yes); got != (Peer{UID: 5, PID: 8}) {
		t.Errorf("gone: %+v", got)
	}
	if got := w.FromPID(7, 5, no); got != (Peer{UID: 5, PID: 7}) {
		t.Errorf("gone since: %+v", got)
	}
}
