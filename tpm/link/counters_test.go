package link

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

func TestCounters(t *testing.T) {
	var c Counters
	c.add(tpm2.TPMCCSign, time.Millisecond, false, false)
	c.add(tpm2.TPMCCSign, 3*time.Millisecond, true, true)
	c.add(0x20000001, 0, false, false)
	c.add(0x80000000, 0, false, false)
	if got := c.Total(); got != 4 {
		t.Errorf("total %d", got)
	}
	m := c.Snapshot()
	if len(m) != 2 {
		t.Errorf("codes: %v", m)
	}
	s := m[tpm2.TPMCCSign]
	if s.Sent != 2 || s.Failed != 1 || s.Retried != 1 || s.Total != 4*time.Millisecond {
		t.Errorf("sign: %+v", s)
	}
	if m[OtherCode].Sent != 2 {
		t.Errorf("others: %+v", m[OtherCode])
	}
	if (&Counters{}).Total() != 0 || len((&Counters{}).Snapshot()) != 0 {
		t.Error("the zero value counts something")
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("nothing takes time")
	}
	for _, d := range []time.Duration{-1, 0, 15 * time.Microsecond} {
		if bucket(d) != 0 {
			t.Errorf("%v is in bucket %d", d, bucket(d))
		}
	}
	if bucket(16*time.Microsecond) != 1 || bucket(31*time.Microsecond) != 1 || bucket(32*time.Microsecond) != 2 {
		t.Error("the second bucket is not from 16 to 32 µs")
	}
	if bucket(time.Hour) != len(h)-1 {
		t.Error("what is very slow is not in the last bucket")
	}
	for i := range 100 {
		h[bucket(time.Duration(i+1)*time.Millisecond)]++
	}
	for q, exact := range map[float64]time.Duration{0: 1, 0.5: 50, 0.9: 90, 1: 100} {
		exact *= time.Millisecond
		if got := h.Quantile(q); got < exact || got > 2*exact {
			t.Errorf("quantile %v: %v, in truth %v", q, got, exact)
		}
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	var c Counters
	c.add(tpm2.TPMCCSign, 0, false, false)
	if n := testing.AllocsPerRun(100, func() { c.add(tpm2.TPMCCSign, time.Millisecond, true, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCountersConcurrently(t *testing.T) {
	var c Counters
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for code := tpm2.TPMCC(0x11F); code < 0x19F; code++ {
				c.add(code, time.Microsecond, false, false)
				c.Snapshot()
			}
		})
	}
	wg.Wait()
	for code, n := range c.Snapshot() {
		if n.Sent != 8 {
			t.Errorf("%#x: %d", uint32(code), n.Sent)
		}
	}
	if c.Total() != 8*0x80 {
		t.Errorf("total %d", c.Total())
	}
}
