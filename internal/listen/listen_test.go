package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary play another process: "dial PATH" says what
// it reads from a socket, "inherit" what it inherited, "serve PATH" serves with
// few descriptors.
const childEnv = "KEYRINGD_LISTEN_TEST_CHILD"

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(childEnv), " ")
	switch role {
	case "":
		os.Exit(m.Run())
	case "dial":
		c, err := net.Dial("unix", arg)
		if err != nil {
			fmt.Println("dial:", err)
			os.Exit(1)
		}
		_, _ = io.WriteString(c, "hello")
		b, err := io.ReadAll(c)
		fmt.Printf("read %d %v\n", len(b), err)
	case "inherit":
		playInheritor()
	case "serve":
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40})
		l, err := Unix(arg)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		ctx, cancel := context.WithCancel(context.Background())
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
		fmt.Println(Serve(ctx, l, echo))
	}
	os.Exit(0)
}

// within is how long an event may take that comes at once on an idle machine.
const within = time.Minute

// until polls for something that another goroutine or process brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "ssh")
}

func echo(_ context.Context, c *net.UnixConn) { _, _ = io.Copy(c, c) }

// serve runs Serve until the test or stop ends it, and checks that it does.
func serve(t *testing.T, l net.Listener, handle func(context.Context, *net.UnixConn)) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, handle) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(within):
				t.Error("Serve does not end with its context")
			}
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// answers reports whether somebody echoes at path.
func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	b := make([]byte, 5)
	if _, err := c.Write([]byte("hello")); err != nil {
		return false
	}
	_, err = io.ReadFull(c, b)
	return err == nil && string(b) == "hello"
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode()
}

func TestUnixIsPrivate(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	path := socketPath(t)
	l, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	if m := mode(t, path); m != fs.ModeSocket|0o600 {
		t.Errorf("socket has mode %v", m)
	}
	if m := mode(t, filepath.Dir(path)); m != fs.ModeDir|0o700 {
		t.Errorf("directory has mode %v", m)
	}
	if l.Addr().String() != path || l.Addr().Network() != "unix" {
		t.Errorf("address %v", l.Addr())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error("second close:", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("Close left the socket:", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error("Accept after Close:", err)
	}
}

func TestUnixRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  string
	}{
		"directory open to others": {func(t *testing.T, path string) { mkdir(t, path, 0o750) }, "chmod 700"},
		"file in the way": {func(t *testing.T, path string) {
			mkdir(t, path, 0o700)
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
		"link in the way": {func(t *testing.T, path string) {
			mkdir(t, path, 0o700)
			if err := os.Symlink("/dev/null", path); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
		"directory is a file": {func(t *testing.T, path string) {
			if err := os.WriteFile(filepath.Dir(path), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			path := socketPath(t)
			test.spoil(t, path)
			before, _ := os.Lstat(path)
			_, err := Unix(path)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
				t.Error("what was there is gone")
			}
		})
	}
	if _, err := Unix("/tmp/" + strings.Repeat("x", 120)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("long path: %v", err)
	}
	if os.Getuid() != 0 {
		if _, err := Unix("/usr/x"); err == nil {
			t.Error("listens in somebody else's directory")
		}
	}
}

func TestUnixRefusesDirectoryOfAnother(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make one")
	}
	path := socketPath(t)
	mkdir(t, path, 0o700)
	if err := os.Chown(filepath.Dir(path), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := Unix(path); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Errorf("error %v", err)
	}
}

func mkdir(t *testing.T, path string, m fs.FileMode) {
	t.Helper()
	if err := os.Mkdir(filepath.Dir(path), m); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), m); err != nil {
		t.Fatal(err)
	}
}

// stale leaves a socket behind that nobody serves.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	mkdir(t, path, 0o700)
	stale(t, path)
	l, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer serve(t, l, echo)()
	if !answers(path) {
		t.Error("does not answer")
	}
}

func TestServedSocketIsNotReplaced(t *testing.T) {
	path := socketPath(t)
	l, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, echo)
	_, err = Unix(path)
	if !errors.Is(err, ErrInUse) {
		t.Errorf("error %v, want ErrInUse", err)
	}
	if !answers(path) {
		t.Error("the first one does not answer any more")
	}
}

// A server whose backlog is full is alive.
func TestBusySocketIsNotReplaced(t *testing.T) {
	path := socketPath(t)
	mkdir(t, path, 0o700)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := Unix(path); !errors.Is(err, ErrInUse) {
		t.Errorf("error %v, want ErrInUse", err)
	}
}

// Of many daemons that start at the same moment over a stale socket one wins,
// and is reachable.
func TestOneOfManyWins(t *testing.T) {
	path := socketPath(t)
	mkdir(t, path, 0o700)
	stale(t, path)
	var wg sync.WaitGroup
	winners := make(chan *Listener, 20)
	for range cap(winners) {
		wg.Go(func() {
			l, err := Unix(path)
			switch {
			case err == nil:
				winners <- l
			case !errors.Is(err, ErrInUse):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(winners) != 1 {
		t.Fatalf("%d winners", len(winners))
	}
	serve(t, <-winners, echo)
	if !answers(path) {
		t.Error("the winner is not reachable")
	}
}

func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := socketPath(t)
	l, err := newUnix(path, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := Unix(path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, other, echo)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !answers(path) {
		t.Error("Close removed the socket of another")
	}
}

func TestSocketComesBack(t *testing.T) {
	path := socketPath(t)
	l, err := newUnix(path, 2*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, echo)
	for i := range 50 {
		remove := os.Remove
		if i%2 == 1 {
			remove = func(p string) error { return os.RemoveAll(filepath.Dir(p)) }
		}
		if err := remove(path); err != nil {
			t.Fatal(err)
		}
		until(t, "socket made again", func() bool { return answers(path) })
		if m := mode(t, path); m != fs.ModeSocket|0o600 {
			t.Fatalf("made again with mode %v", m)
		}
	}
}

// An open connection goes on while the socket is made again.
func TestConnectionSurvivesRebind(t *testing.T) {
	path := socketPath(t)
	l, err := newUnix(path, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, echo)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 1)
	for range 2 {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		l.check()
	}
	if !answers(path) {
		t.Error("new connections are not served")
	}
}

func TestRebindYieldsToAnother(t *testing.T) {
	path := socketPath(t)
	l, err := newUnix(path, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := newUnix(path, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := lookup(path)
	l.check()
	if now, _ := lookup(path); now != id {
		t.Fatal("took the path from one who serves it")
	}
	other.Close()
	l.check()
	serve(t, l, echo)
	if !answers(path) {
		t.Error("did not come back after the other went away")
	}
}
