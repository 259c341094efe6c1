package dbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// A raw is a program on the bus that sends what it likes.
type raw struct {
	*godbus.Conn
	tap     *wire.Tap
	mu      sync.Mutex
	replies map[string]int                  // by error name; "" for a method return
	want    func(*wire.Frame, []byte) error // of the next message
	wanted  chan error
}

func (h *house) raw() *raw {
	h.Helper()
	return h.rawWith(func(*wire.Frame) {})
}

// rawWith is raw with something that sees all that other programs send it.
func (h *house) rawWith(see func(*wire.Frame)) *raw {
	h.Helper()
	socket, err := wire.Dial(context.Background(), h.bus.Address)
	if err != nil {
		h.Fatal(err)
	}
	r := &raw{replies: map[string]int{}, wanted: make(chan error, 1)}
	r.tap = wire.NewTap(socket, func(f *wire.Frame) bool {
		if f.Sender == driver {
			return true
		}
		see(f)
		r.mu.Lock()
		want := r.want
		r.want = nil
		if want != nil {
			body, err := f.Body()
			if err == nil {
				err = want(f, body)
			}
			r.wanted <- err
		}
		r.replies[strings.TrimPrefix(f.ErrorName, "org.freedesktop.DBus.Error.")]++
		r.mu.Unlock()
		return false
	})
	if r.Conn, err = godbus.NewConn(r.tap); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { r.Close() })
	if err := wire.Join(r.Conn); err != nil {
		h.Fatal(err)
	}
	return r
}

// take calls a method and has its reply read.
func (r *raw) take(t testing.TB, at godbus.ObjectPath, in, member, signature string, args []any, read func(*wire.Frame, []byte) error) {
	t.Helper()
	body, err := wire.Append(nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.want = read
	r.mu.Unlock()
	r.call(at, in, member, signature, body)
	if err := <-r.wanted; err != nil {
		t.Fatal(err)
	}
}

func (r *raw) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.replies[name]
}

func (r *raw) total() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.replies {
		n += c
	}
	return n
}

func (r *raw) call(at godbus.ObjectPath, in, member, signature string, body []byte) {
	_, _ = r.tap.Send(wire.Header{Type: godbus.TypeMethodCall, Destination: busName, Path: at,
		Interface: in, Member: member, Signature: signature}, body)
}

