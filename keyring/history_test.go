package keyring

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
)

// TestHistory: what was used, for whom, and what came of it; the latest only.
func TestHistory(t *testing.T) {
	g := NewGate(nil)
	for i := range maxHistory + 7 {
		_ = g.Use(t.Context(), Use{ID: fmt.Sprint(i), Subject: "laptop", Reason: "log in as mia", Caller: Caller{FrontEnd: "ssh-agent"}},
			func(secret.Bytes) error {
				if i%2 == 1 {
					return ErrUnsupported
				}
				return nil
			})
	}
	g.Lock()
	past := g.History()
	if len(past) != maxHistory {
		t.Fatalf("%d uses, want %d", len(past), maxHistory)
	}
	for i, p := range past {
		n := i + 7
		if p.ID != fmt.Sprint(n) || p.Subject != "laptop" || p.Reason != "log in as mia" || p.Caller.FrontEnd != "ssh-agent" ||
			errors.Is(p.Err, ErrUnsupported) != (n%2 == 1) || p.At.IsZero() {
			t.Fatalf("use %d is %+v", n, p)
		}
	}
}
