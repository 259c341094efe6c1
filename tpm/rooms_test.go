package tpm

import (
	"crypto"
	"errors"
	"testing"

	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func TestResourceManagerPhysical(t *testing.T) {
	for _, c := range []struct {
		name, pin string
		first     int
		most      int
	}{
		{"no PIN", "", 5, 4},
		{"PIN", testPIN, 7, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			sim := tpmtest.Start(t)
			file := sim.OpenSSLKey(t, tpmtest.EC256, c.pin, 0)
			rm := sim.ResourceManager()
			d := newDevice(t, rm.Address(), Options{})
			k := newKey(t, d, file)
			signs(t, k, c.pin)
			if n := rm.Total() - retried(d); n != c.first {
				t.Errorf("first signature took %d commands, want %d: %v", n, c.first, rm.Sent())
			}
			rm.Reset()
			for range 10 {
				signs(t, k, c.pin)
			}
			if n := rm.Total(); n != 10 {
				t.Errorf("10 signatures took %d commands: %v", n, rm.Sent())
			}
			if n := rm.PhysicalTotal(); n > 10*c.most {
				t.Errorf("10 signatures took %d physical commands, want at most %d: %v", n, 10*c.most, rm.Physical())
			}
			if rm.Contains([]byte(testPIN)) {
				t.Error("the PIN was on the bus")
			}
		})
	}
}

func TestResourceManagerClosesLeastRecentlyUsed(t *testing.T) {
	sim := tpmtest.Start(t)
	sim.PersistSRK(t)
	var files [][]byte
	for range 4 {
		files = append(files, sim.OpenSSLKey(t, tpmtest.EC256, "", 0))
	}
	rm := sim.ResourceManager()
	d := newDevice(t, rm.Address(), Options{MaxResident: 2})
	var keys []*Key
	for _, f := range files {
		keys = append(keys, newKey(t, d, f))
	}
	for range 2 {
		for _, k := range keys {
			signs(t, k, "")
		}
	}
	d.mu.Lock()
	n := len(d.rooms)
	d.mu.Unlock()
	if n != 2 {
		t.Errorf("%d keys are resident, want 2", n)
	}
	keys[3].Close()
	if err := trySign(keys[3], "", crypto.SHA256); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a closed key gave %v", err)
	}
	signs(t, keys[2], "")
}

// manyKeys makes n keys by loading the same few files again and again: to the
// device they are different keys.
func manyKeys(t *testing.T, sim *tpmtest.TPM, d *Device, n int) []*Key {
	t.Helper()
	file := sim.OpenSSLKey(t, tpmtest.EC256, "", 0)
	keys := make([]*Key, n)
	for i := range keys {
		keys[i] = newKey(t, d, file)
	}
	return keys
}

func TestFortyKeysOnThreeSlots(t *testing.T) {
	for _, persistent := range []bool{false, true} {
		t.Run(map[bool]string{false: "made parent", true: "persistent parent"}[persistent], func(t *testing.T) {
			sim := tpmtest.Start(t)
			if persistent {
				sim.PersistSRK(t)
			}
			relay := sim.Relay()
			d := newDevice(t, relay.Address(), Options{})
			keys := manyKeys(t, sim, d, 40)
			for round := 1; round <= 3; round++ {
				for _, k := range keys {
					signs(t, k, "")
				}
				if n := relay.Total() - retried(d); n > round*120 {
					t.Errorf("%d signatures took %d commands: %v", round*40, n, relay.Sent())
				}
			}
		})
	}
}

func TestAsManyKeysAsSlotsSettle(t *testing.T) {
	for _, persistent := range []bool{false, true} {
		t.Run(map[bool]string{false: "made parent", true: "persistent parent"}[persistent], func(t *testing.T) {
			sim := tpmtest.Start(t)
			if persistent {
				sim.PersistSRK(t)
			}
			relay := sim.Relay()
			d := newDevice(t, relay.Address(), Options{})
			keys := manyKeys(t, sim, d, 3)
			for range 4 {
				for _, k := range keys {
					signs(t, k, "")
				}
			}
			relay.Reset()
			for range 5 {
				for _, k := range keys {
					signs(t, k, "")
				}
			}
			if n := relay.Total(); n != 15 {
				t.Errorf("15 signatures took %d commands: %v", n, relay.Sent())
			}
		})
	}
}

func TestFourKeysProbeOnce(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	keys := manyKeys(t, sim, d, 4)
	for range 10 {
		for _, k := range keys {
			signs(t, k, "")
		}
	}
	if n := relay.Total() - retried(d); n > 121 {
		t.Errorf("40 signatures took %d commands: %v", n, relay.Sent())
	}
}
