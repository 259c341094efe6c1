package tpmtest

import (
	"bytes"
	"errors"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyringd/keyringd/tpm/link"
)

func random(l transport.TPM) ([]byte, error) {
	rsp, err := tpm2.GetRandom{BytesRequested: 16}.Execute(l)
	if err != nil {
		return nil, err
	}
	return rsp.RandomBytes.Buffer, nil
}

// addressed is what Relay and RM have in common.
type addressed interface {
	Address() link.Address
	Sent() map[tpm2.TPMCC]int
	Total() int
	Reset()
	Recorded() []byte
	Contains([]byte) bool
	Inject(tpm2.TPMCC, tpm2.TPMRC, int)
	Delay(tpm2.TPMCC, time.Duration, int)
	Flip(tpm2.TPMCC, int, int)
	Drop(tpm2.TPMCC, Drop, int)
	Hold(tpm2.TPMCC) *Gate
	Clear()
	Disconnect()
	TCTI() string
}

func bothFronts(t *testing.T, test func(t *testing.T, f addressed)) {
	tpm := Start(t)
	t.Run("Relay", func(t *testing.T) { test(t, tpm.Relay()) })
	t.Run("RM", func(t *testing.T) { test(t, tpm.ResourceManager()) })
}

func TestCountsAndRecords(t *testing.T) {
	t.Parallel()
	bothFronts(t, func(t *testing.T, f addressed) {
		l := dial(t, f.Address())
		var last []byte
		for range 3 {
			var err error
			if last, err = random(l); err != nil {
				t.Fatal(err)
			}
		}
		if f.Total() != 3 || f.Sent()[tpm2.TPMCCGetRandom] != 3 || len(f.Sent()) != 1 {
			t.Errorf("%d: %v", f.Total(), f.Sent())
		}
		if !f.Contains(last) || f.Contains([]byte("canary")) {
			t.Error("what was recorded is not what passed")
		}
		if n := len(f.Recorded()); n != 3*(12+28) {
			t.Errorf("%d bytes recorded", n)
		}
		f.Reset()
		if f.Total() != 0 || len(f.Sent()) != 0 || !f.Contains(last) {
			t.Error("Reset is for counts alone")
		}
	})
}

func TestInject(t *testing.T) {
	t.Parallel()
	bothFronts(t, func(t *testing.T, f addressed) {
		l := dial(t, f.Address())
		f.Inject(tpm2.TPMCCGetRandom, tpm2.TPMRCLockout, 2)
		f.Inject(tpm2.TPMCCSign, tpm2.TPMRCFailure, 1)
		for i, want := range []error{tpm2.TPMRCLockout, tpm2.TPMRCLockout, nil} {
			if _, err := random(l); !errors.Is(err, want) {
				t.Errorf("command %d: %v, want %v", i, err, want)
			}
		}
		f.Inject(Any, tpm2.TPMRCFailure, -1)
		for range 5 {
			if _, err := random(l); !errors.Is(err, tpm2.TPMRCFailure) {
				t.Errorf("for ever: %v", err)
			}
		}
		f.Clear()
		if _, err := random(l); err != nil {
			t.Errorf("cleared: %v", err)
		}
	})
}

func TestFlip(t *testing.T) {
	t.Parallel()
	bothFronts(t, func(t *testing.T, f addressed) {
		l := dial(t, f.Address())
		f.Flip(tpm2.TPMCCGetRandom, 8*9+1, 1) // the lowest byte of the response code
		if _, err := random(l); !errors.Is(err, tpm2.TPMRC(2)) {
			t.Errorf("flipped: %v", err)
		}
		if _, err := random(l); err != nil {
			t.Errorf("the next: %v", err)
		}
		const size = 10 + 2 + 16
		f.Flip(tpm2.TPMCCGetRandom, 8*(100*size+20), 1) // beyond the end: byte 20
		got, err := random(l)
		if err != nil {
			t.Fatal(err)
		}
		got[20-12] ^= 1
		if f.Contains(got) {
			t.Error("no bit was flipped")
		}
	})
}

func TestDrop(t *testing.T) {
	t.Parallel()
	bothFronts(t, func(t *testing.T, f addressed) {
		for _, when := range []Drop{Lost, Unanswered} {
			f.Drop(tpm2.TPMCCGetRandom, when, 1)
			n := len(f.Recorded())
			l := dial(t, f.Address())
			if _, err := random(l); !errors.Is(err, link.ErrGone) {
				t.Errorf("dropped: %v", err)
			}
			if n = len(f.Recorded()) - n; (n > 12) != (when == Unanswered) {
				t.Errorf("drop %d: %d bytes passed", when, n)
			}
			if _, err := random(dial(t, f.Address())); err != nil {
				t.Errorf("the next connection: %v", err)
			}
		}
		l := dial(t, f.Address())
		if _, err := random(l); err != nil {
			t.Fatal(err)
		}
		f.Disconnect()
		if _, err := random(l); !errors.Is(err, link.ErrGone) {
			t.Errorf("disconnected: %v", err)
		}
	})
}

