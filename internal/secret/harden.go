package secret

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden makes the process's memory unreadable to other processes of the same
// user: it may not be traced (PR_SET_DUMPABLE 0), and leaves no core file. The
// first is lost on exec, so that each program calls it for itself.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("RLIMIT_CORE: %w", err)
	}
	return nil
}
