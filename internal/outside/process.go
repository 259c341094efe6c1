package outside

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/spawn"
)

// lookWait is how long it may take to say who a process is. Looking has a limit
// of its own; this one is for a machine that is busy.
const lookWait = 5 * time.Second

// startWait is how long it may take to start a program, from a disk that is busy
// with a login. Whoever asks for it waits as long, whatever becomes of the
// question.
const startWait = 30 * time.Second

// closeWait is how long Close waits for the end: what is stopped, or held by the
// kernel, cannot be killed from inside of the sandbox.
const closeWait = 2 * time.Second

// sendWait is how long the process outside may read nothing when there are
// hundreds of messages for it, as one that is stopped.
const sendWait = 10 * time.Second

// ErrGone says that the process outside is no more. There is no other: what
// could start one is inside.
var ErrGone = errors.New("the process outside of the sandbox has ended")

// A Process is the process outside. It is a [spawn.Starter], and its Look is
// [caller.Look]. It may be used concurrently.
type Process struct {
	link    *link
	rules   []Rule
	process spawn.Process
	done    chan struct{}

	startWait, closeWait time.Duration

	mu      sync.Mutex
	last    uint64
	gone    bool
	asked   map[uint64]chan answer
	running map[uint64]*remote
}

// Start starts this program's own executable as the process outside, with
// argument as its only one and env as its environment. It is to call [Serve]
// with its descriptors 3 and 0. Close ends it, and so does the end of this
// process.
func Start(orders Orders, argument string, env []string) (*Process, error) {
	text, err := json.Marshal(orders.with(wide))
	if err != nil {
		return nil, err
	}
	l, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	read, write, err := os.Pipe()
	if err != nil {
		_ = l.conn.Close()
		return nil, err
	}
	defer read.Close()
	// Not the path of the executable: a package manager may have put another one
	// there meanwhile.
	p, err := spawn.Local{}.Start(spawn.Command{
		Path: "/proc/self/exe", Args: []string{argument}, Env: env, Files: []*os.File{read, nil, os.Stderr, theirs},
	})
	if err != nil {
		_ = l.conn.Close()
		_ = write.Close()
		return nil, fmt.Errorf("the process outside of the sandbox: %w", err)
	}
	l.limit = sendWait
	o := &Process{link: l, rules: orders.Rules, process: p, done: make(chan struct{}), startWait: startWait, closeWait: closeWait, asked: map[uint64]chan answer{}, running: map[uint64]*remote{}}
	go func() {
		_, _ = io.Copy(write, bytes.NewReader(text)) // where it fails, so does the reader
		_ = write.Close()
	}()
	go o.listen()
	return o, nil
}

// PID returns its process ID.
func (o *Process) PID() int { return o.process.PID() }

// Done is closed when the process outside is gone, or of no more use.
func (o *Process) Done() <-chan struct{} { return o.done }

// Close ends the process outside and what it has started, and returns when it is
// gone. It is an error where that takes too long.
func (o *Process) Close() error {
	_ = o.link.conn.Close()
	<-o.done
	t := time.NewTimer(o.closeWait)
	defer t.Stop()
	select {
	case <-o.process.Done():
		return nil
	case <-t.C:
		return errors.New("the process outside of the sandbox does not end")
	}
}

// listen takes what the other side says, until it is gone.
func (o *Process) listen() {
	defer close(o.done)
	buf := make([]byte, maxMessage)
	for {
		m, err := o.link.receive(buf)
		if err != nil {
			break
		}
		m.close()
		o.mu.Lock()
		if m.Op == opGone {
			if r := o.running[m.ID]; r != nil {
				delete(o.running, m.ID)
				r.end(spawn.StatusErr(syscall.WaitStatus(m.Status)))
			}
		} else if c := o.asked[m.ID]; c != nil {
			delete(o.asked, m.ID)
			a := answer{message: m}
			if m.Op == opStart && m.Err == "" {
				a.started = &remote{o: o, id: m.ID, pid: m.PID, done: make(chan struct{})}
				o.running[m.ID] = a.started // before its end is told
			}
			c <- a
		} else if m.Op == opStart && m.Err == "" {
			// Nobody waits for it any more. Not here: who sends may wait for who reads.
			go func() { _ = o.link.send(message{ID: m.ID, Op: opKill}) }()
		}
		o.mu.Unlock()
	}
	_ = o.link.conn.Close()
	o.process.Kill() // from inside of the sandbox it ends by the connection's end alone
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = true
	for _, c := range o.asked {
		close(c)
	}
	for _, r := range o.running {
		r.end(ErrGone)
	}
	o.asked, o.running = nil, nil
}

// An answer may come with a program that was started.
type answer struct {
	message
	started *remote
}

// ask sends a question, and returns where the answer will be; it is closed if
// there will be none.
func (o *Process) ask(m message) (uint64, <-chan answer, error) {
	c := make(chan answer, 1)
	o.mu.Lock()
	if o.gone {
		o.mu.Unlock()
		return 0, nil, ErrGone
	}
	o.last++
	m.ID = o.last
	o.asked[m.ID] = c
	o.mu.Unlock()
	if err := o.link.send(m); err != nil {
		o.mu.Lock()
		delete(o.asked, m.ID)
		o.mu.Unlock()
		return 0, nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return m.ID, c, nil
}

// Look returns what the process outside sees of a process, as [caller.Look] does.
func (o *Process) Look(pid int) (caller.Seen, bool) {
	id, c, err := o.ask(message{Op: opLook, PID: pid})
	if err != nil {
		return caller.Seen{}, false
	}
	t := time.NewTimer(lookWait)
	defer t.Stop()
	select {
	case m := <-c:
		return m.Seen, m.Known
	case <-t.C:
		o.mu.Lock()
		delete(o.asked, id)
		o.mu.Unlock()
		return caller.Seen{}, false
	}
}

// Start implements [spawn.Starter].
func (o *Process) Start(cmd spawn.Command) (spawn.Process, error) {
	m := message{Op: opStart, Kind: cmd.Kind, Path: cmd.Path, Args: cmd.Args, Extra: extras(o.rules, cmd), Death: int(cmd.Death)}
	for _, f := range cmd.Files {
		m.Given = append(m.Given, f != nil)
		if f != nil {
			m.files = append(m.files, f)
		}
	}
	id, c, err := o.ask(m)
	if err != nil {
		return nil, err
	}
	t := time.NewTimer(o.startWait)
	defer t.Stop()
	var a answer
	var ok bool
	select {
	case a, ok = <-c:
	case <-t.C:
		o.mu.Lock()
		_, waiting := o.asked[id]
		delete(o.asked, id) // what is started all the same is killed
		o.mu.Unlock()
		if waiting {
			return nil, fmt.Errorf("%s was not started in %v", cmd.Path, o.startWait)
		}
		a, ok = <-c // it came meanwhile
	}
	switch {
	case !ok:
		return nil, ErrGone
	case a.Err != "":
		return nil, errors.New(a.Err)
	}
	return a.started, nil
}

// A remote is a program that the process outside has started.
type remote struct {
	o    *Process
	id   uint64
	pid  int
	done chan struct{}
	err  error // once done is closed
}

func (r *remote) end(err error) {
	r.err = err
	close(r.done)
}

func (r *remote) PID() int { return r.pid }

func (r *remote) End() { _ = r.o.link.send(message{ID: r.id, Op: opEnd}) }

func (r *remote) Kill() { _ = r.o.link.send(message{ID: r.id, Op: opKill}) }

func (r *remote) Done() <-chan struct{} { return r.done }

func (r *remote) Err() error {
	<-r.done
	return r.err
}
