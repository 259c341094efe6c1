package p11rpc

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzMessage: what decodes encodes identically, what does not is one of the
// errors, and memory is bounded by the input.
func FuzzMessage(f *testing.F) {
	for _, framing := range []Framing{FramingOld, FramingNew} {
		for _, response := range []bool{false, true} {
			for _, m := range samples(framing, response) {
				f.Add(m, byte(framing), response)
			}
		}
	}
	f.Add(nested(maxDepth), byte(0), false)
	f.Add(nested(1000), byte(0), false)
	f.Add(append(NewRequest(FindObjectsInit, FramingOld).Message(), 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), byte(0), false)
	f.Fuzz(func(t *testing.T, body []byte, framing byte, response bool) {
		got, err := recode(body, FramingOf(framing), response)
		switch {
		case err == nil && !bytes.Equal(got, body):
			t.Errorf("%x becomes\n%x", body, got)
		case err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrCall) && !errors.Is(err, ErrMechanism):
			t.Errorf("another error: %v", err)
		}
	})
}

// FuzzFrames: a stream is cut into frames that make it up again.
func FuzzFrames(f *testing.F) {
	stream := AppendFrame(nil, Frame{Code: 1, Body: []byte("body")})
	f.Add(AppendFrame(stream, Frame{Code: 2}))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0x40, 0, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewFrameReader(bytes.NewReader(stream), nil)
		total := 0
		for {
			frame, err := r.Next()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrFrame) {
					t.Errorf("another error: %v", err)
				}
				break
			}
			total += headerSize + len(frame.Body)
		}
		if total > len(stream) {
			t.Errorf("%d bytes of frames in a stream of %d", total, len(stream))
		}
		if len(r.buf) > smallBuffer+4*len(stream) {
			t.Errorf("%d bytes for a stream of %d", len(r.buf), len(stream))
		}
	})
}
