package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/confine"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/internal/outside"
	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm/link"
)

const (
	// answerFirst is how long the daemon serves before it enters its sandbox: what
	// it was started for is not to wait for another process that starts.
	answerFirst = 200 * time.Millisecond
	// placeWait is how often the daemon looks whether a folder is there that it must
	// be able to write into.
	placeWait = 5 * time.Second
)

// A sandbox is what the daemon puts itself into once it serves, and its process
// outside. That process starts every program from the first one on, so that none
// is left behind that could no longer be ended.
//
// It is a spawn.Starter, and its callers is who may be asked about processes.
type sandbox struct {
	*daemon
	on      bool // the setting says so, and the kernel can
	orders  outside.Orders
	callers *caller.Witness
	began   chan struct{} // closed once process is set
	// stat is os.Stat. It may take for ever, so that nobody waits for it who has
	// something else to do.
	stat func(path string) (os.FileInfo, error)

	mu      sync.Mutex
	process *outside.Process // nil: not started yet
	failed  error            // it could not be: there is no sandbox
	state   string           // for Status
	places  []place
	closed  bool
	entered bool
}

// A place is a folder that the sandbox lets the daemon write into.
type place struct {
	path string
	info os.FileInfo
}

// newSandbox returns one that is not entered yet. Nothing is started.
func (d *daemon) newSandbox() *sandbox {
	s := &sandbox{daemon: d, callers: &caller.Witness{}, began: make(chan struct{}), stat: os.Stat, state: "off: the setting says so"}
	if !d.Landlock {
		return s
	}
	if _, err := confine.Version(); err != nil {
		d.log.Info("keyringd runs without a sandbox", "err", err)
		s.state = "not supported by this kernel"
		return s
	}
	s.on, s.state = true, "not yet: keyringd is starting"
	return s
}

// Start implements spawn.Starter.
func (s *sandbox) Start(c spawn.Command) (spawn.Process, error) {
	if !s.on {
		return spawn.Local{}.Start(c)
	}
	p, err := s.outside()
	if err != nil {
		return spawn.Local{}.Start(c) // and the sandbox is not entered
	}
	return p.Start(c)
}

// outside returns the process outside, started at the first call. An error is
// the same each time.
func (s *sandbox) outside() (*outside.Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil && s.failed == nil {
		if s.closed {
			return nil, outside.ErrGone
		}
		s.process, s.failed = outside.Start(s.orders, outsideArgument, []string{"GOTRACEBACK=none", "GOMAXPROCS=1"})
		if s.failed == nil {
			close(s.began)
		}
	}
	return s.process, s.failed
}

// Close ends the process outside, and what it has started.
func (s *sandbox) Close() {
	s.mu.Lock()
	p := s.process
	s.closed = true
	s.mu.Unlock()
	if p != nil {
		_ = p.Close()
	}
}

// watch returns an error once the process outside has ended before ctx. Then
// nobody can be asked any more, and nobody who asks be named, and there is no
// way to start another from inside: it is for the service manager to start the
// daemon anew.
func (s *sandbox) watch(ctx context.Context) error {
	select {
	case <-s.began:
	case <-ctx.Done():
		return ctx.Err()
	}
	p, _ := s.outside()
	select {
	case <-p.Done():
		return outside.ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter puts the daemon into the sandbox, once all is there that it must be able
// to write to, and returns then or when ctx ends. Where that fails the daemon
// goes on without.
func (s *sandbox) enter(ctx context.Context, keys *keyring.Keys) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.goIn(ctx, keys)
	}()
	select {
	case <-done:
	case <-ctx.Done(): // a folder may keep it for longer
	}
}

func (s *sandbox) goIn(ctx context.Context, keys *keyring.Keys) {
	if !s.on || !s.wait(ctx) {
		return
	}
	_ = os.MkdirAll(s.DataDir, 0o700) // to be in it; whoever needs it says what is wrong
	p, err := s.outside()
	if err == nil {
		s.callers.Use(p.Look)
		s.mu.Lock()
		s.entered = true // from here on, what fails may be for its sake
		s.mu.Unlock()
		err = s.domain(keys).Enter()
		for errors.Is(err, confine.ErrHeld) {
			s.say("not yet: " + err.Error())
			select {
			case <-time.After(placeWait):
			case <-ctx.Done():
				return
			}
			err = s.domain(keys).Enter()
		}
	}
	if err != nil {
		s.log.Warn("keyringd runs without a sandbox", "err", err)
		s.say("off: " + err.Error())
		return
	}
	version, _ := confine.Version()
	s.say("on (Landlock " + strconv.Itoa(version) + ")")
	s.log.Info("keyringd is in its sandbox", "landlock", version)
}

