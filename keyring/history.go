package keyring

import (
	"slices"
	"time"
)

// maxHistory is how many uses are kept in memory: days of a person's, and a
// minute of a program's that has run wild. The journal has them all.
const maxHistory = 500

// A Past is a use that is over.
type Past struct {
	At      time.Time // when it ended
	ID      string    // Use.ID
	Subject string
	Caller  Caller
	Reason  string
	Purpose
	Err error // nil: it was granted and done
}

// History returns the latest uses, the oldest first. It is kept in memory only
// and survives Lock: it holds nothing secret, and is what one looks at when
// something was used that should not have been.
func (g *Gate) History() []Past {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Concat(g.history[g.oldest:], g.history[:g.oldest])
}

// note puts a use into the ring.
func (g *Gate) note(u Use, err error) {
	p := Past{At: time.Now(), ID: u.ID, Subject: u.Subject, Caller: u.Caller, Reason: u.Reason, Purpose: u.Purpose, Err: err}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.history) < maxHistory {
		g.history = append(g.history, p)
		return
	}
	g.history[g.oldest] = p
	g.oldest = (g.oldest + 1) % maxHistory
}
