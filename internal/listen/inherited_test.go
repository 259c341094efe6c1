package listen

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

func playInheritor() {
	for range 2 {
		got := Inherited()
		names := ""
		for _, n := range []string{"ssh", "pkcs11", "odd"} {
			if got[n] != nil {
				names += " " + n
			}
		}
		fmt.Printf("%d%s|%s\n", len(got), names, os.Getenv("LISTEN_FDS"))
		if l := got["ssh"]; l != nil {
			ctx, cancel := context.WithCancel(context.Background())
			_ = Serve(ctx, l, func(_ context.Context, c *net.UnixConn) {
				_, _ = io.CopyN(c, c, 5)
				cancel()
			})
		}
	}
}

func TestInherited(t *testing.T) {
	path := socketPath(t)
	mkdir(t, path, 0o700)
	var files []*os.File
	for _, p := range []string{path, path + "2", path + "3"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		l.SetUnlinkOnClose(false)
		l.Close()
		files = append(files, f)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	f, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files = append(files, f)

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// LISTEN_PID is the child's, so that a shell has to set it.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, exe)
	cmd.Env = []string{childEnv + "=inherit", "LISTEN_FDS=4", "LISTEN_FDNAMES=ssh:pkcs11:ssh:odd"}
	cmd.ExtraFiles = files
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !answers(path) {
		t.Error("the inherited socket is not served")
	}
	got, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if want := "2 ssh pkcs11|\n0|\n"; string(got) != want {
		t.Errorf("inherited %q, want %q", got, want)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("the service manager's socket was removed:", err)
	}
}

// asNobody runs the test binary in a role as another user.
func asNobody(t *testing.T, role string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to be another user")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile(exe)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "child"), b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "child"))
	cmd.Dir = "/"
	cmd.Env = []string{childEnv + "=" + role}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
