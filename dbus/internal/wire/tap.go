package wire

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxFields bounds the header fields of a message that is looked at: paths
	// and names. A message with more is not ours to answer.
	maxFields = 64 << 10
	// maxPassed bounds the body of a message that is handed to godbus.
	maxPassed = 1 << 20
	// maxFiles is how many of a message's files are kept. No call takes more than
	// one; a bus may deliver hundreds.
	maxFiles = 4
	// writeTimeout is how long the bus may take to take a message. One that
	// does not is as good as gone: the connection is given up, and made anew.
	writeTimeout = 10 * time.Second
)

// A Frame is one message on its way in. It is valid until the function that
// got it returns.
type Frame struct {
	Header
	head []byte // the fixed part and the fields
	tap  *Tap
	read bool
}

// Body reads the message's body, all of it: look at BodySize first. A second
// call is a mistake.
func (f *Frame) Body() ([]byte, error) {
	f.read = true
	b := make([]byte, f.BodySize)
	if err := f.tap.readFull(b); err != nil {
		clear(b) // what came of it may be a part of a secret
		return nil, err
	}
	return b, nil
}

// TakeFiles returns the files that came with the message, at most a few, for
// the receiver to close; an argument of type h is a place in that list. What
// nobody takes is closed. They came with the head or come with the body, so that
// the body is read first.
func (f *Frame) TakeFiles() []*os.File {
	files := f.tap.files.take()
	if len(files) != int(min(f.Files, maxFiles)) {
		closeAll(files) // which of them is missing is not known
		return nil
	}
	return files
}

// A Tap is a connection to a message bus for godbus to speak on, which sees
// each incoming message first. Reading is for one goroutine, godbus's; all
// else may be called concurrently.
type Tap struct {
	conn  net.Conn
	files files // of the message that is being read

	// take is shown each message and reports whether godbus is to see it, too.
	// It runs on the reading goroutine, so that it must not wait for anything
	// that comes over this connection.
	take func(*Frame) (pass bool)

	begun   atomic.Bool // authentication is over: messages follow
	pending bytes.Reader
	ended   chan struct{}
	end     sync.Once

	mu     sync.Mutex // one message at a time
	serial uint32
}

// NewTap returns a Tap on c, which it owns from now on.
func NewTap(c net.Conn, take func(*Frame) (pass bool)) *Tap {
	return &Tap{conn: c, take: take, ended: make(chan struct{})}
}

// Read gives godbus the lines of the authentication and, after it, the messages
// that were passed on.
func (t *Tap) Read(p []byte) (int, error) {
	if !t.begun.Load() {
		return t.conn.Read(p)
	}
	for t.pending.Len() == 0 {
		if err := t.next(); err != nil {
			t.end.Do(func() { close(t.ended) })
			return 0, err
		}
	}
	return t.pending.Read(p)
}

// Ended is closed once a message could not be read and no other will be.
func (t *Tap) Ended() <-chan struct{} { return t.ended }

// Wait returns when no message will be shown any more, which is soon after
// Close.
func (t *Tap) Wait() {
	if t.begun.Load() {
		<-t.ended
	}
}

// readFull fills b. Reads never go beyond the message: files arrive with the
// first byte of theirs, so that those which came meanwhile belong to it, and
// nothing of a secret stays in a buffer.
func (t *Tap) readFull(b []byte) error {
	for n := 0; n < len(b); {
		got, err := t.files.read(t.conn, b[n:])
		if n += got; err != nil && n < len(b) {
			if err == io.EOF && n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// skip passes over n bytes.
func (t *Tap) skip(n int) error {
	whole := make([]byte, min(n, 64<<10))
	defer clear(whole) // there may be a secret in what nobody wants
	buffer := whole
	for ; n > 0; n -= len(buffer) {
		buffer = buffer[:min(n, len(buffer))]
		if err := t.readFull(buffer); err != nil {
			return err
		}
	}
	return nil
}

// next reads one message, shows it, and drops it or keeps it for godbus.
func (t *Tap) next() error {
	defer func() { closeAll(t.files.take()) }()
	head := make([]byte, fixedSize, 256)
	if err := t.readFull(head); err != nil {
		return err
	}
	h, fields, err := parseFixed(head)
	if err != nil {
		return err // where the next message begins is not known any more
	}
	if fields > maxFields {
		return t.skip(fields + h.BodySize)
	}
	head = append(head, make([]byte, fields)...)
	if err := t.readFull(head[fixedSize:]); err != nil {
		return err
	}
	f := &Frame{Header: h, head: head, tap: t}
	pass := f.parseFields(head) == nil && t.take(f)
	switch {
	case f.read:
		return nil
	case pass && f.BodySize <= maxPassed:
		body, err := f.Body()
		t.pending.Reset(append(head, body...))
		return err
	}
	return t.skip(f.BodySize)
}

// Write writes for godbus: lines of the authentication, then whole messages.
func (t *Tap) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	begin := bytes.Equal(p, []byte("BEGIN\r\n"))
	if begin {
		if err := t.files.negotiate(t.conn); err != nil {
			return 0, err
		}
	}
	if err := t.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := t.conn.Write(p)
	if err != nil {
		// Half a message may be out, after which nothing can follow.
		_ = t.conn.Close()
		return n, err
	}
	if begin {
		t.begun.Store(true)
	}
	return n, nil
}

// firstSerial is where our own messages' serials begin, away from godbus's,
// which count from 1.
const firstSerial = 1 << 31

// Send sends a message with a serial of our own, which it returns. The header's
// Signature must be that of the values.
func (t *Tap) Send(h Header, body []byte) (serial uint32, err error) {
	h.Serial = t.NextSerial()
	return h.Serial, t.SendAs(h, body)
}

// NextSerial returns a serial that nobody else on this connection uses.
func (t *Tap) NextSerial() uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serial++
	return firstSerial | t.serial
}

// SendAs sends a message under h.Serial, which came from NextSerial.
func (t *Tap) SendAs(h Header, body []byte) error {
	message := AppendMessage(make([]byte, 0, 512+len(body)), h, body)
	defer clear(message) // it may hold a secret
	if _, err := t.Write(message); err != nil {
		return fmt.Errorf("message bus: %w", err)
	}
	return nil
}

// SetDeadline bounds reading, for the time of the handshake.
func (t *Tap) SetDeadline(at time.Time) error { return t.conn.SetReadDeadline(at) }

// Close ends the connection, and with it Read.
func (t *Tap) Close() error { return t.conn.Close() }
