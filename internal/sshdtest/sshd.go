// Package sshdtest starts OpenSSH's own sshd on loopback for a test, and logs
// in to it with OpenSSH's own ssh.
package sshdtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
)

// An SSHD is a server that lets the user of the test in with the keys it was
// started with. It ends with the test.
type SSHD struct {
	tb   testing.TB
	dir  string
	port int
	user string
	log  string
}

// Start starts an sshd that accepts the authorized_keys lines given. A missing
// sshd skips the test, or fails it where KEYRINGD_TEST_REQUIRE is set.
func Start(tb testing.TB, authorizedKeys string) *SSHD {
	tb.Helper()
	sshd := lookPath(tb, "sshd")
	lookPath(tb, "ssh")
	me, err := user.Current()
	if err != nil {
		tb.Fatal(err)
	}
	s := &SSHD{tb: tb, dir: tb.TempDir(), user: me.Username}
	s.log = filepath.Join(s.dir, "log")
	if os.Getuid() == 0 {
		// sshd drops privileges into this folder; the service makes it at boot.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	run(tb, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, "host"))
	s.write("authorized_keys", authorizedKeys)
	s.port = freePort(tb)
	s.write("config", fmt.Sprintf(`ListenAddress 127.0.0.1
Port %d
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
LogLevel VERBOSE
`, s.port, s.dir))
	cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	log, err := os.Create(s.log)
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if tb.Failed() {
			text, _ := os.ReadFile(s.log)
			tb.Logf("sshd said:\n%s", text)
		}
	})
	s.await()
	return s
}

// HostKey returns the server's public key, as a line of known_hosts has it after
// the name.
func (s *SSHD) HostKey() string {
	s.tb.Helper()
	line, err := os.ReadFile(filepath.Join(s.dir, "host.pub"))
	if err != nil {
		s.tb.Fatal(err)
	}
	return string(line)
}

// Login logs in with the one key whose public half is in the file publicKey,
// through the agent at socket, and returns what `echo` printed there.
func (s *SSHD) Login(ctx context.Context, socket, publicKey string) (string, error) {
	return s.LoginWith(ctx, nil, "-o", "IdentityAgent="+socket, "-o", "IdentityFile="+publicKey)
}

// LoginWith logs in with the identities that ssh's options name, in the
// environment env (nil: this process's), and returns what `echo` printed there.
func (s *SSHD) LoginWith(ctx context.Context, env []string, options ...string) (string, error) {
	// Of an option that is given twice ssh takes the first.
	args := append([]string{"-F", "none", "-p", fmt.Sprint(s.port)}, options...)
	args = append(args,
		"-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes",
		"-o", "LogLevel=ERROR",
		s.user+"@127.0.0.1", "echo logged in")
	cmd := exec.CommandContext(ctx, "ssh", args...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("ssh: %w: %s", err, text)
	}
	return text, nil
}

func (s *SSHD) write(name, text string) {
	s.tb.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.tb.Fatal(err)
	}
}

// await waits until the server greets.
func (s *SSHD) await() {
	s.tb.Helper()
	deadline := time.Now().Add(15 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), time.Second)
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			greeting := make([]byte, 4)
			n, _ := c.Read(greeting)
			_ = c.Close()
			if string(greeting[:n]) == "SSH-" {
				return
			}
		}
		<-tick.C
	}
	s.tb.Fatal("sshd did not greet within 15 s")
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func run(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// lookPath finds a program, also where only root's PATH leads.
func lookPath(tb testing.TB, name string) string {
	tb.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	bustest.Missing(tb, name)
	return ""
}
