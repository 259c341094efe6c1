package secret

import (
	"bytes"
	"testing"
	"unsafe"
)

func TestSizeClasses(t *testing.T) {
	for n, want := range map[int]int{
		1: 32, 32: 32, 33: 64, 64: 64, 65: 128, pageSize - 1: pageSize, pageSize: pageSize,
		pageSize + 1: 2 * pageSize, 3 * pageSize: 3 * pageSize,
	} {
		if got := class(n); got != want {
			t.Errorf("class(%d) = %d, want %d", n, got, want)
		}
	}
}

// Pieces never overlap, are zero when handed out and hold what is asked.
func TestPiecesAreApart(t *testing.T) {
	a := &pages{spare: map[int][][]byte{}}
	type span struct{ from, to uintptr }
	var spans []span
	var pieces [][]byte
	for round := range 2 {
		spans, pieces = spans[:0], pieces[:0]
		for i := range 600 {
			n := 1 + i*37%(2*pageSize)
			p := a.alloc(n)
			if len(p) < n || cap(p) != len(p) {
				t.Fatalf("alloc(%d): len %d cap %d", n, len(p), cap(p))
			}
			if !bytes.Equal(p, make([]byte, len(p))) {
				t.Fatalf("round %d: alloc(%d) is not zero", round, n)
			}
			for j := range p {
				p[j] = 0xa5
			}
			from := uintptr(unsafe.Pointer(&p[0]))
			s := span{from, from + uintptr(len(p))}
			for _, o := range spans {
				if s.from < o.to && o.from < s.to {
					t.Fatalf("pieces overlap: %v %v", s, o)
				}
			}
			spans = append(spans, s)
			pieces = append(pieces, p)
		}
		for _, p := range pieces {
			a.free(p)
		}
	}
}

func TestMemoryIsReused(t *testing.T) {
	mapped := func() int {
		arena.mu.Lock()
		defer arena.mu.Unlock()
		return arena.mapped
	}
	use := func() {
		for n := 1; n < 5*pageSize; n += 501 {
			b, c := New(n), New(n)
			b.Wipe()
			c.Wipe()
		}
	}
	use()
	before := mapped()
	for range 200 {
		use()
	}
	if after := mapped(); after != before {
		t.Errorf("using and wiping the same secrets grew the arena from %d to %d bytes", before, after)
	}
}

func TestAllocations(t *testing.T) {
	pin := []byte("123456")
	New(6).Wipe()
	n := testing.AllocsPerRun(1000, func() {
		b := Copy(pin)
		b.Wipe()
	})
	// The region and its cleanup; nothing that holds the bytes.
	if n > 5 {
		t.Errorf("a secret costs %v allocations", n)
	}
	b := Copy(pin)
	defer b.Wipe()
	if n := testing.AllocsPerRun(1000, func() { b.Use(func([]byte) {}); b.Len() }); n != 0 {
		t.Errorf("Use costs %v allocations", n)
	}
}

func BenchmarkCopyWipe(b *testing.B) {
	pin := []byte("123456")
	b.ReportAllocs()
	for b.Loop() {
		Copy(pin).Wipe()
	}
}
