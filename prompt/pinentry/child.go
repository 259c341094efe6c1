package pinentry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/prompt"
)

// A child is a running program.
type child struct {
	process spawn.Process
	stdin   *os.File // to the program; nil if it has none
	stdout  *os.File // from it

	mu    sync.Mutex
	cause error // why it was told to go; nil: it was not
	kill  *time.Timer
}

// run has starter start cmd, calls talk with it, and returns when the program has gone:
// by itself soon after talk has returned, or because ctx ended, or because it
// was told to. It returns the end of what the program said on standard error,
// and ctx's error, the reason why it was told to go, or talk's error.
func run(ctx context.Context, starter spawn.Starter, cmd spawn.Command, withStdin bool, talk func(*child) error) (stderr string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	c, errs, err := start(starter, cmd, withStdin)
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
	case <-c.process.Done():
	case <-time.After(exitWithin):
		c.end(nil)
		select {
		case <-c.process.Done():
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

// start has starter start cmd, with pipes; a nil one is this process.
func start(starter spawn.Starter, cmd spawn.Command, withStdin bool) (*child, *tail, error) {
	if starter == nil {
		starter = spawn.Local{}
	}
	c := &child{}
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
	cmd.Files = []*os.File{nil, outW, errW}
	if withStdin {
		inR, inW, err := os.Pipe()
		if err != nil {
			closeAll(append(theirs, c.stdout, errR)...)
			return nil, nil, err
		}
		theirs = append(theirs, inR)
		c.stdin, cmd.Files[0] = inW, inR
	}
	c.process, err = starter.Start(cmd)
	closeAll(theirs...)
	if err != nil {
		closeAll(c.stdin, c.stdout, errR)
		return nil, nil, err
	}
	return c, readTail(errR), nil
}

// end tells the child to go, and kills it soon after. The first cause counts.
func (c *child) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
	}
	if c.kill != nil {
		return
	}
	if c.ended() {
		// What it left behind may have its ends of the pipes.
		c.closePipes()
		return
	}
	c.process.End()
	c.kill = time.AfterFunc(killAfter, c.process.Kill)
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

func (c *child) ended() bool {
	select {
	case <-c.process.Done():
		return true
	default:
		return false
	}
}

// crashed waits a while for the program's end, and reports whether that was by a
// signal.
func (c *child) crashed() bool {
	select {
	case <-c.process.Done():
	case <-time.After(exitWithin):
		return false
	}
	var e *spawn.ExitError
	return errors.As(c.process.Err(), &e) && e.Status.Signaled()
}
