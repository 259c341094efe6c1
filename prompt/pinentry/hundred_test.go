package pinentry

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/prompt"
)

// rotating asks with one program after the other.
type rotating struct {
	programs []*Program
	good     *Program // asks instead of them, once there is one
	next     atomic.Int64
}

func (r *rotating) Prompt(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	if r.good != nil {
		return r.good.Prompt(ctx, q)
	}
	return r.programs[int(r.next.Add(1)-1)%len(r.programs)].Prompt(ctx, q)
}

// A hundred crashes, hangs and garbage answers, to several askers at a time:
// each is answered, none gets to use a key by it, and nothing is left.
func TestHundredMisfortunes(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), countFDs(t)
	var said []func() string
	programs := func(modes ...string) *rotating {
		r := &rotating{}
		for _, mode := range modes {
			p, log := program(t, mode)
			if mode == "hang" || mode == "start-hang" || mode == "deaf" {
				// What becomes of one that nobody answers; two minutes later, else.
				p.Timeout = 50 * time.Millisecond
			}
			r.programs, said = append(r.programs, p), append(said, log)
		}
		return r
	}
	bad := programs("start-exit", "segv", "garbage", "start-garbage", "flood", "exit", "hang", "flood-data", "start-segv",
		"flood-line", "orphan", "start-err", "enotty", "start-flood", "no-desc", "flood-stderr")
	queue := prompt.NewQueue(bad)
	gate := keyring.NewGate(queue)
	const rounds, askers = 100, 4
	var mu sync.Mutex
	outcomes := map[string]int{}
	var wg sync.WaitGroup
	for asker := range askers {
		wg.Go(func() {
			for i := range rounds / askers {
				u := keyring.Use{ID: fmt.Sprintf("key %d.%d", asker, i), Subject: "key", NeedsAuth: i%2 == 0, Confirm: i%2 == 1,
					Caller: keyring.Caller{Program: fmt.Sprint("/asker", asker)}}
				err := gate.Use(t.Context(), u, func(secret.Bytes) error {
					t.Error("a key was used without an answer")
					return nil
				})
				outcome := "unavailable"
				switch {
				case errors.Is(err, keyring.ErrDenied):
					outcome = "not answered"
				case !errors.Is(err, keyring.ErrUnavailable):
					t.Errorf("%v", err)
				}
				mu.Lock()
				outcomes[outcome]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := outcomes["unavailable"] + outcomes["not answered"]; n != rounds || outcomes["not answered"] == 0 {
		t.Errorf("outcomes: %v", outcomes)
	}

	// After all that the user is asked with one that works, and is heard.
	bad.good, _ = program(t, "pins:1234")
	used := false
	if err := gate.Use(t.Context(), keyring.Use{ID: "k", Subject: "key", NeedsAuth: true}, func(auth secret.Bytes) error {
		auth.Use(func(p []byte) { used = string(p) == "1234" })
		return nil
	}); err != nil || !used {
		t.Errorf("used %v, %v", used, err)
	}
	gate.Lock()
	queue.Close()
	for _, log := range said {
		for _, n := range pids(log) {
			if alive(n) {
				t.Errorf("process %d is left", n)
			}
		}
	}
	until(t, "goroutines gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := countFDs(t); n > fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
}

// A program that shows the question and says nothing is a user who thinks. What
// limits the start does not count any more.
func TestThinkingIsNotHanging(t *testing.T) {
	if DefaultTimeout < time.Minute {
		t.Errorf("a person has %v to answer", DefaultTimeout)
	}
	p, said := program(t, "hang")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const ready = 2 * time.Second
	done := make(chan error, 1)
	go func() {
		_, err := p.talk(question, ready, func(talk func(*child) error) (string, error) {
			return run(ctx, nil, p.command(), true, talk)
		})
		done <- err
	}()
	until(t, "question shown", func() bool { return strings.Contains(said(), "GETPIN") })
	select {
	case err := <-done:
		t.Fatalf("it was ended: %v", err)
	case <-time.After(ready + time.Second):
	}
	if !alive(pid(t, said)) {
		t.Error("it is gone")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
