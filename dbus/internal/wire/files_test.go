package wire

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// pair returns the two ends of a unix socket.
func pair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// begin lets a Tap speak to a bus that answers the question for files so.
func begin(t *testing.T, tap *Tap, theirs *net.UnixConn, answer string) error {
	t.Helper()
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(theirs).ReadString('\n')
		_, _ = theirs.Write([]byte(answer))
		said <- line
	}()
	_, err := tap.Write([]byte("BEGIN\r\n"))
	if line := <-said; line != "NEGOTIATE_UNIX_FD\r\n" {
		t.Errorf("asked %q", line)
	}
	return err
}

// withFiles is a message whose header says that count files come with it.
func withFiles(count byte) []byte {
	m := AppendMessage(nil, Header{Type: godbus.TypeMethodCall, Serial: 1, Path: "/", Member: "M", Destination: "u"}, nil)
	// "u" and its zero lie in the last 8 bytes; one more field follows them.
	m = append(m, byte(godbus.FieldUnixFDs), 1, 'u', 0, count, 0, 0, 0)
	m[12] = byte(len(m) - fixedSize)
	return m
}

// TestFilesComeWithTheirMessage: each message has its own files and no other's,
// also where they arrive at once, and what nobody takes is closed.
func TestFilesComeWithTheirMessage(t *testing.T) {
	ours, theirs := pair(t)
	var got [][]*os.File
	tap := NewTap(ours, func(f *Frame) bool {
		if f.Files == 3 {
			return false // nobody takes them
		}
		got = append(got, f.TakeFiles())
		return false
	})
	if err := begin(t, tap, theirs, "AGREE_UNIX_FD\r\n"); err != nil {
		t.Fatal(err)
	}
	var readers []*os.File
	send := func(declared byte, sent int) {
		t.Helper()
		var fds []int
		for range sent {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			readers = append(readers, r)
			t.Cleanup(func() { _ = r.Close() })
			fds = append(fds, int(w.Fd()))
		}
		var control []byte
		if sent > 0 {
			control = syscall.UnixRights(fds...)
		}
		if _, _, err := theirs.WriteMsgUnix(withFiles(declared), control, nil); err != nil {
			t.Fatal(err)
		}
	}
	send(0, 0)
	send(1, 1) // reader 0
	send(2, 1) // reader 1: one is missing, so that none counts
	send(3, 3) // readers 2 to 4: not taken
	send(9, 9) // readers 5 to 13: too many, of which the first few are kept
	send(0, 1) // reader 14: not declared
	send(2, 2) // readers 15 and 16
	_ = theirs.CloseWrite()
	if _, err := tap.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	want := []int{0, 1, 0, maxFiles, 0, 2}
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i, files := range got {
		if len(files) != want[i] {
			t.Errorf("message %d has %d files, want %d", i, len(files), want[i])
		}
	}
	// The last one's second file is the pipe that was sent, and can be written.
	if last := got[len(got)-1]; len(last) == 2 {
		if _, err := last[1].WriteString("x"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err := readers[16].Read(b); err != nil || b[0] != 'x' {
			t.Errorf("%q, %v", b, err)
		}
	}
	for _, files := range got {
		closeAll(files)
	}
	// Once all are closed, every pipe is at its end: nothing was kept.
	for i, r := range readers {
		_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("pipe %d: %d bytes, %v", i, n, err)
		}
	}
}

// TestFilesAreNegotiated: a bus without files is as good, and one that says
// something else is no bus.
func TestFilesAreNegotiated(t *testing.T) {
	for answer, want := range map[string]struct{ agreed, fails bool }{
		"AGREE_UNIX_FD\r\n":             {agreed: true},
		"ERROR not here\r\n":            {},
		"OK 1234\r\n":                   {fails: true},
		string(make([]byte, maxLine*2)): {fails: true},
	} {
		ours, theirs := pair(t)
		tap := NewTap(ours, func(*Frame) bool { return false })
		err := begin(t, tap, theirs, answer)
		if (err != nil) != want.fails || tap.files.agreed != want.agreed {
			t.Errorf("%.20q: %v, agreed %v", answer, err, tap.files.agreed)
		}
	}
}
