//go:build bench

package bench

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

const rounds = 200

// counted is something that counts TPM commands.
type counted interface {
	Total() int
	Reset()
}

// sign signs once with each key in turn, n times, and returns each duration.
func sign(tb testing.TB, client sshagent.Agent, keys []*sshagent.Key, n int) []time.Duration {
	tb.Helper()
	var took []time.Duration
	data := make([]byte, 200)
	for range n {
		for _, k := range keys {
			_, _ = rand.Read(data)
			start := time.Now()
			if _, err := client.Sign(k, data); err != nil {
				tb.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
	}
	return took
}

func list(tb testing.TB, client sshagent.Agent) []*sshagent.Key {
	tb.Helper()
	keys, err := client.List()
	if err != nil {
		tb.Fatal(err)
	}
	return keys
}

// TestTPMCommands counts what one signature costs the TPM, and times it.
func TestTPMCommands(t *testing.T) {
	row := table("TPM commands per signature (software TPM; counted by a relay)",
		"key", "first use", "steady", "p50 ms", "p99 ms")
	cases := []struct {
		name, alg, pin string
		srk            bool
	}{
		{"keyringd, P-256, no PIN, persistent SRK", "EC:P-256", "", true},
		{"keyringd, P-256, no PIN, no persistent SRK", "EC:P-256", "", false},
		{"keyringd, P-256, PIN, persistent SRK", "EC:P-256", "1234", true},
		{"keyringd, P-256, PIN, no persistent SRK", "EC:P-256", "1234", false},
		{"keyringd, RSA-2048, no PIN, persistent SRK", "RSA:2048", "", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tpm := tpmtest.Start(t)
			if c.srk {
				tpm.PersistSRK(t)
			}
			s := daemontest.New(t)
			s.Key("key", tpm.OpenSSLKey(t, c.alg, c.pin, 0))
			s.Answer(c.pin)
			relay := tpm.Relay()
			s.Start(relay.Address().String())
			client := s.Client()
			keys := list(t, client)
			relay.Reset()
			sign(t, client, keys, 1)
			first := relay.Total()
			relay.Reset()
			took := sign(t, client, keys, rounds)
			row(c.name, first, fmt.Sprintf("%.2f", float64(relay.Total())/rounds), ms(quantile(took, 0.5)), ms(quantile(took, 0.99)))
		})
	}
	t.Run("tpm2-openssl", func(t *testing.T) {
		tpm := tpmtest.Start(t)
		tpm.PersistSRK(t)
		dir := t.TempDir()
		key, digest := filepath.Join(dir, "key"), filepath.Join(dir, "digest")
		for name, data := range map[string][]byte{key: tpm.OpenSSLKey(t, "EC:P-256", "", 0), digest: make([]byte, 32)} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		relay := tpm.Relay()
		const n = 20
		var took []time.Duration
		for range n {
			cmd := exec.Command("openssl", "pkeyutl", "-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2",
				"-sign", "-inkey", key, "-in", digest, "-out", filepath.Join(dir, "sig"))
			cmd.Env = append(os.Environ(), "TPM2OPENSSL_TCTI="+relay.TCTI())
			start := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("openssl: %v\n%s", err, out)
			}
			took = append(took, time.Since(start))
		}
		each := float64(relay.Total()) / n
		row("tpm2-openssl, P-256, a process each", fmt.Sprintf("%.0f", each), fmt.Sprintf("%.2f", each), ms(quantile(took, 0.5)), ms(quantile(took, 0.99)))
	})
}

// TestPhysicalCommands counts behind a relay that does what the kernel's
// resource manager does, and with more keys than the TPM has slots.
func TestPhysicalCommands(t *testing.T) {
	row := table("Commands that reach the chip", "setup", "per signature")
	for _, c := range []struct{ name, pin string }{{"behind a resource manager, no PIN", ""}, {"behind a resource manager, PIN", "1234"}} {
		tpm := tpmtest.Start(t)
		tpm.PersistSRK(t)
		s := daemontest.New(t)
		s.Key("key", tpm.OpenSSLKey(t, "EC:P-256", c.pin, 0))
		s.Answer(c.pin)
		rm := tpm.ResourceManager()
		s.Start(rm.Address().String())
		client := s.Client()
		keys := list(t, client)
		sign(t, client, keys, 1)
		rm.Reset()
		sign(t, client, keys, rounds)
		row(c.name, fmt.Sprintf("%.2f", float64(rm.PhysicalTotal())/rounds))
	}
	for _, n := range []int{3, 40} {
		tpm := tpmtest.Start(t)
		s := daemontest.New(t)
		for i := range n {
			s.Key(fmt.Sprintf("k%02d", i), tpm.OpenSSLKey(t, "EC:P-256", "", 0))
		}
		relay := tpm.Relay()
		s.Start(relay.Address().String())
		client := s.Client()
		keys := list(t, client)
		var counter counted = relay
		counter.Reset()
		sign(t, client, keys, 1)
		first := counter.Total()
		counter.Reset()
		sign(t, client, keys, 5)
		row(fmt.Sprintf("%d keys in turn on 3 slots, first round", n), fmt.Sprintf("%.2f", float64(first)/float64(n)))
		row(fmt.Sprintf("%d keys in turn on 3 slots, further rounds", n), fmt.Sprintf("%.2f", float64(counter.Total())/float64(5*n)))
	}
}
