package prompt

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// noticeFor is how long a notice stays on screen if nobody closes it.
	noticeFor = time.Minute
	// maxNotices bounds how many notices wait for their turn: one that nobody
	// has read yet is worth less the more there are.
	maxNotices = 8
)

// A Queue is a [Prompter] that shows one thing at a time: questions in the
// order they were asked, and notices when there is no question. A question
// whose ctx ends leaves the queue.
//
// Prompt returns at once for a Notice, without an error, and shows it on its
// own time, even when ctx has ended by then: it often tells why something
// failed. A notice on screen makes way for a question and comes back after it;
// one that is already there or waiting is not shown twice.
type Queue struct {
	p Prompter

	mu      sync.Mutex
	busy    bool            // something is on screen
	waiting []chan struct{} // questions; closed when their turn comes
	notices []notice        // the first may be the one on screen
	shown   func()          // takes the notice off the screen; nil: none is on it
	closed  bool
	wg      sync.WaitGroup
}

type notice struct {
	q    Question
	left time.Duration // on screen
}

// NewQueue returns a Queue that shows things through p. Close it.
func NewQueue(p Prompter) *Queue { return &Queue{p: p} }

// Prompt implements [Prompter].
func (q *Queue) Prompt(ctx context.Context, question Question) (Answer, error) {
	if question.Kind == Notice {
		q.notify(question)
		return Answer{}, nil
	}
	if err := q.enter(ctx); err != nil {
		return Answer{}, err
	}
	defer q.leave()
	return q.p.Prompt(ctx, question)
}

// Close takes a notice off the screen, drops those that wait, and returns when
// it has gone. Questions end with their own ctx; new ones may still be asked.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.notices = nil
	if q.shown != nil {
		q.shown()
	}
	q.mu.Unlock()
	q.wg.Wait()
}

// enter waits for the screen to be free.
func (q *Queue) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.mu.Lock()
	if !q.busy {
		q.busy = true
		q.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	if q.shown != nil {
		q.shown()
	}
	q.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(q.waiting, turn)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // its turn came at the same time
		q.leave()
	}
	return ctx.Err()
}

// leave gives the screen to who comes next.
func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leaveLocked()
}

func (q *Queue) leaveLocked() {
	switch {
	case len(q.waiting) > 0:
		close(q.waiting[0])
		q.waiting = slices.Delete(q.waiting, 0, 1)
	case len(q.notices) > 0 && !q.closed:
		q.showLocked()
	default:
		q.busy = false
	}
}

func (q *Queue) notify(question Question) {
	q.mu.Lock()
	defer q.mu.Unlock()
	same := func(n notice) bool { return n.q == question }
	if q.closed || len(q.notices) >= maxNotices || slices.ContainsFunc(q.notices, same) {
		return
	}
	q.notices = append(q.notices, notice{q: question, left: noticeFor})
	if !q.busy {
		q.busy = true
		q.showLocked()
	}
}

// showLocked puts the first notice on screen, which is free.
func (q *Queue) showLocked() {
	n := q.notices[0]
	ctx, cancel := context.WithTimeout(context.Background(), n.left)
	q.shown = cancel
	q.wg.Add(1)
	go func() {
		defer q.wg.Done()
		defer cancel()
		since := time.Now()
		_, _ = q.p.Prompt(ctx, n.q) // seen, refused or impossible: no matter

		q.mu.Lock()
		defer q.mu.Unlock()
		q.shown = nil
		if !q.closed {
			left := n.left - time.Since(since)
			if ctx.Err() == context.Canceled && left > 0 {
				q.notices[0].left = left
			} else {
				q.notices = slices.Delete(q.notices, 0, 1)
			}
		}
		q.leaveLocked()
	}()
}
