package tpmtest

import (
	"bytes"
	"maps"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Any stands for every command code where a fault wants one.
const Any tpm2.TPMCC = 0

// Drop says when a connection is dropped.
type Drop int

// A command may be lost on the way to the TPM, or done and its response lost.
const (
	Lost Drop = iota + 1
	Unanswered
)

// faults is what a front counts, records and does wrong. All methods may be
// called concurrently.
type faults struct {
	mu       sync.Mutex
	sent     map[tpm2.TPMCC]int
	total    int
	recorded []byte
	rules    []*rule
}

// A rule is a fault that waits for its commands.
type rule struct {
	code   tpm2.TPMCC
	left   int
	answer tpm2.TPMRC
	delay  time.Duration
	flip   int // bit number, or -1
	drop   Drop
	gate   *Gate
}

// todo is what the rules ask for one command.
type todo struct {
	answer tpm2.TPMRC
	delay  time.Duration
	flips  []int
	drop   Drop
	gates  []*Gate
}

func newFaults() *faults { return &faults{sent: make(map[tpm2.TPMCC]int)} }

func (f *faults) record(frame []byte, cmd bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recorded = append(f.recorded, frame...)
	if cmd {
		f.sent[commandCode(frame)]++
		f.total++
	}
}

// match uses up one turn of every rule for the code.
func (f *faults) match(code tpm2.TPMCC) todo {
	f.mu.Lock()
	defer f.mu.Unlock()
	var t todo
	rest := f.rules[:0]
	for _, r := range f.rules {
		if r.code == Any || r.code == code {
			t.add(r)
			r.left--
		}
		if r.left != 0 {
			rest = append(rest, r)
		}
	}
	f.rules = rest
	return t
}

func (t *todo) add(r *rule) {
	if r.answer != 0 {
		t.answer = r.answer
	}
	t.delay += r.delay
	if r.flip >= 0 {
		t.flips = append(t.flips, r.flip)
	}
	if r.drop != 0 {
		t.drop = r.drop
	}
	if r.gate != nil {
		t.gates = append(t.gates, r.gate)
	}
}

func (f *faults) add(r rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &r)
}

// Inject answers the next n commands of the code (of any, for Any) with a
// response code, without asking the TPM; n < 0: all from now on.
func (f *faults) Inject(code tpm2.TPMCC, rc tpm2.TPMRC, n int) {
	f.add(rule{code: code, left: n, answer: rc, flip: -1})
}

// Delay keeps the TPM busy for d, for everybody, before the next n commands of
// the code are done; n < 0: all from now on.
func (f *faults) Delay(code tpm2.TPMCC, d time.Duration, n int) {
	f.add(rule{code: code, left: n, delay: d, flip: -1})
}

// Flip flips a bit in the responses to the next n commands of the code; bit 0 is
// the lowest of the first byte, and bits 80 and above lie behind the header. A
// bit beyond the end is counted from the front again.
func (f *faults) Flip(code tpm2.TPMCC, bit, n int) {
	f.add(rule{code: code, left: n, flip: bit})
}

// Drop hangs up on the client instead of answering the next n commands of the
// code.
func (f *faults) Drop(code tpm2.TPMCC, when Drop, n int) {
	f.add(rule{code: code, left: n, drop: when, flip: -1})
}

// Hold stops the next command of the code on its way to the TPM. The test waits
// for it with <-gate.Reached and lets it go with gate.Release. Other clients
// are not held up.
func (f *faults) Hold(code tpm2.TPMCC) *Gate {
	g := &Gate{Reached: make(chan struct{}), released: make(chan struct{})}
	f.add(rule{code: code, left: 1, gate: g, flip: -1})
	return g
}

// Clear forgets all faults that still wait for a command. A command that is
// held stays held.
func (f *faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// A Gate holds one command.
type Gate struct {
	Reached  chan struct{} // closed when the command has come
	released chan struct{}
	once     sync.Once
}

// Release lets the command go on; before it came, it will not be held. Calling
// it twice is harmless.
func (g *Gate) Release() { g.once.Do(func() { close(g.released) }) }

// wait returns false if done comes first.
func (g *Gate) wait(done <-chan struct{}) bool {
	close(g.Reached)
	select {
	case <-g.released:
		return true
	case <-done:
		return false
	}
}

// Sent returns how many commands of each code clients sent since the start or
// the last Reset, those answered by a fault included.
func (f *faults) Sent() map[tpm2.TPMCC]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.sent)
}

// Total returns how many commands clients sent since the start or the last
// Reset.
func (f *faults) Total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

// Reset sets the counts to zero. The recording stays.
func (f *faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sent)
	f.total = 0
}

// Recorded returns every byte of every command and response so far, in the
// order in which they passed.
func (f *faults) Recorded() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Clone(f.recorded)
}

// Contains says whether canary was in any command or response.
func (f *faults) Contains(canary []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Contains(f.recorded, canary)
}
