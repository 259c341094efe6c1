package tpm

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func TestWrongPIN(t *testing.T) {
	sim := tpmtest.Start(t)
	counted := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	free := sim.ToolKey(t, tpmtest.ToolKey{PIN: testPIN}) // noDA
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	for _, file := range [][]byte{counted, free} {
		k := newKey(t, d, file)
		if err := trySign(k, "wrong-canary", crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
			t.Errorf("wrong PIN: %v", err)
		}
		if err := trySign(k, strings.Repeat("x", 33), crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
			t.Errorf("PIN that is too long: %v", err)
		}
		signs(t, k, testPIN)
	}
	if relay.Contains([]byte("wrong-canary")) || relay.Contains([]byte(testPIN)) {
		t.Error("a PIN was on the bus")
	}
	// A PIN that the TPM pads with zeros is the same PIN.
	signs(t, newKey(t, d, counted), testPIN+"\x00\x00")
}

func TestLastTryIsWithheld(t *testing.T) {
	sim := tpmtest.Start(t) // locks at three
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	other := sim.OpenSSLKey(t, tpmtest.EC256, "", 0) // not noDA: shares the fate of the first
	exempt := sim.ToolKey(t, tpmtest.ToolKey{PIN: testPIN})
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, file)
	for range 2 {
		if err := trySign(k, "wrong", crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
			t.Fatalf("wrong PIN: %v", err)
		}
	}
	relay.Reset()
	if err := trySign(k, testPIN, crypto.SHA256); !errors.Is(err, ErrLastTry) {
		t.Errorf("with one try left and nobody who judged: %v", err)
	}
	if n := relay.Sent()[tpm2.TPMCCSign]; n != 0 {
		t.Error("the last try was spent")
	}
	// The same after the device has forgotten what it knew.
	d.Forget()
	if err := trySign(k, testPIN, crypto.SHA256); !errors.Is(err, ErrLastTry) {
		t.Errorf("after a reset: %v", err)
	}
	l, err := d.Lockout(t.Context())
	if err != nil || l.Left() != 1 || l.Locked || l.Max != 3 || l.Counter != 2 || l.Interval != 1000*time.Second {
		t.Fatalf("lockout is %+v, %v", l, err)
	}
	// Now somebody has judged.
	signs(t, k, testPIN)
	if err := trySign(k, "wrong", crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
		t.Errorf("the last wrong PIN: %v", err)
	}
	relay.Reset()
	for range 5 {
		err := trySign(k, testPIN, crypto.SHA256)
		var locked *LockoutError
		if !errors.Is(err, ErrLockedOut) || !errors.As(err, &locked) {
			t.Fatalf("locked: %v", err)
		}
		if w := locked.Lockout.Wait(); w <= 990*time.Second || w > 1000*time.Second {
			t.Errorf("wait %v", w)
		}
		if !strings.Contains(err.Error(), "17 min") {
			t.Errorf("it says %q", err)
		}
	}
	if n := relay.Total(); n != 0 {
		t.Errorf("%d commands were sent while locked", n)
	}
	// A key without a PIN that is not exempt is locked too, and says so.
	var locked *LockoutError
	if err := trySign(newKey(t, d, other), "", crypto.SHA256); !errors.As(err, &locked) || locked.Lockout.Wait() == 0 {
		t.Errorf("key without a PIN: %v", err)
	}
	// One with noDA is not.
	signs(t, newKey(t, d, exempt), testPIN)
	if relay.Sent()[tpm2.TPMCCDictionaryAttackLockReset] != 0 {
		t.Error("the lockout was reset")
	}
}

