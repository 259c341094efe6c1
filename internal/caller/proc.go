package caller

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is how many processes a chain shows. Three say nearly always
	// who asks; more than five do not fit into a window.
	maxLinks = 5
	// maxName is how many characters of a process's name are shown.
	maxName = 32
	// maxStat bounds /proc/PID/stat: 52 numbers and a name of at most 64 bytes.
	maxStat = 2048
	// maxPath bounds a path that is kept.
	maxPath = 4096
	// maxFlatpakInfo bounds /.flatpak-info, a few hundred bytes in real life.
	maxFlatpakInfo = 16 << 10
	// sandboxWait bounds looking into a file system that somebody else made.
	sandboxWait = 200 * time.Millisecond
)

// proc reads a proc file system.
type proc struct {
	dir  string // "/proc"
	self int    // our own PID, where every chain ends
}

var host = proc{dir: "/proc", self: os.Getpid()}

func (r proc) path(pid int, name string) string {
	return filepath.Join(r.dir, strconv.Itoa(pid), name)
}

// status is what is used of /proc/PID/stat, proc_pid_stat(5).
type status struct {
	comm    string // raw: any bytes the process chose
	ppid    int
	session int
	start   uint64 // clock ticks after boot
}

var errStat = errors.New("malformed process status")

// parseStat parses /proc/PID/stat. The name in it may hold parentheses, spaces
// and newlines, so that only the last parenthesis ends it.
func parseStat(b []byte) (status, error) {
	open := bytes.IndexByte(b, '(')
	end := bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return status{}, errStat
	}
	f := bytes.Fields(b[end+1:])
	// Field 3, the state, is f[0].
	if len(f) < 20 {
		return status{}, errStat
	}
	ppid, err1 := strconv.Atoi(string(f[1]))
	session, err2 := strconv.Atoi(string(f[3]))
	start, err3 := strconv.ParseUint(string(f[19]), 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || ppid < 0 || session < 0 {
		return status{}, errStat
	}
	return status{comm: string(b[open+1 : end]), ppid: ppid, session: session, start: start}, nil
}

func (r proc) stat(pid int) (status, bool) {
	b, err := readSome(r.path(pid, "stat"), maxStat)
	if err != nil {
		return status{}, false
	}
	s, err := parseStat(b)
	return s, err == nil
}

// exe returns the executable's path as the kernel tells it, or "". Reading the
// link touches no other file system. That of a file which was replaced since
// ends in " (deleted)".
func (r proc) exe(pid int) string {
	p, err := os.Readlink(r.path(pid, "exe"))
	if err != nil || !filepath.IsAbs(p) || len(p) > maxPath {
		return ""
	}
	return p
}

// foreign reports whether the process sees other mounts than we do.
func (r proc) foreign(pid int) bool {
	theirs, err := os.Readlink(r.path(pid, "ns/mnt"))
	if err != nil {
		return false
	}
	ours, err := os.Readlink(filepath.Join(r.dir, "self/ns/mnt"))
	return err == nil && ours != theirs
}

// lookers limits how many goroutines can be stuck in file systems of others:
// a peer may have mounted one that never answers.
var lookers = make(chan struct{}, 4)

// sandbox looks at a process with a mount namespace of its own. Its
// executable's path counts only where the same path is the same file for us:
// anybody may mount a file of his own over /usr/bin/ssh.
func (r proc) sandbox(pid int, exe string) (program, app string) {
	select {
	case lookers <- struct{}{}:
	default:
		return "", ""
	}
	type found struct{ program, app string }
	done := make(chan found, 1)
	go func() {
		defer func() { <-lookers }()
		var f found
		if sameFile(r.path(pid, "exe"), exe) {
			f.program = exe
		}
		f.app = flatpakID(r.path(pid, "root/.flatpak-info"))
		done <- f
	}()
	t := time.NewTimer(sandboxWait)
	defer t.Stop()
	select {
	case f := <-done:
		return f.program, f.app
	case <-t.C:
		return "", ""
	}
}

func sameFile(a, b string) bool {
	var x, y unix.Stat_t
	if b == "" || unix.Stat(a, &x) != nil || unix.Stat(b, &y) != nil {
		return false
	}
	return x.Dev == y.Dev && x.Ino == y.Ino
}

// flatpakID returns the name in the [Application] group of a .flatpak-info
// file, flatpak-metadata(5), or "".
func flatpakID(path string) string {
	b, err := readSome(path, maxFlatpakInfo)
	if err != nil {
		return ""
	}
	return parseFlatpakInfo(string(b))
}

func parseFlatpakInfo(s string) string {
	group := ""
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			group = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if ok && group == "[Application]" && strings.TrimSpace(key) == "name" {
			return Sanitize(strings.TrimSpace(value), 2*maxName)
		}
	}
	return ""
}

// chain describes pid and the processes that started it, up to the one that
// began the login or terminal session.
func (r proc) chain(pid int, s status, exe, app string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%d", name(exe, s.comm), pid)
	if app != "" {
		fmt.Fprintf(&b, ", Flatpak %s", link(app))
	}
	b.WriteByte(')')
	for links := 1; s.session != pid; links++ {
		parent := s.ppid
		if parent <= 1 || parent == r.self {
			break
		}
		up, ok := r.stat(parent)
		if !ok || up.start > s.start || up.comm == "systemd" {
			// A parent that is younger than its child is another process with
			// a recycled number.
			break
		}
		if links == maxLinks {
			b.WriteString(" ← …")
			break
		}
		b.WriteString(" ← ")
		b.WriteString(name(r.exe(parent), up.comm))
		pid, s = parent, up
	}
	return b.String()
}

// name returns what to call a process: its executable's name, which is harder
// to choose than the name it gives itself; that one where there is no other.
func name(exe, comm string) string {
	n := comm
	if exe != "" {
		n = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	if n = link(Sanitize(n, maxName)); n == "" {
		return "?"
	}
	return n
}

// link keeps a name from looking like several links of a chain.
func link(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '(', ')', '←', ',':
			return '\uFFFD'
		}
		return r
	}, s)
}

// readSome reads at most limit bytes of a file that may be anything, without
// waiting for the writer of a FIFO.
func readSome(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errStat
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
