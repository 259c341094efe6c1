package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/listen"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// within is how long an event may take that comes at once on an idle machine.
const within = 30 * time.Second

// A fakeLogin has one password.
type fakeLogin struct {
	wait func(ctx context.Context) error // called first, if there

	mu       sync.Mutex
	password string
	calls    []string
	callers  []keyring.Caller
	held     []secret.Bytes // what was borrowed
}

func (f *fakeLogin) note(c keyring.Caller, what string, borrowed ...secret.Bytes) {
	f.calls = append(f.calls, what)
	f.callers = append(f.callers, c)
	f.held = append(f.held, borrowed...)
}

func (f *fakeLogin) Login(ctx context.Context, c keyring.Caller, password secret.Bytes) error {
	if f.wait != nil {
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(c, "login "+reveal(password), password)
	if reveal(password) != f.password {
		return fmt.Errorf("login: %w", keyring.ErrAuthFailed)
	}
	return nil
}

func (f *fakeLogin) ChangeLogin(_ context.Context, c keyring.Caller, old, new secret.Bytes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(c, "change "+reveal(old)+" "+reveal(new), old, new)
	if reveal(old) != f.password {
		return fmt.Errorf("login: %w", keyring.ErrAuthFailed)
	}
	f.password = reveal(new)
	return nil
}

func (f *fakeLogin) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func reveal(b secret.Bytes) (s string) {
	b.Use(func(p []byte) { s = string(p) })
	return s
}

// start serves login in a runtime directory of its own, and returns that, the
// server and its log. set may change the server before it serves.
func start(t *testing.T, login Login, set func(*Server)) (runtimeDir string, log *logtest.Buffer) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := listen.Unix(filepath.Join(dir, "keyring", "control"))
	if err != nil {
		t.Fatal(err)
	}
	log = &logtest.Buffer{}
	s := New(login, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if set != nil {
		set(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(within):
			t.Error("Serve does not end with its context")
		}
	})
	return dir, log
}

func dial(t *testing.T, dir string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(dir, "keyring", "control"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(within))
	return c
}

func request(op operation, strs ...string) []byte {
	b := []byte{0, 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(op))
	for _, s := range strs {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	return b
}

// ask sends bytes and returns all that comes back.
func ask(t *testing.T, dir string, send []byte) []byte {
	t.Helper()
	c := dial(t, dir)
	if _, err := c.Write(send); err != nil {
		t.Fatal(err)
	}
	back, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") { // it had more to read
		t.Fatal(err)
	}
	return back
}

func TestRequests(t *testing.T) {
	login := &fakeLogin{password: "sesame"}
	dir, log := start(t, login, nil)
	for _, test := range []struct {
		name string
		send []byte
		want []byte
	}{
		{"unlock", request(opUnlock, "sesame"), []byte{0, 0, 0, 8, 0, 0, 0, 0}},
		{"wrong", request(opUnlock, "canary"), []byte{0, 0, 0, 8, 0, 0, 0, 1}},
		{"change", request(opChange, "sesame", "canary2"), []byte{0, 0, 0, 8, 0, 0, 0, 0}},
		{"change with the old one", request(opChange, "sesame", "canary3"), []byte{0, 0, 0, 8, 0, 0, 0, 1}},
		{"unlock with the new one", request(opUnlock, "canary2"), []byte{0, 0, 0, 8, 0, 0, 0, 0}},
		{"initialize", request(opInitialize, "secrets", "DISPLAY=:0"), []byte{0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"quit", request(opQuit), []byte{0, 0, 0, 8, 0, 0, 0, 1}},
		{"is somebody here?", request(opUnlock), []byte{0, 0, 0, 8, 0, 0, 0, 2}},
		{"unlock with two", request(opUnlock, "a", "b"), []byte{0, 0, 0, 8, 0, 0, 0, 2}},
		{"change with one", request(opChange, "a"), []byte{0, 0, 0, 8, 0, 0, 0, 2}},
		{"a NUL", request(opUnlock, "ses\x00me"), []byte{0, 0, 0, 8, 0, 0, 0, 2}},
		{"no string", append([]byte{0, 0, 0, 0, 12, 0, 0, 0, 1}, 0xff, 0xff, 0xff, 0xff), []byte{0, 0, 0, 8, 0, 0, 0, 2}},
		{"a string beyond the end", []byte{0, 0, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 2, 'a'}, []byte{0, 0, 0, 8, 0, 0, 0, 2}},
		{"unknown", request(7), nil},
		{"no credentials byte", append([]byte{1}, request(opUnlock, "sesame")[1:]...), nil},
		{"shorter than itself", []byte{0, 0, 0, 0, 7, 0, 0, 0, 1}, nil},
		{"four gigabytes", []byte{0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}, nil},
	} {
		if got := ask(t, dir, test.send); !bytes.Equal(got, test.want) {
			t.Errorf("%s: %x, want %x", test.name, got, test.want)
		}
	}
	want := []string{"login sesame", "login canary", "change sesame canary2", "change sesame canary3", "login canary2"}
	if got := login.said(); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	for _, c := range login.callers {
		if c.FrontEnd != "login" || c.PID != os.Getpid() {
			t.Errorf("caller %+v", c)
		}
	}
	for _, word := range []string{"canary", "sesame"} {
		if strings.Contains(log.String(), word) {
			t.Errorf("a password is in the log:\n%s", log)
		}
	}
	for _, b := range login.held {
		if b.Len() != 0 {
			t.Error("a password was not wiped")
		}
	}
}

// The largest request is served, and one byte more is not.
func TestLimit(t *testing.T) {
	long := strings.Repeat("x", maxRequest-headerSize-4)
	login := &fakeLogin{password: long}
	dir, _ := start(t, login, nil)
	if got := ask(t, dir, request(opUnlock, long)); !bytes.Equal(got, []byte{0, 0, 0, 8, 0, 0, 0, 0}) {
		t.Errorf("%x", got)
	}
	c := dial(t, dir)
	_, _ = c.Write(request(opUnlock, long+"x")) // it may be refused before all of it is out
	if got, _ := io.ReadAll(c); len(got) > 0 {
		t.Errorf("one byte more: %x", got)
	}
}

// While one password is tried, others are served; no more than maxLogins at a
// time, and none is forgotten.
func TestSlowUnlockBlocksNobody(t *testing.T) {
	release := make(chan struct{})
	begun := make(chan struct{}, 10)
	var mu sync.Mutex
	running, most := 0, 0
	login := &fakeLogin{password: "sesame", wait: func(context.Context) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		begun <- struct{}{}
		<-release
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	}}
	dir, _ := start(t, login, nil)
	var conns []net.Conn
	for range 5 {
		c := dial(t, dir)
		if _, err := c.Write(request(opUnlock, "sesame")); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for range maxLogins {
		<-begun
	}
	if got := ask(t, dir, request(opInitialize, "", "")); len(got) != 12 {
		t.Errorf("initialize during unlocks: %x", got)
	}
	if got := ask(t, dir, request(opUnlock)); len(got) != 8 {
		t.Errorf("is somebody here, during unlocks: %x", got)
	}
	close(release)
	for _, c := range conns {
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, []byte{0, 0, 0, 8, 0, 0, 0, 0}) {
			t.Errorf("%x %v", got, err)
		}
	}
	if most != maxLogins {
		t.Errorf("%d at a time, want %d", most, maxLogins)
	}
}