func TestLockoutIsAskedOnce(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	for range 5 {
		if l, err := d.Lockout(t.Context()); err != nil || l.Left() != 3 || l.Wait() != 0 {
			t.Fatalf("lockout is %+v, %v", l, err)
		}
	}
	if n := relay.Total(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	d.Forget()
	if _, err := d.Lockout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := relay.Total(); n != 2 {
		t.Errorf("asked %d times after a reset", n)
	}
}

func TestLockoutIsAskedAgainAfterTheInterval(t *testing.T) {
	now := Lockout{Counter: 1, Max: 3, Interval: time.Second, at: time.Now()}
	if f := (&tries{known: true, Lockout: now}); !f.fresh() || now.Left() != 2 {
		t.Error("not fresh at once")
	}
	then := now
	then.at = now.at.Add(-2 * time.Second)
	if f := (&tries{known: true, Lockout: then}); f.fresh() || then.Wait() != 0 {
		t.Error("still fresh after the interval")
	}
	off := Lockout{Counter: 32, Max: 32}
	if off.Left() < 1000 {
		t.Error("a TPM whose protection is off has no last try")
	}
}

func TestParentNameIsPinned(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	pins := filepath.Join(t.TempDir(), "parents")
	const place = "device:/dev/tpmrm0"
	d := newDevice(t, sim.Address(), Options{PinFile: pins, Place: place})
	signs(t, newKey(t, d, sim.OpenSSLKey(t, tpmtest.EC256, "", 0)), "")
	if _, err := os.Stat(pins); err == nil {
		t.Error("a parent was pinned before anything secret went to it")
	}
	signs(t, newKey(t, d, file), testPIN)
	info, err := os.Stat(pins)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("pin file: %v, %v", info, err)
	}

	// Another TPM in its place, whose keys are its own.
	other := tpmtest.Start(t)
	theirs := other.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	relay := other.Relay()
	d2 := newDevice(t, relay.Address(), Options{PinFile: pins, Place: place})
	err = trySign(newKey(t, d2, theirs), testPIN, crypto.SHA256)
	if !errors.Is(err, ErrWrongTPM) || !strings.Contains(err.Error(), pins) || !strings.Contains(err.Error(), "remove the line 0x40000001/ecc") {
		t.Errorf("another TPM: %v", err)
	}
	if relay.Sent()[tpm2.TPMCCStartAuthSession] != 0 || relay.Sent()[tpm2.TPMCCSign] != 0 {
		t.Errorf("something was sent to a TPM that is not trusted: %v", relay.Sent())
	}
	// In a place of its own it is another TPM.
	signs(t, newKey(t, newDevice(t, other.Address(), Options{PinFile: pins}), theirs), testPIN)
	// The first one is still trusted, also by a new daemon.
	d3 := newDevice(t, sim.Address(), Options{PinFile: pins, Place: place})
	signs(t, newKey(t, d3, file), testPIN)

	// A damaged file trusts nobody.
	writeFile(t, pins, []byte("0x40000001/ecc zzz\n"))
	d4 := newDevice(t, sim.Address(), Options{PinFile: pins, Place: place})
	if err := trySign(newKey(t, d4, file), testPIN, crypto.SHA256); !errors.Is(err, ErrUnavailable) {
		t.Errorf("damaged pin file: %v", err)
	}
}

// Where nothing can be written one can still log in.
func TestPinFileCannotBeWritten(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	d := newDevice(t, sim.Address(), Options{PinFile: filepath.Join(t.TempDir(), "missing", "parents")})
	k := newKey(t, d, file)
	signs(t, k, testPIN)
	signs(t, k, testPIN)
}

