package agent

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/sshkeys"
)

const (
	// serveEnv makes the test program serve an agent at this path, and nothing
	// else; see serveAlone.
	serveEnv = "KEYRINGD_AGENT_TEST_SERVE"
	// speakEnv makes it a client, of another user, of an agent at this path.
	speakEnv = "KEYRINGD_AGENT_TEST_SPEAK"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(serveEnv) != "":
		serveAlone(os.Getenv(serveEnv))
	case os.Getenv(speakEnv) != "":
		speak(os.Getenv(speakEnv))
	default:
		os.Exit(m.Run())
	}
}

// serveAlone serves an agent with few descriptors, in a process of its own. To
// each line on stdin it answers with how many goroutines and descriptors and
// how much memory it has.
func serveAlone(path string) {
	limit := unix.Rlimit{Cur: 256, Max: 256}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	keys := keyring.NewKeys(keyring.NewGate(nil))
	s := New(keys, slog.New(slog.DiscardHandler))
	s.Holder = sshkeys.NewAdded(keys)
	l, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ctx, l) }()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		runtime.GC()
		debug.FreeOSMemory()
		open, _ := os.ReadDir("/proc/self/fd")
		status, _ := os.ReadFile("/proc/self/status")
		kb := ""
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb = strings.Fields(rest)[0]
			}
		}
		fmt.Println(runtime.NumGoroutine(), len(open), kb)
	}
	cancel()
	<-done
}

// A lonelyAgent is an agent in a process of its own.
type lonelyAgent struct {
	socket string
	ask    func(tb testing.TB) (goroutines, descriptors, kilobytes int)
}

func startAlone(tb testing.TB) *lonelyAgent {
	tb.Helper()
	dir := must(os.MkdirTemp("", "kr"))
	tb.Cleanup(func() { os.RemoveAll(dir) })
	a := &lonelyAgent{socket: filepath.Join(dir, "s")}
	cmd := exec.Command(must(os.Executable()))
	cmd.Env = append(os.Environ(), serveEnv+"="+a.socket)
	in, out := must(cmd.StdinPipe()), bufio.NewScanner(must(cmd.StdoutPipe()))
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("the agent: %v", err)
		}
	})
	if !out.Scan() {
		tb.Fatal("the agent did not start")
	}
	a.ask = func(tb testing.TB) (goroutines, descriptors, kilobytes int) {
		tb.Helper()
		fmt.Fprintln(in, "")
		if !out.Scan() {
			tb.Fatal("the agent is gone")
		}
		fields := strings.Fields(out.Text())
		return must(strconv.Atoi(fields[0])), must(strconv.Atoi(fields[1])), must(strconv.Atoi(fields[2]))
	}
	return a
}

// TestManyConnections opens thousands of connections, with and without half a
// request, to an agent with 256 descriptors: it lives, gives back what they
// took, and goes on signing.
func TestManyConnections(t *testing.T) {
	for name, first := range map[string][]byte{
		"idle":          nil,
		"half a length": {0, 0},
		"half messages": {0, 4, 0, 0, msgSignRequest, 0, 0},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			a := startAlone(t)
			c := dial(t, a.socket)
			ours.want(t, c, "add", "yes", edKey(1).addFrame("k"))
			c.Close()
			await(t, "rest", func() bool { n, _, _ := a.ask(t); return n < 10 })
			goroutines, descriptors, kilobytes := a.ask(t)
			var made atomic.Int64
			var wg sync.WaitGroup
			for range 8 { // clients that keep what they can get, and let it go at once
				wg.Go(func() {
					var held []net.Conn
					drop := func() {
						for _, c := range held {
							c.Close()
						}
						held = nil
					}
					defer drop()
					for made.Load() < 10_000 {
						c, err := net.Dial("unix", a.socket)
						if err != nil || len(held) == 125 {
							drop() // the backlog is full
							runtime.Gosched()
						}
						if err == nil {
							made.Add(1)
							_, _ = c.Write(first)
							held = append(held, c)
						}
					}
				})
			}
			wg.Wait()
			await(t, "a signature after all that", func() bool {
				c, err := net.Dial("unix", a.socket)
				if err != nil {
					return false
				}
				defer c.Close()
				if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				_, _ = c.Write(signFrame(edKey(1).blob(), []byte("x"), 0))
				reply, err := readReply(c)
				return err == nil && outcomeOf(reply) == "yes"
			})
			await(t, "the agent to be as it was", func() bool {
				g, d, _ := a.ask(t)
				return g <= goroutines+2 && d <= descriptors+2
			})
			_, _, now := a.ask(t)
			t.Logf("10,000 connections: RSS from %d kB to %d kB", kilobytes, now)
			if now-kilobytes > 32<<10 && !raceEnabled {
				t.Errorf("RSS grew by %d kB", now-kilobytes)
			}
		})
	}
}

// TestMemoryWithManyKeys adds a thousand keys as ssh-add does.
func TestMemoryWithManyKeys(t *testing.T) {
	a := startAlone(t)
	c := dial(t, a.socket)
	for i := range 1000 {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil { // for each, not for all
			t.Fatal(err)
		}
		ours.want(t, c, "add", "yes", manyKey(i).addFrame(fmt.Sprint("key ", i)))
	}
	if n := len(comments(t, c)); n != 1000 {
		t.Errorf("%d listed", n)
	}
	_, _, kilobytes := a.ask(t)
	t.Logf("RSS with 1,000 keys: %d kB", kilobytes)
	if kilobytes > 16<<10 && !raceEnabled {
		t.Errorf("RSS with 1,000 keys is %d kB", kilobytes)
	}
}

// speak asks the agent at path for its keys, as another user, and prints what
// it gets.
func speak(path string) {
	uid := must(strconv.Atoi(os.Getenv("KEYRINGD_AGENT_TEST_UID")))
	if err := unix.Setresuid(uid, uid, uid); err != nil {
		panic(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println("not let in:", err)
		return
	}
	_, _ = c.Write(listFrame)
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	fmt.Println("read", n, err)
}

// TestAnotherUserGetsNoByte opens the socket to everybody.
func TestAnotherUserGetsNoByte(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	a := start(t, fakes(edKey(1)), nil)
	for _, path := range []string{filepath.Dir(a.socket), a.socket} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	self := filepath.Join(filepath.Dir(a.socket), "test") // where another user can reach it
	data := must(os.ReadFile(must(os.Executable())))
	if err := os.WriteFile(self, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[int]func(out string) bool{
		65534: func(out string) bool { return strings.HasPrefix(out, "read 0 ") },
		0:     func(out string) bool { return strings.HasPrefix(out, "read ") && !strings.HasPrefix(out, "read 0 ") },
	} {
		cmd := exec.Command(self)
		cmd.Env = []string{speakEnv + "=" + a.socket, "KEYRINGD_AGENT_TEST_UID=" + strconv.Itoa(uid), "TMPDIR=" + os.TempDir()}
		out, err := cmd.CombinedOutput()
		if err != nil || !want(string(out)) {
			t.Errorf("uid %d: %s%v", uid, out, err)
		}
	}
}

// manyKey is the i-th of many keys.
func manyKey(i int) testKey {
	seed := make([]byte, ed25519.SeedSize)
	binary.BigEndian.PutUint32(seed, uint32(i+1))
	return testKey{"ed25519", ed25519.NewKeyFromSeed(seed)}
}
