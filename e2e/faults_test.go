package e2e

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// TestWrongPIN gives a wrong PIN again and again: the TPM must not be locked by
// it, and other keys must go on working.
func TestWrongPIN(t *testing.T) {
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	s.Key("one", tpm.OpenSSLKey(t, "EC:P-256", "right-one", 0))
	s.Key("two", tpm.OpenSSLKey(t, "EC:P-256", "right-two", 0))
	s.Key("plain", tpm.OpenSSLKey(t, "EC:P-256", "", 0))
	relay := tpm.Relay()
	s.Start(relay.Address().String())

	s.Answer("wrong")
	for range 5 {
		if err := verify(t, s, "one", []byte("x")); err == nil {
			t.Fatal("a wrong PIN signed")
		}
	}
	if out := string(tpm.Tool(t, t.TempDir(), "tpm2_getcap", "properties-variable")); !strings.Contains(out, "inLockout:                 0") {
		t.Errorf("the wrong PINs locked the TPM:\n%s", out)
	}
	if relay.Contains([]byte("wrong")) {
		t.Error("the wrong PIN went to the TPM in clear")
	}
	if err := verify(t, s, "plain", []byte("y")); err != nil {
		t.Errorf("a key without a PIN no longer signs: %v", err)
	}
	if !strings.Contains(s.Log.String(), "try") {
		t.Error("the journal does not say that tries are running out")
	}
}

// TestTPMKilled kills and restarts the TPM 20 times while 8 clients sign.
func TestTPMKilled(t *testing.T) {
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	const keys = 4
	for i := range keys {
		// Keys outside the lockout: a TPM counts each power cut as a wrong try, and
		// would lock all others after the third.
		s.Key(fmt.Sprint("k", i), tpm.ToolKey(t, tpmtest.ToolKey{}))
	}
	s.Start(tpm.Address().String())

	var good, failed atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				// verify fails the test on a wrong signature; an error is allowed
				// while there is no TPM.
				if verify(t, s, fmt.Sprint("k", i%keys), fmt.Appendf(nil, "%d/%d", i, n)) == nil {
					good.Add(1)
				} else {
					failed.Add(1)
				}
			}
		})
	}
	progress := func() {
		t.Helper()
		start := good.Load()
		await(t, "signature after the TPM was restarted", func() bool { return good.Load() >= start+3 })
	}
	for range 20 {
		progress()
		tpm.Kill()
		tpm.Restart()
	}
	progress()
	close(stop)
	clients.Wait()
	t.Logf("%d good signatures, %d refused while the TPM was away", good.Load(), failed.Load())
}

// patience is longer than a busy machine takes for anything: waiting for it means
// that nothing comes.
const patience = 2 * time.Minute

// await waits until done says so.
func await(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			tb.Fatalf("no %s within %s", what, patience)
		}
	}
}
