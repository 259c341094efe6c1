package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// numbered returns n ed25519 keys, all different and in the order of their paths.
func numbered(n int, label func(i int) string) []keyring.Key {
	var keys []keyring.Key
	for i := range n {
		seed := make([]byte, ed25519.SeedSize)
		binary.BigEndian.PutUint32(seed, uint32(i))
		keys = append(keys, keyringtest.NewFakeKey(ed25519.NewKeyFromSeed(seed), keyring.KindFile,
			label(i), fmt.Sprintf("/home/mia/.ssh/key%05d", i)))
	}
	return keys
}

func shortLabel(i int) string { return fmt.Sprintf("mia@laptop %d", i) }

func TestListAllocatesNothing(t *testing.T) {
	s, _ := newSession(t, numbered(1000, shortLabel))
	request := []byte{msgRequestIdentities}
	s.answer(request)
	if n := testing.AllocsPerRun(1000, func() { s.answer(request) }); n != 0 {
		t.Errorf("a list allocates %v times", n)
	}
}

func TestListFollowsKeys(t *testing.T) {
	a := start(t, nil, nil)
	client := sshagent.NewClient(a.dial(t))
	for _, keys := range [][]testKey{{edKey(1)}, {edKey(1), edKey(2)}, {edKey(2)}, {}} {
		a.Keys.Replace("test", fakes(keys...))
		got, err := client.List()
		if err != nil || len(got) != len(keys) {
			t.Fatalf("%d listed of %d, %v", len(got), len(keys), err)
		}
		for i, k := range keys {
			if string(got[i].Blob) != string(k.blob()) || got[i].Comment != "ed25519 key" {
				t.Errorf("identity %d of %d is %q %x", i, len(keys), got[i].Comment, got[i].Blob)
			}
		}
	}
}

// TestListStaysWithinWhatClientsTake wants the first keys and not an answer
// that every client throws away.
func TestListStaysWithinWhatClientsTake(t *testing.T) {
	long := func(int) string { return strings.Repeat("é", 300) }
	for name, c := range map[string]struct {
		keys   []keyring.Key
		listed int
	}{
		"count": {numbered(maxIdentities+2, shortLabel), maxIdentities},
		// 255 characters, of which the last is "…": 254*2+3, the blob 51, two lengths.
		"size": {numbered(600, long), (maxReply - 5) / (254*2 + 3 + 51 + 8)},
	} {
		s, log := newSession(t, c.keys)
		reply := s.answer([]byte{msgRequestIdentities})
		if got := binary.BigEndian.Uint32(reply[5:]); int(got) != c.listed || len(reply)-4 > maxReply {
			t.Errorf("%s: %d listed in %d bytes, want %d", name, got, len(reply)-4, c.listed)
		}
		first := c.keys[0].Info()
		d := decoder{rest: reply[9:]}
		if id := must(newIdentity(first)); string(d.string()) != string(id.blob) {
			t.Errorf("%s: the first key is not listed first", name)
		}
		last := must(newIdentity(c.keys[len(c.keys)-1].Info()))
		if reply := s.answer(signFrame(last.blob, nil, 0)[4:]); reply[4] != msgSignResponse {
			t.Errorf("%s: the key that is not listed does not sign: %x", name, reply)
		}
		s.server.Keys.Replace("more", fakes(edKey(200)))
		s.answer([]byte{msgRequestIdentities})
		if n := strings.Count(log.String(), "not listed"); n != 1 {
			t.Errorf("%s: warned %d times: %s", name, n, log)
		}
	}
}

func TestKeysWithoutAnSSHNameAreSkipped(t *testing.T) {
	p224 := testKey{"p224", must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))}
	a := start(t, fakes(p224, edKey(1)), nil)
	got, err := sshagent.NewClient(a.dial(t)).List()
	if err != nil || len(got) != 1 || got[0].Comment != "ed25519 key" {
		t.Errorf("listed %v, %v", got, err)
	}
}
