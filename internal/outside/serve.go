package outside

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/spawn"
)

// maxRunning bounds the programs that run at a time: a question or two, and
// helpers for cards.
const maxRunning = 256

// Serve does what the daemon asks for until the daemon is gone, and returns
// then. conn is this end of the pair, which it takes over. Its orders are read
// from orders first. It returns with programs still running; they get
// their signal of Death when this process ends.
func Serve(conn, orders *os.File, filters map[string]Filter, checks map[string]Check) error {
	l, err := newLink(conn)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	o, err := readOrders(orders)
	_ = orders.Close()
	if err != nil {
		return err
	}
	s := server{link: l, rules: o.Rules, folders: o.Folders, home: o.Home, filters: filters, checks: checks, running: map[uint64]spawn.Process{}}
	runtime.GC() // what reading them took is more than everything else
	buf := make([]byte, maxMessage)
	for {
		m, err := l.receive(buf)
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.do(m); err != nil {
			return err
		}
	}
}

type server struct {
	link    *link
	rules   []Rule
	folders []string
	home    string
	filters map[string]Filter
	checks  map[string]Check

	mu      sync.Mutex
	running map[uint64]spawn.Process
}

// do does what a message says. What may be held up by a file system that does not
// answer holds up nothing else.
func (s *server) do(m message) error {
	switch m.Op {
	case opPut:
		go func() {
			defer m.close()
			s.put(m)
		}()
		return nil
	case opStart:
		go func() {
			defer m.close()
			s.answerStart(m)
		}()
		return nil
	}
	defer m.close()
	switch m.Op {
	case opLook:
		go func() {
			seen, known := caller.Look(m.PID)
			_ = s.link.send(message{ID: m.ID, Op: opLook, Seen: seen, Known: known})
		}()
	case opEnd, opKill:
		s.mu.Lock()
		p := s.running[m.ID]
		s.mu.Unlock()
		switch {
		case p == nil: // it has ended meanwhile
		case m.Op == opEnd:
			p.End()
		default:
			p.Kill()
		}
	default:
		return fmt.Errorf("operation %.20q is not known", m.Op)
	}
	return nil
}

// answerStart answers opStart, and returns when the program is running.
func (s *server) answerStart(m message) {
	p, err := s.start(m)
	if err != nil {
		_ = s.link.send(message{ID: m.ID, Op: opStart, Err: err.Error()})
		return
	}
	_ = s.link.send(message{ID: m.ID, Op: opStart, PID: p.PID()})
	go s.wait(m.ID, p)
}

func (s *server) start(m message) (spawn.Process, error) {
	c := spawn.Command{Kind: m.Kind, Path: m.Path, Args: m.Args, Death: syscall.Signal(m.Death)}
	left := m.files
	for _, given := range m.Given {
		var f *os.File
		if given {
			if len(left) == 0 {
				return nil, errors.New("a file is missing")
			}
			f, left = left[0], left[1:]
		}
		c.Files = append(c.Files, f)
	}
	rule, env, err := permit(s.rules, c, m.Extra)
	if err != nil {
		return nil, err
	}
	c.Env = env
	s.mu.Lock()
	full := len(s.running) >= maxRunning || s.running[m.ID] != nil
	s.mu.Unlock()
	if full {
		return nil, errors.New("too many programs are running")
	}
	if rule.Filter == "" {
		return s.run(m.ID, c)
	}
	return s.filtered(m.ID, c, rule)
}

func (s *server) run(id uint64, c spawn.Command) (spawn.Process, error) {
	p, err := spawn.Local{}.Start(c)
	if err == nil {
		s.mu.Lock()
		s.running[id] = p
		s.mu.Unlock()
	}
	return p, err
}

// filtered starts a program that is told only what its filter lets through.
func (s *server) filtered(id uint64, c spawn.Command, rule Rule) (spawn.Process, error) {
	filter := s.filters[rule.Filter]
	if filter == nil || len(c.Files) == 0 || c.Files[0] == nil {
		return nil, fmt.Errorf("%s cannot be told anything", c.Path)
	}
	// The message's own is closed with it.
	fd, err := syscall.Dup(int(c.Files[0].Fd()))
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	syscall.CloseOnExec(fd)
	from := os.NewFile(uintptr(fd), "to be filtered")
	theirs, to, err := os.Pipe()
	if err != nil {
		_ = from.Close()
		return nil, err
	}
	c.Files[0] = theirs
	p, err := s.run(id, c)
	_ = theirs.Close()
	if err != nil {
		_ = from.Close()
		_ = to.Close()
		return nil, err
	}
	go func() {
		err := filter(to, from, rule.Allow)
		_ = to.Close()
		_ = from.Close()
		if err != nil {
			p.Kill()
		}
	}()
	return p, nil
}

func (s *server) wait(id uint64, p spawn.Process) {
	var status syscall.WaitStatus
	var exit *spawn.ExitError
	if errors.As(p.Err(), &exit) {
		status = exit.Status
	}
	s.mu.Lock()
	delete(s.running, id)
	s.mu.Unlock()
	_ = s.link.send(message{ID: id, Op: opGone, Status: uint32(status)})
}
