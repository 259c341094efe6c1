package pinentry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// needsTTY reports whether a program can only ask on a terminal.
func needsTTY(path string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	base := filepath.Base(path)
	return strings.HasPrefix(base, "pinentry-tty") || strings.HasPrefix(base, "pinentry-curses")
}

// keepTTY checks that path is a terminal of ours, and returns a function that
// puts it back into the mode it has now: a program that is killed leaves it
// without echo.
func keepTTY(path string) (restore func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	return func() {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			return
		}
		defer f.Close()
		fd := int(f.Fd())
		// Setting the mode of one's own terminal from the background stops the
		// process. Of another terminal TIOCGPGRP fails, and nothing stops.
		if pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && pgrp != unix.Getpgrp() {
			return
		}
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, mode)
	}, nil
}

var errNoTTY = errors.New("no terminal in the foreground")

// ForegroundTTY returns the path of the terminal that this process was started
// on, if it is in the foreground there: no shell reads from it meanwhile.
func ForegroundTTY() (string, error) {
	for fd := range 3 {
		pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err != nil || pgrp != unix.Getpgrp() {
			continue
		}
		path, err := os.Readlink(filepath.Join("/proc/self/fd", string(rune('0'+fd))))
		if err == nil && strings.HasPrefix(path, "/dev/") && path != "/dev/tty" {
			return path, nil
		}
	}
	return "", errNoTTY
}
