package link

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeDevice is a character device in that it keeps the bounds of what is
// written and read.
func fakeDevice(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

func TestDevice(t *testing.T) {
	ours, theirs := fakeDevice(t)
	l := newLink(Address{Kind: Device, Target: "/dev/fake"}, newDevice(ours), nil)
	defer l.Close()
	for _, size := range []int{10, 4000} {
		want := frame(0, size)
		go func() {
			cmd := make([]byte, 1000)
			n, err := theirs.Read(cmd)
			if err != nil || !bytes.Equal(cmd[:n], signCmd) {
				t.Errorf("the TPM got % x in one read, %v", cmd[:n], err)
			}
			theirs.Write(want)
		}()
		rsp, err := l.Send(signCmd)
		if err != nil || !bytes.Equal(rsp, want) {
			t.Fatalf("%d bytes, %v", len(rsp), err)
		}
	}
}

// TestDeviceInPieces is a kernel that keeps the rest after a short read.
func TestDeviceInPieces(t *testing.T) {
	ours, theirs := fakeDevice(t)
	l := newLink(Address{Kind: Device}, newDevice(ours), nil)
	defer l.Close()
	want := frame(0, 100)
	for _, piece := range [][]byte{want[:4], want[4:60], want[60:]} {
		if _, err := theirs.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if rsp, err := l.Send(signCmd); err != nil || !bytes.Equal(rsp, want) {
		t.Fatalf("% x, %v", rsp, err)
	}
}

func TestDeviceThatDoesNotAnswer(t *testing.T) {
	ours, _ := fakeDevice(t)
	d := newDevice(ours)
	cmd := bytes.Clone(signCmd)
	if _, err := d.exchange(cmd, nil, time.Millisecond); !errors.Is(err, errTooSlow) {
		t.Error(err)
	}
	clear(cmd) // the caller's again: the race detector looks on
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestDeviceThatIsClosed(t *testing.T) {
	ours, theirs := fakeDevice(t)
	l := newLink(Address{Kind: Device}, newDevice(ours), nil)
	ended := make(chan error)
	go func() {
		_, err := l.Send(signCmd)
		ended <- err
	}()
	theirs.Read(make([]byte, 100)) // it is waiting now
	l.Close()
	if err := <-ended; !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	if _, err := l.Send(signCmd); !errors.Is(err, ErrGone) {
		t.Error("the next one:", err)
	}
}

func TestDeviceThatIsGone(t *testing.T) {
	ours, theirs := fakeDevice(t)
	theirs.Close()
	l := newLink(Address{Kind: Device, Target: "/dev/x"}, newDevice(ours), nil)
	_, err := l.Send(signCmd)
	if !errors.Is(err, ErrGone) || !errors.Is(err, unix.EPIPE) || !strings.Contains(err.Error(), "device:/dev/x") {
		t.Error(err)
	}
}

func TestDialDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tpm0")
	if _, err := Dial(t.Context(), Address{Kind: Device, Target: path}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	// A file answers with what was written, at the offset that follows: nothing.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Dial(t.Context(), Address{Kind: Device, Target: path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Send(signCmd); !errors.Is(err, ErrGone) {
		t.Errorf("what is no TPM: %v", err)
	}
}

func TestDialWithoutPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may open everything")
	}
	path := filepath.Join(t.TempDir(), "tpm0")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	_, err := Dial(t.Context(), Address{Kind: Device, Target: path}, nil)
	var access *AccessError
	if !errors.As(err, &access) || !errors.Is(err, fs.ErrPermission) || !strings.Contains(access.Hint(), "tss") {
		t.Error(err)
	}
}

func TestDialSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, network := range []string{"unix", "tcp"} {
		where := filepath.Join(dir, "s")
		if network == "tcp" {
			where = "127.0.0.1:0"
		}
		listener, err := net.Listen(network, where)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			conn.Read(make([]byte, 100))
			conn.Write(success)
		}()
		a, err := ParseAddress(network + ":" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		l, err := Dial(t.Context(), a, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rsp, err := l.Send(signCmd); err != nil || !bytes.Equal(rsp, success) {
			t.Errorf("%s: % x, %v", a, rsp, err)
		}
		l.Close()
	}
	for _, a := range []Address{{}, {Kind: Auto}, {Kind: Swtpm}, {Kind: Unix, Target: filepath.Join(dir, "none")}} {
		if _, err := Dial(t.Context(), a, nil); err == nil {
			t.Errorf("%s was dialled", a)
		}
	}
}
