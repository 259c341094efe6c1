package keyring

import "github.com/keyringd/keyringd/prompt"

// Expect is told when a client has looked at the keys, which most do shortly
// before they use one. If using one of them would mean a question, the prompter
// may get ready for it. Nothing is asked, and no key comes nearer to being used.
func (k *Keys) Expect() {
	e, ok := k.gate.prompter.(prompt.Expecter)
	if !ok {
		return
	}
	list := k.List()
	for i := range list {
		if info := &list[i]; info.Confirm || info.NeedsAuth && !k.gate.remembers(info.ID.String()) {
			e.Expect()
			return
		}
	}
}

// remembers reports whether there is a value for id that was given before.
func (g *Gate) remembers(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.values[id] != nil
}
