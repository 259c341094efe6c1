package secret

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The arena hands out pieces of locked pages, in size classes of powers of two
// from minPiece to a page; those are never given back to the system, but wiped
// and used again. Larger pieces get pages of their own, which are given back:
// kept by size, a few odd sizes would use up the locked memory there is.
const minPiece = 32

var pageSize = os.Getpagesize()

// arena is where every secret of the process lives. It is the one package
// variable, because the memory limit it works under is the process's.
var arena = &pages{spare: map[int][][]byte{}}

type pages struct {
	mu       sync.Mutex
	spare    map[int][][]byte // wiped pieces by size
	mapped   int              // bytes of pages in all
	unlocked bool             // some of them could not be locked
}

// class returns the size that a piece of n bytes is rounded up to.
func class(n int) int {
	if n > pageSize {
		return (n + pageSize - 1) / pageSize * pageSize
	}
	c := minPiece
	for c < n {
		c *= 2
	}
	return c
}

// alloc returns a piece of n zero bytes, rounded up to its class.
func (a *pages) alloc(n int) []byte {
	c := class(n)
	a.mu.Lock()
	defer a.mu.Unlock()
	if list := a.spare[c]; len(list) > 0 {
		p := list[len(list)-1]
		a.spare[c] = list[:len(list)-1]
		return p
	}
	fresh := a.mapPages(max(c, pageSize))
	for len(fresh) > c {
		a.spare[c] = append(a.spare[c], fresh[len(fresh)-c:len(fresh):len(fresh)])
		fresh = fresh[: len(fresh)-c : len(fresh)-c]
	}
	return fresh
}

// mapPages returns n bytes of new pages. Where the limit on locked memory is
// reached the pages are not locked, and [Locked] says so: a secret that may be
// swapped is better than a user who cannot log in.
func (a *pages) mapPages(n int) []byte {
	a.mapped += n
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		a.unlocked = true
		return make([]byte, n)
	}
	if unix.Mlock(p) != nil {
		a.unlocked = true
	}
	_ = unix.Madvise(p, unix.MADV_DONTDUMP)
	_ = unix.Madvise(p, unix.MADV_WIPEONFORK)
	return p
}

// free overwrites a piece that alloc returned, and takes it back.
func (a *pages) free(p []byte) {
	clear(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(p) <= pageSize {
		a.spare[len(p)] = append(a.spare[len(p)], p)
		return
	}
	a.mapped -= len(p)
	_ = unix.Munmap(p) // refused for what mapPages had to take from the heap
}

// Locked reports whether all secret memory so far could be locked.
func Locked() bool {
	arena.mu.Lock()
	defer arena.mu.Unlock()
	return !arena.unlocked
}
