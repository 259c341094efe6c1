package confine

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nudge is the signal that the Go runtime sends to its own threads and takes no
// notice of when it comes from elsewhere.
const nudge = unix.SIGURG

const (
	tasks = "/proc/self/task"
	// heedPause is between two looks at whether a signal was heeded.
	heedPause = time.Millisecond
)

// held reports whether there is a thread of this process that has not heeded a
// signal after a while. Where threads cannot be looked at, there is none.
func held(wait time.Duration) bool {
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return false
	}
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.Tgkill(os.Getpid(), tid, nudge) // it may have ended
		}
	}
	end := time.Now().Add(wait)
	for _, thread := range threads {
		for pending(thread.Name(), nudge) {
			if time.Now().After(end) {
				return true
			}
			time.Sleep(heedPause)
		}
	}
	return false
}

// pending reports whether a signal has been sent to a thread and not come to it
// yet.
func pending(thread string, signal syscall.Signal) bool {
	text, err := os.ReadFile(filepath.Join(tasks, thread, "status"))
	if err != nil {
		return false // it has ended
	}
	for line := range strings.Lines(string(text)) {
		if set, ok := strings.CutPrefix(line, "SigPnd:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return err == nil && bits&(1<<(signal-1)) != 0
		}
	}
	return false
}
