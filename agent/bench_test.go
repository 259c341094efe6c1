package agent

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyringd/keyringd/agent/knownhosts"
	"github.com/keyringd/keyringd/keyring"
)

// cpu is the processor time of this process, clients included.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkRequests sends request over conns connections, b.N times in all.
func benchmarkRequests(b *testing.B, a *agentTest, conns int, request []byte) {
	var open []net.Conn
	size := 0
	for range conns {
		c := a.dial(b)
		if err := c.SetDeadline(time.Time{}); err != nil {
			b.Fatal(err)
		}
		size = len(roundTrip(b, c, request)) + headerSize
		open = append(open, c)
	}
	b.ReportAllocs()
	b.ResetTimer()
	begin := cpu()
	var next atomic.Int64
	var wg sync.WaitGroup
	for _, c := range open {
		wg.Go(func() {
			reply := make([]byte, size)
			for next.Add(1) <= int64(b.N) {
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				if _, err := io.ReadFull(c, reply); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-begin).Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkList(b *testing.B) {
	b.Run("added=1000", func(b *testing.B) {
		a := start(b, nil, nil)
		c := a.dial(b)
		for i := range 1000 {
			wantType(b, roundTrip(b, c, manyKey(i).addFrame(shortLabel(i))), msgSuccess)
		}
		benchmarkRequests(b, a, 1, listFrame)
	})
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			benchmarkRequests(b, start(b, numbered(n, shortLabel), nil), 1, listFrame)
		})
	}
}

func BenchmarkSign(b *testing.B) {
	data := loginData("mia", methodHostBound, edKey(1).blob(), edKey(9).blob())
	request := signFrame(edKey(1).blob(), data, 0)
	for _, c := range []struct{ keys, conns int }{{1, 1}, {1000, 1}, {1, 16}} {
		b.Run(fmt.Sprintf("ed25519/keys=%d/conns=%d", c.keys, c.conns), func(b *testing.B) {
			keys := append(numbered(c.keys-1, shortLabel), keyring.Key(edKey(1).fake()))
			benchmarkRequests(b, start(b, keys, nil), c.conns, request)
		})
	}
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("ed25519/added=%d", n), func(b *testing.B) {
			a := start(b, nil, func(s *Server) { s.KnownHosts = knownhosts.New("/etc/ssh/ssh_known_hosts") })
			c := a.dial(b)
			for i := range n - 1 {
				wantType(b, roundTrip(b, c, manyKey(i).addFrame(shortLabel(i))), msgSuccess)
			}
			wantType(b, roundTrip(b, c, edKey(1).addFrame("k")), msgSuccess)
			benchmarkRequests(b, a, 1, request)
		})
	}
	for _, conns := range []int{1, 16} {
		b.Run(fmt.Sprintf("rsa2048/conns=%d", conns), func(b *testing.B) {
			k := testKeys()[4]
			benchmarkRequests(b, start(b, fakes(k), nil), conns, signFrame(k.blob(), data, flagSHA512))
		})
	}
}
