//go:build bench

package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within is how long a program on the screen may take for anything.
const within = 30 * time.Second

// A screen is an X server with a window manager, and a connection to it that
// hears of every window that appears. It speaks as much of the X protocol
// (X Window System Protocol, release 6.8) as that takes: a program that is run to
// look would take as long as what it looks at.
type screen struct {
	tb   testing.TB
	env  []string
	conn net.Conn
	in   *bufio.Reader
	root uint32
}

// Requests, events and flags of the X protocol (appendix B).
const (
	changeWindowAttributes = 2
	getGeometry            = 14
	getInputFocus          = 43
	getImage               = 73

	errorPacket     = 0
	replyPacket     = 1
	mapNotify       = 19
	configureNotify = 22

	eventMask          = 0x0800
	substructureNotify = 0x80000
	zPixmap            = 2
)

func newScreen(tb testing.TB) *screen {
	tb.Helper()
	for _, name := range []string{"Xvfb", "openbox", "wmctrl"} {
		if _, err := exec.LookPath(name); err != nil {
			tb.Fatal(err)
		}
	}
	home, err := os.MkdirTemp("", "kr")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(home) })
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	background(tb, os.Environ(), w, "Xvfb", "-displayfd", "3", "-screen", "0", "1280x800x24", "-nolisten", "tcp", "-noreset")
	w.Close()
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		tb.Fatalf("Xvfb: %v", err)
	}
	number = strings.TrimSpace(number)
	s := &screen{tb: tb, env: append(os.Environ(), "DISPLAY=:"+number, "HOME="+home, "XDG_RUNTIME_DIR="+home, "LC_ALL=C.UTF-8", "LANGUAGE=",
		"WAYLAND_DISPLAY=", "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent")}
	background(tb, s.env, nil, "openbox", "--sm-disable")
	until(tb, "openbox", func() bool {
		look := exec.Command("wmctrl", "-m")
		look.Env = s.env
		return look.Run() == nil
	})
	if s.conn, err = net.Dial("unix", "/tmp/.X11-unix/X"+number); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.conn.Close() })
	s.in = bufio.NewReader(s.conn)
	s.hello()
	return s
}

// background runs a program for as long as the test.
func background(tb testing.TB, env []string, extra *os.File, name string, args ...string) {
	tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.SysProcAttr = env, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if extra != nil {
		cmd.ExtraFiles = []*os.File{extra}
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// until polls, and ends the test where what it waits for does not come.
func until(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	limit := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			tb.Fatalf("%s did not come", what)
		}
	}
}

// hello opens the connection and asks for news of the root's children.
func (s *screen) hello() {
	s.tb.Helper()
	s.write([]byte{'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0}) // little endian, protocol 11.0, no authorization
	head := s.read(8)
	if head[0] != 1 {
		s.tb.Fatal("the X server refuses")
	}
	body := s.read(4 * int(binary.LittleEndian.Uint16(head[6:])))
	vendor := int(binary.LittleEndian.Uint16(body[16:]))
	screens := 32 + (vendor+3)&^3 + 8*int(body[21])
	s.root = binary.LittleEndian.Uint32(body[screens:])
	s.request(changeWindowAttributes, 0, s.root, eventMask, substructureNotify)
	s.forget()
}

func (s *screen) write(b []byte) {
	s.tb.Helper()
	if _, err := s.conn.Write(b); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *screen) read(n int) []byte {
	s.tb.Helper()
	b := make([]byte, n)
	_ = s.conn.SetReadDeadline(time.Now().Add(within))
	if _, err := io.ReadFull(s.in, b); err != nil {
		s.tb.Fatalf("X server: %v", err)
	}
	return b
}

func (s *screen) request(opcode, data byte, words ...uint32) {
	s.tb.Helper()
	b := binary.LittleEndian.AppendUint16([]byte{opcode, data}, uint16(1+len(words)))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	s.write(b)
}

// packet reads one reply, with all that belongs to it, event or error.
func (s *screen) packet() []byte {
	s.tb.Helper()
	b := s.read(32)
	if b[0] == replyPacket {
		b = append(b, s.read(4*int(binary.LittleEndian.Uint32(b[4:])))...)
	}
	return b
}

// answer reads the answer to the last request, nil for an error. What happened
// before it is not looked at.
func (s *screen) answer() []byte {
	s.tb.Helper()
	for {
		switch b := s.packet(); b[0] {
		case replyPacket:
			return b
		case errorPacket:
			return nil
		}
	}
}

// forget drops what has appeared until now.
func (s *screen) forget() {
	s.tb.Helper()
	s.request(getInputFocus, 0)
	if s.answer() == nil {
		s.tb.Fatal("the X server refuses")
	}
}

// smallest is the least width and height of a window that a person can see; the
// toolkits map smaller ones of their own.
const smallest = 100

// appears waits for the next window, in its frame. It returns when it came onto
// the screen, and when there was something to read in it.
func (s *screen) appears() (mapped, painted time.Time) {
	s.tb.Helper()
	shown := map[uint32]time.Time{}
	for {
		b := s.packet()
		window := binary.LittleEndian.Uint32(b[8:])
		switch b[0] & 0x7f {
		case mapNotify:
			shown[window] = time.Now()
		case configureNotify:
			// Some frames grow to their size on the screen.
		default:
			continue
		}
		if shown[window].IsZero() {
			continue
		}
		s.request(getGeometry, 0, window)
		if b = s.answer(); b == nil {
			continue // it has gone already
		}
		width, height := uint32(binary.LittleEndian.Uint16(b[16:])), uint32(binary.LittleEndian.Uint16(b[18:]))
		if width >= smallest && height >= smallest {
			until(s.tb, "a picture", func() bool { return s.painted(window, width, height) })
			return shown[window], time.Now()
		}
	}
}

// painted reports whether there is more than an empty area in a window: text,
// whose edges are smooth, has many colours. The title bar does not count.
func (s *screen) painted(window, width, height uint32) bool {
	const title, colours = 40, 16
	s.request(getImage, zPixmap, window, title<<16, width|(height-title)<<16, 0xffffff)
	b := s.answer()
	if b == nil {
		return false // not on the screen as a whole yet
	}
	seen := map[uint32]bool{}
	for pixels := b[32:]; len(pixels) >= 4 && len(seen) < colours; pixels = pixels[4:] {
		seen[binary.LittleEndian.Uint32(pixels)&0xffffff] = true
	}
	return len(seen) >= colours
}

// memory returns the resident memory of a process in MB, and its share of it
// ("-" where that may not be seen: of a process that is closed to others, only
// root may).
func memory(tb testing.TB, pid int) (resident float64, share string) {
	tb.Helper()
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(text)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "Pss: %f kB", &kb); err == nil {
			return rss(tb, pid), fmt.Sprintf("%.0f", kb/1024)
		}
	}
	return rss(tb, pid), "-"
}
