package tpm

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func addresses(t *testing.T, sim *tpmtest.TPM) map[string]link.Address {
	t.Helper()
	return map[string]link.Address{
		"one link":         sim.Relay().Address(),
		"resource manager": sim.ResourceManager().Address(),
	}
}

// TestKillsUnderLoad kills the TPM again and again while eight goroutines sign.
func TestKillsUnderLoad(t *testing.T) {
	for _, mode := range []string{"one link", "resource manager"} {
		t.Run(mode, func(t *testing.T) {
			sim := tpmtest.Start(t)
			pinned := sim.ToolKey(t, tpmtest.ToolKey{PIN: testPIN}) // noDA: a power cut counts as a try
			plain := sim.ToolKey(t, tpmtest.ToolKey{})
			d := newDevice(t, addresses(t, sim)[mode], Options{})
			keys := []*Key{newKey(t, d, pinned), newKey(t, d, plain), newKey(t, d, pinned), newKey(t, d, plain)}
			pins := []string{testPIN, "", testPIN, ""}

			stop := make(chan struct{})
			var done atomic.Int64
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						err := trySign(keys[i%4], pins[i%4], crypto.SHA256)
						switch {
						case err == nil:
							done.Add(1)
						case !errors.Is(err, ErrUnavailable):
							t.Errorf("sign: %v", err)
						default:
							t.Logf("sign: %v", err)
						}
					}
				})
			}
			var took []time.Duration
			for range 20 {
				n := done.Load()
				eventually(t, "signatures are made", func() bool { return done.Load() >= n+4 })
				sim.Kill()
				sim.Restart()
				back := time.Now()
				n = done.Load()
				eventually(t, "signatures are made again", func() bool { return done.Load() > n+8 })
				took = append(took, time.Since(back))
			}
			close(stop)
			wg.Wait()
			slices.Sort(took)
			median, worst := took[len(took)/2], took[len(took)-1]
			t.Logf("%d signatures, recovery %v, slowest %v", done.Load(), median, worst)
			// The TPM syncs its state to a disk that others use too, so that
			// one of twenty may be slow through no fault of ours.
			if median > time.Second || worst > 5*time.Second {
				t.Errorf("it took %v to recover, and once %v", median, worst)
			}
		})
	}
}

