package assuan

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
)

// Any data comes out as it went in, in lines that keep to the limit.
func FuzzDataRoundTrip(f *testing.F) {
	f.Add([]byte("1234"))
	f.Add([]byte("a%b\\c\r\nd\x00\xff"))
	f.Add(bytes.Repeat([]byte("%"), MaxLine))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxData {
			return
		}
		var sent bytes.Buffer
		w := newWire(nil, &sent)
		defer w.wipe()
		if err := w.writeData(data); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(sent.String()) {
			if len(line) > MaxLine+1 || !strings.HasPrefix(line, "D ") {
				t.Fatalf("line of %d bytes: %q", len(line), line)
			}
		}
		sent.WriteString("OK\n")
		c := NewClient(&sent, io.Discard)
		defer c.Close()
		got, err := c.reply()
		if err != nil {
			t.Fatal(err)
		}
		if s := text(got); s != string(data) {
			t.Fatalf("sent %q, received %q", data, s)
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("a%b\nc")
	f.Fuzz(func(t *testing.T, s string) {
		e := Escape(s)
		if strings.ContainsAny(e, "\r\n\x00") {
			t.Fatalf("%q", e)
		}
		if got, err := unescape([]byte(e)); err != nil || string(got) != s {
			t.Fatalf("%q: %q %v", s, got, err)
		}
	})
}

// A client takes any bytes, never returns more than it was sent, and what it
// takes as data it would send as the same data.
func FuzzReply(f *testing.F) {
	f.Add([]byte("D 12\nS X\n# c\nD %2533\nOK\n"))
	f.Add([]byte("ERR 83886179 x\n"))
	f.Add([]byte("INQUIRE QUALITY x\nOK\n"))
	f.Add([]byte("D 1%2\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var sent bytes.Buffer
		c := NewClient(bytes.NewReader(in), &sent)
		defer c.Close()
		data, err := c.reply()
		got := text(data)
		if err != nil && got != "" {
			t.Fatalf("data with an error: %q", got)
		}
		if len(got) > len(in) || sent.Len() > len(in) {
			t.Fatalf("%d bytes in, %d bytes of data, %d sent", len(in), len(got), sent.Len())
		}
	})
}

// A server takes any bytes and answers each command once.
func FuzzServer(f *testing.F) {
	f.Add([]byte("OPTION grab\nSETDESC a%0Ab\nGETPIN\nBYE\n"))
	f.Add([]byte("ASK\nD 12\nEND\nASK\nCAN\n"))
	f.Add([]byte("ASK\nD 1%\n"))
	f.Add([]byte(strings.Repeat("x", 1100)))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		total := 0
		s := NewServer(bytes.NewReader(in), &out, map[string]Handler{
			"GETPIN": func(r *Request) error {
				b := secret.From([]byte("1234"))
				defer b.Wipe()
				return r.Data(b)
			},
			"SETDESC": func(r *Request) error {
				if strings.Contains(r.Arg, "fail") {
					return errors.New(r.Arg)
				}
				return r.Status("DESC", r.Arg)
			},
			"ASK": func(r *Request) error {
				b, err := r.Inquire("PIN", "", 100)
				total += b.Len()
				b.Wipe()
				return err
			},
		})
		_ = s.Serve("ready")
		if total > len(in) {
			t.Fatalf("%d bytes from %d", total, len(in))
		}
		for line := range strings.Lines(out.String()) {
			if len(line) > MaxLine+1 || !strings.HasSuffix(line, "\n") {
				t.Fatalf("reply line %q", line)
			}
		}
	})
}
