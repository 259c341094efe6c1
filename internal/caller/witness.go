package caller

import (
	"net"
	"sync"
)

// A Witness looks at processes for those who want to know their peers: in this
// process, or in another one that may see more. The zero value and nil look
// here. It may be used concurrently.
type Witness struct {
	mu   sync.RWMutex // held while somebody looks here
	look func(pid int) (Seen, bool)
}

// Seen is what a process shows of itself: a Peer's fields of these names.
type Seen struct {
	Program, Process, App string
}

// Look returns what there is to see of a process; ok is false if it is gone, or
// another took its number meanwhile.
func Look(pid int) (s Seen, ok bool) { return host.look(pid) }

// Use has look, which is Look in another process, tell everything from now on.
// It returns when nobody looks here any more.
func (w *Witness) Use(look func(pid int) (Seen, bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look = look
}

func (w *Witness) at(pid int) (Seen, bool) {
	if w == nil {
		return Look(pid)
	}
	w.mu.RLock()
	if w.look == nil {
		defer w.mu.RUnlock()
		return Look(pid)
	}
	look := w.look
	w.mu.RUnlock()
	return look(pid)
}

// FromConn is the function of that name, for this Witness.
func (w *Witness) FromConn(c *net.UnixConn) (Peer, error) { return fromConn(c, w.at) }

// FromPID is the function of that name, for this Witness.
func (w *Witness) FromPID(pid int, uid uint32, alive func() bool) Peer {
	p := Peer{UID: uid, PID: max(0, pid)}
	p.describe(w.at, alive)
	return p
}
