// Package daemontest builds keyringd and runs it for a test as a login session
// would: with a home, a folder of key files and a scripted pinentry.
package daemontest

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/internal/logtest"
)

// Binary is the keyringd under test, and Ctl the keyringctl; [Main] builds them.
var Binary, Ctl string

// Main is the TestMain of a package that runs keyringd: it builds the programs,
// runs the tests, and returns the exit status.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	Binary, Ctl = filepath.Join(dir, "keyringd"), filepath.Join(dir, "keyringctl")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir+"/",
		"github.com/keyringd/keyringd/cmd/keyringd", "github.com/keyringd/keyringd/cmd/keyringctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building keyringd: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// A Session is one login session's worth: a home, key folder, and daemon.
type Session struct {
	tb     testing.TB
	Dir    string         // the home; short, as socket paths must be
	Keys   string         // the folder of key files
	Socket string         // the ssh-agent socket
	Log    logtest.Buffer // what the daemon wrote to standard error

	// For the next Start:
	SystemBus string   // address of the bus that a logind is on; "": there is none
	Wrap      []string // a command that ends with running the one behind it, as unshare(1)

	asked string // what the scripted pinentry was told, a file
	cmd   *exec.Cmd
	once  sync.Once
	end   error
	shown bool // what it said was shown
}

// New makes the folders; files are put into its key folder before or
// after start.
func New(tb testing.TB) *Session {
	tb.Helper()
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Session{tb: tb, Dir: dir, Keys: filepath.Join(dir, ".ssh"), Socket: filepath.Join(dir, "run", "ssh"), asked: filepath.Join(dir, "asked")}
	if err := os.Mkdir(s.Keys, 0o700); err != nil {
		tb.Fatal(err)
	}
	s.Write("pinentry", pinentry, 0o700)
	s.Answer("")
	return s
}

// pinentry answers every GETPIN with the content of the file pin, and notes all
// that it is told.
const pinentry = `#!/bin/sh
dir=$(dirname "$0")
echo "OK ready"
while IFS= read -r line; do
	printf '%s\n' "$line" >>"$dir/asked"
	case $line in
	GETPIN*) printf 'D %s\nOK\n' "$(cat "$dir/pin")" ;;
	BYE*) echo OK; exit 0 ;;
	*) echo OK ;;
	esac
done
`

// Write writes a file in the home.
func (s *Session) Write(name, text string, mode os.FileMode) {
	s.tb.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), mode); err != nil {
		s.tb.Fatal(err)
	}
}

// Answer sets what the pinentry says from now on.
func (s *Session) Answer(pin string) { s.Write("pin", pin, 0o600) }

// Questions returns the lines that the pinentry was told, joined.
func (s *Session) Questions() string {
	text, _ := os.ReadFile(s.asked)
	return string(text)
}

// Prompts counts how often a PIN was asked for.
func (s *Session) Prompts() int { return strings.Count(s.Questions(), "GETPIN") }

// Key puts a key file into the key folder and returns its path.
func (s *Session) Key(name string, pem []byte) string {
	s.tb.Helper()
	path := filepath.Join(s.Keys, name)
	if err := os.WriteFile(path, pem, 0o600); err != nil {
		s.tb.Fatal(err)
	}
	return path
}

// shown is how many lines of the journal a failed test shows.
const shown = 40

// Start runs keyringd and returns when it serves. It is ended with the test.
func (s *Session) Start(tpm string, flags ...string) {
	s.tb.Helper()
	args := append([]string{"--tpm", tpm, "--key-dir", s.Keys, "--runtime-dir", filepath.Dir(s.Socket),
		"--data-dir", filepath.Join(s.Dir, "data"), "--prompter", "pinentry:" + filepath.Join(s.Dir, "pinentry"),
		"--bus", "none"}, flags...)
	args = append(append(slices.Clone(s.Wrap), Binary), args...)
	s.cmd, s.once, s.end = exec.Command(args[0], args[1:]...), sync.Once{}, nil
	s.cmd.Env = append(os.Environ(), "HOME="+s.Dir, "XDG_CONFIG_HOME="+s.Dir, "XDG_STATE_HOME="+s.Dir,
		"XDG_RUNTIME_DIR="+s.Runtime(), "DBUS_SYSTEM_BUS_ADDRESS="+cmp.Or(s.SystemBus, "unix:path=/nonexistent"))
	s.cmd.Stderr = &s.Log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			s.tb.Errorf("keyringd: %v", err)
		}
		if s.tb.Failed() && !s.shown {
			s.shown = true // however often it was started
			lines := strings.Split(s.Log.String(), "\n")
			s.tb.Logf("keyringd said at the end:\n%s", strings.Join(lines[max(0, len(lines)-shown):], "\n"))
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.tb.Fatalf("keyringd did not start: %v\n%s", err, s.Log.String())
	}
	if want := "export SSH_AUTH_SOCK=" + s.Socket + "\n"; line != want {
		s.tb.Fatalf("keyringd printed %q, want %q", line, want)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
}

// Runtime is the session's XDG_RUNTIME_DIR; keyringd makes the socket for the
// login password in it.
func (s *Session) Runtime() string {
	s.tb.Helper()
	dir := filepath.Join(s.Dir, "xdg")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.tb.Fatal(err)
	}
	return dir
}

// Stop ends the daemon as a logout does and returns how it went.
func (s *Session) Stop() error {
	s.once.Do(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { _ = s.cmd.Process.Kill() })
		defer timer.Stop()
		s.end = s.cmd.Wait()
	})
	return s.end
}

// Kill ends the daemon as a crash does, at once. It may be started again.
func (s *Session) Kill() {
	s.once.Do(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
}

// A Client is a connection to the agent socket.
type Client struct {
	sshagent.ExtendedAgent
	conn net.Conn
}

// Close hangs up. The end of the test does so too.
func (c Client) Close() error { return c.conn.Close() }

// Client connects to the agent socket.
func (s *Session) Client() Client {
	s.tb.Helper()
	c, err := net.DialTimeout("unix", s.Socket, 5*time.Second)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { _ = c.Close() })
	return Client{sshagent.NewClient(c), c}
}

// Run runs a program as the session's user would, and returns its output.
func (s *Session) Run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "HOME="+s.Dir, "SSH_AUTH_SOCK="+s.Socket, "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return string(out), err
}

// Must is Run where a failure ends the test.
func (s *Session) Must(name string, args ...string) string {
	s.tb.Helper()
	out, err := s.Run(name, args...)
	if err != nil {
		s.tb.Fatal(err)
	}
	return out
}

// PID is the daemon's process.
func (s *Session) PID() int { return s.cmd.Process.Pid }
