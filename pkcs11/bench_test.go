package pkcs11

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// BenchmarkSign is C_SignInit and C_Sign with a software P-256 key: our own
// share, the socket's and the key's.
func BenchmarkSign(b *testing.B) {
	for _, connections := range []int{1, 8} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			s := start(b, softKeys("p256"), Options{})
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			for range connections {
				c, session := s.open(b, fileSlot)
				if err := c.conn.SetDeadline(time.Time{}); err != nil {
					b.Fatal(err)
				}
				key := c.one(session, p11rpc.ClassPrivateKey, testKeys()["p256"])
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if _, rv := c.sign(session, ecdsaMechanism, key, make([]byte, 32)); rv != p11rpc.OK {
							b.Error(rv)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkFind is a search for one key among a thousand by its CKA_ID.
func BenchmarkFind(b *testing.B) {
	var keys []keyring.Key
	for i := range 1000 {
		seed := make([]byte, ed25519.SeedSize)
		binary.BigEndian.PutUint32(seed, uint32(i))
		keys = append(keys, testKey{"ed25519", ed25519.NewKeyFromSeed(seed)}.fake(keyring.KindFile))
	}
	s := start(b, keys, Options{})
	c, session := s.open(b, fileSlot)
	if err := c.conn.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	id := s.all.List()[500].ID
	b.ReportAllocs()
	for b.Loop() {
		found := c.find(session, class(p11rpc.ClassPrivateKey), p11rpc.NewAttribute(p11rpc.AttrID, id[:]))
		if len(found) != 1 {
			b.Fatalf("%d keys", len(found))
		}
	}
}