func TestHold(t *testing.T) {
	t.Parallel()
	bothFronts(t, func(t *testing.T, f addressed) {
		gate := f.Hold(tpm2.TPMCCGetRandom)
		held, free := dial(t, f.Address()), dial(t, f.Address())
		ended := make(chan error, 1)
		go func() {
			_, err := random(held)
			ended <- err
		}()
		<-gate.Reached
		if _, err := random(free); err != nil { // others go on
			t.Error(err)
		}
		select {
		case err := <-ended:
			t.Error("not held:", err)
		default:
		}
		gate.Release()
		gate.Release()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		f.Hold(tpm2.TPMCCGetRandom).Release()
		if _, err := random(held); err != nil {
			t.Error("released before it came:", err)
		}
	})
}

func TestDelayKeepsTheTPMBusy(t *testing.T) {
	t.Parallel()
	bothFronts(t, func(t *testing.T, f addressed) {
		const d = 100 * time.Millisecond
		f.Delay(tpm2.TPMCCGetRandom, d, 2)
		begun := time.Now()
		for range 2 {
			if _, err := random(dial(t, f.Address())); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took < 2*d {
			t.Errorf("it took %v", took)
		}
	})
}

func TestTestEndsDuringHoldAndDelay(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	t.Run("ends", func(t *testing.T) {
		tpm := Start(t)
		relay := tpm.Relay()
		relay.Delay(tpm2.TPMCCGetRandom, time.Hour, 1)
		gate := relay.Hold(tpm2.TPMCCReadClock)
		go random(dial(t, relay.Address()))
		held := dial(t, relay.Address())
		go tpm2.ReadClock{}.Execute(held)
		<-gate.Reached
	})
	if time.Since(begun) > time.Minute {
		t.Error("the end of a test waits for its faults")
	}
}

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	relay := tpm.Relay()
	for _, clean := range []bool{false, true} {
		l := dial(t, relay.Address())
		idle := dial(t, tpm.Address())
		if _, err := random(l); err != nil {
			t.Fatal(err)
		}
		if !clean {
			tpm.Kill()
			tpm.Kill()
			if _, err := link.Dial(t.Context(), relay.Address(), nil); err == nil {
				t.Error("somebody answers for a TPM that is down")
			}
		}
		tpm.Restart()
		for _, l := range []*link.Link{l, idle} {
			if _, err := random(l); !errors.Is(err, link.ErrGone) {
				t.Errorf("clean %v, an old connection: %v", clean, err)
			}
		}
		l = dial(t, relay.Address())
		rsp, err := tpm2.GetCapability{
			Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTStartupClear), PropertyCount: 1,
		}.Execute(l)
		if err != nil {
			t.Fatal(err)
		}
		p, err := rsp.CapabilityData.Data.TPMProperties()
		if err != nil || (p.TPMProperty[0].Value>>31 == 1) != clean {
			t.Errorf("clean %v, orderly bit in %#x, %v", clean, p.TPMProperty[0].Value, err)
		}
	}
}

func TestStateSurvives(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	tpm.PersistSRK(t)
	tpm.Kill()
	tpm.Restart()
	if _, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(PersistentSRK)}).Execute(dial(t, tpm.Address())); err != nil {
		t.Error(err)
	}
}

func TestDirectIsFreeWhenNobodyIsConnected(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	l := dial(t, tpm.Address())
	if _, err := random(l); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := random(dial(t, tpm.Direct())); err != nil {
		t.Error(err)
	}
}

func TestHostileClients(t *testing.T) {
	t.Parallel()
	bothFronts(t, func(t *testing.T, f addressed) {
		for _, bytes := range []string{
			"", "\x80", "GET / HTTP/1.1\r\n\r\n",
			"\x80\x01\x00\x00\x00\x09\x00\x00\x01\x7b",
			"\x80\x01\xff\xff\xff\xff\x00\x00\x01\x7b",
			"\x80\x01\x00\x00\x00\x0a\x00\x00\x01\x65", // FlushContext without its handle
			"\x80\x01\x00\x00\x00\x0e\x00\x00\x01\x65\x80\xff\xff\xff",
		} {
			conn := rawDial(t, f)
			conn.Write([]byte(bytes))
			conn.CloseWrite()
			conn.Read(make([]byte, 100))
			conn.Close()
		}
		if _, err := random(dial(t, f.Address())); err != nil {
			t.Error(err)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add(command(tpm2.TPMCCGetRandom, 0, 8))
	f.Add([]byte("\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := readFrame(iotest.HalfReader(bytes.NewReader(in)))
		if err == nil && (!bytes.HasPrefix(in, got) || len(got) > maxFrame || cap(got) > 2*maxFrame) {
			t.Errorf("% x is not how % x begins", got, in)
		}
	})
}
