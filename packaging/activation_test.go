package packaging

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
)

// patience is how long a start may take on a busy machine.
const patience = 60 * time.Second

// home is an empty home and runtime directory, short enough for sockets.
func home(t *testing.T) (dir string, env []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, sub := range []string{".config/keyringd", ".ssh", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	config := "tpm = \"none\"\nprompter = \"none\"\n"
	if err := os.WriteFile(filepath.Join(dir, ".config/keyringd/config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir + "/run", "XDG_CONFIG_HOME=" + dir + "/.config",
		"XDG_DATA_HOME=" + dir + "/data", "XDG_STATE_HOME=" + dir + "/state",
	}
}

// TestBusStartsIt calls the daemon on a bus on which nobody is, as the installed
// files let dbus-daemon start it.
func TestBusStartsIt(t *testing.T) {
	bustest.Need(t, "dbus-daemon")
	bustest.Need(t, "busctl")
	prefix := install(t)
	for name, services := range map[string]string{
		"io.github.keyringd":      prefix + "/share/dbus-1/services",
		"org.freedesktop.secrets": prefix + "/share/keyringd/dbus-1/services",
	} {
		t.Run(name, func(t *testing.T) {
			dir, env := home(t)
			socket := filepath.Join(dir, "bus")
			config := fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth><servicedir>%s</servicedir>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`, socket, services)
			if err := os.WriteFile(filepath.Join(dir, "bus.conf"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			bus := exec.Command("dbus-daemon", "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nopidfile")
			bus.Env = append(env, "DBUS_SESSION_BUS_ADDRESS=unix:path="+socket)
			begin(t, bus)
			awaitFile(t, socket)
			out, err := exec.CommandContext(t.Context(), "busctl", "--address=unix:path="+socket, "--timeout=60", "call",
				name, "/", "org.freedesktop.DBus.Peer", "Ping").CombinedOutput()
			if err != nil {
				t.Fatalf("the first call: %v\n%s", err, out)
			}
			pid, err := exec.CommandContext(t.Context(), "busctl", "--address=unix:path="+socket, "call", "org.freedesktop.DBus",
				"/org/freedesktop/DBus", "org.freedesktop.DBus", "GetConnectionUnixProcessID", "s", name).Output()
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if _, err := fmt.Sscanf(string(pid), "u %d", &n); err != nil {
				t.Fatalf("%q: %v", pid, err)
			}
			t.Cleanup(func() { _ = syscall.Kill(n, syscall.SIGTERM) })
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n)); strings.TrimSpace(string(comm)) != "keyringd" {
				t.Errorf("%s is %q", name, comm)
			}
		})
	}
}

// TestSocketStartsIt writes to the agent's socket before there is an agent: the
// client gets its answer, late and whole, and so does the next.
func TestSocketStartsIt(t *testing.T) {
	bustest.Need(t, "systemd-socket-activate")
	prefix := install(t)
	dir, env := home(t)
	socket := filepath.Join(dir, "run", "agent")
	cmd := exec.Command("systemd-socket-activate", "--listen="+socket, "--fdname=ssh", prefix+"/bin/keyringd", "--bus", "none")
	// It hands its environment on only by name.
	for _, e := range env {
		cmd.Args = append(cmd.Args[:1], append([]string{"--setenv=" + e}, cmd.Args[1:]...)...)
	}
	cmd.Env = env
	begin(t, cmd)
	for range 2 {
		c := dial(t, socket)
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		// SSH_AGENTC_REQUEST_IDENTITIES, SSH_AGENT_IDENTITIES_ANSWER: no keys.
		if _, err := c.Write([]byte{0, 0, 0, 1, 11}); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 9)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatalf("answer: %v", err)
		}
		if binary.BigEndian.Uint32(answer) != 5 || answer[4] != 12 || binary.BigEndian.Uint32(answer[5:]) != 0 {
			t.Errorf("answer % x", answer)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "run", "keyringd", "ssh")); err == nil {
		t.Error("it made a socket of its own beside the one it was given")
	}
}

// begin starts a process and ends it, and all that it started, with the test.
func begin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said strings.Builder
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second // a child may hold standard error
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer timer.Stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", cmd.Args[0], said.String())
		}
	})
}

// dial waits until somebody listens: a socket has its name before it does.
func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); ; {
		c, err := net.DialTimeout("unix", socket, patience)
		if err == nil {
			return c
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatal(err)
		}
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); ; {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s does not come", path)
		}
	}
}
