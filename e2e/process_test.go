package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A footprint is what a process holds.
type footprint struct {
	descriptors, threads int
	kilobytes            int // resident
}

// footprintOf looks at a process as top(1) does (proc(5)). Of a daemon that
// hides from its own user, only root sees the descriptors; others count none.
func footprintOf(tb testing.TB, pid int) (f footprint) {
	tb.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil && !errors.Is(err, os.ErrPermission) {
		tb.Fatal(err)
	}
	f.descriptors = len(open)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		switch name {
		case "VmRSS":
			f.kilobytes, err = strconv.Atoi(fields[0])
		case "Threads":
			f.threads, err = strconv.Atoi(fields[0])
		}
		if err != nil {
			tb.Fatalf("%q: %v", line, err)
		}
	}
	return f
}

// occurrences counts how often a text is in the writable memory of a process,
// and how many bytes that memory has. The process should be stopped.
func occurrences(pid int, text string) (n, size int, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, 0, err
	}
	defer memory.Close()
	for line := range strings.Lines(string(maps)) {
		// from-to permissions offset device inode path
		fields := strings.Fields(line)
		low, high, _ := strings.Cut(fields[0], "-")
		from, fromErr := strconv.ParseInt(low, 16, 64)
		to, toErr := strconv.ParseInt(high, 16, 64)
		if fromErr != nil || toErr != nil || !strings.HasPrefix(fields[1], "rw") {
			continue // the vsyscall page has no place in an int64
		}
		piece, err := io.ReadAll(io.NewSectionReader(memory, from, to-from))
		if err != nil {
			continue // memory that not even root may read, as memfd_secret(2)'s
		}
		n += bytes.Count(piece, []byte(text))
		size += len(piece)
	}
	return n, size, nil
}

// peer is the process at the other end of a connection.
func peer(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(controlErr, err); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// limitDescriptors bounds how many descriptors the daemon may have from now on.
func (d *desk) limitDescriptors(n uint64) {
	d.t.Helper()
	if err := unix.Prlimit(d.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}, nil); err != nil {
		d.t.Fatal(err)
	}
}

// floodWith makes connections from eight clients, each of which keeps what it
// can get, says first, and lets all go at once.
func floodWith(tb testing.TB, socket string, first []byte) {
	tb.Helper()
	var made atomic.Int64
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			var held []net.Conn
			drop := func() {
				for _, c := range held {
					_ = c.Close()
				}
				held = nil
			}
			defer drop()
			for made.Load() < flood {
				c, err := net.Dial("unix", socket)
				if err != nil || len(held) == 125 {
					drop() // the backlog is full
					runtime.Gosched()
				}
				if err == nil {
					made.Add(1)
					_, _ = c.Write(first)
					held = append(held, c)
				}
			}
		})
	}
	clients.Wait()
}
