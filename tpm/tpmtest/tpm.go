package tpmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpm/swtpm"
)

// A TPM is a software TPM with a state of its own, which lasts as long as the
// test. All methods may be called concurrently, but for Kill and Restart, which
// are for one goroutine at a time.
type TPM struct {
	Dir string // a short-named folder of this TPM's own, gone at the end of the test

	tb       testing.TB
	upstream *upstream
	process  *swtpm.Process // nil after Kill

	mu     sync.Mutex
	fronts []*front
	raw    *Relay
	tools  *RM
}

// Start starts a new TPM, freshly made and started up. At the end of the test
// it is ended and its state removed.
func Start(tb testing.TB) *TPM {
	tb.Helper()
	Require(tb, "swtpm")
	dir, err := os.MkdirTemp("", "kr") // tb.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	t := &TPM{Dir: dir, tb: tb}
	t.upstream = newUpstream(t.socket())
	tb.Cleanup(t.close)
	t.start()
	return t
}

// Require skips the test if a program is missing, or fails it where
// KEYRINGD_TEST_REQUIRE=1.
func Require(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(tb, "program "+p+" is not installed")
		}
	}
}

func missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("KEYRINGD_TEST_REQUIRE") == "1" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}

func (t *TPM) socket() string { return filepath.Join(t.Dir, "tpm") }

func (t *TPM) start() {
	t.tb.Helper()
	p, err := swtpm.Start(t.tb.Context(), swtpm.Options{
		Dir:    filepath.Join(t.Dir, "state"),
		Socket: t.socket(),
	})
	if err != nil {
		t.tb.Fatal(err)
	}
	t.process = p
}

// Address is a TPM without a resource manager that takes any number of
// connections.
func (t *TPM) Address() link.Address {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw == nil {
		t.raw = t.relayLocked()
	}
	return t.raw.Address()
}

// Direct is swtpm's own address, which takes one connection at a time: see the
// package comment.
func (t *TPM) Direct() link.Address {
	return link.Address{Kind: link.Unix, Target: t.socket()}
}

// Kill ends the TPM at once, as a power cut would, and with it every connection
// to it through a relay, whose addresses nobody answers until Restart.
// Connections through an RM stay, as an open /dev/tpmrm0 does, but nothing
// works on them.
func (t *TPM) Kill() {
	t.tb.Helper()
	if t.process == nil {
		return
	}
	_ = t.process.Kill()
	t.process = nil
	t.down()
}

// Restart starts the TPM again on the same state and the same addresses. If it
// is still running it is shut down in order before (TPM2_Shutdown), which also
// ends all connections through a relay.
func (t *TPM) Restart() {
	t.tb.Helper()
	if t.process != nil {
		t.down()
		if err := t.process.Stop(); err != nil {
			t.tb.Fatal(err)
		}
		t.process = nil
	}
	t.start()
	t.upstream.up()
	for _, f := range t.allFronts() {
		if err := f.resume(); err != nil {
			t.tb.Fatal(err)
		}
	}
}

func (t *TPM) down() {
	t.upstream.down()
	for _, f := range t.allFronts() {
		f.suspend()
	}
}

func (t *TPM) allFronts() []*front {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*front(nil), t.fronts...)
}

func (t *TPM) close() {
	if t.process != nil {
		_ = t.process.Kill() // the state goes too, so there is nothing to put in order
		t.upstream.down()
	}
	for _, f := range t.allFronts() {
		f.close()
	}
	if err := os.RemoveAll(t.Dir); err != nil {
		t.tb.Error(err)
	}
}

// nextPath is where the next front listens. t.mu is held.
func (t *TPM) nextPath() string {
	return filepath.Join(t.Dir, "r"+strconv.Itoa(len(t.fronts)))
}

// serveLocked makes a front listen. t.mu is held.
func (t *TPM) serveLocked(f *front) {
	t.tb.Helper()
	if err := f.listen(); err != nil {
		t.tb.Fatal(err)
	}
	t.fronts = append(t.fronts, f)
}
