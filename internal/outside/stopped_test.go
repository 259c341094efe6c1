package outside

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/spawn"
)

// stopped returns a Process whose other end is the test's, and answers nothing by
// itself. There is no process to end.
func stopped(t *testing.T) (*Process, *link) {
	t.Helper()
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newLink(theirs)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{link: ours, process: nobody{}, done: make(chan struct{}), asked: map[uint64]chan answer{}, running: map[uint64]*remote{}}
	go p.listen()
	t.Cleanup(func() {
		_ = other.conn.Close()
		<-p.done
	})
	return p, other
}

// nobody does not end.
type nobody struct{ spawn.Process }

func (nobody) Kill() {}

func (nobody) Done() <-chan struct{} { return nil }

// What the process outside does not take stops nobody for ever.
func TestNothingIsTaken(t *testing.T) {
	p, _ := stopped(t)
	p.link.limit = time.Millisecond
	for {
		if err := p.link.send(message{Op: opKill}); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	if err := p.link.send(message{Op: opKill}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the next message: %v", err)
	}
	<-p.Done()
	if _, err := p.Start(spawn.Command{}); !errors.Is(err, ErrGone) {
		t.Errorf("starting then: %v", err)
	}
}

// A program that is started after all, when nobody waits for it, is ended.
func TestStartedTooLate(t *testing.T) {
	p, other := stopped(t)
	p.startWait = time.Millisecond
	if _, err := p.Start(spawn.Command{Path: "/x"}); err == nil || errors.Is(err, ErrGone) {
		t.Fatalf("starting what does not answer: %v", err)
	}
	buf := make([]byte, maxMessage)
	asked, err := other.receive(buf)
	if err != nil || asked.Op != opStart {
		t.Fatalf("%+v, %v", asked, err)
	}
	if err := other.send(message{ID: asked.ID, Op: opStart, PID: 1}); err != nil {
		t.Fatal(err)
	}
	told, err := other.receive(buf)
	if err != nil || told.Op != opKill || told.ID != asked.ID {
		t.Errorf("then %+v, %v", told, err)
	}
}

// Nor does one that cannot be killed.
func TestCloseOfWhatDoesNotEnd(t *testing.T) {
	p, _ := stopped(t)
	p.closeWait = time.Millisecond
	if err := p.Close(); err == nil {
		t.Error("it has ended")
	}
}
