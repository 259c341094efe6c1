package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// fakeTPM answers every command with what answer returns, and hangs up after
// nil or less than the header promises.
func fakeTPM(t *testing.T, a Address, c *Counters, answer func(cmd []byte) []byte) *Link {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		for {
			header := make([]byte, 10)
			if _, err := io.ReadFull(theirs, header); err != nil {
				return
			}
			cmd := append(header, make([]byte, int(header[5])-10)...)
			if _, err := io.ReadFull(theirs, cmd[10:]); err != nil {
				return
			}
			rsp := answer(cmd)
			if rsp == nil {
				return
			}
			if _, err := theirs.Write(rsp); err != nil || len(rsp) < int(binary.BigEndian.Uint32(rsp[2:])) {
				return
			}
		}
	}()
	l := newLink(a, socket{ours}, c)
	t.Cleanup(func() { l.Close() })
	return l
}

var (
	signCmd = frame(uint32(tpm2.TPMCCSign), 40)
	success = frame(0, 20)
)

func TestSend(t *testing.T) {
	var c Counters
	want := success
	l := fakeTPM(t, Address{Kind: Unix}, &c, func(cmd []byte) []byte {
		if !bytes.Equal(cmd, signCmd) {
			t.Errorf("the TPM got % x", cmd)
		}
		return want
	})
	first, err := l.Send(signCmd)
	if err != nil || !bytes.Equal(first, want) {
		t.Fatalf("% x, %v", first, err)
	}
	want = frame(0x98E, 10)
	second, err := l.Send(signCmd)
	if err != nil || !bytes.Equal(second, want) {
		t.Fatalf("% x, %v", second, err)
	}
	if !bytes.Equal(first, success) {
		t.Error("the first response was overwritten by the second")
	}
	if s := c.Snapshot()[tpm2.TPMCCSign]; s.Sent != 2 || s.Failed != 1 || s.Retried != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSendRefusesWhatIsNoCommand(t *testing.T) {
	l := fakeTPM(t, Address{Kind: Unix}, nil, func([]byte) []byte { return success })
	for _, cmd := range [][]byte{nil, signCmd[:9], signCmd[:39], append(bytes.Clone(signCmd), 0), frame(0, maxFrame+1)} {
		if _, err := l.Send(cmd); err == nil || errors.Is(err, ErrGone) {
			t.Errorf("%d bytes: %v", len(cmd), err)
		}
	}
	if _, err := l.Send(signCmd); err != nil {
		t.Error("after them:", err)
	}
}

func TestRetry(t *testing.T) {
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate} {
		synctest.Test(t, func(t *testing.T) {
			var c Counters
			n := 0
			l := fakeTPM(t, Address{Kind: Unix}, &c, func(cmd []byte) []byte {
				if !bytes.Equal(cmd, signCmd) {
					t.Errorf("repetition %d: % x", n, cmd)
				}
				if n++; n <= 5 {
					return frame(uint32(rc), 10)
				}
				return success
			})
			begun := time.Now()
			rsp, err := l.Send(signCmd)
			if err != nil || !bytes.Equal(rsp, success) {
				t.Errorf("%v: % x, %v", rc, rsp, err)
			}
			if took := time.Since(begun); took != (1+2+4+8+16)*time.Millisecond {
				t.Errorf("%v: it took %v", rc, took)
			}
			if s := c.Snapshot()[tpm2.TPMCCSign]; s.Sent != 6 || s.Retried != 5 || s.Failed != 5 || c.Total() != 6 {
				t.Errorf("%v: %+v", rc, s)
			}
			l.Close()
			synctest.Wait()
		})
	}
}

func TestRetryIsBounded(t *testing.T) {
	for _, each := range []time.Duration{0, 700 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			busy := frame(uint32(tpm2.TPMRCRetry), 10)
			l := fakeTPM(t, Address{Kind: Unix}, nil, func([]byte) []byte {
				n++
				<-time.After(each)
				return busy
			})
			begun := time.Now()
			rsp, err := l.Send(signCmd)
			if err != nil || !bytes.Equal(rsp, busy) {
				t.Errorf("% x, %v", rsp, err)
			}
			if took := time.Since(begun); took < 3*time.Second || took > maxRetry+2*each {
				t.Errorf("a TPM that takes %v was given %v", each, took)
			}
			if n < 4 || n > 17 {
				t.Errorf("%d commands", n)
			}
			if _, err := l.Send(signCmd); err != nil {
				t.Error("the link is of no more use:", err)
			}
			l.Close()
			synctest.Wait()
		})
	}
}

func TestOtherWarningsAreNotRetried(t *testing.T) {
	n := 0
	l := fakeTPM(t, Address{Kind: Unix}, nil, func([]byte) []byte { n++; return frame(uint32(tpm2.TPMRCLockout), 10) })
	if _, err := l.Send(signCmd); err != nil || n != 1 {
		t.Errorf("%d commands, %v", n, err)
	}
}

