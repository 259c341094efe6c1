package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// chunks is a connection whose bytes arrive a few at a time.
type chunks struct {
	net.Conn  // nil: only what is below may be called
	rest      []byte
	size      int
	onRead    func()
	deadlines int // set minus cleared
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.onRead != nil {
		c.onRead()
	}
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func (c *chunks) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		c.deadlines--
	} else {
		c.deadlines++
	}
	return nil
}

func TestFramesAreCutAtAnyChunkSize(t *testing.T) {
	var want [][]byte
	for _, n := range []int{1, 5, 700, 1020, 1019, 1021, 5000, maxRequest, 3, 300} {
		want = append(want, bytes.Repeat([]byte{byte(n)}, n))
	}
	var stream []byte
	for _, w := range want {
		stream = append(stream, frame(w)...)
	}
	for _, size := range []int{1, 2, 3, 7, 100, 1023, 1024, 4096, 1 << 20} {
		c := &chunks{rest: stream, size: size}
		f := frameReader{conn: c, timeout: time.Second}
		for i, w := range want {
			got, err := f.next()
			if err != nil || !bytes.Equal(got, w) {
				t.Fatalf("chunks of %d: frame %d is %d bytes, err %v; want %d bytes", size, i, len(got), err, len(w))
			}
			if c.deadlines != 0 {
				t.Fatalf("chunks of %d: a deadline is left after frame %d", size, i)
			}
		}
		if _, err := f.next(); err != io.EOF {
			t.Fatalf("after the last frame: %v", err)
		}
	}
}

func TestFrameLengthBounds(t *testing.T) {
	for _, n := range []uint32{0, maxRequest + 1, 1 << 31, 1<<32 - 1} {
		c := &chunks{rest: append(binary.BigEndian.AppendUint32(nil, n), 11, 11, 11), size: 100}
		f := frameReader{conn: c}
		if _, err := f.next(); !errors.Is(err, errFrame) {
			t.Errorf("length %d: %v", n, err)
		}
	}
}

// TestAnnouncedLengthCostsNothing is the defence against clients that announce
// much and send little.
func TestAnnouncedLengthCostsNothing(t *testing.T) {
	c := &chunks{rest: append(binary.BigEndian.AppendUint32(nil, maxRequest), make([]byte, maxRequest)...), size: 333}
	total := len(c.rest)
	f := frameReader{conn: c}
	c.onRead = func() {
		arrived := total - len(c.rest)
		if len(f.buf) > max(minBuffer, 2*(arrived+1)) {
			t.Fatalf("%d bytes reserved after %d arrived", len(f.buf), arrived)
		}
	}
	if _, err := f.next(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.next(); err != io.EOF {
		t.Fatal(err)
	}
	if len(f.buf) > keepBuffer {
		t.Errorf("an idle connection keeps %d bytes", len(f.buf))
	}
}

func TestDecoder(t *testing.T) {
	d := decoder{rest: []byte{7, 0, 0, 1, 0, 0, 0, 0, 2, 'h', 'i'}}
	if b, n, s := d.byte(), d.uint32(), d.string(); b != 7 || n != 256 || string(s) != "hi" || !d.done() {
		t.Errorf("got %d, %d, %q, done %v", b, n, s, d.done())
	}
	for _, short := range [][]byte{nil, {0, 0, 0}, {0, 0, 0, 1}, {255, 255, 255, 255, 0}} {
		d := decoder{rest: short}
		if s := d.string(); s != nil || !d.bad || d.done() {
			t.Errorf("%x: got %q, bad %v", short, s, d.bad)
		}
		if d.byte() != 0 || d.uint32() != 0 || d.string() != nil {
			t.Errorf("%x: values after the first bad one", short)
		}
	}
	if d := (decoder{rest: []byte{1, 2}}); d.byte() != 1 || d.done() {
		t.Error("done with a byte left")
	}
}

func TestMpintAsInSSH(t *testing.T) {
	for _, n := range []int64{0, 1, 127, 128, 255, 256, 32767, 32768, 1 << 40, 1<<62 + 1} {
		got, want := appendMpint(nil, big.NewInt(n)), ssh.Marshal(struct{ N *big.Int }{big.NewInt(n)})
		if !bytes.Equal(got, want) {
			t.Errorf("%d: %x, want %x", n, got, want)
		}
	}
}