func TestPinsAreBounded(t *testing.T) {
	n := pins{path: filepath.Join(t.TempDir(), "parents"), log: slog.New(slog.DiscardHandler)}
	for i := range maxPins + 10 {
		n.scope = fmt.Sprint("unix:/tmp/with spaces/", i)
		if err := n.check(&parent{id: parentID{uint32(tpm2.TPMRHOwner), formH2}, name: []byte{0, 11, 1, byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	again := pins{path: n.path, scope: n.scope, log: n.log}
	if err := again.check(&parent{id: parentID{uint32(tpm2.TPMRHOwner), formH2}, name: []byte{0, 11, 9, 9}}); !errors.Is(err, ErrWrongTPM) {
		t.Errorf("another name: %v", err)
	}
	if len(again.known) != maxPins {
		t.Errorf("%d pins, want %d", len(again.known), maxPins)
	}
}

func TestOwnerPassword(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	const owner = "owner-canary"
	sim.Tool(t, t.TempDir(), "tpm2_changeauth", "-c", "owner", owner)
	relay := sim.Relay()

	d := newDevice(t, relay.Address(), Options{})
	if err := trySign(newKey(t, d, file), testPIN, crypto.SHA256); !errors.Is(err, ErrAuthFailed) || !strings.Contains(err.Error(), "owner hierarchy") {
		t.Errorf("with nobody to ask: %v", err)
	}

	var asked, retries atomic.Int32
	d2 := newDevice(t, relay.Address(), Options{ParentAuth: func(_ context.Context, parent uint32, retry bool) (secret.Bytes, error) {
		if parent != uint32(tpm2.TPMRHOwner) {
			t.Errorf("asked for %#x", parent)
		}
		if asked.Add(1) == 1 {
			return newPIN("not it"), nil
		}
		if retry {
			retries.Add(1)
		}
		return newPIN(owner), nil
	}})
	k := newKey(t, d2, file)
	signs(t, k, testPIN)
	d2.Forget()
	signs(t, k, testPIN)
	if asked.Load() != 2 || retries.Load() != 1 {
		t.Errorf("asked %d times, of these %d for a retry", asked.Load(), retries.Load())
	}
	if relay.Contains([]byte(owner)) || relay.Contains([]byte(testPIN)) {
		t.Error("a password was on the bus")
	}

	refuse := errors.New("the user said no")
	d3 := newDevice(t, relay.Address(), Options{ParentAuth: func(context.Context, uint32, bool) (secret.Bytes, error) {
		return secret.Bytes{}, refuse
	}})
	if err := trySign(newKey(t, d3, file), testPIN, crypto.SHA256); !errors.Is(err, refuse) {
		t.Errorf("refused: %v", err)
	}
}

// TestNobodyWaitsForAPassword has one key whose parent's password is being
// asked for, and another that signs meanwhile.
func TestNobodyWaitsForAPassword(t *testing.T) {
	sim := tpmtest.Start(t)
	sim.PersistSRK(t)
	dir := t.TempDir()
	sim.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256", "-c", "p.ctx", "-p", "parent-canary",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
	sim.Tool(t, dir, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", "p.ctx", "0x81000005")
	sim.Tool(t, dir, "tpm2_create", "-Q", "-C", "0x81000005", "-P", "parent-canary", "-G", "ecc256", "-p", testPIN,
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign", "-u", "k.pub", "-r", "k.priv")
	file := filePEM(t, filepath.Join(dir, "k.pub"), filepath.Join(dir, "k.priv"), 0x81000005)
	plain := sim.OpenSSLKey(t, tpmtest.EC256, "", 0)

	relay := sim.Relay()
	asking, answer := make(chan struct{}), make(chan struct{})
	d := newDevice(t, relay.Address(), Options{ParentAuth: func(_ context.Context, parent uint32, _ bool) (secret.Bytes, error) {
		if parent != 0x81000005 {
			t.Errorf("asked for %#x", parent)
		}
		close(asking)
		<-answer
		return newPIN("parent-canary"), nil
	}})
	k := newKey(t, d, file)
	done := make(chan error, 1)
	go func() { done <- trySign(k, testPIN, crypto.SHA256) }()
	<-asking
	signs(t, newKey(t, d, plain), "")
	close(answer)
	if err := <-done; err != nil {
		t.Errorf("sign: %v", err)
	}
	if relay.Contains([]byte("parent-canary")) {
		t.Error("the parent's password was on the bus")
	}
}

func TestSessionIsClosedWhenIdle(t *testing.T) {
	for _, rm := range []bool{false, true} {
		sim := tpmtest.Start(t)
		file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
		connect := func(idle time.Duration) (*Device, func() map[tpm2.TPMCC]int) {
			if rm {
				r := sim.ResourceManager()
				return newDevice(t, r.Address(), Options{SessionIdle: idle}), r.Sent
			}
			r := sim.Relay()
			return newDevice(t, r.Address(), Options{SessionIdle: idle}), r.Sent
		}
		// What a first signature flushes where nothing is idle for long enough.
		d, sent := connect(time.Hour)
		signs(t, newKey(t, d, file), testPIN)
		flushed := sent()[tpm2.TPMCCFlushContext]
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d, sent = connect(50 * time.Millisecond)
		k := newKey(t, d, file)
		signs(t, k, testPIN)
		eventually(t, "the session is flushed", func() bool { return sent()[tpm2.TPMCCFlushContext] > flushed })
		signs(t, k, testPIN)
		if n := sent()[tpm2.TPMCCStartAuthSession]; n < 2 {
			t.Errorf("resource manager %v: %d sessions were started", rm, n)
		}
		if n := sent()[tpm2.TPMCCLoad]; n != 1 {
			t.Errorf("resource manager %v: the key was loaded %d times", rm, n)
		}
		eventually(t, "the link is closed", func() bool {
			s := d.common
			if rm {
				s = d.room(k)
			}
			if !s.turn.TryAcquire(1) {
				return false
			}
			defer s.turn.Release(1)
			return s.link == nil
		})
		signs(t, k, testPIN)
	}
}

func TestSessionIsRenewedAfterManyUses(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, file)
	signs(t, k, testPIN)
	d.common.hmac.uses = maxSessionUses
	signs(t, k, testPIN)
	if n := relay.Sent()[tpm2.TPMCCStartAuthSession]; n != 2 {
		t.Errorf("%d sessions were started", n)
	}
	if h := handles(t, sim, 0x02000000); len(h) != 1 {
		t.Errorf("%d sessions are open", len(h))
	}
}