func TestDeadline(t *testing.T) {
	for code, want := range map[tpm2.TPMCC]time.Duration{
		tpm2.TPMCCSign:          30 * time.Second,
		tpm2.TPMCCImport:        90 * time.Second,
		tpm2.TPMCCCreatePrimary: 5 * time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			var c Counters
			never := make(chan struct{})
			l := fakeTPM(t, Address{Kind: Unix}, &c, func([]byte) []byte { <-never; return nil })
			begun := time.Now()
			_, err := l.Send(frame(uint32(code), 40))
			if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "in time") {
				t.Errorf("%#x: %v", uint32(code), err)
			}
			if took := time.Since(begun); took != want {
				t.Errorf("%#x: gave up after %v", uint32(code), took)
			}
			if _, err := l.Send(signCmd); !errors.Is(err, ErrGone) || time.Since(begun) != want {
				t.Errorf("the next one: %v after %v", err, time.Since(begun))
			}
			if c.Total() != 1 {
				t.Errorf("%d commands counted", c.Total())
			}
			close(never)
			synctest.Wait()
		})
	}
}

func TestBrokenResponsesEndTheLink(t *testing.T) {
	for name, rsp := range map[string][]byte{
		"hung up":   nil,
		"cut off":   success[:15],
		"too much":  append(bytes.Clone(success), 1),
		"too large": frame(0, maxFrame+1)[:10],
	} {
		n := 0
		l := fakeTPM(t, Address{Kind: Unix}, nil, func([]byte) []byte {
			n++
			return rsp
		})
		_, err := l.Send(signCmd)
		if !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := l.Send(signCmd); !errors.Is(err, ErrGone) {
			t.Errorf("%s, next: %v", name, err)
		}
		if n != 1 {
			t.Errorf("%s: %d commands were sent", name, n)
		}
	}
}

func TestStartsATPMThatNobodyStarted(t *testing.T) {
	started := false
	answer := func(cmd []byte) []byte {
		code, _ := commandCode(cmd)
		switch {
		case code == tpm2.TPMCCStartup:
			started = true
			return frame(0, 10)
		case !started:
			return frame(uint32(tpm2.TPMRCInitialize), 10)
		}
		return success
	}
	var c Counters
	l := fakeTPM(t, Address{Kind: Unix}, &c, answer)
	if rsp, err := l.Send(signCmd); err != nil || !bytes.Equal(rsp, success) {
		t.Errorf("% x, %v", rsp, err)
	}
	if c.Total() != 3 || c.Snapshot()[tpm2.TPMCCStartup].Sent != 1 {
		t.Errorf("%v", c.Snapshot())
	}

	started = false
	l = fakeTPM(t, Address{Kind: Unix, ResourceManager: true}, nil, answer)
	if rsp, err := l.Send(signCmd); err != nil || responseCode(rsp) != tpm2.TPMRCInitialize || started {
		t.Errorf("behind a resource manager: % x, %v", rsp, err)
	}
}

func TestATPMThatDoesNotStartIsAskedOnce(t *testing.T) {
	var c Counters
	l := fakeTPM(t, Address{Kind: Unix}, &c, func([]byte) []byte { return frame(uint32(tpm2.TPMRCInitialize), 10) })
	if rsp, err := l.Send(signCmd); err != nil || responseCode(rsp) != tpm2.TPMRCInitialize || c.Total() != 3 {
		t.Errorf("% x, %v, %d commands", rsp, err, c.Total())
	}
	if rsp, err := l.Send(startupClear); err != nil || responseCode(rsp) != tpm2.TPMRCInitialize || c.Total() != 4 {
		t.Errorf("startup itself: % x, %v, %d commands", rsp, err, c.Total())
	}
}

func TestCloseEndsASend(t *testing.T) {
	reached := make(chan struct{})
	never := make(chan struct{})
	defer close(never)
	l := fakeTPM(t, Address{Kind: Unix}, nil, func([]byte) []byte { close(reached); <-never; return nil })
	ended := make(chan error)
	go func() {
		_, err := l.Send(signCmd)
		ended <- err
	}()
	<-reached
	l.Close()
	if err := <-ended; !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error("closing twice:", err)
	}
}

func TestCloseEndsARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fakeTPM(t, Address{Kind: Unix}, nil, func([]byte) []byte { return frame(uint32(tpm2.TPMRCRetry), 10) })
		ended := make(chan error)
		begun := time.Now()
		go func() {
			_, err := l.Send(signCmd)
			ended <- err
		}()
		time.AfterFunc(2*time.Second, func() { l.Close() })
		if err := <-ended; !errors.Is(err, ErrGone) || time.Since(begun) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		synctest.Wait()
	})
}
