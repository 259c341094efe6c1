package assuan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/keyringd/keyringd/internal/secret"
)

func text(b secret.Bytes) string {
	s := ""
	b.Use(func(p []byte) { s = string(p) })
	b.Wipe()
	return s
}

// pair connects a client with a server, which the test's end waits for.
func pair(t *testing.T, handlers map[string]Handler) *Client {
	t.Helper()
	cr, sw := io.Pipe()
	sr, cw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := NewServer(sr, sw, handlers).Serve("ready")
		sw.Close()
		sr.Close()
		done <- err
	}()
	c := NewClient(cr, cw)
	t.Cleanup(func() {
		cw.Close()
		cr.Close()
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("server: %v", err)
		}
		c.Close()
	})
	if err := c.Greeting(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConversation(t *testing.T) {
	long := strings.Repeat("long % \n\\ line\xff\x00", 500)
	status := map[string]string{}
	c := pair(t, map[string]Handler{
		"ECHO": func(r *Request) error {
			b := secret.From([]byte(r.Arg))
			defer b.Wipe()
			return r.Data(b)
		},
		"LONG": func(r *Request) error { return r.Data(secret.From([]byte(long))) },
		"WATCH": func(r *Request) error {
			return errors.Join(r.Status("PIN_REPEATED", ""), r.Status("NOTE", "100% of\nit"))
		},
		"REFUSE": func(*Request) error { return Errorf(CodeCanceled, "Operation cancelled") },
		"BREAK":  func(*Request) error { return errors.New("broken\nby something") },
		"ASK": func(r *Request) error {
			_, err := r.Inquire("QUALITY", "a b", 10)
			return err
		},
	})
	c.Status = func(k, s string) { status[k] = s }
	for _, test := range []struct {
		command, data string
		code          uint32
	}{
		{"ECHO " + Escape("1234"), "1234", 0},
		{"echo " + Escape("50 % of\na \\line\\ "), "50 % of\na \\line\\ ", 0},
		{"ECHO", "", 0},
		{"LONG", long, 0},
		{"# a comment\nnop", "", ^uint32(0)},
		{"NOP", "", 0},
		{"RESET", "", 0},
		{"WATCH", "", 0},
		{"REFUSE", "", CodeCanceled},
		{"BREAK", "", CodeGeneral},
		{"ASK", "", CodeCanceled},
		{"WHAT", "", CodeUnknownCommand},
		{"ECHO 1%2", "", CodeParameter},
		{"NOP", "", 0},
	} {
		data, err := c.Do(test.command)
		var e *Error
		switch {
		case test.code == ^uint32(0):
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("%q: error %v", test.command, err)
			}
		case test.code != 0:
			if !errors.As(err, &e) || e.Reason() != test.code || e.Code>>24 != 5 {
				t.Errorf("%q: error %v, want code %d", test.command, err, test.code)
			}
		case err != nil:
			t.Errorf("%q: %v", test.command, err)
		}
		if got := text(data); got != test.data {
			t.Errorf("%q: data %q", test.command, got)
		}
	}
	if got := fmt.Sprint(status); got != "map[NOTE:100%25 of%0Ait PIN_REPEATED:]" {
		t.Errorf("status lines: %v", got)
	}
	if _, err := c.Do("BYE"); err != nil {
		t.Error(err)
	}
	if _, err := c.Do("NOP"); err == nil {
		t.Error("the server goes on after BYE")
	}
}

func TestInquire(t *testing.T) {
	for _, test := range []struct {
		answer, want string
		err          error
	}{
		{"D 12\nD %333\nEND\n", "1233", nil},
		{"END\n", "", nil},
		{"# think\n\nD 1\nEND\n", "1", nil},
		{"CAN\n", "", Errorf(CodeCanceled, "")},
		{"D 12345678901\nEND\n", "", ErrTooLong},
		{"D 1%\nEND\n", "", ErrProtocol},
		{"NOP\n", "", ErrProtocol},
		{"D 1\n", "", io.ErrUnexpectedEOF},
	} {
		var got string
		var err error
		var out bytes.Buffer
		s := NewServer(strings.NewReader("ASK\n"+test.answer), &out, map[string]Handler{
			"ASK": func(r *Request) error {
				var b secret.Bytes
				b, err = r.Inquire("PIN", "a%b", 10)
				got = text(b)
				return nil
			},
		})
		_ = s.Serve("x")
		var e *Error
		if errors.As(test.err, &e) {
			var f *Error
			if !errors.As(err, &f) || f.Code != e.Code {
				t.Errorf("%q: error %v", test.answer, err)
			}
		} else if !errors.Is(err, test.err) {
			t.Errorf("%q: error %v, want %v", test.answer, err, test.err)
		}
		if got != test.want {
			t.Errorf("%q: %q", test.answer, got)
		}
		if !strings.HasPrefix(out.String(), "OK x\nINQUIRE PIN a%25b\n") {
			t.Errorf("%q: sent %q", test.answer, out.String())
		}
	}
}

