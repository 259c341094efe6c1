package keyring

import (
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// A value is one authorization value that worked, remembered for a while.
type value struct {
	id      string
	entered time.Time
	timer   *time.Timer

	auth   secret.Bytes
	forget func() // guarded by Gate.mu: of the use that last worked with it
}

// remember keeps the value in hand after it has worked, unless it was forgotten
// while it was at work.
func (g *Gate) remember(a *attempt) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.from != nil {
		a.from.forget = a.use.Forget
		return
	}
	left := g.Remembering() - age(a.entered)
	if a.stale || a.spent || left <= 0 {
		return
	}
	// Two uses may have asked at the same time if the second came after the
	// first's answer was found to be old; the newer answer stands.
	if old := g.values[a.use.ID]; old != nil {
		old.timer.Stop()
		old.auth.Wipe()
	}
	v := &value{id: a.use.ID, entered: a.entered, auth: a.auth.Clone(), forget: a.use.Forget}
	v.timer = time.AfterFunc(left, func() { g.forgetValue(v) })
	g.values[v.id] = v
}

// settle makes a key forget what it derived from a value that the Gate does not
// keep.
func (a *attempt) settle() {
	a.gate.mu.Lock()
	_, kept := a.gate.values[a.use.ID]
	a.gate.mu.Unlock()
	if !kept && a.use.Forget != nil {
		a.use.Forget()
	}
}

// recall takes a copy of the remembered value into hand. The copy is the
// attempt's own, so that forgetting never empties a value that is at work.
func (a *attempt) recall() bool {
	a.drop()
	if a.use.Once {
		return false
	}
	g := a.gate
	g.mu.Lock()
	v := g.values[a.use.ID]
	if v != nil && age(v.entered) < g.Remembering() {
		a.auth, a.from, a.entered = v.auth.Clone(), v, v.entered
		g.mu.Unlock()
		return true
	}
	g.mu.Unlock()
	if v != nil {
		// The timer is late, as it is after a suspend.
		g.forgetValue(v)
	}
	return false
}

// age is how long ago t was. The monotonic clock stands still while the machine
// is suspended and the wall clock may be set back, so the larger answer counts.
func age(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// forgetValue wipes v, if it is still there.
func (g *Gate) forgetValue(v *value) {
	g.mu.Lock()
	if g.values[v.id] != v {
		g.mu.Unlock()
		return
	}
	forget := g.takeLocked(v)
	g.mu.Unlock()
	forget()
}

// takeLocked removes and wipes v, and returns what to call without the lock.
func (g *Gate) takeLocked(v *value) (forget func()) {
	delete(g.values, v.id)
	v.timer.Stop()
	v.auth.Wipe()
	if v.forget == nil {
		return func() {}
	}
	return v.forget
}

// Forget forgets everything about one ID: its value, also one that is being
// tried right now, and its approvals. A question that is open stays open.
func (g *Gate) Forget(id string) { g.forget(func(other string) bool { return other == id }) }

// Lock forgets every value and every approval.
func (g *Gate) Lock() { g.forget(func(string) bool { return true }) }

func (g *Gate) forget(match func(id string) bool) {
	var calls []func()
	g.mu.Lock()
	for id, v := range g.values {
		if match(id) {
			calls = append(calls, g.takeLocked(v))
		}
	}
	for k := range g.approvals {
		if match(k.id) {
			delete(g.approvals, k)
		}
	}
	for a := range g.running {
		if match(a.use.ID) {
			a.stale = true
		}
	}
	g.mu.Unlock()
	for _, call := range calls {
		call()
	}
}
