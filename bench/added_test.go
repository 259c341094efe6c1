//go:build bench

package bench

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"testing"

	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/internal/daemontest"
)

// TestAdded compares what keys that clients added cost: adding, signing with one
// of them, listing all, and memory.
func TestAdded(t *testing.T) {
	row := table("Added keys", "agent", "keys", "add CPU us", "ed25519 CPU us", "list CPU us", "RSS MB")
	for _, n := range []int{1, 1000} {
		for _, p := range peers(t, daemontest.New(t)) {
			client := p.client(t)
			before := cpu(t, p.pid)
			for i := range n {
				_, private, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				if err := client.Add(sshagent.AddedKey{PrivateKey: private, Comment: fmt.Sprint("k", i)}); err != nil {
					t.Fatalf("%s: %v", p.name, err)
				}
			}
			add := float64(cpu(t, p.pid)-before) / float64(n) / 1e3
			keys := list(t, client)
			if len(keys) != n {
				t.Fatalf("%s lists %d keys, want %d", p.name, len(keys), n)
			}
			last := keys[len(keys)-1:]
			signing := per(t, p, func() { sign(t, client, last, 1) })
			listing := per(t, p, func() { list(t, client) })
			row(p.name, n, fmt.Sprintf("%.0f", add), fmt.Sprintf("%.0f", signing), fmt.Sprintf("%.0f", listing), fmt.Sprintf("%.1f", rss(t, p.pid)))
		}
	}
}
