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
	// restEvery is how often the daemon looks whether it has come to rest.
	restEvery = 10 * time.Second
	// A daemon works that allocates more than quiet in that time. What is worth
	// giving back is left over from at least worthwhile.
	quiet      = 256 << 10
	worthwhile = 2 << 20
)

// rest gives back what work has left over, each time there is none for a while,
// until ctx ends: the collector by itself keeps a heap of twice what is needed.
func rest(ctx context.Context) {
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

// giveBack gives back the memory that starting needed and serving does not: an
// idle daemon is small. That is the heap's free pages, and the parts of the
// program itself that only ran once, which the kernel otherwise keeps mapped.
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
