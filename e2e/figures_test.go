package e2e

import (
	"fmt"
	"testing"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// TestManyFiles lists a thousand key files without a single TPM command.
func TestManyFiles(t *testing.T) {
	tpm := tpmtest.Start(t)
	pem := tpm.OpenSSLKey(t, "EC:P-256", "", 0)
	s := daemontest.New(t)
	for i := range 1000 {
		s.Key(fmt.Sprintf("k%04d", i), daemontest.Distinct(t, pem))
	}
	relay := tpm.Relay()
	s.Start(relay.Address().String())
	keys, err := s.Client().List()
	if err != nil || len(keys) != 1000 {
		t.Fatalf("%d keys are listed, %v", len(keys), err)
	}
	if n := relay.Total(); n != 0 {
		t.Errorf("starting and listing sent %d commands to the TPM: %v", n, relay.Sent())
	}
}

// TestCommandCounts holds what a signature costs the TPM, from the first use on.
func TestCommandCounts(t *testing.T) {
	for _, c := range []struct {
		name, pin  string
		srk        bool
		first, ten int
	}{
		// Load and Sign, which a TPM that has just started wants to hear twice.
		{"persistent SRK", "", true, 3, 10},
		{"no SRK", "", false, 5, 10},
		// A PIN needs a session to hide it, a parent whose name is known, and a look
		// at the counter of wrong tries.
		{"persistent SRK, PIN", "4711", true, 6, 10},
		{"no SRK, PIN", "4711", false, 7, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			tpm := tpmtest.Start(t)
			if c.srk {
				tpm.PersistSRK(t)
			}
			s := daemontest.New(t)
			s.Key("key", tpm.OpenSSLKey(t, "EC:P-256", c.pin, 0))
			s.Answer(c.pin)
			relay := tpm.Relay()
			s.Start(relay.Address().String())
			signs := func(n int) int {
				relay.Reset()
				for range n {
					if err := verify(t, s, "key", []byte("x")); err != nil {
						t.Fatal(err)
					}
				}
				return relay.Total()
			}
			if n := signs(1); n > c.first {
				t.Errorf("the first use took %d commands, want at most %d", n, c.first)
			}
			if n := signs(10); n != c.ten {
				t.Errorf("ten signatures took %d commands, want %d", n, c.ten)
			}
		})
	}
}

// TestPhysicalCounts holds what reaches the chip behind a resource manager.
func TestPhysicalCounts(t *testing.T) {
	for _, c := range []struct {
		name, pin string
		each      int
	}{{"no PIN", "", 4}, {"PIN", "4711", 6}} {
		t.Run(c.name, func(t *testing.T) {
			tpm := tpmtest.Start(t)
			tpm.PersistSRK(t)
			s := daemontest.New(t)
			s.Key("key", tpm.OpenSSLKey(t, "EC:P-256", c.pin, 0))
			s.Answer(c.pin)
			rm := tpm.ResourceManager()
			s.Start(rm.Address().String())
			for n := range 11 {
				if n == 1 {
					rm.Reset()
				}
				if err := verify(t, s, "key", []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			if n := rm.PhysicalTotal(); n > 10*c.each {
				t.Errorf("ten signatures took %d physical commands, want at most %d: %v", n, 10*c.each, rm.Physical())
			}
		})
	}
}

// TestRoundRobin uses 40 keys in turn on a TPM that holds three.
func TestRoundRobin(t *testing.T) {
	for _, srk := range []bool{true, false} {
		t.Run(fmt.Sprint("persistent SRK ", srk), func(t *testing.T) {
			tpm := tpmtest.Start(t)
			if srk {
				tpm.PersistSRK(t)
			}
			s := daemontest.New(t)
			const keys, rounds = 40, 3
			for i := range keys {
				s.Key(fmt.Sprintf("k%02d", i), tpm.ToolKey(t, tpmtest.ToolKey{}))
			}
			relay := tpm.Relay()
			s.Start(relay.Address().String())
			for range rounds {
				relay.Reset()
				for i := range keys {
					if err := verify(t, s, fmt.Sprintf("k%02d", i), []byte("x")); err != nil {
						t.Fatal(err)
					}
				}
				if n := relay.Total(); n > 3*keys {
					t.Errorf("a round of %d took %d commands, want at most %d: %v", keys, n, 3*keys, relay.Sent())
				}
			}
		})
	}
}

// TestIdleMemory holds how small the daemon is when it has nothing to do.
func TestIdleMemory(t *testing.T) {
	tpm := tpmtest.Start(t)
	s := daemontest.New(t)
	s.Key("key", tpm.OpenSSLKey(t, "EC:P-256", "", 0))
	s.Start(tpm.Address().String())
	if err := verify(t, s, "key", []byte("x")); err != nil {
		t.Fatal(err)
	}
	const limit = 12 << 10
	kb := 0
	await(t, "the daemon to be small", func() bool {
		kb = footprintOf(t, s.PID()).kilobytes
		return kb <= limit
	})
	t.Logf("%d kB", kb)
}
