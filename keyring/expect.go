package keyring

import "github.com/keyringd/keyringd/prompt"

// Expect is told which keys a client has looked at, which most do shortly before
// they use one. If using one of them would mean a question, the prompter may get
// ready for it. Nothing is asked, and no key comes nearer to being used. Those
// that neither want confirming nor a passphrase may be left out.
func (k *Keys) Expect(seen []KeyInfo) {
	e, ok := k.gate.prompter.(prompt.Expecter)
	if !ok {
		return
	}
	for i := range seen {
		if info := &seen[i]; info.Confirm || info.NeedsAuth && !k.gate.remembers(info.ID.String()) {
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
