package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

var errNoRuntime = errors.New("there is no XDG_RUNTIME_DIR, so nowhere to put sockets")

// A machine is what setup and doctor look at and change: the files below
// world.Root, the user's own, and the programs on PATH.
type machine struct{ *session }

// at is a path of the system's.
func (m machine) at(path string) string { return m.Root + path }

func (m machine) xdg(name, fallback string) string {
	if dir := m.Getenv(name); filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(m.Getenv("HOME"), fallback)
}

func (m machine) config(elem ...string) string {
	return filepath.Join(append([]string{m.xdg("XDG_CONFIG_HOME", ".config")}, elem...)...)
}

func (m machine) data(elem ...string) string {
	return filepath.Join(append([]string{m.xdg("XDG_DATA_HOME", ".local/share")}, elem...)...)
}

// runtime is below the user's runtime directory; "": there is none.
func (m machine) runtime(elem ...string) string {
	dir := m.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		dir = m.at("/run/user/" + strconv.Itoa(m.UID))
		if !exists(dir) {
			return ""
		}
	}
	return filepath.Join(append([]string{dir}, elem...)...)
}

func (m machine) sshSocket() string { return m.runtime("keyringd", "ssh") }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// systemd reports whether a service manager looks after the user's session.
func (m machine) systemd() bool {
	dir := m.runtime("systemd")
	return dir != "" && exists(filepath.Join(dir, "private"))
}

// unitDirs are where unit files are, the user's own first (systemd.unit(5)).
func (m machine) unitDirs() []string {
	return []string{
		m.config("systemd/user"), m.at("/etc/systemd/user"), m.data("systemd/user"),
		m.at("/usr/local/lib/systemd/user"), m.at("/usr/lib/systemd/user"), m.at("/lib/systemd/user"),
	}
}

// unit returns the file of a unit; "": there is none.
func (m machine) unit(name string) string {
	for _, dir := range m.unitDirs() {
		if path := filepath.Join(dir, name); exists(path) {
			return path
		}
	}
	return ""
}

// enabled reports whether a unit is started with a target of the user's, and
// not masked.
func (m machine) enabled(name string) bool {
	if readText(m.unit(name)) == "" {
		return false // it is not there, or a link to /dev/null
	}
	for _, dir := range m.unitDirs() {
		if links, _ := filepath.Glob(filepath.Join(dir, "*.wants", name)); len(links) > 0 {
			return true
		}
	}
	return false
}

// find returns the path of a program on PATH, "" if there is none. It is looked
// for beside this one first.
func (m machine) find(name string) string {
	dirs := filepath.SplitList(m.Getenv("PATH"))
	if self, err := os.Executable(); err == nil && m.Root == "" {
		dirs = append([]string{filepath.Dir(self)}, dirs...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && filepath.IsAbs(path) && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// commandTime is how long a program that setup runs may take.
const commandTime = time.Minute

// run runs one command and returns what it printed.
func (m machine) run(ctx context.Context, argv []string) (string, error) {
	path := m.find(argv[0])
	if path == "" {
		return "", fmt.Errorf("%s: there is no such program", argv[0])
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// listening reports whether anybody answers on a socket.
func listening(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// processName is what the kernel calls a process; it may be cut after 15
// bytes.
func processName(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}

// setINI sets one key of one group of a file like those of the desktop's, and
// leaves all else as it is.
func setINI(text, group, key, value string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if text == "" {
		lines = nil
	}
	in, end := false, -1
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = line == "["+group+"]"
		}
		name, _, isKey := strings.Cut(line, "=")
		if in && isKey && strings.TrimSpace(name) == key {
			lines[i] = key + "=" + value
			return strings.Join(lines, "\n") + "\n"
		}
		if in && line != "" {
			end = i
		}
	}
	if end < 0 {
		lines = append(lines, "["+group+"]", key+"="+value)
	} else {
		lines = append(lines[:end+1], append([]string{key + "=" + value}, lines[end+1:]...)...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// getINI returns the value of one key of one group; "": it is not there.
func getINI(text, group, key string) string {
	in := false
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = line == "["+group+"]"
		}
		if name, value, ok := strings.Cut(line, "="); in && ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
