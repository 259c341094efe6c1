package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/keyringd/keyringd/internal/secret"
)

const (
	contentFormat  = "keyringd archive"
	contentVersion = 1
)

// Write writes collections to w, encrypted with passphrase, of which nobody
// checks that it is a good one. An error leaves half an archive behind, which
// Read refuses; ErrTooLarge is one of them.
func Write(w io.Writer, collections []Collection, passphrase secret.Bytes) error {
	return write(w, collections, passphrase, params{threads: 4, passes: 3, memory: 64 << 10})
}

// write does so at a cost.
func write(w io.Writer, collections []Collection, passphrase secret.Bytes, p params) error {
	s, err := newSealer(w, passphrase, p)
	if err != nil {
		return fmt.Errorf("write an archive: %w", err)
	}
	defer s.wipe()
	e := encoder{w: s}
	e.collections(collections)
	if e.err == nil {
		e.err = s.close()
	}
	if e.err != nil {
		return fmt.Errorf("write an archive: %w", e.err)
	}
	return nil
}

// WritePlain writes collections to w as JSON that everybody can read. It is for
// a user who said that this is what they want.
func WritePlain(w io.Writer, collections []Collection) error {
	e := encoder{w: w}
	e.collections(collections)
	if e.err != nil {
		return fmt.Errorf("write an archive: %w", e.err)
	}
	return nil
}

// An encoder writes JSON, indented for people. It is not encoding/json, which
// keeps what it wrote: secrets go from their own memory to w in small pieces.
type encoder struct {
	w       io.Writer
	written int
	err     error
}

func (e *encoder) write(p []byte) {
	if e.err != nil {
		return
	}
	if e.written += len(p); e.written > maxContent {
		e.err = ErrTooLarge
		return
	}
	_, e.err = e.w.Write(p)
}

func (e *encoder) text(s string) { e.write([]byte(s)) }

// field writes a member with a value that is not secret.
func (e *encoder) field(indent, name string, value any, more bool) {
	// Maps come out sorted, so that the same collections are the same archive.
	v, err := marshal(value)
	if err != nil && e.err == nil {
		e.err = err
	}
	e.text(indent + `"` + name + `": `)
	e.write(v)
	if more {
		e.text(",")
	}
	e.text("\n")
}

// marshal is json.Marshal, but leaves < > & as they are: this is not HTML.
func marshal(value any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func (e *encoder) collections(all []Collection) {
	e.text("{\n")
	e.field("  ", "format", contentFormat, true)
	e.field("  ", "version", contentVersion, true)
	e.text(`  "collections": [`)
	for n, c := range all {
		if n > 0 {
			e.text(",")
		}
		e.text("\n    {\n")
		e.collection(c)
		e.text("    }")
	}
	e.text("\n  ]\n}\n")
}

func (e *encoder) collection(c Collection) {
	const indent = "      "
	e.field(indent, "id", c.ID, true)
	if len(c.Aliases) > 0 {
		e.field(indent, "aliases", c.Aliases, true)
	}
	e.field(indent, "label", c.Label, true)
	e.times(indent, c.Created, c.Modified)
	e.text(indent + `"items": [`)
	for n, i := range c.Items {
		if n > 0 {
			e.text(",")
		}
		e.text("\n        {\n")
		e.item(i)
		e.text("        }")
	}
	e.text("\n" + indent + "]\n")
}

func (e *encoder) item(i Item) {
	const indent = "          "
	e.field(indent, "label", i.Label, true)
	attributes := i.Attributes
	if attributes == nil {
		attributes = map[string]string{}
	}
	e.field(indent, "attributes", attributes, true)
	if i.ContentType != "" {
		e.field(indent, "contentType", i.ContentType, true)
	}
	e.times(indent, i.Created, i.Modified)
	i.Secret.Use(func(p []byte) {
		if utf8.Valid(p) {
			e.text(indent + `"secret": "`)
			e.escape(p)
		} else {
			e.text(indent + `"secretBase64": "`)
			e.base64(p)
		}
	})
	e.text("\"\n")
}

func (e *encoder) times(indent string, created, modified time.Time) {
	e.time(indent, "created", created)
	e.time(indent, "modified", modified)
}

// time leaves out what is no time or has no RFC 3339 form: an odd clock is no
// reason not to write an archive.
func (e *encoder) time(indent, name string, t time.Time) {
	if t = t.UTC(); !t.IsZero() && t.Year() >= 0 && t.Year() <= 9999 {
		e.field(indent, name, t, true)
	}
}

// escape writes the inside of a JSON string.
func (e *encoder) escape(p []byte) {
	const hex = "0123456789abcdef"
	done := 0
	for n, c := range p {
		if c >= 0x20 && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		e.write(p[done:n])
		done = n + 1
		switch c {
		case '"', '\\':
			e.write([]byte{'\\', c})
		case '\n':
			e.text(`\n`)
		default:
			e.write([]byte{'\\', 'u', '0', '0', hex[c>>4], hex[c&15]})
		}
	}
	e.write(p[done:])
}

// base64 writes p in pieces, of which the memory is used again and wiped.
func (e *encoder) base64(p []byte) {
	var out [1024]byte
	defer clear(out[:])
	const step = len(out) / 4 * 3
	for len(p) > 0 {
		n := min(step, len(p))
		base64.StdEncoding.Encode(out[:], p[:n])
		e.write(out[:base64.StdEncoding.EncodedLen(n)])
		p = p[n:]
	}
}
