package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/keyringd/keyringd/dbus/client"
)

// A ticker shows what the daemon is at, in one line that goes away again.
type ticker struct {
	s     *session
	begin time.Time

	mu   sync.Mutex
	step string
	over bool
}

// progress returns what to tell the steps to, and what ends it. Where no person
// watches, nothing is shown.
func (s *session) progress() (tell func(step string), done func()) {
	if !s.ErrTerminal {
		return nil, func() {}
	}
	t := &ticker{s: s, begin: time.Now()}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go t.run(stop, stopped)
	return t.tell, func() {
		close(stop)
		<-stopped
		t.end()
	}
}

func (t *ticker) run(stop <-chan struct{}, stopped chan<- struct{}) {
	defer close(stopped)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-stop:
			return
		case <-second.C:
			t.mu.Lock()
			// While the user is being asked, the terminal may be the question's.
			if t.step != "" && t.step != client.Asking {
				t.show()
			}
			t.mu.Unlock()
		}
	}
}

func (t *ticker) tell(step string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || step == t.step {
		return
	}
	t.step, t.begin = step, time.Now()
	t.show()
}

// show prints the line over the one before.
func (t *ticker) show() {
	line := cell(t.step) + "…"
	if waited := time.Since(t.begin).Round(time.Second); waited > 0 {
		line += fmt.Sprintf(" (%v)", waited)
	}
	fmt.Fprint(t.s.Err, "\r\x1b[K"+line)
}

func (t *ticker) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.step != "" {
		fmt.Fprint(t.s.Err, "\r\x1b[K")
	}
}
