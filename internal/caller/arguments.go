package caller

import "strings"

// maxArguments bounds /proc/PID/cmdline; what comes after is left out.
const maxArguments = 16 << 10

// Arguments returns the command line of a process, as that process wants it to
// be seen; empty where it cannot be told. It is good for a guess at what a
// program is about to do, and for nothing that matters.
func Arguments(pid int) []string { return host.arguments(pid) }

func (r proc) arguments(pid int) []string {
	if pid <= 0 {
		return nil
	}
	b, err := readSome(r.path(pid, "cmdline"), maxArguments)
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}
