package prompt

import (
	"context"
	"testing"
	"testing/synctest"
)

// expecting is a Prompter that counts how often a question was said to be near.
// It asks until ctx ends.
type expecting struct{ times int }

func (e *expecting) Expect() { e.times++ }

func (e *expecting) Prompt(ctx context.Context, _ Question) (Answer, error) {
	<-ctx.Done()
	return Answer{}, ctx.Err()
}

func TestQueueExpects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &expecting{}
		q := NewQueue(e)
		q.Expect()
		if e.times != 1 {
			t.Errorf("told %d times", e.times)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _, _ = q.Prompt(ctx, Question{}) }()
		synctest.Wait()
		q.Expect() // the question is there
		cancel()
		<-done
		q.Expect()
		q.Close()
		q.Expect()
		if e.times != 2 {
			t.Errorf("told %d times", e.times)
		}
	})
	NewQueue(None{}).Expect()
}
