// Package window drives the real keyring-ui on a real X server, as a person
// does: with a keyboard.
package window

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/daemontest"
)

// programs are what these tests need beside Go. A build of keyring-ui needs the
// headers of X11, OpenGL and Wayland as well.
var programs = []string{"Xvfb", "openbox", "xdotool", "wmctrl", "setxkbmap", "gcc", "pkg-config"}

// binary is the keyring-ui under test.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "kr")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if lacking() == "" {
			// With the flags of `make build`: Fyne is compiled once for all.
			binary = filepath.Join(dir, "keyring-ui")
			build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "no_emoji,no_metadata,migrated_fynedo",
				"-ldflags", "-s -w -X main.version=test", "-o", binary, "github.com/keyringd/keyringd/cmd/keyring-ui")
			build.Env = append(os.Environ(), "CGO_ENABLED=1")
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "building keyring-ui: %v\n%s", err, out)
				return 1
			}
		}
		return daemontest.Main(m)
	}())
}

// lacking names what is missing, "" for nothing.
func lacking() string {
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			return name
		}
	}
	for _, library := range []string{"x11", "gl", "xkbcommon", "wayland-client"} {
		if exec.Command("pkg-config", "--exists", library).Run() != nil {
			return "development files of " + library
		}
	}
	return ""
}

func require(t *testing.T) {
	t.Helper()
	if missing := lacking(); missing != "" {
		bustest.Missing(t, missing)
	}
}

// await polls until done, and fails the test after a while.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s did not come", what)
		}
	}
}

// A screen is an X server, with a window manager.
type screen struct {
	t       *testing.T
	display string
	env     []string
}

// run starts a program for as long as the test.
func run(t *testing.T, env []string, extra *os.File, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if extra != nil {
		cmd.ExtraFiles = []*os.File{extra}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// server starts an X server of its own, and returns its display.
func server(t *testing.T, args ...string) string {
	t.Helper()
	require(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	run(t, os.Environ(), w, "Xvfb", append([]string{"-displayfd", "3", "-screen", "0", "1280x800x24", "-nolisten", "tcp", "-noreset"}, args...)...)
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb: %v", err)
	}
	return ":" + strings.TrimSpace(line)
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	s := &screen{t: t, display: server(t)}
	home, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	s.env = append(os.Environ(), "DISPLAY="+s.display, "HOME="+home, "LC_ALL=C.UTF-8", "LANGUAGE=", "WAYLAND_DISPLAY=",
		"DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent", "XDG_RUNTIME_DIR="+home)
	run(t, s.env, nil, "openbox", "--sm-disable")
	await(t, "openbox", func() bool { return s.tool("wmctrl", "-m") == nil })
	// A layout with an é of its own: one that xdotool borrows a key for comes
	// too soon for whoever did not look at the new layout yet.
	if err := s.tool("setxkbmap", "fr"); err != nil {
		t.Fatal(err)
	}
	return s
}

// tool runs a program on the screen, which ends soon or fails.
func (s *screen) tool(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
	}
	return nil
}

// visible returns keyring-ui's window, "" if none is on screen.
func (s *screen) visible() string { return s.ask("search", "--onlyvisible", "--class", "^keyringd$") }

// ask returns what xdotool says, "" if it fails.
func (s *screen) ask(args ...string) string {
	cmd := exec.Command("xdotool", args...)
	cmd.Env = s.env
	out, _ := cmd.Output()
	return strings.TrimSpace(string(out))
}

// window waits until keyring-ui's window is on screen and has the keyboard. What
// the window manager says of it alone may be of another with the same number,
// which is gone.
func (s *screen) window() {
	s.t.Helper()
	await(s.t, "the window", func() bool {
		id := s.visible()
		return id != "" && id == s.ask("getactivewindow") && id == s.ask("getwindowfocus", "-f")
	})
}

// gone waits until no window is there.
func (s *screen) gone() {
	s.t.Helper()
	await(s.t, "the window's end", func() bool { return s.visible() == "" })
}

func (s *screen) keys(keys ...string) {
	s.t.Helper()
	if err := s.tool("xdotool", append([]string{"key", "--delay", "20"}, keys...)...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) types(text string) {
	s.t.Helper()
	if err := s.tool("xdotool", "type", "--delay", "25", text); err != nil {
		s.t.Fatal(err)
	}
}

// armed waits until a question takes an answer. What ends the guard is a clock.
func armed() { <-time.After(900 * time.Millisecond) }

// An asker is a client of one keyring-ui.
type asker struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// start runs keyring-ui and reads its greeting.
func start(t *testing.T, env []string, args ...string) *asker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = env
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	a := &asker{t: t, cmd: cmd, in: in, lines: bufio.NewScanner(out)}
	if got := a.reply(); got != "OK Pleased to meet you" {
		t.Fatalf("greeting %q", got)
	}
	return a
}

// tell sends commands that only set something.
func (a *asker) tell(lines ...string) {
	a.t.Helper()
	for _, line := range lines {
		a.send(line)
		if got := a.reply(); got != "OK" {
			a.t.Fatalf("%s: %q", line, got)
		}
	}
}

func (a *asker) send(line string) {
	a.t.Helper()
	if _, err := fmt.Fprintln(a.in, line); err != nil {
		a.t.Fatal(err)
	}
}

// reply returns the lines up to OK or ERR, joined.
func (a *asker) reply() string {
	a.t.Helper()
	var all []string
	for a.lines.Scan() {
		all = append(all, a.lines.Text())
		if word, _, _ := strings.Cut(a.lines.Text(), " "); word == "OK" || word == "ERR" {
			return strings.Join(all, "|")
		}
	}
	return strings.Join(append(all, "EOF"), "|")
}

func (a *asker) want(want string) {
	a.t.Helper()
	if got := a.reply(); got != want {
		a.t.Errorf("answer %q, want %q", got, want)
	}
}
