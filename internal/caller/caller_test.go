package caller

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/bustest"
)

// childEnv makes the test binary connect to the socket it names, and stay
// until its standard input ends.
const childEnv = "KEYRINGD_CALLER_TEST_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		c, err := net.Dial("unix", path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = os.Stdin.Read(make([]byte, 1))
		c.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// accept returns the connection that a child, started by start, makes.
func accept(t *testing.T, start func(socket string) *exec.Cmd) (*net.UnixConn, *exec.Cmd, func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	cmd := start(path)
	cmd.Env = append(cmd.Environ(), childEnv+"="+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, cmd, end
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestFromConn(t *testing.T) {
	c, cmd, _ := accept(t, func(string) *exec.Cmd { return exec.Command(self(t)) })
	p, err := FromConn(c)
	if err != nil {
		t.Fatal(err)
	}
	want := Peer{
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), PID: cmd.Process.Pid, Program: self(t),
		// The chain ends before this process, which is the one that asks.
		Process: fmt.Sprintf("%s (%d)", filepath.Base(self(t)), cmd.Process.Pid),
	}
	if p != want {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
}

func TestChainShowsParents(t *testing.T) {
	c, cmd, _ := accept(t, func(string) *exec.Cmd {
		// The shell stays the parent, because it has something left to do.
		return exec.Command("/bin/sh", "-c", fmt.Sprintf("%q; true", self(t)))
	})
	p, err := FromConn(c)
	if err != nil {
		t.Fatal(err)
	}
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if p.PID == cmd.Process.Pid {
		t.Skip("this shell did not stay")
	}
	want := fmt.Sprintf("%s (%d) ← %s", filepath.Base(self(t)), p.PID, filepath.Base(sh))
	if p.Process != want {
		t.Errorf("chain %q, want %q", p.Process, want)
	}
}

func TestProcessThatHasGone(t *testing.T) {
	c, cmd, end := accept(t, func(string) *exec.Cmd { return exec.Command(self(t)) })
	pid := cmd.Process.Pid
	end()
	p, err := FromConn(c)
	if err != nil {
		t.Fatal(err)
	}
	if p.UID != uint32(os.Getuid()) || p.PID != pid || p.Program != "" || p.Process != "" {
		t.Errorf("peer of a process that has gone: %+v", p)
	}
}

// What /proc says counts only if the PID was the peer's until all was read.
func TestRecycledPIDIsDropped(t *testing.T) {
	p := Peer{PID: os.Getpid()}
	p.describe(Look, func() bool { return false })
	if p.Program != "" || p.Process != "" {
		t.Errorf("described a process that is not the peer: %+v", p)
	}
	p.describe(Look, func() bool { return true })
	if p.Program == "" || p.Process == "" {
		t.Errorf("control: %+v", p)
	}
}

func TestNoConnection(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "pair")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := FromConn(c.(*net.UnixConn)); err != nil || p.PID != os.Getpid() {
		t.Errorf("socketpair: %+v %v", p, err)
	}
	c.Close()
	if _, err := FromConn(c.(*net.UnixConn)); err == nil {
		t.Error("a closed connection has a peer")
	}
}

// Another mount namespace may show any file as /usr/bin/ssh.
func TestForeignExecutable(t *testing.T) {
	bustest.Need(t, "unshare")
	dir := t.TempDir()
	fake := filepath.Join(dir, "ssh")
	if err := os.WriteFile(fake, []byte("the real one"), 0o755); err != nil {
		t.Fatal(err)
	}
	info := filepath.Join(dir, "info")
	if err := os.WriteFile(info, []byte("[Application]\nname=org.example.App\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	probe := exec.Command("unshare", "-rm", "mount", "--bind", self(t), fake)
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("no user namespaces here: %v %s", err, out)
	}
	for _, test := range []struct{ name, run, program string }{
		{"own file over a path", fake, ""},
		{"same file", self(t), self(t)},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, _ := accept(t, func(string) *exec.Cmd {
				return exec.Command("unshare", "-rm", "/bin/sh", "-c",
					fmt.Sprintf("mount --bind %q %q && exec %q", self(t), fake, test.run))
			})
			p, err := FromConn(c)
			if err != nil {
				t.Fatal(err)
			}
			if p.Program != test.program {
				t.Errorf("program %q, want %q", p.Program, test.program)
			}
			if !strings.HasPrefix(p.Process, filepath.Base(test.run)+" (") {
				t.Errorf("process %q", p.Process)
			}
		})
	}
}