// TestFloodLeavesOthersAlone: one sender's 10,000 calls and more, of which each would
// wait for the user, are refused beyond the limit, and another's stay quick.
func TestFloodLeavesOthersAlone(t *testing.T) {
	locked, free := newKey(t, "p256", "locked").Locked("1", nil), newKey(t, "ed25519", "free")
	h := serve(t, locked, free)
	never := make(chan struct{})
	h.prompter.Default = func(question) keyringtest.Reply { return keyringtest.Reply{When: never} }
	flooder, c := h.raw(), h.client()
	body, err := wire.Append(nil, []byte("x"), "ECDSA-SHA256", map[string]godbus.Variant{})
	if err != nil {
		t.Fatal(err)
	}
	// The flood goes on until others have been answered meanwhile: had they to wait
	// for its end, there would be none before the time is up.
	const flood, answers = 10_000, 10
	late := time.Now().Add(2 * time.Minute)
	var answered atomic.Int64
	sent := 0
	flooding := make(chan struct{})
	go func() {
		defer close(flooding)
		for ; sent < flood || answered.Load() < answers && time.Now().Before(late); sent++ {
			flooder.call(pathOf(locked), keyInterface, "Sign", "aysa{sv}", body)
		}
	}()
	var took []time.Duration
	during := int64(0)
	for done := false; !done || len(took) < 300; {
		begin := time.Now()
		if _, err := sign(c, pathOf(free), []byte("x"), "Ed25519", options()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
		select {
		case <-flooding:
			done = true
		default:
			during = answered.Add(1)
		}
	}
	await(t, "refusals", func() bool { return flooder.count("LimitsExceeded") == sent-maxCalls })
	if n := h.prompter.Open(); n != 1 {
		t.Errorf("%d questions are open, want 1 for all", n)
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("%d calls of another sender, %d of them during the %d: p50 %v, p99 %v, max %v", len(took), during, sent, took[len(took)/2], p99, took[len(took)-1])
	if during < answers {
		t.Errorf("%d calls of another sender were answered during the flood", during)
	}
	// The open calls end with their sender, and so does the question.
	flooder.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.prompter.Await(ctx, 0); err != nil {
		t.Error(err)
	}
}

// TestBigCallsAreBounded: calls of a MiB each, from many connections, hold no
// more memory than the limit, and are not decoded where everybody's messages
// are read.
func TestBigCallsAreBounded(t *testing.T) {
	locked, free := newKey(t, "rsa", "locked").Locked("1", nil), newKey(t, "ed25519", "free")
	h := serve(t, locked, free)
	never := make(chan struct{})
	h.prompter.Default = func(question) keyringtest.Reply { return keyringtest.Reply{When: never} }
	body, err := wire.Append(nil, make([]byte, maxData), "RSA-SHA256", map[string]godbus.Variant{})
	if err != nil {
		t.Fatal(err)
	}
	const connections, each = 4, 40
	var flooders []*raw
	for range connections {
		flooders = append(flooders, h.raw())
	}
	var wg sync.WaitGroup
	for _, f := range flooders {
		wg.Go(func() {
			for range each {
				f.call(pathOf(locked), keyInterface, "Sign", "aysa{sv}", body)
			}
		})
	}
	wg.Wait()
	held := maxBytes / len(body)
	await(t, "refusals", func() bool {
		refused := 0
		for _, f := range flooders {
			refused += f.count("LimitsExceeded")
		}
		return refused == connections*each-held
	})
	if _, err := sign(h.client(), pathOf(free), []byte("x"), "Ed25519", options()); err != nil {
		t.Errorf("another sender: %v", err)
	}
	// A call far over the limit is dropped without being held.
	f := h.raw()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	huge := make([]byte, 32<<20)
	binary.LittleEndian.PutUint32(huge, uint32(len(huge)-4))
	f.call(rootPath, keyringInterface, "Lock", "ay", huge)
	await(t, "the refusal", func() bool { return f.count("LimitsExceeded") == 1 })
	runtime.ReadMemStats(&after)
	// The sending half is in this process, too: it makes one copy.
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 80<<20 {
		t.Errorf("%d MiB were allocated", grown>>20)
	}
}

// TestStrangeMessages: what is valid D-Bus but nothing we know costs its sender
// an error, and nobody else anything.
func TestStrangeMessages(t *testing.T) {
	k := newKey(t, "ed25519", "k")
	h := serve(t, k)
	r, c := h.raw(), h.client()
	var connected string
	if err := c.BusObject().Call("org.freedesktop.DBus.GetNameOwner", 0, busName).Store(&connected); err != nil {
		t.Fatal(err)
	}
	u32 := binary.LittleEndian.AppendUint32
	// {true: "x"} as a{bs}, which godbus gives a connection up over: the length,
	// padding, the boolean, the string.
	dict := append(u32(u32(u32(u32(nil, 10), 0), 1), 1), 'x', 0)
	r.call(rootPath, keyringInterface, "Lock", "a{bs}", dict)
	await(t, "InvalidArgs", func() bool { return r.count("InvalidArgs") == 1 })

	// The same in a variant of Sign's options.
	body, err := wire.Append(nil, []byte("x"), "Ed25519", map[string]godbus.Variant{"a": godbus.MakeVariantWithSignature([][]int32{{1}}, godbus.ParseSignatureMust("aai"))})
	if err != nil {
		t.Fatal(err)
	}
	r.call(pathOf(k), keyInterface, "Sign", "aysa{sv}", body)
	await(t, "InvalidArgs", func() bool { return r.count("InvalidArgs") == 2 })

	// A signal and replies to nobody's question, straight to us.
	for _, m := range []wire.Header{
		{Type: godbus.TypeSignal, Path: "/", Interface: driver, Member: "NameOwnerChanged"},
		{Type: godbus.TypeSignal, Path: "/", Interface: driver, Member: "NameLost"},
		{Type: godbus.TypeMethodReply, ReplySerial: 1},
		{Type: godbus.TypeError, ReplySerial: 2, ErrorName: "a.b"},
	} {
		m.Destination = busName
		if _, err := r.tap.Send(m, nil); err != nil {
			t.Fatal(err)
		}
	}
	// No reply was asked for, so none comes.
	before := r.total()
	if _, err := r.tap.Send(wire.Header{Type: godbus.TypeMethodCall, Flags: godbus.FlagNoReplyExpected, Destination: busName,
		Path: rootPath, Interface: keyringInterface, Member: "Nothing"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := sign(c, pathOf(k), []byte("x"), "Ed25519", options()); err != nil {
		t.Fatal(err)
	}
	var now string
	if err := c.BusObject().Call("org.freedesktop.DBus.GetNameOwner", 0, busName).Store(&now); err != nil || now != connected {
		t.Errorf("the connection was %s and is %s: %v", connected, now, err)
	}
	if n := r.total(); n != before {
		t.Errorf("%d replies that nobody asked for", n-before)
	}
}

// TestForgedRepliesDoNotNameTheCaller: replies come from the bus or count for
// nothing, so that no program can say who another one is.
func TestForgedRepliesDoNotNameTheCaller(t *testing.T) {
	k := newKey(t, "ed25519", "k")
	k.KeyInfo.Confirm = true
	h := serve(t, k)
	h.prompter.Default = func(question) keyringtest.Reply { return keyringtest.Reply{} }
	forger := h.raw()
	forged, err := wire.Append(nil, map[string]godbus.Variant{"UnixUserID": godbus.MakeVariant(uint32(0)), "ProcessID": godbus.MakeVariant(uint32(1))})
	if err != nil {
		t.Fatal(err)
	}
	// Before each question of ours, every serial that it could have is answered
	// already. No more than that: what we have not read waits in the bus, and a
	// flood of it would only test the bus's patience.
	for range 20 {
		for serial := uint32(1); serial <= 64; serial++ {
			if _, err := forger.tap.Send(wire.Header{Type: godbus.TypeMethodReply, ReplySerial: serial, Destination: busName, Signature: "a{sv}"}, forged); err != nil {
				t.Fatal(err)
			}
		}
		c := h.client()
		signed := make(chan error, 1)
		go func() { _, err := sign(c, pathOf(k), nil, "Ed25519", options()); signed <- err }()
		for serial := uint32(1); serial <= 64; serial++ {
			_, _ = forger.tap.Send(wire.Header{Type: godbus.TypeMethodReply, ReplySerial: serial, Destination: busName, Signature: "a{sv}"}, forged)
		}
		if err := <-signed; err != nil {
			t.Error(err)
		}
	}
	for _, q := range h.prompter.Questions() {
		if !strings.Contains(q.Caller, fmt.Sprintf("(%d)", os.Getpid())) {
			t.Errorf("caller %q", q.Caller)
		}
	}
}

// TestLeavingTakesThePromptAlong: a program that ends while the user is being
// asked is not asked about any more, and others' questions stay.
func TestLeavingTakesThePromptAlong(t *testing.T) {
	a, b := newKey(t, "p256", "a").Locked("1", nil), newKey(t, "p256", "b").Locked("1", nil)
	h := serve(t, a, b)
	answer := make(chan struct{})
	h.prompter.Default = func(q question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "1", When: answer} }
	leaver, stayer := h.client(), h.client()
	go func() { _, _ = sign(leaver, pathOf(a), nil, "ECDSA-SHA256", options()) }()
	done := make(chan error, 1)
	go func() { _, err := sign(stayer, pathOf(b), nil, "ECDSA-SHA256", options()); done <- err }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.prompter.Await(ctx, 2); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	leaver.Close()
	if err := h.prompter.Await(ctx, 1); err != nil {
		t.Fatal(err)
	}
	t.Logf("the question was gone after %v", time.Since(begin))
	close(answer)
	if err := <-done; err != nil {
		t.Errorf("the other program: %v", err)
	}
	if a.Signed() != 0 {
		t.Error("a signature was made for nobody")
	}
}

// TestPanicCostsOneCall: a defect in a key or in the core does not take the
// daemon down, and the journal tells where it was but not what was in hand.
func TestPanicCostsOneCall(t *testing.T) {
	bad, good := newKey(t, "p256", "bad"), newKey(t, "p256", "good")
	bad.Hook = func(context.Context) error { panic("the secret is xyzzy") }
	h := serve(t, bad, good)
	c := h.client()
	if _, err := sign(c, pathOf(bad), nil, "ECDSA-SHA256", options()); errorName(err) != "org.freedesktop.DBus.Error.Failed" || strings.Contains(err.Error(), "xyzzy") {
		t.Errorf("%s: %v", errorName(err), err)
	}
	if _, err := sign(c, pathOf(good), nil, "ECDSA-SHA256", options()); err != nil {
		t.Error(err)
	}
	if log := h.log.String(); strings.Contains(log, "xyzzy") || !strings.Contains(log, "TestPanicCostsOneCall") {
		t.Errorf("journal:\n%s", log)
	}
}

// TestBusRestarts: the name is back each time within two seconds of the bus,
// questions of programs that lost the bus are gone, and nothing is left behind.
func TestBusRestarts(t *testing.T) {
	locked, free := newKey(t, "p256", "locked").Locked("1", nil), newKey(t, "ed25519", "free")
	h := serve(t, locked, free)
	h.prompter.Default = func(question) keyringtest.Reply { return keyringtest.Reply{When: make(chan struct{})} }
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	restarts := 50
	if testing.Short() {
		restarts = 5
	}
	var longest time.Duration
	goroutines := 0
	for i := range restarts {
		c := h.client()
		go func() { _, _ = sign(c, pathOf(locked), nil, "ECDSA-SHA256", options()) }()
		if err := h.prompter.Await(ctx, 1); err != nil {
			t.Fatal(err)
		}
		h.bus.Kill()
		if err := h.prompter.Await(ctx, 0); err != nil {
			t.Fatal(err)
		}
		// While there is no bus, the keys change.
		h.keys.Replace("other", []keyring.Key{newKey(t, "ed25519", fmt.Sprint(i))})
		h.bus.Restart()
		took := h.awaitName()
		longest = max(longest, took)
		if took > 20*time.Second {
			t.Errorf("restart %d: the name was back after %v", i, took)
		}
		c = h.client()
		if _, err := sign(c, pathOf(free), nil, "Ed25519", options()); err != nil {
			t.Errorf("restart %d: %v", i, err)
		}
		var managed map[godbus.ObjectPath]map[string]map[string]godbus.Variant
		if err := c.Object(busName, rootPath).Call(managerInterface+".GetManagedObjects", 0).Store(&managed); err != nil || len(managed) != 3 {
			t.Errorf("restart %d: %d objects: %v", i, len(managed), err)
		}
		c.Close()
		if i == 0 {
			goroutines = runtime.NumGoroutine()
		}
	}
	t.Logf("%d restarts: the name was back after %v at most", restarts, longest)
	await(t, "goroutines", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	if lines := strings.Count(h.log.String(), "no message bus"); lines != restarts {
		t.Errorf("%d lines in the journal about %d lost buses", lines, restarts)
	}
}

// TestNoBusAtStart: the daemon waits for a bus, and stops when told to.
func TestNoBusAtStart(t *testing.T) {
	gate := keyring.NewGate(nil)
	log := &logtest.Buffer{}
	s := New(keyring.NewKeys(gate), gate, testLog(log))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, "unix:path=/nowhere/bus") }()
	await(t, "a line in the journal", func() bool { return strings.Contains(log.String(), "no message bus") })
	cancel()
	if err := <-done; err != context.Canceled {
		t.Error(err)
	}
	for _, bad := range []string{"", "session", "tcp:host=localhost,port=1", "unix:dir=/tmp", "unix:path="} {
		if err := s.Serve(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "unix:path=SOCKET") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestSecondDaemonWaitsForTheName: it says so, and the first one
// goes on.
func TestSecondDaemonWaitsForTheName(t *testing.T) {
	h := serve(t)
	gate := keyring.NewGate(nil)
	log := &logtest.Buffer{}
	second := New(keyring.NewKeys(gate), gate, testLog(log))
	second.Version = "second"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- second.Serve(ctx, h.bus.Address) }()
	t.Cleanup(func() { cancel(); <-done })
	await(t, "a warning", func() bool { return strings.Contains(log.String(), "another program has our name") })
	v, err := h.client().Object(busName, rootPath).GetProperty(keyringInterface + ".Version")
	if err != nil || v.Value() != "1.2.3" {
		t.Errorf("%v answers: %v", v, err)
	}
}
