package sshhelper

import (
	"log/slog"
	"sync"

	"github.com/keyringd/keyringd/agent"
	"github.com/keyringd/keyringd/internal/spawn"
)

// Programs reaches keys through OpenSSH's helpers; it is an agent.Providers.
// The fields are set before its first use. Close ends what it started.
type Programs struct {
	PKCS11  string   // path of ssh-pkcs11-helper; "": where distributions have it
	SK      string   // path of ssh-sk-helper; "": where distributions have it
	Environ []string // what helpers get of the environment; libraries look there for their configuration
	Log     *slog.Logger
	Starter spawn.Starter // who starts them; nil: this process

	mu     sync.Mutex
	closed bool
	cards  map[string]*card // by library
}

var _ agent.Providers = (*Programs)(nil)

// Close unloads every library. Keys that came from them are of no use any more.
func (p *Programs) Close() {
	p.mu.Lock()
	cards := p.cards
	p.cards, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range cards {
		c.child.close()
	}
}
