package keyring

import "github.com/keyringd/keyringd/internal/secret"

// Remembered returns the handles of all remembered values, to see them wiped.
func (g *Gate) Remembered() []secret.Bytes {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []secret.Bytes
	for _, v := range g.values {
		list = append(list, v.auth)
	}
	return list
}

// Idle reports whether nothing is asked, tried or reserved.
func (g *Gate) Idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.counters {
		if len(c.spending) > 0 {
			return false
		}
	}
	return len(g.turns) == 0 && len(g.running) == 0
}
