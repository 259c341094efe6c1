package swtpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/tpm/link"
)

const (
	startLimit = 20 * time.Second // for a child to answer: the first start makes the seeds
	stopLimit  = 2 * time.Second  // for each step of stopping

	firstDelay = 100 * time.Millisecond // before a child that died is started again
	maxDelay   = 30 * time.Second
	stable     = time.Minute // a child that lived this long did not die of its start

	maxPath   = 107 // of a Unix socket: sockaddr_un without the final zero
	tailBytes = 1 << 10
)

// errStopped is what starting ends with after Stop.
var errStopped = errors.New("stopped")

// Options say where the software TPM lives.
type Options struct {
	Dir     string        // the state; made with mode 0700 if it is missing, else others must not be able to write in it
	Socket  string        // where it listens, mode 0600; its folder must exist. Empty: Dir/socket
	Program string        // empty: "swtpm", looked up in PATH
	Startup Startup       // who sends TPM2_Startup; the zero value is right but for tests
	Log     *slog.Logger  // nil: silent
	Starter spawn.Starter // who starts it; nil: this process
}

// Startup says who sends TPM2_Startup after the program starts.
type Startup int

// swtpm itself, or the first user.
const (
	StartupClear Startup = iota
	NoStartup
)

// MissingError says that the program is not installed.
type MissingError struct {
	Program string
	Err     error
}

// Error names the program.
func (e *MissingError) Error() string {
	return "software TPM: program " + e.Program + " not found"
}

// Unwrap returns what looking it up ended with.
func (e *MissingError) Unwrap() error { return e.Err }

// Hint says what a user can do about it.
func (e *MissingError) Hint() string {
	return "install swtpm (Debian, Ubuntu, Fedora, Arch: the package swtpm)"
}

// A Process is a running software TPM. All methods may be called concurrently.
type Process struct {
	options Options
	log     *slog.Logger

	stop chan struct{} // closed by Stop and Kill
	done chan struct{} // closed when the last child is reaped

	mu       sync.Mutex
	child    *child
	stopping bool
}

// child is one run of the program.
type child struct {
	process spawn.Process
	control net.Conn
	output  *tail
	heard   chan struct{} // closed when there is no more output
}

// Start runs the program and returns when it answers; ctx bounds the waiting
// and nothing after it. The child is started again when it dies by itself, with
// growing pauses, until Stop or Kill, one of which the caller owes.
//
// Where the program is missing, the error is a [*MissingError].
func Start(ctx context.Context, o Options) (*Process, error) {
	o.complete()
	path, err := exec.LookPath(o.Program)
	if err != nil {
		return nil, &MissingError{o.Program, err}
	}
	o.Program = path
	if err := prepare(o); err != nil {
		return nil, fmt.Errorf("software TPM: %w", err)
	}
	p := &Process{
		options: o,
		log:     o.Log,
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	started := make(chan error, 1)
	go p.supervise(started)
	select {
	case err = <-started:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = p.Kill()
		return nil, fmt.Errorf("software TPM: %w", err)
	}
	return p, nil
}

// prepare makes the folder, and makes sure that no other TPM is in the way.
func prepare(o Options) error {
	if len(o.Socket) > maxPath {
		return fmt.Errorf("socket path %s is longer than %d bytes", o.Socket, maxPath)
	}
	// swtpm takes its arguments apart at commas and offers no way to quote one.
	if strings.Contains(o.Dir+o.Socket, ",") {
		return fmt.Errorf("a path with a comma cannot be given to swtpm: %s, %s", o.Dir, o.Socket)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	// Whoever could write there could put a TPM of his own in place of this one.
	// What is in it only the user can read, whatever the folder's mode.
	info, err := os.Stat(o.Dir)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("folder %s is not this user's alone to write in", o.Dir)
	}
	conn, err := net.Dial("unix", o.Socket)
	if err == nil {
		conn.Close()
		return fmt.Errorf("something already listens on %s", o.Socket)
	}
	return nil
}

// Address is where the software TPM listens. It stays the same when the child
// is started again.
func (p *Process) Address() link.Address {
	return link.Address{Kind: link.Unix, Target: p.options.Socket}
}

// PID returns the child's process id, or 0 while there is none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return 0
	}
	return p.child.process.PID()
}

// supervise keeps a child running until Stop. The first one's fate goes to
// started.
func (p *Process) supervise(started chan<- error) {
	defer close(p.done)
	for delay := firstDelay; ; delay = min(2*delay, maxDelay) {
		begun := time.Now()
		c, err := p.run()
		if started != nil {
			started <- err
			if err != nil {
				return
			}
			started = nil
		}
		if err == nil {
			err = c.wait()
			p.forget(c)
		}
		if p.stopped() {
			return
		}
		if time.Since(begun) > stable {
			delay = firstDelay
		}
		p.log.Warn("the software TPM ended and is started again", "err", err, "delay", delay)
		select {
		case <-time.After(delay):
		case <-p.stop:
			return
		}
	}
}

