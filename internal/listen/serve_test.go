package listen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestAnotherUserReadsEOF(t *testing.T) {
	path := socketPath(t)
	l, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	var handled atomic.Int32
	stop := serve(t, l, func(ctx context.Context, c *net.UnixConn) { handled.Add(1); echo(ctx, c) })
	if err := errors.Join(
		os.Chmod(path, 0o666), os.Chmod(filepath.Dir(path), 0o755), os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	got := asNobody(t, "dial "+path)
	if !strings.HasPrefix(got, "read 0 ") {
		t.Errorf("another user: %s", got)
	}
	if err := stop(); err != nil || handled.Load() != 0 {
		t.Errorf("another user's connection was handled %d times (%v)", handled.Load(), err)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	path := socketPath(t)
	l, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	var running atomic.Int32
	release := make(chan struct{})
	stop := serve(t, l, func(ctx context.Context, c *net.UnixConn) {
		running.Add(1)
		defer running.Add(-1)
		_, _ = io.Copy(io.Discard, c) // ends because the connection is closed
		<-ctx.Done()
		<-release
	})
	for range 3 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	until(t, "three handlers", func() bool { return running.Load() == 3 })
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	until(t, "socket removed", func() bool { _, err := os.Lstat(path); return err != nil })
	select {
	case <-ended:
		t.Fatal("Serve returned before its handlers")
	default:
	}
	close(release)
	if err := <-ended; err != nil || running.Load() != 0 {
		t.Errorf("Serve: %v, %d handlers left", err, running.Load())
	}
}

func TestServeReportsAClosedListener(t *testing.T) {
	l, err := Unix(socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(context.Background(), l, echo); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func TestPanicEndsOneConnection(t *testing.T) {
	path := socketPath(t)
	l, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	type secretError struct{ pin string }
	var log bytes.Buffer
	s := server{log: slog.New(slog.NewTextHandler(&log, nil)), perProcess: map[int32]int{},
		handle: func(_ context.Context, c *net.UnixConn) {
			b := make([]byte, 5)
			_, _ = io.ReadFull(c, b)
			if string(b) == "panic" {
				panic(secretError{"canary-4711"})
			}
			_, _ = c.Write(b)
		}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, l) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("panic"))
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Errorf("connection of a panic: %q %v", b, err)
	}
	c.Close()
	if !answers(path) {
		t.Error("a panic stopped the service")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := log.String(); strings.Contains(s, "4711") || !strings.Contains(s, "secretError") ||
		!strings.Contains(s, "TestPanicEndsOneConnection") {
		t.Errorf("logged: %s", s)
	}
}

// scripted is a listener whose Accept returns what the test says.
type scripted struct {
	results chan error
	closed  chan struct{}
	once    sync.Once
}

func (s *scripted) Accept() (net.Conn, error) {
	select {
	case err := <-s.results:
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	case <-s.closed:
		return nil, net.ErrClosed
	}
}
func (s *scripted) Close() error   { s.once.Do(func() { close(s.closed) }); return nil }
func (s *scripted) Addr() net.Addr { return nil }

func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &scripted{results: make(chan error), closed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		s := server{log: slog.New(slog.DiscardHandler)}
		go func() { done <- s.serve(ctx, l) }()
		start := time.Now()
		for _, err := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
			l.results <- err
		}
		l.results <- unix.EMFILE // taken after five pauses
		if d := time.Since(start); d != (1+2+4+8+16)*firstPause {
			t.Errorf("five errors took %v", d)
		}
		for range 20 {
			l.results <- unix.EMFILE
		}
		before := time.Now()
		l.results <- unix.EMFILE
		if d := time.Since(before); d != lastPause {
			t.Errorf("a late pause is %v", d)
		}
		cancel() // during a pause
		if err := <-done; err != nil {
			t.Error(err)
		}

		l = &scripted{results: make(chan error, 1), closed: make(chan struct{})}
		l.results <- unix.EINVAL
		if err := s.serve(t.Context(), l); !errors.Is(err, unix.EINVAL) {
			t.Errorf("error that does not pass: %v", err)
		}
		select {
		case <-l.closed:
		default:
			t.Error("Serve left its listener open")
		}
	})
}

// A process that is out of descriptors serves again as soon as it has some.
func TestFloodPastTheDescriptorLimit(t *testing.T) {
	path := socketPath(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{childEnv + "=serve " + path}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "child serves", func() bool { return answers(path) })
	var conns []net.Conn
	for range 500 { // some wait in the backlog, some are refused by the kernel
		if c, err := net.Dial("unix", path); err == nil {
			conns = append(conns, c)
		}
	}
	if len(conns) < 41 {
		t.Errorf("only %d connections", len(conns))
	}
	for _, c := range conns {
		c.Close()
	}
	until(t, "served after the flood", func() bool { return answers(path) })
	for i := range 100 {
		if !answers(path) {
			t.Fatalf("request %d of 100 after the flood is not served", i)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if s := out.String(); !strings.HasSuffix(s, "<nil>\n") || !strings.Contains(s, "too many open files") {
		t.Errorf("child: %s", s)
	}
}

// One process that leaks connections is cut off; nobody waits for it.
func TestLeakingProcessIsCutOff(t *testing.T) {
	path := socketPath(t)
	l, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	stop := serve(t, l, echo)
	var conns []net.Conn
	for range maxConnsPerProcess {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(within))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one connection too many reads %v, want EOF", err)
	}
	conns[0].Close()
	until(t, "place after one closed", func() bool { return answers(path) })
	if err := stop(); err != nil {
		t.Error(err)
	}
	until(t, "goroutines gone", func() bool { return runtime.NumGoroutine() <= before })
}

func TestTotalIsCapped(t *testing.T) {
	s := server{perProcess: map[int32]int{}}
	n := 0
	for pid := int32(1); s.enter(pid); pid++ {
		n++
	}
	if n != maxConns {
		t.Errorf("%d connections let in", n)
	}
	s.leave(1)
	if !s.enter(1) || len(s.perProcess) != maxConns {
		t.Error("a place is not given back")
	}
}

func TestRefusalsAreLoggedSparsely(t *testing.T) {
	var r refusals
	lines := 0
	for range 1000 {
		if r.next() > 0 {
			lines++
		}
	}
	if lines != 10 {
		t.Errorf("%d lines for 1000 refusals", lines)
	}
}
