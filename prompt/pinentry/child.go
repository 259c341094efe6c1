package pinentry

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/prompt"
)

// A child is a running program.
type child struct {
	cmd    *exec.Cmd
	stdin  *os.File // to the program; nil if it has none
	stdout *os.File // from it
	gone   chan struct{}

	mu     sync.Mutex
	reaped bool  // its PID may be somebody else's now
	cause  error // why it was told to go; nil: it was not
	kill   *time.Timer
}

// run starts cmd, calls talk with it, and returns when the program has gone:
// by itself soon after talk has returned, or because ctx ended, or because it
// was told to. It returns the end of what the program said on standard error,
// and ctx's error, the reason why it was told to go, or talk's error.
func run(ctx context.Context, cmd *exec.Cmd, withStdin bool, talk func(*child) error) (stderr string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	// The kernel kills the child when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, errs, err := start(cmd, withStdin)
	if err != nil {
		return "", fmt.Errorf("%w: %w", prompt.ErrUnavailable, err)
	}
	return converse(ctx, c, errs, talk)
}

// converse is run for a program that has been started.
func converse(ctx context.Context, c *child, errs *tail, talk func(*child) error) (stderr string, err error) {
	stop := context.AfterFunc(ctx, func() { c.end(ctx.Err()) })
	err = talk(c)
	c.closePipes()
	select {
	case <-c.gone:
	case <-time.After(exitWithin):
		c.end(nil)
		select {
		case <-c.gone:
		case <-time.After(exitWithin): // stuck in the kernel: the user must not be
		}
	}
	stop()
	stderr = errs.close()
	if ctx.Err() != nil {
		return stderr, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.cause != nil {
		err = c.cause
	}
	return stderr, err
}

// start starts cmd in a session of its own: its group can be killed as a whole,
// and a terminal that it opens treats it as foreground.
func start(cmd *exec.Cmd, withStdin bool) (*child, *tail, error) {
	c := &child{cmd: cmd, gone: make(chan struct{})}
	var theirs []*os.File
	closeAll := func(fs ...*os.File) {
		for _, f := range fs {
			if f != nil {
				f.Close()
			}
		}
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	c.stdout, theirs = outR, append(theirs, outW)
	errR, errW, err := os.Pipe()
	if err != nil {
		closeAll(c.stdout, outW)
		return nil, nil, err
	}
	theirs = append(theirs, errW)
	cmd.Stdout, cmd.Stderr = outW, errW
	if withStdin {
		inR, inW, err := os.Pipe()
		if err != nil {
			closeAll(append(theirs, c.stdout, errR)...)
			return nil, nil, err
		}
		theirs = append(theirs, inR)
		c.stdin, cmd.Stdin = inW, inR
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Dir = "/"
	err = cmd.Start()
	closeAll(theirs...)
	if err != nil {
		closeAll(c.stdin, c.stdout, errR)
		return nil, nil, err
	}
	go c.wait()
	return c, readTail(errR), nil
}

// wait reaps the child, and kills what it left behind in its group as long as
// the group's number is certain.
func (c *child) wait() {
	defer close(c.gone)
	for unix.Waitid(unix.P_PID, c.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL)
	_ = c.cmd.Wait()
	c.reaped = true
	if c.kill != nil {
		c.kill.Stop()
	}
}

// end tells the child to go, and kills it soon after. The first cause counts.
func (c *child) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
	}
	if c.reaped || c.kill != nil {
		return
	}
	pid := c.cmd.Process.Pid
	_ = unix.Kill(-pid, unix.SIGTERM)
	_ = unix.Kill(-pid, unix.SIGCONT) // a stopped one does not hear
	c.kill = time.AfterFunc(killAfter, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.reaped {
			_ = unix.Kill(-pid, unix.SIGKILL)
		}
	})
	// Whoever talks with it need not wait for its end.
	c.closePipes()
}

func (c *child) closePipes() {
	if c.stdin != nil {
		c.stdin.Close()
	}
	c.stdout.Close()
}

// within tells the child to go with cause after d, unless the returned function
// is called before.
func (c *child) within(d time.Duration, cause error) (stop func()) {
	t := time.AfterFunc(d, func() { c.end(cause) })
	return func() { t.Stop() }
}

// tail keeps the end of what a program writes to its standard error.
type tail struct {
	r    *os.File
	done chan struct{}
	last []byte
}

func readTail(r *os.File) *tail {
	t := &tail{r: r, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		_, _ = io.Copy(t, onlyReader{r})
	}()
	return t
}

// onlyReader keeps io.Copy from finding a method that knows better.
type onlyReader struct{ io.Reader }

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	if n := len(t.last) - maxStderr; n > 0 {
		t.last = append(t.last[:0], t.last[n:]...)
	}
	return len(p), nil
}

// close stops reading, even if some grandchild still has the other end, after
// what is there has been read.
func (t *tail) close() string {
	_ = t.r.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	<-t.done
	t.r.Close()
	return string(t.last)
}

// ended waits for the child and returns how it ended: nil for status 0.
func (c *child) ended() error {
	<-c.gone
	if c.cmd.ProcessState.Success() {
		return nil
	}
	return &exec.ExitError{ProcessState: c.cmd.ProcessState}
}
