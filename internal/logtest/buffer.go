// Package logtest keeps a log that a test reads while others write it.
package logtest

import (
	"bytes"
	"sync"
)

// A Buffer keeps what is written to it. The zero value is empty. Its methods may
// be called concurrently.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements [io.Writer].
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns all that was written until now.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
