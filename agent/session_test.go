package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/keyring"
)

func TestListDuringSign(t *testing.T) {
	slow, fast := newBlockingKey(edKey(1)), edKey(2)
	a := start(t, []keyring.Key{slow, fast.fake()}, nil)
	busy := a.dial(t)
	if _, err := busy.Write(signFrame(edKey(1).blob(), []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	receive(t, slow.entered, "the sign to begin")

	c := a.dial(t)
	wantType(t, roundTrip(t, c, listFrame), msgIdentitiesAnswer)
	wantType(t, roundTrip(t, c, signFrame(fast.blob(), []byte("x"), 0)), msgSignResponse)

	close(slow.release)
	reply, err := readReply(busy)
	if err != nil {
		t.Fatal(err)
	}
	wantType(t, reply, msgSignResponse)
}

// Signatures of different connections are made at the same time, also by one key:
// each waits for a core, and none for another.
func TestSignaturesAreMadeAtOnce(t *testing.T) {
	k := newBlockingKey(edKey(1))
	a := start(t, []keyring.Key{k}, nil)
	var clients []net.Conn
	for range 16 {
		c := a.dial(t)
		if _, err := c.Write(signFrame(edKey(1).blob(), []byte("x"), 0)); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for range clients {
		receive(t, k.entered, "all signatures to begin")
	}
	close(k.release)
	for _, c := range clients {
		wantType(t, must(readReply(c)), msgSignResponse)
	}
}

func TestHangUpCancelsSign(t *testing.T) {
	for name, hangUp := range map[string]func(c *net.UnixConn) error{
		"close": func(c *net.UnixConn) error { return c.Close() },
		"close with requests waiting": func(c *net.UnixConn) error {
			if _, err := c.Write(bytes.Repeat(listFrame, 1000)); err != nil {
				return err
			}
			return c.Close()
		},
		"half close": func(c *net.UnixConn) error { return c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			k := newBlockingKey(edKey(1))
			a := start(t, []keyring.Key{k}, nil)
			c := a.dial(t)
			if _, err := c.Write(signFrame(edKey(1).blob(), []byte("x"), 0)); err != nil {
				t.Fatal(err)
			}
			receive(t, k.entered, "the sign to begin")
			begin := time.Now()
			if err := hangUp(c); err != nil {
				t.Fatal(err)
			}
			receive(t, k.left, "the sign to be cancelled")
			// A second, where nothing else is going on.
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("cancelled after %v", took)
			}
		})
	}
}

func TestHalfClosedClientIsAnswered(t *testing.T) {
	k := edKey(1)
	a := start(t, fakes(k), func(s *Server) { s.halfCloseGrace = patience })
	c := a.dial(t)
	if _, err := c.Write(slices.Concat(listFrame, signFrame(k.blob(), []byte("x"), 0), listFrame)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []byte{msgIdentitiesAnswer, msgSignResponse, msgIdentitiesAnswer} {
		reply, err := readReply(c)
		if err != nil {
			t.Fatal(err)
		}
		wantType(t, reply, want)
	}
	wantDropped(t, c)
}

// TestPipelinedRequestsDuringSign sends more while a request is served, which
// wakes the watcher.
func TestPipelinedRequestsDuringSign(t *testing.T) {
	k, other := newBlockingKey(edKey(1)), edKey(2)
	a := start(t, []keyring.Key{k, other.fake()}, nil)
	c := a.dial(t)
	for range 3 {
		if _, err := c.Write(signFrame(edKey(1).blob(), []byte("x"), 0)); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, k.entered, "the sign to begin")
	var want [][]byte
	for i := range 100 { // more would not fit into the socket's buffer
		data := fmt.Appendf(nil, "message %d", i)
		if _, err := c.Write(signFrame(other.blob(), data, 0)); err != nil {
			t.Fatal(err)
		}
		sig := must(other.signer.Sign(nil, data, noHash{}))
		want = append(want, slices.Concat([]byte{msgSignResponse}, str(slices.Concat(str("ssh-ed25519"), str(sig)))))
	}
	close(k.release)
	for range 3 {
		reply, err := readReply(c)
		if err != nil {
			t.Fatal(err)
		}
		wantType(t, reply, msgSignResponse)
	}
	for i := range want {
		reply, err := readReply(c)
		if err != nil || !bytes.Equal(reply, want[i]) {
			t.Fatalf("reply %d: %x, %v; want %x", i, reply, err, want[i])
		}
	}
}

func TestServeEndsDuringSign(t *testing.T) {
	before := runtime.NumGoroutine()
	k := newBlockingKey(edKey(1))
	a := start(t, []keyring.Key{k}, nil)
	var conns []*net.UnixConn
	for range 5 {
		c := a.dial(t)
		if _, err := c.Write(signFrame(edKey(1).blob(), []byte("x"), 0)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		receive(t, k.entered, "the sign to begin")
	}
	a.stop()
	if len(k.left) != 5 {
		t.Errorf("%d of 5 signs have ended when Serve returned", len(k.left))
	}
	for _, c := range conns {
		wantDropped(t, c)
	}
	await(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

func TestHalfFrameTimesOut(t *testing.T) {
	k := edKey(1)
	a := start(t, fakes(k), func(s *Server) { s.frameTimeout = 30 * time.Millisecond })
	idle := a.dial(t)
	used := a.dial(t)
	wantType(t, roundTrip(t, used, listFrame), msgIdentitiesAnswer)
	sign := signFrame(k.blob(), []byte("x"), 0)
	for _, part := range []int{1, 3, 4, 5, len(sign) - 1} {
		c := a.dial(t)
		if _, err := c.Write(sign[:part]); err != nil {
			t.Fatal(err)
		}
		wantDropped(t, c)
	}
	// Those that sent nothing, or something whole, have waited longer by now.
	wantType(t, roundTrip(t, idle, listFrame), msgIdentitiesAnswer)
	wantType(t, roundTrip(t, used, sign), msgSignResponse)
}

func TestBlockedWriteTimesOut(t *testing.T) {
	k := edKey(1).fake()
	k.KeyInfo.Label = strings.Repeat("x", maxComment)
	a := start(t, []keyring.Key{k}, func(s *Server) { s.writeTimeout = 30 * time.Millisecond })
	c := a.dial(t)
	var err error
	for err == nil {
		_, err = c.Write(bytes.Repeat(listFrame, 1000)) // and never read
	}
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("write to a connection whose answers are not read: %v", err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestHalfMessagesLeaveNothing(t *testing.T) {
	k := edKey(1)
	a := start(t, fakes(k), nil)
	c := a.dial(t)
	wantType(t, roundTrip(t, c, listFrame), msgIdentitiesAnswer)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	sign := signFrame(k.blob(), []byte("x"), 0)
	settled := func() bool { return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files }
	for batch := range 100 { // of fewer than one process may have open
		var open []net.Conn
		for i := range 100 {
			half, err := net.Dial("unix", a.socket)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, half)
			if _, err := half.Write(sign[:(100*batch+i)%len(sign)]); err != nil {
				t.Fatal(err)
			}
		}
		// Connections are accepted in order: this one's answer says that all are.
		last, err := net.Dial("unix", a.socket)
		if err != nil {
			t.Fatal(err)
		}
		wantType(t, roundTrip(t, last, listFrame), msgIdentitiesAnswer)
		for _, c := range append(open, last) {
			c.Close()
		}
		await(t, "goroutines and descriptors to be given back", settled)
	}
	wantType(t, roundTrip(t, c, sign), msgSignResponse)
}

func TestPanicCostsOneRequest(t *testing.T) {
	k := edKey(1).fake()
	k.Hook = func(context.Context) error { panic("the canary 8d1f") }
	a := start(t, []keyring.Key{k}, nil)
	c := a.dial(t)
	wantType(t, roundTrip(t, c, signFrame(edKey(1).blob(), []byte("x"), 0)), msgFailure)
	wantType(t, roundTrip(t, c, listFrame), msgIdentitiesAnswer)
	a.stop()
	log := a.log.String()
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "TestPanicCostsOneRequest") {
		t.Errorf("want one line that names the place, got %q", log)
	}
	if strings.Contains(log, "canary") {
		t.Errorf("the panic's value is in the journal: %q", log)
	}
}

func TestGarbageLeavesNoJournal(t *testing.T) {
	a := start(t, fakes(edKey(1)), nil)
	c := a.dial(t)
	for i := range 2000 {
		wantType(t, roundTrip(t, c, frame([]byte{200, byte(i)})), msgFailure)
	}
	wantType(t, roundTrip(t, c, signFrame([]byte("no key"), nil, 0)), msgFailure)
	a.stop()
	if log := a.log.String(); log != "" {
		t.Errorf("journal: %q", log)
	}
}

func TestProtocol1(t *testing.T) {
	a := start(t, fakes(edKey(1)), nil)
	c := a.dial(t)
	for n, want := range map[byte]byte{1: msgFailure, 3: msgFailure, 7: msgFailure, 8: msgFailure, 9: msgSuccess} {
		if reply := roundTrip(t, c, frame([]byte{n})); !bytes.Equal(reply, []byte{want}) {
			t.Errorf("message %d: %x, want %x", n, reply, want)
		}
	}
}

func TestRequestsThatAreNotServed(t *testing.T) {
	a := start(t, fakes(edKey(1)), nil)
	c := a.dial(t)
	for _, n := range []byte{17, 18, 20, 21, 23, 25, 26, 27, 28, 29, 0, 255} {
		if reply := roundTrip(t, c, frame([]byte{n}, str("x"))); !bytes.Equal(reply, []byte{msgFailure}) {
			t.Errorf("message %d: %x", n, reply)
		}
	}
}

func TestExtensionQuery(t *testing.T) {
	a := start(t, fakes(edKey(1)), nil)
	c := a.dial(t)
	want := slices.Concat([]byte{msgExtensionResponse}, str("query"), str("query"), str(extensionBind))
	if reply := roundTrip(t, c, frame([]byte{msgExtension}, str("query"))); !bytes.Equal(reply, want) {
		t.Errorf("query: %x, want %x", reply, want)
	}
	if reply := roundTrip(t, c, frame([]byte{msgExtension}, str(extensionBind))); !bytes.Equal(reply, []byte{msgExtensionFailure}) {
		t.Errorf("an empty session-bind: %x", reply)
	}
	for _, name := range []string{"", "query ", "session-bind@openssh.org"} {
		if reply := roundTrip(t, c, frame([]byte{msgExtension}, str(name))); !bytes.Equal(reply, []byte{msgFailure}) {
			t.Errorf("%q: %x", name, reply)
		}
	}
}
