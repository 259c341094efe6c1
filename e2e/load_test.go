package e2e

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/internal/daemontest"
)

// many is how many keys a heavy user has, and then some.
const many = 1000

// maxManyKilobytes is how much memory the daemon may take with many keys, once
// it has nothing to do.
const maxManyKilobytes = 16 << 10

// TestManyKeys serves a thousand keys, from files and added by ssh-add: each is
// listed once, any of them signs, and the daemon stays small.
func TestManyKeys(t *testing.T) {
	for _, kind := range []struct {
		name string
		make func(t *testing.T, s *daemontest.Session)
	}{{"in files", manyFiles}, {"added", manyAdded}} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			s := daemontest.New(t)
			kind.make(t, s)
			client := s.Client()
			keys, err := client.List()
			if err != nil || len(keys) != many {
				t.Fatalf("%d keys are listed, %v", len(keys), err)
			}
			seen := map[string]bool{}
			for _, k := range keys {
				seen[string(k.Blob)] = true
			}
			if len(seen) != many {
				t.Errorf("%d different keys are listed", len(seen))
			}
			before := footprintOf(t, s.PID())
			for _, i := range []int{0, many / 2, many - 1} {
				signature, err := client.Sign(keys[i], []byte("x"))
				if err != nil {
					t.Fatalf("key %d: %v", i, err)
				}
				public, err := ssh.ParsePublicKey(keys[i].Blob)
				if err != nil {
					t.Fatal(err)
				}
				if err := public.Verify([]byte("x"), signature); err != nil {
					t.Errorf("key %d: %v", i, err)
				}
			}
			for range 100 {
				again, err := client.List()
				if err != nil || len(again) != many || !bytes.Equal(again[many-1].Blob, keys[many-1].Blob) {
					t.Fatalf("listed again: %d keys, %v", len(again), err)
				}
			}
			after := footprintOf(t, s.PID())
			var rests footprint
			await(t, fmt.Sprintf("the daemon to take no more than %d kB", maxManyKilobytes), func() bool {
				rests = footprintOf(t, s.PID())
				return rests.kilobytes <= maxManyKilobytes
			})
			t.Logf("%d kB, %d kB after 100 lists, %d kB at rest", before.kilobytes, after.kilobytes, rests.kilobytes)
		})
	}
}

// manyFiles starts a daemon whose key folder is full.
func manyFiles(t *testing.T, s *daemontest.Session) {
	t.Helper()
	for i := range many {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(key, fmt.Sprint("key ", i))
		if err != nil {
			t.Fatal(err)
		}
		s.Key(fmt.Sprintf("k%04d", i), pem.EncodeToMemory(block))
	}
	start := time.Now()
	s.Start("none")
	if keys, err := s.Client().List(); err != nil || len(keys) != many {
		t.Fatalf("the first list has %d keys, %v", len(keys), err)
	}
	t.Logf("from start to the first list: %v", time.Since(start))
}

// manyAdded starts a daemon and adds keys as ssh-add does.
func manyAdded(t *testing.T, s *daemontest.Session) {
	t.Helper()
	start := time.Now()
	s.Start("none")
	client := s.Client()
	if keys, err := client.List(); err != nil || len(keys) != 0 {
		t.Fatalf("the first list has %d keys, %v", len(keys), err)
	}
	t.Logf("from start to the first, empty list: %v", time.Since(start))
	for i := range many {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Add(sshagent.AddedKey{PrivateKey: key, Comment: fmt.Sprint("key ", i)}); err != nil {
			t.Fatal(err)
		}
	}
}