// A client that waits for ever is not kept waiting: neither one whose password
// is tried nor one whose turn does not come.
func TestLoginGivesUp(t *testing.T) {
	login := &fakeLogin{wait: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	dir, _ := start(t, login, func(s *Server) { s.loginTimeout = 50 * time.Millisecond })
	var all sync.WaitGroup
	for range 2 * maxLogins {
		all.Go(func() {
			if got := ask(t, dir, request(opUnlock, "sesame")); !bytes.Equal(got, []byte{0, 0, 0, 8, 0, 0, 0, 2}) {
				t.Errorf("%x", got)
			}
		})
	}
	all.Wait()
}

// A client that sends half a request and waits is let go.
func TestSlowClient(t *testing.T) {
	dir, _ := start(t, &fakeLogin{}, func(s *Server) { s.requestTimeout = 50 * time.Millisecond })
	whole := request(opUnlock, "sesame")
	for _, n := range []int{0, 1, 5, 9, len(whole) - 1} {
		if got := ask(t, dir, whole[:n]); len(got) > 0 {
			t.Errorf("%d bytes: %x", n, got)
		}
	}
}

// A panic costs its request and tells the log no value.
func TestPanic(t *testing.T) {
	login := &fakeLogin{password: "sesame", wait: func(context.Context) error { panic("canary") }}
	dir, log := start(t, login, nil)
	if got := ask(t, dir, request(opUnlock, "sesame")); !bytes.Equal(got, []byte{0, 0, 0, 8, 0, 0, 0, 2}) {
		t.Errorf("%x", got)
	}
	if s := log.String(); strings.Contains(s, "canary") || !strings.Contains(s, "panic of type string") {
		t.Errorf("log:\n%s", s)
	}
	if got := ask(t, dir, request(opInitialize, "", "")); len(got) != 12 {
		t.Errorf("afterwards: %x", got)
	}
}

// Every error of the core has its result, and none is NO_DAEMON.
func TestOutcomes(t *testing.T) {
	want := map[error]result{
		keyring.ErrNotFound: resultFailed, keyring.ErrLocked: resultFailed, keyring.ErrDenied: resultDenied, keyring.ErrAuthFailed: resultDenied,
		keyring.ErrLockedOut: resultDenied, keyring.ErrUnsupported: resultFailed, keyring.ErrUnavailable: resultFailed,
	}
	for _, err := range keyring.Errors {
		r, ok := want[err]
		if !ok {
			t.Errorf("%v has no result in this test", err)
		}
		if got := outcome(fmt.Errorf("x: %w", err)); got != r {
			t.Errorf("%v is %d, want %d", err, got, r)
		}
	}
	if outcome(nil) != resultOK || outcome(errors.New("x")) != resultFailed || outcome(context.DeadlineExceeded) != resultFailed {
		t.Error("other outcomes")
	}
}

// FuzzRequest: nothing panics, no more is taken than was sent, and a body that
// is understood encodes to the same bytes.
func FuzzRequest(f *testing.F) {
	f.Add(request(opUnlock, "sesame"))
	f.Add(request(opChange, "old", "new"))
	f.Add(request(opInitialize, "", "A=B"))
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		op, body, err := readRequest(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer body.Wipe()
		if 1+headerSize+body.Len() > len(data) {
			t.Fatalf("a body of %d bytes out of %d", body.Len(), len(data))
		}
		for n := 1; n <= 2; n++ {
			all, err := passwords(body, n)
			if err != nil {
				continue
			}
			var strs []string
			for _, p := range all {
				strs = append(strs, reveal(p))
			}
			wipe(all)
			if again := request(op, strs...); !bytes.Equal(again, data[:len(again)]) {
				t.Errorf("%q is %x again, was %x", strs, again, data)
			}
		}
	})
}
