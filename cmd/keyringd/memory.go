package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settled is how long after its start the daemon gives back what starting
	// needed: the login's first questions come before that, and are not to wait.
	settled = time.Second
	// restEvery is how often the daemon looks whether it has come to rest.
	restEvery = 10 * time.Second
	// A daemon works that allocates more than quiet in that time. What is worth
	// giving back is left over from at least worthwhile.
	quiet      = 256 << 10
	worthwhile = 2 << 20
)

// rest gives back what starting has left over once started is closed, and then
// what work has, each time there is none for a while, until ctx ends: the
// collector by itself keeps a heap of twice what is needed.
func rest(ctx context.Context, started <-chan struct{}) {
	select {
	case <-started:
	case <-ctx.Done():
		return
	}
	first := time.NewTimer(settled)
	defer first.Stop()
	select {
	case <-first.C:
		giveBack()
	case <-ctx.Done():
		return
	}
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	look := func() uint64 {
		metrics.Read(allocated)
		return allocated[0].Value.Uint64()
	}
	t := time.NewTicker(restEvery)
	defer t.Stop()
	given := look()
	before := given
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := look()
		if now-before < quiet && now-given > worthwhile {
			giveBack()
			given = look()
			now = given
		}
		before = now
	}
}

// giveBack gives back the memory that nothing needs any more: an idle daemon is
// small. That is the heap's free pages, and the parts of the program itself that
// ran some time ago, which the kernel otherwise keeps mapped.
// Its pages come back from the page cache when they are needed again.
func giveBack() {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		// proc_pid_maps(5): from-to permissions offset device inode path
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != program || strings.Contains(fields[1], "w") {
			continue // what was written to would be lost
		}
		low, high, _ := strings.Cut(fields[0], "-")
		from, err := strconv.ParseUint(low, 16, 64)
		if err != nil {
			return
		}
		to, err := strconv.ParseUint(high, 16, 64)
		if err != nil {
			return
		}
		// Where the kernel does not do it, nothing is lost.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED)
	}
}
