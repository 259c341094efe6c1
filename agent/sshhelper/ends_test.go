package sshhelper

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAnswerOfOneThatEnds wants the whole answer of a helper that ends with it, as
// ssh-sk-helper does: the user has touched the token for it.
func TestAnswerOfOneThatEnds(t *testing.T) {
	// Version 5, a signature, and 60,000 bytes of it.
	p := &Programs{SK: script(t, `dd bs=65536 count=1 of=/dev/null 2>/dev/null; printf '\0\0\352\151\5\0\0\0\1\0\0\352\140'; head -c 60000 /dev/zero`)}
	for range 100 {
		sig, err := p.SignSK(t.Context(), request(t, 1))
		if err != nil || !bytes.Equal(sig, make([]byte, 60000)) {
			t.Fatalf("%d bytes, %v", len(sig), err)
		}
	}
}

// TestHangUpLeavesTheCard has an asker go away while the card is at work, and
// wants the next one served.
func TestHangUpLeavesTheCard(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "go")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	const one = "dd bs=65536 count=1 of=/dev/null 2>/dev/null; "
	c, err := start(nil, script(t, one+"read x <"+fifo+`; printf '\0\0\0\1a'; `+one+`printf '\0\0\0\1b'; `+one), os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := c.askToTheEnd(ctx, []byte("first"))
		gone <- err
	}()
	at, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for the helper to be at work
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who hung up: %v", err)
	}
	if err := at.Close(); err != nil {
		t.Fatal(err)
	}
	if reply, err := c.askToTheEnd(t.Context(), []byte("second")); err != nil || string(reply) != "b" {
		t.Errorf("the next: %q, %v", reply, err)
	}
}
