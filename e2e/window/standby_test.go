package window

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keyringd/keyringd/internal/daemontest"
)

// rested waits until a standby has made its window and shows nothing.
func (s *screen) rested() {
	s.t.Helper()
	await(s.t, "the window that waits", func() bool {
		return s.ask("search", "--class", "^keyringd$") != "" && s.visible() == ""
	})
}

// What waits shows nothing. When it is asked it is a window like any other: in
// the middle of the screen, with the keyboard, and with its guard.
func TestStandby(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env, "--standby")
	s.rested()
	a.tell("OPTION grab", "OPTION keyringd-kind=passphrase", "OPTION keyringd-pin=1", "OPTION keyringd-subject=work laptop", "SETDESC x")
	a.send("GETPIN")
	s.window()
	await(t, "the middle of 1280 by 800", func() bool {
		x, y, w, h := s.place()
		return x >= 300 && x+w <= 980 && y >= 60 && y+h <= 740
	})
	s.types("47 é1")
	s.keys("Return")
	a.want("D 47 é1|OK")
	s.gone()

	a = start(t, s.env, "--standby")
	s.rested()
	a.tell("OPTION keyringd-kind=confirm", "OPTION keyringd-subject=work laptop")
	a.send("CONFIRM")
	s.keys("Return", "space", "Tab", "Return") // too early, wherever they go
	s.window()
	armed()
	s.keys("Escape")
	a.want(cancelled)

	// It ends like any other, too: asked or not.
	a = start(t, s.env, "--standby")
	a.send("BYE")
	a.want("OK closing connection")
	if err := a.cmd.Wait(); err != nil {
		t.Error(err)
	}
	a = start(t, s.env, "--standby")
	s.rested()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := a.cmd.Wait(); err == nil {
		t.Error("it ended as if it had been answered")
	}
}

// However large everything is drawn, the first window is within the screen, and
// its buttons with it.
func TestLargeScale(t *testing.T) {
	s := newScreen(t)
	a := start(t, append(s.env, "FYNE_SCALE=2"))
	a.tell("OPTION keyringd-kind=passphrase", "OPTION keyringd-subject=work laptop", "OPTION keyringd-host=git.example.org",
		"OPTION keyringd-host-warning=not verified", "OPTION keyringd-reason=sign in as mia", "OPTION keyringd-caller=ssh (4711)",
		"OPTION keyringd-fingerprint=SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM", "OPTION keyringd-remember=600")
	a.send("GETPIN")
	s.window()
	await(t, "a window within 1280 by 800", func() bool {
		x, y, w, h := s.place()
		return w > 900 && x >= 0 && x+w <= 1280 && y >= 0 && y+h <= 800
	})
	s.types("4711")
	s.keys("Return")
	a.want("D 4711|OK")
}

// Where there is no display a standby says so when it is asked.
func TestStandbyWithoutDisplay(t *testing.T) {
	require(t)
	a := start(t, append(os.Environ(), "DISPLAY=", "WAYLAND_DISPLAY="), "--standby")
	a.send("GETPIN")
	if got := a.reply(); !strings.HasPrefix(got, "ERR 83886081 cannot open a window: ") {
		t.Errorf("%q", got)
	}
}

// place is where the window is, and how large.
func (s *screen) place() (x, y, w, h int) {
	s.t.Helper()
	for line := range strings.Lines(s.ask("getwindowgeometry", "--shell", s.visible())) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		n, _ := strconv.Atoi(value)
		switch name {
		case "X":
			x = n
		case "Y":
			y = n
		case "WIDTH":
			w = n
		case "HEIGHT":
			h = n
		}
	}
	return x, y, w, h
}

// waiting returns the keyring-ui that the daemon keeps ready, 0 if there is none.
// The daemon's process outside of its sandbox has started it, where there is one.
func waiting(d *daemontest.Session) int {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path)
		if !strings.Contains(string(line), "--standby") {
			continue
		}
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if by := parent(n); by != 0 && (by == d.PID() || parent(by) == d.PID()) {
			return n
		}
	}
	return 0
}

// parent returns a process's parent, 0 if it has ended.
func parent(pid int) int {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 || fields[0] == "Z" {
		return 0
	}
	n, _ := strconv.Atoi(fields[1])
	return n
}

// The daemon keeps a window ready between questions, and needs it for none.
func TestDaemonKeepsOneReady(t *testing.T) {
	s := newScreen(t)
	d, sign := s.daemon("--remember", "0")
	answer := func() {
		t.Helper()
		done := sign()
		s.window()
		s.types("4711")
		s.keys("Return")
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.gone()
	}
	ready := func() (n int) {
		t.Helper()
		await(t, "one that waits", func() bool { n = waiting(d); return n != 0 })
		return n
	}
	// Somebody has looked at the keys, so that the first question finds one, too.
	guess := ready()
	s.rested()
	answer()
	first := ready()
	if first == guess {
		t.Error("the process that has held a PIN waits for the next")
	}
	s.rested()
	done := sign()
	s.window()
	if owner := s.ask("getwindowpid", s.visible()); owner != fmt.Sprint(first) {
		t.Errorf("process %s shows the question, and %d waits", owner, first)
	}
	s.types("4711")
	s.keys("Return")
	if err := <-done; err != nil {
		t.Error(err)
	}
	second := ready()
	if second == first {
		t.Error("the process that has held a PIN waits for the next")
	}
	for _, harm := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		s.rested()
		if err := syscall.Kill(ready(), harm); err != nil {
			t.Error(err)
		}
		answer()
	}
	last := ready()
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	await(t, "its end with the daemon's", func() bool { return syscall.Kill(last, 0) != nil })
}
