package sshhelper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// waitDelay is how long a helper may take to end once its work is over.
	waitDelay = 2 * time.Second
	// abandoned is how long a helper may go on with what nobody waits for any more,
	// such as a signature that the card wants its PIN pad used for.
	abandoned = 30 * time.Second
	// maxSaid is how much of what a helper complains about is told.
	maxSaid = 500
)

// places is where distributions put the helpers.
var places = []string{"/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec", "/usr/lib64/misc"}

// Names of the helpers, which are also the kinds of what is started.
const (
	PKCS11Helper = "ssh-pkcs11-helper"
	SKHelper     = "ssh-sk-helper"
)

// Places returns all the paths where a helper is looked for.
func Places(name string) []string {
	var paths []string
	for _, dir := range places {
		paths = append(paths, filepath.Join(dir, name))
	}
	return paths
}

// find returns the path of a helper, given or usual.
func find(given, name string) (string, error) {
	if given != "" {
		return given, nil
	}
	for _, path := range Places(name) {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: OpenSSH's %s is not installed", keyring.ErrUnsupported, name)
}

// A child is a running helper. Its methods may be called concurrently: it is
// asked one thing at a time.
type child struct {
	name    string
	process spawn.Process
	in      *os.File
	out     *os.File
	said    *tail
	over    chan struct{} // closed when it has ended

	turn chan struct{} // holds one token while it is nobody's turn
}

// start has starter start a helper; a nil one is this process. environ is what
// it gets of the environment.
func start(starter spawn.Starter, path string, environ []string) (*child, error) {
	if starter == nil {
		starter = spawn.Local{}
	}
	// For its input, its output and what it complains about: ours, and its own.
	var ours, theirs [3]*os.File
	closeAll := func(files ...*os.File) {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	var err error
	for i := range ours {
		if ours[i], theirs[i], err = os.Pipe(); err != nil {
			break
		}
	}
	ours[0], theirs[0] = theirs[0], ours[0]
	c := &child{name: filepath.Base(path), in: ours[0], out: ours[1], said: &tail{}, over: make(chan struct{}), turn: make(chan struct{}, 1)}
	if err == nil {
		c.process, err = starter.Start(spawn.Command{Kind: c.name, Path: path, Env: environ, Files: theirs[:]})
	}
	closeAll(theirs[:]...)
	if err != nil {
		closeAll(ours[:]...)
		return nil, fmt.Errorf("%w: %w", keyring.ErrUnavailable, err)
	}
	c.turn <- struct{}{}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		_, _ = io.Copy(c.said, ours[2])
		_ = ours[2].Close()
	}()
	go func() {
		defer close(c.over)
		<-c.process.Done() // how it ended shows in what was asked of it
		// Something that it has started may hold its ends for ever.
		_ = c.out.SetReadDeadline(time.Now().Add(waitDelay))
		_ = ours[2].SetReadDeadline(time.Now().Add(waitDelay))
		<-heard
	}()
	return c, nil
}

// stop ends it. It may have ended by itself.
func (c *child) stop() { c.process.Kill() }

// ask sends a message and returns the reply. A helper whose asker does not wait
// for the reply is of no more use, and is ended.
func (c *child) ask(ctx context.Context, message []byte) ([]byte, error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { c.turn <- struct{}{} }()
	return c.exchange(ctx, message)
}

// askToTheEnd is ask of a helper that others need, too: an asker who hangs up
// does not end it, unless the answer takes longer than abandoned. message is kept
// until then.
func (c *child) askToTheEnd(ctx context.Context, message []byte) ([]byte, error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	type answer struct {
		reply []byte
		err   error
	}
	done := make(chan answer, 1)
	go func() { // ends with the helper at the latest
		defer func() { c.turn <- struct{}{} }()
		limited, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		stop := context.AfterFunc(ctx, func() { time.AfterFunc(abandoned, cancel) })
		defer stop()
		reply, err := c.exchange(limited, message)
		done <- answer{reply, err}
	}()
	select {
	case a := <-done:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// exchange is ask in its turn.
func (c *child) exchange(ctx context.Context, message []byte) ([]byte, error) {
	giveUp := context.AfterFunc(ctx, c.stop)
	sent := frame(message)
	_, err := c.in.Write(sent)
	clear(sent)
	var reply []byte
	if err == nil {
		reply, err = read(c.out)
	}
	if !giveUp() && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		c.stop()
		<-c.over
		if errors.Is(err, errReply) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s ended%s", keyring.ErrUnavailable, c.name, c.said)
	}
	return reply, nil
}

// alive reports whether it still runs.
func (c *child) alive() bool {
	select {
	case <-c.over:
		return false
	default:
		return true
	}
}

// close ends it, and waits until it has.
func (c *child) close() {
	_ = c.in.Close()
	c.stop()
	<-c.over
	_ = c.out.Close()
}

// log tells what the helper complained about.
func (c *child) log(log *slog.Logger) {
	if text := c.said.String(); text != "" && log != nil {
		log.Debug("OpenSSH's helper complained", "helper", c.name, "text", text)
	}
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	end []byte
}

// Write keeps the end of p.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if n := len(t.end) - maxSaid; n > 0 {
		t.end = append([]byte(nil), t.end[n:]...)
	}
	return len(p), nil
}

// String is what is kept, on one line, after a colon; "" if there is nothing.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.ToValidUTF8(string(bytes.TrimSpace(t.end)), "")
	if text == "" {
		return ""
	}
	return ": " + strings.Join(strings.Fields(text), " ")
}
