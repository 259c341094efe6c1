package link

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"testing/iotest"
)

func frame(code uint32, size int) []byte {
	b := []byte{0x80, 0x01}
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = binary.BigEndian.AppendUint32(b, code)
	for i := len(b); i < size; i++ {
		b = append(b, byte(i))
	}
	return b
}

func TestReadResponseInPieces(t *testing.T) {
	for _, size := range []int{10, 11, 500, readSize - 1, readSize, readSize + 1, maxFrame} {
		want := frame(0, size)
		for name, r := range map[string]interface{ Read([]byte) (int, error) }{
			"whole":    bytes.NewReader(want),
			"bytewise": iotest.OneByteReader(bytes.NewReader(want)),
			"halves":   iotest.HalfReader(bytes.NewReader(want)),
			"with EOF": iotest.DataErrReader(bytes.NewReader(want)),
		} {
			got, err := readResponse(r, make([]byte, 0, readSize))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %s: %d bytes, %v", size, name, len(got), err)
			}
		}
	}
}

func TestReadResponseRefuses(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"nothing":        {"", "hung up"},
		"half a header":  {string(frame(0, 10)[:5]), "hung up"},
		"half a body":    {string(frame(0, 100)[:50]), "hung up"},
		"too small":      {"\x80\x01\x00\x00\x00\x09\x00\x00\x00\x00", "9 bytes"},
		"4 GiB":          {"\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00", "4294967295 bytes"},
		"above the cap":  {string(frame(0, maxFrame+1)), "16385 bytes"},
		"two in a piece": {string(frame(0, 10)) + string(frame(0, 20)), "followed by 20"},
	} {
		_, err := readResponse(strings.NewReader(c.in), make([]byte, 0, readSize))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadResponse(f *testing.F) {
	f.Add(frame(0, 10))
	f.Add(frame(0x922, 5000))
	f.Add(append(frame(0, 5000), 1))
	f.Add([]byte("\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := readResponse(bytes.NewReader(in), make([]byte, 0, readSize))
		slow, slowErr := readResponse(iotest.OneByteReader(bytes.NewReader(in)), make([]byte, 0, readSize))
		if err != nil {
			return
		}
		whole := len(got) == len(in) || len(got) > readSize // else it saw more than it took
		if !bytes.HasPrefix(in, got) || !whole || cap(got) > maxFrame {
			t.Errorf("%d bytes became %d in a buffer of %d", len(in), len(got), cap(got))
		}
		if slowErr != nil || !bytes.Equal(slow, got) {
			t.Errorf("in pieces: %v", slowErr)
		}
	})
}

func FuzzCommandCode(f *testing.F) {
	f.Add(frame(0x15D, 40))
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, in []byte) {
		code, err := commandCode(in)
		if err != nil {
			return
		}
		if !bytes.Equal(in[2:10], frame(uint32(code), len(in))[2:10]) {
			t.Errorf("% x is not a whole command", in)
		}
	})
}