func TestReplies(t *testing.T) {
	for _, test := range []struct {
		in, data string
		err      error
	}{
		{"OK\n", "", nil},
		{"OK Pleased to meet you\r\n", "", nil},
		{"# comment\n\nS PROGRESS 1\nD 12\nD 34\nOK\n", "1234", nil},
		{"D a%25b%0a\nOK\n", "a%b\n", nil},
		{"D \nOK\n", "", nil},
		{"D  x\nOK\n", " x", nil},
		{"ERR 83886179 Operation cancelled <Pinentry>\n", "", &Error{}},
		{"ERR\n", "", ErrProtocol},
		{"ERR -5 x\n", "", ErrProtocol},
		{"ERR 99999999999 x\n", "", ErrProtocol},
		{"D 1%2\nOK\n", "", ErrProtocol},
		{"D 1%zz\nOK\n", "", ErrProtocol},
		{"D1234\nOK\n", "", ErrProtocol},
		{"hello\n", "", ErrProtocol},
		{"\x00\x01\x02\n", "", ErrProtocol},
		{"D 1234\n", "", io.EOF},
		{"D 1234", "", io.ErrUnexpectedEOF},
		{"", "", io.EOF},
		{strings.Repeat("x", MaxLine+3), "", ErrTooLong},
		{"D " + strings.Repeat("x", MaxLine-2) + "\r\nOK\n", strings.Repeat("x", MaxLine-2), nil},
		{strings.Repeat("D "+strings.Repeat("x", MaxLine-2)+"\n", 20), "", ErrTooLong},
		{strings.Repeat("S x\n", maxReply), "", ErrTooLong},
		{strings.Repeat("\n", maxReply+1), "", ErrTooLong},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "by byte": iotest.OneByteReader, "with EOF": iotest.DataErrReader,
		} {
			c := NewClient(wrap(strings.NewReader(test.in)), io.Discard)
			data, err := c.reply()
			var e *Error
			if want := test.err; errors.As(want, &e) {
				if !errors.As(err, &e) || e.Code != 83886179 || e.Reason() != CodeCanceled {
					t.Errorf("%.40q %s: error %v", test.in, name, err)
				}
			} else if !errors.Is(err, want) {
				t.Errorf("%.40q %s: error %v, want %v", test.in, name, err, want)
			}
			if got := text(data); got != test.data {
				t.Errorf("%.40q %s: data %.40q", test.in, name, got)
			}
			c.Close()
		}
	}
}

func TestUnsendableCommands(t *testing.T) {
	var out bytes.Buffer
	c := NewClient(strings.NewReader("OK\nOK\nOK\n"), &out)
	for command, want := range map[string]error{
		"SETDESC " + strings.Repeat("x", MaxLine): ErrTooLong,
		"SETDESC a\nBYE": ErrProtocol,
		"SETDESC a\rb":   ErrProtocol,
	} {
		if _, err := c.Do(command); !errors.Is(err, want) {
			t.Errorf("%.20q: %v", command, err)
		}
	}
	if out.Len() > 0 {
		t.Errorf("sent %q", out.String())
	}
	c.Close()
	if _, err := c.Do("NOP"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close: %v", err)
	}
}

// What was read and written does not stay in the buffers.
func TestBuffersAreCleared(t *testing.T) {
	const canary = "canary4711"
	var out bytes.Buffer
	c := NewClient(io.MultiReader(strings.NewReader("D "+canary+"\nOK "+canary+"\n"), strings.NewReader("ERR 1 "+canary+"\n")), &out)
	data, err := c.reply()
	if err != nil || text(data) != canary {
		t.Fatal(err)
	}
	if _, err := c.Do("X " + canary); err == nil {
		t.Fatal("no error")
	}
	for _, b := range []secret.Bytes{c.in, c.out} {
		b.Use(func(p []byte) {
			if bytes.Contains(p, []byte(canary[:6])) {
				t.Errorf("buffer holds %q", bytes.Trim(p, "\x00"))
			}
		})
	}
}

// What a line costs does not depend on how long it is.
func TestReadingAllocatesNoLines(t *testing.T) {
	const lines = 20
	allocs := func(line string) float64 {
		in := strings.NewReader(strings.Repeat(line+"\n", lines) + "OK\n")
		c := NewClient(in, io.Discard)
		defer c.Close()
		return testing.AllocsPerRun(100, func() {
			_, _ = in.Seek(0, io.SeekStart)
			if _, err := c.reply(); err != nil {
				t.Fatal(err)
			}
		})
	}
	short, long := allocs("# x"), allocs("# "+strings.Repeat("x", MaxLine-2))
	// Half a line's worth of slack: the race detector and the collector allocate
	// now and then. A buffer for each line would be 20 more.
	if long > short+lines/2 || short > 5*lines {
		t.Errorf("%d lines: %v allocations short, %v long", lines, short, long)
	}
}

func TestErrorShowsItsCode(t *testing.T) {
	e := Errorf(CodeNotConfirmed, "no %s", "way\x1b")
	if e.Code != 83886194 || e.Error() != `error 83886194 "no way\x1b"` {
		t.Errorf("%d %s", e.Code, e)
	}
	if Errorf(CodeCanceled, "").Code != 83886179 || Errorf(CodeTimeout, "").Code != 83886142 {
		t.Error("codes are not pinentry's")
	}
}

// A server that says more than it was asked for is not asked any more: what it
// said could be taken for the answer.
func TestAnswerWithoutAQuestion(t *testing.T) {
	for more, fine := range map[string]bool{
		"OK\n": false, "D x\nOK\n": false, "O": false, "# all is well\nERR 1 no\n": false,
		"": true, "\r\n": true, "# all is well\n\n": true, "S PROGRESS\n": true,
	} {
		var sent bytes.Buffer
		c := NewClient(io.MultiReader(strings.NewReader("OK ready\n"+more), strings.NewReader("OK\n")), &sent)
		if err := c.Greeting(); err != nil {
			t.Fatal(err)
		}
		_, err := c.Do("CONFIRM")
		if fine && err != nil || !fine && (!errors.Is(err, ErrProtocol) || sent.Len() > 0) {
			t.Errorf("after %q: %v, sent %q", more, err, sent.String())
		}
		c.Close()
		if _, err := c.Do("BYE"); err == nil {
			t.Errorf("after %q: a command after the end", more)
		}
	}
}