func TestForget(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	for mode, addr := range addresses(t, sim) {
		d := New(addr, Options{})
		k := newKey(t, d, file)
		for range 5 {
			signs(t, k, testPIN)
			d.Forget()
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

func TestOrderlyRestart(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	for mode, addr := range addresses(t, sim) {
		d := New(addr, Options{})
		a, b := newKey(t, d, file), newKey(t, d, file)
		for range 3 {
			signs(t, a, testPIN)
			signs(t, b, testPIN)
			sim.Restart()
		}
		if err := trySign(a, testPIN, crypto.SHA256); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		_ = d.Close()
	}
}

// TestResetUnnoticed resets the TPM behind a link that stays, so that slots
// which are believed to be in use are given out again.
func TestResetUnnoticed(t *testing.T) {
	sim := tpmtest.Start(t)
	sim.PersistSRK(t)
	files := [][]byte{
		sim.OpenSSLKey(t, tpmtest.EC256, "", 0), sim.OpenSSLKey(t, tpmtest.EC256, "", 0), sim.OpenSSLKey(t, tpmtest.EC256, "", 0),
	}
	d := newDevice(t, sim.Address(), Options{})
	a, b, c := newKey(t, d, files[0]), newKey(t, d, files[1]), newKey(t, d, files[2])
	signs(t, a, "")
	signs(t, b, "")
	err := d.Do(t.Context(), func(tpm transport.TPM) error {
		// A guest that flushes what is not his stands for a TPM that forgot.
		for h := range d.common.live {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(d.common.link); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	signs(t, c, "")
	signs(t, a, "")
	signs(t, b, "")
}

func TestLastTryIsWithheldWhenPlayedAgain(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, file)
	signs(t, k, testPIN)
	for range 2 {
		if err := trySign(k, "wrong", crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
			t.Fatal(err)
		}
	}
	if _, err := d.Lockout(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Somebody has judged, but then the connection breaks: it may be another
	// TPM that answers now.
	relay.Drop(tpm2.TPMCCSign, tpmtest.Lost, 1)
	if err := trySign(k, testPIN, crypto.SHA256); !errors.Is(err, ErrLastTry) {
		t.Errorf("got %v", err)
	}
}

func TestNoTPM(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.ToolKey(t, tpmtest.ToolKey{})
	sim.Kill()
	for _, addr := range []link.Address{{}, sim.Address(), {Kind: link.Device, Target: "/nonexistent"}} {
		d := newDevice(t, addr, Options{})
		begun := time.Now()
		if err := trySign(newKey(t, d, file), "", crypto.SHA256); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v: %v", addr, err)
		}
		if took := time.Since(begun); took > patience {
			t.Errorf("%v: it took %v to find out", addr, took)
		}
		if _, err := d.Lockout(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v: lockout: %v", addr, err)
		}
	}
}

func TestGivesUpWaitingForATPMThatWentAway(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, sim.ToolKey(t, tpmtest.ToolKey{}))
	signs(t, k, "")
	sim.Kill()
	begun := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := trySign(k, "", crypto.SHA256); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(begun); took > 2*patience {
		t.Errorf("eight callers waited %v", took)
	}
	sim.Restart()
	signs(t, k, "")
}

func TestCancelledCallers(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, sim.ToolKey(t, tpmtest.ToolKey{PIN: testPIN}))
	signs(t, k, testPIN)

	gate := relay.Hold(tpm2.TPMCCSign)
	digest := make([]byte, 32)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 21)
	sign := func() {
		_, err := k.Sign(ctx, newPIN(testPIN), digest, crypto.SHA256)
		results <- err
	}
	go sign()
	<-gate.Reached
	for range 20 {
		go sign()
	}
	cancel()
	for range 21 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
	before := relay.Sent()[tpm2.TPMCCSign]
	gate.Release()
	signs(t, k, testPIN)
	if n := relay.Sent()[tpm2.TPMCCSign] - before; n != 1 {
		t.Errorf("%d commands were sent for callers who had left", n-1)
	}
	if _, err := k.Sign(ctx, newPIN(testPIN), digest, crypto.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

// TestTurnsAreFair lets callers queue up, one of whom leaves, and sees that the
// others come in the order in which they asked.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(link.Address{Kind: link.Unix, Target: "/nonexistent"}, Options{})
		s := d.common
		s.link = new(link.Link) // which nothing is sent through
		if err := s.turn.Acquire(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		var order []int
		var left error
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 6 {
			ctx := ctx
			if i != 2 {
				ctx = context.Background()
			}
			go func() {
				err := d.use(ctx, s, func(context.Context, *space) error {
					order = append(order, i)
					return nil
				})
				if err != nil {
					left = err
				}
			}()
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		if !errors.Is(left, context.Canceled) {
			t.Errorf("the one who left got %v", left)
		}
		s.turn.Release(1)
		synctest.Wait()
		if want := []int{0, 1, 3, 4, 5}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		s.idle.Stop()
	})
}

func TestDo(t *testing.T) {
	for _, mode := range []string{"one link", "resource manager"} {
		t.Run(mode, func(t *testing.T) {
			sim := tpmtest.Start(t)
			file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
			relay := sim.Relay()
			addr := relay.Address()
			if mode != "one link" {
				addr = sim.ResourceManager().Address()
			}
			d := newDevice(t, addr, Options{})
			keys := []*Key{newKey(t, d, file), newKey(t, d, file), newKey(t, d, file)}
			for range 3 {
				for _, k := range keys {
					signs(t, k, testPIN)
				}
			}
			// Keys make place for fn, and what it forgets is flushed.
			for range 4 {
				err := d.Do(t.Context(), func(tpm transport.TPM) error {
					for range 2 {
						_, err := tpm2.CreatePrimary{
							PrimaryHandle: tpm2.TPMRHNull,
							InPublic:      tpm2.New2B(*formH2.template()),
						}.Execute(tpm)
						if err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				signs(t, keys[0], testPIN)
			}
			own := errors.New("fn's own")
			if err := d.Do(t.Context(), func(transport.TPM) error { return own }); err != own {
				t.Errorf("got %v", err)
			}
			random := func(tpm transport.TPM) error {
				_, err := tpm2.GetRandom{BytesRequested: 8}.Execute(tpm)
				return err
			}
			if mode == "one link" {
				relay.Disconnect()
			}
			if err := d.Do(t.Context(), random); err != nil {
				t.Errorf("after the connection broke: %v", err)
			}
			for _, k := range keys {
				signs(t, k, testPIN)
			}
		})
	}
}

func TestCloseWhileInUse(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := New(relay.Address(), Options{})
	k := newKey(t, d, sim.ToolKey(t, tpmtest.ToolKey{}))
	gate := relay.Hold(tpm2.TPMCCSign)
	results := make(chan error, 5)
	go func() { results <- trySign(k, "", crypto.SHA256) }()
	<-gate.Reached
	for range 4 {
		go func() { results <- trySign(k, "", crypto.SHA256) }()
	}
	eventually(t, "they wait", func() bool { return waiting(d) == 5 })
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	<-d.closing
	gate.Release()
	var ok, refused int
	for range 5 {
		switch err := <-results; {
		case err == nil:
			ok++
		case errors.Is(err, ErrUnavailable):
			refused++
		default:
			t.Errorf("got %v", err)
		}
	}
	if ok != 1 || refused != 4 {
		t.Errorf("%d signed, %d refused", ok, refused)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := trySign(k, "", crypto.SHA256); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if h := handles(t, sim, 0x80000000); len(h) > 0 {
		t.Errorf("objects left: %x", h)
	}
}

// TestForgottenSlotsAreSweptWhileProbing has slots full of what was forgotten
// just when it would pay to see whether there are more of them.
func TestForgottenSlotsAreSweptWhileProbing(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.Address(), Options{})
	keys := manyKeys(t, sim, d, 4)
	for range 3 {
		for _, k := range keys {
			signs(t, k, "")
		}
		d.Forget()
	}
}
