package link

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// OtherCode is the command code under which [Counters] keep whatever lies
// outside the range that the TPM 2.0 Library defines, such as the commands of
// a vendor.
const OtherCode tpm2.TPMCC = 0

// The codes of the library's commands lie between 0x11F and 0x1A0; a page of
// 256 holds them and all that are likely to follow.
const (
	firstCode = 0x100
	numCodes  = 256
)

// Counters count the commands sent to a TPM, by command code. The zero value is
// ready. All methods may be called concurrently; one Counters may serve many
// links, one after the other or at the same time. Counting allocates only when
// a code is seen for the first time.
type Counters struct {
	codes [numCodes]atomic.Pointer[counter]
	other atomic.Pointer[counter]
	total atomic.Uint64
}

type counter struct {
	sent, failed, retried atomic.Uint64
	nanos                 atomic.Int64
	latency               [buckets]atomic.Uint64
}

// A Count is what [Counters] know about one command code.
type Count struct {
	Sent    uint64        // commands sent, repetitions included
	Failed  uint64        // of these: answered with a response code other than success, or never
	Retried uint64        // of these: sent again because the TPM asked for it
	Total   time.Duration // from sending the command to having its response
	Latency Histogram
}

const (
	buckets     = 24
	firstBucket = 16 * time.Microsecond
)

// A Histogram counts commands by how long they took: element i counts those
// that took less than 16 µs·2^i and no less than half of that. The first
// element also has all that were faster, the last one all that were slower.
type Histogram [buckets]uint64

func bucket(d time.Duration) int {
	return min(bits.Len64(uint64(max(d, 0)/firstBucket)), buckets-1)
}

// Quantile returns a duration that the fraction q (0 to 1) of the commands did
// not exceed: the upper bound of the bucket it lies in, so at most twice too
// long. It is 0 if nothing was counted.
func (h Histogram) Quantile(q float64) time.Duration {
	var n uint64
	for _, c := range h {
		n += c
	}
	if n == 0 {
		return 0
	}
	want := max(uint64(q*float64(n)+0.5), 1)
	var seen uint64
	for i, c := range h {
		seen += c
		if seen >= want {
			return firstBucket << i
		}
	}
	return firstBucket << (buckets - 1)
}

func (c *Counters) counter(code tpm2.TPMCC) *counter {
	p := &c.other
	if code >= firstCode && code < firstCode+numCodes {
		p = &c.codes[code-firstCode]
	}
	if k := p.Load(); k != nil {
		return k
	}
	p.CompareAndSwap(nil, new(counter))
	return p.Load()
}

// add counts one command that was sent.
func (c *Counters) add(code tpm2.TPMCC, took time.Duration, failed, retried bool) {
	k := c.counter(code)
	k.sent.Add(1)
	if failed {
		k.failed.Add(1)
	}
	if retried {
		k.retried.Add(1)
	}
	k.nanos.Add(int64(took))
	k.latency[bucket(took)].Add(1)
	c.total.Add(1)
}

// Total returns how many commands were sent in all, repetitions included.
func (c *Counters) Total() uint64 { return c.total.Load() }

// Snapshot returns the counts of every code that was sent, as a new map.
// Commands that end meanwhile may or may not be in it.
func (c *Counters) Snapshot() map[tpm2.TPMCC]Count {
	m := make(map[tpm2.TPMCC]Count)
	if k := c.other.Load(); k != nil {
		m[OtherCode] = k.snapshot()
	}
	for i := range c.codes {
		if k := c.codes[i].Load(); k != nil {
			m[tpm2.TPMCC(firstCode+i)] = k.snapshot()
		}
	}
	return m
}

func (k *counter) snapshot() Count {
	n := Count{
		Sent:    k.sent.Load(),
		Failed:  k.failed.Load(),
		Retried: k.retried.Load(),
		Total:   time.Duration(k.nanos.Load()),
	}
	for i := range k.latency {
		n.Latency[i] = k.latency[i].Load()
	}
	return n
}
