package tpmtest

import (
	"time"

	"github.com/keyringd/keyringd/tpm/link"
)

// A Relay passes commands on to the TPM as they are. Its methods for counting,
// recording and faults are those of all fronts: Sent, Total, Reset, Recorded,
// Contains, Inject, Delay, Hold, Flip, Drop, Clear, Disconnect, TCTI.
type Relay struct{ *front }

// Relay returns a new relay in front of the TPM. It ends with the test.
func (t *TPM) Relay() *Relay {
	t.tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.relayLocked()
}

func (t *TPM) relayLocked() *Relay {
	t.tb.Helper()
	r := &Relay{newFront(t.upstream, t.nextPath(), false)}
	r.open = func() session { return plain{r.front} }
	t.serveLocked(r.front)
	return r
}

// Address is the relay's own address: a TPM without a resource manager.
func (r *Relay) Address() link.Address { return r.address() }

// plain is a session with the TPM itself.
type plain struct{ *front }

func (p plain) handle(cmd []byte, delay time.Duration) ([]byte, error) {
	p.upstream.mu.Lock()
	defer p.upstream.mu.Unlock()
	p.upstream.busy(delay)
	return p.upstream.exchange(cmd)
}

func (plain) close() {}