func (s *sandbox) say(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

// wait waits a moment, and until there is what the daemon must be able to write to: the sandbox
// is made of files and not of names, and what comes later stays read-only. It
// reports whether ctx goes on.
func (s *sandbox) wait(ctx context.Context) bool {
	select {
	case <-time.After(answerFirst):
	case <-ctx.Done():
		return false
	}
	told := false
	for {
		path := s.missing()
		if path == "" {
			return ctx.Err() == nil
		}
		if !told {
			s.log.Info("keyringd waits with its sandbox", "missing", path)
			told = true
		}
		s.say("not yet: " + path + " is not there")
		select {
		case <-time.After(placeWait):
		case <-ctx.Done():
			return false
		}
	}
}

// missing is a key folder that somebody may want a key to be made in, or a TPM,
// that is not there; "": none. A folder whose parent is missing, such as on a
// drive that is not plugged in, is not waited for.
func (s *sandbox) missing() string {
	gone := func(path string) bool {
		_, err := s.stat(path)
		return errors.Is(err, os.ErrNotExist)
	}
	for _, dir := range s.KeyDirs {
		if gone(dir) && !gone(filepath.Dir(dir)) {
			return dir
		}
	}
	if a := s.tpmAddress.Resolve(); a.Kind == link.Device && gone(a.Target) {
		return a.Target
	}
	return ""
}

// domain is what the daemon may reach from inside.
//
// Everything but devices may be read, as far as the user may: key files and
// known_hosts are links into folders of any name, folders of keys come and go
// with drives, keyrings to be imported are where the user has them. What he
// could be robbed of by reading is in the daemon anyway. Nothing is executed.
func (s *sandbox) domain(keys *keyring.Keys) confine.Domain {
	run := s.env.userRuntimeDir()
	d := confine.Domain{
		Files:    []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts"},
		Sockets:  []string{filepath.Dir(s.RuntimeDir)},
		Write:    append([]string{s.DataDir, s.RuntimeDir}, s.KeyDirs...),
		Abstract: s.abstract(),
	}
	top, err := confine.TopBut("dev")
	if err != nil {
		top = []string{"/bin", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/srv", "/sys", "/tmp", "/usr", "/var"}
	}
	d.Read = append(top, s.env.Home, filepath.Dir(s.env.configPath()), "/dev/shm")
	if run != "" {
		d.Sockets = append(d.Sockets, run)
		d.Write = append(d.Write, filepath.Join(run, "keyring"))
		if s.P11KitSocket {
			d.Write = append(d.Write, filepath.Join(run, "p11-kit"))
		}
	}
	d.Write = append(d.Write, s.linked(keys)...)
	d.Devices = append(d.Devices, s.terminals...)
	switch a := s.tpmAddress.Resolve(); a.Kind {
	case link.Device:
		d.Devices = append(d.Devices, a.Target)
	case link.TCP:
		host, port, _ := net.SplitHostPort(a.Target)
		if n, err := net.LookupPort("tcp", port); err == nil {
			d.ConnectTCP = append(d.ConnectTCP, uint16(n))
		}
		if net.ParseIP(host) == nil {
			d.ConnectTCP = append(d.ConnectTCP, 53) // names of many addresses are asked for so
		}
	}
	var places []place
	for _, dir := range s.KeyDirs {
		if info, err := s.stat(dir); err == nil {
			places = append(places, place{dir, info})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places = places
	return d
}

// linked are the folders outside of the key folders where key files really are
// that the key folders have links to: a PIN is changed there. The home as a whole
// is not one of them.
func (s *sandbox) linked(keys *keyring.Keys) []string {
	var dirs []string
	for _, info := range keys.List() {
		for _, path := range info.Paths {
			real, err := filepath.EvalSymlinks(path)
			if err != nil || real == path {
				continue
			}
			dir := filepath.Dir(real)
			if up, err := filepath.Rel(dir, s.env.Home); err != nil || up == ".." || strings.HasPrefix(up, "../") {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// abstract reports whether something is to be reached that is an abstract socket.
func (s *sandbox) abstract() bool {
	for _, address := range []string{s.busAddress(), s.systemBus()} {
		if strings.Contains(address, "abstract=") {
			return true
		}
	}
	return strings.HasPrefix(s.env.Getenv("NOTIFY_SOCKET"), "@")
}

// put puts files down for a request that names another place than those the
// sandbox leaves to the daemon. Without the sandbox, what err was stays.
func (s *sandbox) put(err error, kind func(path string) string, files ...atomicfile.File) error {
	s.mu.Lock()
	p, entered := s.process, s.entered
	s.mu.Unlock()
	if !entered || !errors.Is(err, syscall.EACCES) {
		return err
	}
	var kinds []string
	for _, f := range files {
		kinds = append(kinds, kind(f.Path))
	}
	return p.Put(kinds, files...)
}

// putKey is put for a key file and its public half.
func (s *sandbox) putKey(err error, files ...atomicfile.File) error {
	return s.put(err, func(path string) string {
		if strings.HasSuffix(path, pubfile.Suffix) {
			return kindPublic
		}
		return kindKey
	}, files...)
}

// putArchive is put for an archive.
func (s *sandbox) putArchive(err error, file atomicfile.File) error {
	return s.put(err, func(string) string { return kindArchive }, file)
}

// fact says for Status how it stands.
func (s *sandbox) fact() string {
	s.mu.Lock()
	state, places := s.state, s.places
	s.mu.Unlock()
	for _, p := range places {
		now, err := s.stat(p.path)
		if err != nil || !os.SameFile(now, p.info) {
			return fmt.Sprintf("%s; %s is another folder than when it began, and is written to in part until keyringd is restarted", state, p.path)
		}
	}
	return state
}
