package sshhelper

import (
	"bytes"
	"testing"
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
