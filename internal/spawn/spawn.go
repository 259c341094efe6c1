// Package spawn starts other programs and sees to their end: a [Command] is
// what to start, a [Process] is one that was started, and a [Starter] is who
// starts it, which may be another process.
//
// It knows no protocol, and passes no environment on that it was not given.
package spawn

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Command is a program to be started in a session of its own, in the folder /.
type Command struct {
	Kind  string         // what it is for, by which a Starter may know what it may be; any: "" for one of ours
	Path  string         // absolute
	Args  []string       // without the program's name
	Env   []string       // all of its environment; nil: that of this process
	Files []*os.File     // its descriptors from 0 on, borrowed until Start returns; nil: /dev/null
	Death syscall.Signal // what it gets when whoever started it is gone; 0: SIGKILL
}

// A Starter starts programs. It may be used concurrently.
type Starter interface {
	// Start returns once the program runs, or cannot.
	Start(Command) (Process, error)
}

// A Process is a program that was started. Its methods may be called
// concurrently, and after its end, when those that signal do nothing. What the
// program leaves behind in its process group is killed when it ends.
type Process interface {
	PID() int
	// End asks the program and its process group to end; a stopped one hears it.
	End()
	// Kill ends them.
	Kill()
	// Done is closed when the program is gone.
	Done() <-chan struct{}
	// Err says how it ended, once Done is closed: nil for status 0, an [*ExitError]
	// for any other end of its own or by a signal.
	Err() error
}

// An ExitError is an end other than with status 0.
type ExitError struct {
	Status syscall.WaitStatus
}

// Error is "exit status N", or "signal: NAME".
func (e *ExitError) Error() string {
	if e.Status.Signaled() {
		return "signal: " + e.Status.Signal().String()
	}
	return "exit status " + strconv.Itoa(e.Status.ExitStatus())
}

// StatusErr is a Process.Err for how a program ended.
func StatusErr(status syscall.WaitStatus) error {
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	return &ExitError{status}
}

// Local is the Starter whose programs are children of this process.
type Local struct{}

// Start implements [Starter].
func (Local) Start(c Command) (Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	c.Files = filled(c.Files, null)
	p := &child{done: make(chan struct{})}
	started := make(chan error, 1)
	go p.live(c, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// filled puts null in the place of what is not given.
func filled(given []*os.File, null *os.File) []*os.File {
	files := append([]*os.File(nil), given...)
	for len(files) < 3 {
		files = append(files, nil)
	}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	return files
}

// child is a program that is a child of this process.
type child struct {
	p    *os.Process
	done chan struct{}
	err  error // once done is closed

	mu     sync.Mutex
	reaped bool // its number may be somebody else's now
}

// live starts the program and stays until it is gone, on one thread: the kernel
// takes a parent to have died when the thread that started the child ends.
func (p *child) live(c Command, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	death := c.Death
	if death == 0 {
		death = syscall.SIGKILL
	}
	var err error
	p.p, err = os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
		Dir: "/", Env: c.Env, Files: c.Files,
		// A session of its own: its group can be killed as a whole, and a terminal
		// that it opens treats it as foreground.
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: death},
	})
	started <- err
	if err != nil {
		return
	}
	defer close(p.done)
	for unix.Waitid(unix.P_PID, p.p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// As long as the group's number is certain.
	_ = unix.Kill(-p.p.Pid, unix.SIGKILL)
	state, err := p.p.Wait()
	p.reaped = true
	if err != nil {
		p.err = fmt.Errorf("waiting for %s: %w", c.Path, err)
		return
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok {
		p.err = StatusErr(status)
	}
}

func (p *child) PID() int { return p.p.Pid }

func (p *child) End() { p.signal(unix.SIGTERM, unix.SIGCONT) }

func (p *child) Kill() { p.signal(unix.SIGKILL) }

func (p *child) Done() <-chan struct{} { return p.done }

func (p *child) Err() error {
	<-p.done
	return p.err
}

func (p *child) signal(signals ...syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return
	}
	for _, s := range signals {
		_ = unix.Kill(-p.p.Pid, s)
	}
}