func (p *Process) stopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopping
}

// run starts a child and waits until it answers.
func (p *Process) run() (*child, error) {
	control, childs, err := controlPair()
	if err != nil {
		return nil, err
	}
	// What a child that was killed leaves behind. Nobody else's: prepare looked,
	// and the state folder's lock keeps a second swtpm out.
	_ = os.Remove(p.options.Socket)
	c := &child{control: control, output: &tail{log: p.log}, heard: make(chan struct{})}
	said, saying, err := os.Pipe()
	if err != nil {
		control.Close()
		childs.Close()
		return nil, err
	}
	go func() {
		defer close(c.heard)
		_, _ = io.Copy(c.output, said)
		said.Close()
	}()
	err = p.launch(c, spawn.Command{
		Kind: Kind, Path: p.options.Program, Args: p.options.arguments(),
		Files: []*os.File{nil, saying, saying, childs}, Death: syscall.SIGTERM,
	})
	saying.Close()
	childs.Close() // or a child that ends would not end the channel
	if err != nil {
		control.Close()
		return nil, err
	}
	if err := ready(control, startLimit); err != nil {
		c.process.Kill()
		werr := c.wait()
		p.forget(c)
		if p.stopped() {
			return nil, errStopped
		}
		if werr != nil {
			err = werr // "exit status 1" says more than the end of file it caused
		}
		return nil, fmt.Errorf("%s does not start: %w: %s", p.options.Program, err, c.output)
	}
	return c, nil
}

// Kind is what Start starts, for its Starter.
const Kind = "swtpm"

// Command returns what Start would start: the program's path, "" if it is not
// there, and its arguments.
func (o Options) Command() (path string, args []string) {
	o.complete()
	path, _ = exec.LookPath(o.Program)
	return path, o.arguments()
}

func (o Options) arguments() []string {
	flags := "not-need-init"
	if o.Startup == StartupClear {
		flags += ",startup-clear"
	}
	return []string{"socket", "--tpm2",
		"--tpmstate", "dir=" + o.Dir + ",mode=0600",
		"--server", "type=unixio,path=" + o.Socket + ",mode=0600",
		"--ctrl", "type=unixio,clientfd=3",
		"--flags", flags}
}

func (o *Options) complete() {
	if o.Program == "" {
		o.Program = "swtpm"
	}
	if o.Socket == "" {
		o.Socket = filepath.Join(o.Dir, "socket")
	}
	if o.Starter == nil {
		o.Starter = spawn.Local{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// launch starts c, unless Stop came first, and makes it the one to be stopped.
func (p *Process) launch(c *child, cmd spawn.Command) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return errStopped
	}
	var err error
	if c.process, err = p.options.Starter.Start(cmd); err != nil {
		return err
	}
	p.child = c
	return nil
}

func (c *child) wait() error {
	<-c.process.Done()
	<-c.heard // what it started is gone as well
	err := c.process.Err()
	c.control.Close()
	return err
}

func (p *Process) forget(c *child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == c {
		p.child = nil
	}
}

// end makes sure that no child is started again and returns the one there is.
func (p *Process) end() *child {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopping {
		p.stopping = true
		close(p.stop)
	}
	return p.child
}

// Stop ends the software TPM in order and returns when it is gone. It first
// sends TPM2_Shutdown(CLEAR): without it the TPM takes the next start for a
// power cut and counts that towards lockout (Part 1, "Dictionary Attack").
// For this the connection must be free: close the links to it first, or Stop
// does without after 2 seconds, and returns an error that says so. Stopping
// twice is harmless.
func (p *Process) Stop() error {
	c := p.end()
	var err error
	if c != nil {
		err = p.orderly()
		if shutdown(c.control, stopLimit) != nil || !within(c.process.Done(), stopLimit) {
			c.process.End()
			if !within(c.process.Done(), stopLimit) {
				c.process.Kill()
			}
		}
	}
	<-p.done
	_ = os.Remove(p.options.Socket)
	if err != nil {
		return fmt.Errorf("software TPM: stopped without TPM2_Shutdown: %w", err)
	}
	return nil
}

// orderly sends TPM2_Shutdown(CLEAR).
func (p *Process) orderly() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	l, err := link.Dial(ctx, p.Address(), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	// Whoever holds the connection keeps the command from being read.
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	_, err = tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(l)
	return err
}

func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// Kill ends the software TPM at once, as a power cut would, and returns when it
// is gone. It is not started again.
func (p *Process) Kill() error {
	if c := p.end(); c != nil {
		c.process.Kill()
	}
	<-p.done
	_ = os.Remove(p.options.Socket)
	return nil
}

// tail keeps the end of what a program printed and logs its lines.
type tail struct {
	log *slog.Logger

	mu   sync.Mutex
	text []byte
}

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.log.Debug("software TPM", "output", strings.TrimSpace(string(b)))
	t.text = append(t.text, b...)
	if n := len(t.text) - tailBytes; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(b), nil
}

// String returns the end of the output on one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(string(t.text)), " ")
}
