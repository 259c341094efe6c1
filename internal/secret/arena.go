package secret

import (
	"sync"

	"golang.org/x/sys/unix"
)

// The arena hands out pieces of locked pages, in size classes of powers of two
// from minPiece to a page; larger pieces get pages of their own. A page is
// never given back to the system: it is wiped and used again.
const (
	pageSize = 4096
	minPiece = 32
)

// arena is where every secret of the process lives. It is the one package
// variable, because the memory limit it works under is the process's.
var arena = &pages{spare: map[int][][]byte{}}

type pages struct {
	mu       sync.Mutex
	spare    map[int][][]byte
	unlocked bool
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
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return make([]byte, n)
	}
	if unix.Mlock(p) != nil {
		a.unlocked = true
	}
	_ = unix.Madvise(p, unix.MADV_DONTDUMP)
	_ = unix.Madvise(p, unix.MADV_WIPEONFORK)
	return p
}

func (a *pages) free(p []byte) {
	clear(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spare[len(p)] = append(a.spare[len(p)], p)
}

// Locked reports whether all secret memory so far could be locked.
func Locked() bool {
	arena.mu.Lock()
	defer arena.mu.Unlock()
	return !arena.unlocked
}
