package p11rpc

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
)

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestFrames(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 100_000)
	var stream []byte
	bodies := [][]byte{[]byte("one"), {}, long, []byte("two"), long, long, []byte("three")}
	for i, b := range bodies {
		stream = AppendFrame(stream, Frame{Code: uint32(i + 1), Body: b})
	}
	stream = append(stream, 0, 0, 0, 99, 0, 0, 0, 4, 0, 0, 0, 2, 'o', 'p', 't', 's', 'h', 'i')
	bodies = append(bodies, []byte("hi"))
	for name, r := range map[string]io.Reader{
		"whole":         bytes.NewReader(stream),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(stream)),
		"halves":        iotest.HalfReader(bytes.NewReader(stream)),
		"end with data": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			waits := 0
			f := NewFrameReader(r, func(begun bool) {
				if begun {
					waits++
				} else {
					waits--
				}
			})
			var last []byte
			for i, want := range bodies {
				frame, err := f.Next()
				if err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				if !bytes.Equal(frame.Body, want) || frame.Code != uint32(i+1) && frame.Code != 99 {
					t.Fatalf("frame %d: code %d, %d bytes", i, frame.Code, len(frame.Body))
				}
				if waits != 0 {
					t.Fatalf("frame %d: still waits", i)
				}
				last = frame.Body
			}
			if _, err := f.Next(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("at the end: %v", err)
			}
			if string(last) == "hi" {
				t.Error("a frame stays in memory after it was served")
			}
		})
	}
}

func TestBrokenFrames(t *testing.T) {
	whole := AppendFrame(nil, Frame{Code: 1, Body: []byte("body")})
	for n := 1; n < len(whole); n++ {
		if _, err := NewFrameReader(bytes.NewReader(whole[:n]), nil).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for name, header := range map[string][]byte{
		"1 GiB body":                  {0, 0, 0, 1, 0, 0, 0, 0, 0x40, 0, 0, 0},
		"4 GiB options":               {0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"lengths whose sum overflows": {0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1},
		"a byte too long":             {0, 0, 0, 1, 0, 0, 0, 1, 0, 0x10, 0, 0},
		"code 0":                      {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if _, err := NewFrameReader(bytes.NewReader(header), nil).Next(); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A header that announces much costs nothing until it comes.
	announced := []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3}
	if n := allocated(func() { _, _ = NewFrameReader(bytes.NewReader(announced), nil).Next() }); n > 16<<10 {
		t.Errorf("%d bytes allocated for 15", n)
	}
	largest := AppendFrame(nil, Frame{Code: 7, Body: make([]byte, MaxFrame)})
	frame, err := NewFrameReader(bytes.NewReader(largest), nil).Next()
	if err != nil || len(frame.Body) != MaxFrame {
		t.Errorf("largest frame: %d bytes, %v", len(frame.Body), err)
	}
}

// A reader that has served a large frame gives its memory back.
func TestLargeBufferIsGivenBack(t *testing.T) {
	f := NewFrameReader(io.MultiReader(
		bytes.NewReader(AppendFrame(nil, Frame{Code: 1, Body: make([]byte, MaxFrame)})),
		bytes.NewReader(AppendFrame(nil, Frame{Code: 2})),
	), nil)
	for range 2 {
		if _, err := f.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.buf) > smallBuffer {
		t.Errorf("%d bytes kept", len(f.buf))
	}
}
