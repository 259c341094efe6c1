package assuan

import (
	"bytes"
	"fmt"
	"io"

	"github.com/keyringd/keyringd/internal/secret"
)

// A wire reads and writes lines. What it has read and not yet given away, and
// what it writes, is in locked memory.
type wire struct {
	r        io.Reader
	w        io.Writer
	in, out  secret.Bytes
	from, to int // unread bytes of in
}

func newWire(r io.Reader, w io.Writer) wire {
	// A line, its CR and LF.
	return wire{r: r, w: w, in: secret.New(MaxLine + 2), out: secret.New(MaxLine + 2)}
}

// wipe forgets all that was read and written.
func (w *wire) wipe() {
	w.in.Wipe()
	w.out.Wipe()
}

// ahead reports whether something has been read that is part of a reply, which
// comments, status and empty lines alone are not.
func (w *wire) ahead() (ahead bool) {
	w.in.Use(func(buf []byte) {
		if buf == nil {
			return
		}
		for line := range bytes.Lines(buf[w.from:w.to]) {
			kind, _ := word(bytes.TrimRight(line, "\r\n"))
			if len(kind) > 0 && kind[0] != '#' && string(kind) != "S" {
				ahead = true
			}
		}
	})
	return ahead
}

// readLine calls fn with the next line, without its end; fn must not keep it.
func (w *wire) readLine(fn func(line []byte) error) error {
	err := fmt.Errorf("read: %w", io.ErrClosedPipe)
	w.in.Use(func(buf []byte) {
		if buf != nil {
			err = w.readInto(buf, fn)
		}
	})
	return err
}

func (w *wire) readInto(buf []byte, fn func(line []byte) error) error {
	seen := 0 // of the unread bytes, those known to hold no line feed
	for {
		if i := bytes.IndexByte(buf[w.from+seen:w.to], '\n'); i >= 0 {
			line := buf[w.from : w.from+seen+i]
			w.from += seen + i + 1
			err := fn(bytes.TrimSuffix(line, []byte{'\r'}))
			clear(line)
			return err
		}
		seen = w.to - w.from
		if w.from > 0 {
			n := copy(buf, buf[w.from:w.to])
			clear(buf[n:w.to])
			w.from, w.to = 0, n
		}
		if w.to == len(buf) {
			return fmt.Errorf("line: %w", ErrTooLong)
		}
		n, err := w.r.Read(buf[w.to:])
		w.to += n
		if n == 0 && err != nil {
			if err == io.EOF && w.to > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// writeLine writes what build appends to its argument, and a line feed.
func (w *wire) writeLine(build func(line []byte) []byte) error {
	err := fmt.Errorf("write: %w", io.ErrClosedPipe)
	w.out.Use(func(buf []byte) {
		if buf == nil {
			return
		}
		defer clear(buf)
		line := build(buf[:0:MaxLine])
		if len(line) > MaxLine {
			clear(line) // it did not fit, and moved
			err = fmt.Errorf("line: %w", ErrTooLong)
			return
		}
		if bytes.ContainsAny(line, "\r\n") {
			err = fmt.Errorf("line break in a line: %w", ErrProtocol)
			return
		}
		_, err = w.w.Write(append(buf[:len(line)], '\n'))
	})
	return err
}

// writeData writes data in as many D lines as it needs.
func (w *wire) writeData(data []byte) error {
	for len(data) > 0 {
		n := 0
		if err := w.writeLine(func(line []byte) []byte {
			line = append(line, "D "...)
			for n < len(data) && len(line)+3 <= MaxLine {
				line = appendEscaped(line, data[n:n+1])
				n++
			}
			return line
		}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// appendEscaped appends s with every byte escaped that a line cannot hold, or
// that could be read as something else at its end.
func appendEscaped(dst, s []byte) []byte {
	const hex = "0123456789ABCDEF"
	for _, c := range s {
		if c < ' ' || c == '%' || c == '\\' || c == 0x7f {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// appendPlusEscaped is appendEscaped for a place where "+" stands for a space.
func appendPlusEscaped(dst []byte, c byte) []byte {
	switch c {
	case ' ':
		return append(dst, '+')
	case '+':
		return append(dst, "%2B"...)
	}
	return appendEscaped(dst, []byte{c})
}

// Escape returns text as it is written in a command's argument.
func Escape(text string) string { return string(appendEscaped(nil, []byte(text))) }

// unescape decodes s in place, and returns the shorter slice. A % that is not
// followed by two hex digits is an error: guessing what somebody's PIN is
// costs a try.
func unescape(s []byte) ([]byte, error) {
	n := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return nil, fmt.Errorf("escape cut short: %w", ErrProtocol)
			}
			hi, ok1 := unhex(s[i+1])
			lo, ok2 := unhex(s[i+2])
			if !ok1 || !ok2 {
				return nil, fmt.Errorf("malformed escape: %w", ErrProtocol)
			}
			c = hi<<4 | lo
			i += 2
		}
		s[n] = c
		n++
	}
	return s[:n], nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// word splits a line at its first space.
func word(line []byte) (first, rest []byte) {
	first, rest, _ = bytes.Cut(line, []byte{' '})
	return first, rest
}

// collector gathers data in locked memory that grows with what arrives.
type collector struct {
	b     secret.Bytes
	n     int
	limit int
}

func (c *collector) add(p []byte) error {
	if len(p) > c.limit-c.n {
		return fmt.Errorf("data: %w", ErrTooLong)
	}
	if need := c.n + len(p); need > c.b.Len() {
		bigger := secret.New(min(max(need, 2*c.b.Len()), c.limit))
		bigger.Use(func(to []byte) { c.b.Use(func(from []byte) { copy(to, from[:c.n]) }) })
		c.b.Wipe()
		c.b = bigger
	}
	c.b.Use(func(to []byte) { copy(to[c.n:], p) })
	c.n += len(p)
	return nil
}

// take returns what was gathered, exactly as long as it is.
func (c *collector) take() secret.Bytes {
	var out secret.Bytes
	c.b.Use(func(p []byte) { out = secret.Copy(p[:c.n]) })
	c.wipe()
	return out
}

func (c *collector) wipe() {
	c.b.Wipe()
	c.b, c.n = secret.Bytes{}, 0
}
