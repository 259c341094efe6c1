package prompt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// screen is a Prompter that the test answers for.
type screen struct {
	mu    sync.Mutex
	on    []string      // subjects on screen
	log   []string      // "+x" shown, "-x" gone
	reply chan struct{} // each receive ends the question on screen
}

func newScreen() *screen { return &screen{reply: make(chan struct{})} }

func (s *screen) Prompt(ctx context.Context, q Question) (Answer, error) {
	s.mu.Lock()
	s.on = append(s.on, q.Subject)
	s.log = append(s.log, "+"+q.Subject)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.on = slices.DeleteFunc(s.on, func(x string) bool { return x == q.Subject })
		s.log = append(s.log, "-"+q.Subject)
	}()
	select {
	case <-s.reply:
		return Answer{}, nil
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
}

func (s *screen) shows(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := fmt.Sprint(s.on); got != want {
		t.Fatalf("on screen %v, want %v", got, want)
	}
}

func ask(q *Queue, ctx context.Context, subject string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := q.Prompt(ctx, Question{Kind: Confirm, Subject: subject})
		done <- err
	}()
	synctest.Wait()
	return done
}

func TestOneQuestionAtATimeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen()
		q := NewQueue(s)
		defer q.Close()
		a, b, c := ask(q, t.Context(), "a"), ask(q, t.Context(), "b"), ask(q, t.Context(), "c")
		for _, x := range []struct {
			subject string
			done    <-chan error
		}{{"a", a}, {"b", b}, {"c", c}} {
			s.shows(t, "["+x.subject+"]")
			s.reply <- struct{}{}
			if err := <-x.done; err != nil {
				t.Error(err)
			}
		}
		s.shows(t, "[]")
		d := ask(q, t.Context(), "d")
		s.shows(t, "[d]")
		s.reply <- struct{}{}
		<-d
	})
}

func TestWaitingQuestionLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen()
		q := NewQueue(s)
		defer q.Close()
		a := ask(q, t.Context(), "a")
		ctx, hangUp := context.WithCancel(t.Context())
		b := ask(q, ctx, "b")
		c := ask(q, t.Context(), "c")
		hangUp()
		if err := <-b; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		s.reply <- struct{}{}
		<-a
		s.shows(t, "[c]")
		s.reply <- struct{}{}
		<-c
		if got := fmt.Sprint(s.log); got != "[+a -a +c -c]" {
			t.Errorf("shown: %v", got)
		}
		if _, err := q.Prompt(ctx, Question{}); !errors.Is(err, context.Canceled) {
			t.Errorf("asked for one who has gone: %v", err)
		}
	})
}

func TestShownQuestionLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen()
		q := NewQueue(s)
		defer q.Close()
		ctx, hangUp := context.WithCancel(t.Context())
		a, b := ask(q, ctx, "a"), ask(q, t.Context(), "b")
		hangUp()
		if err := <-a; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		s.shows(t, "[b]")
		s.reply <- struct{}{}
		<-b
	})
}

// However hang-ups and turns fall together, the screen is never lost.
func TestTurnAndHangUpAtOnce(t *testing.T) {
	q := NewQueue(prompterFunc(func(ctx context.Context, _ Question) (Answer, error) {
		return Answer{}, ctx.Err()
	}))
	defer q.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%2 == 0 {
					go cancel()
				}
				_, _ = q.Prompt(ctx, Question{Kind: Confirm})
				cancel()
			}
		})
	}
	wg.Wait()
	if q.busy || len(q.waiting) > 0 {
		t.Errorf("busy %v, %d waiting", q.busy, len(q.waiting))
	}
}

type prompterFunc func(context.Context, Question) (Answer, error)

func (f prompterFunc) Prompt(ctx context.Context, q Question) (Answer, error) { return f(ctx, q) }

func notify(t *testing.T, q *Queue, subject string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // its request has already failed
	if _, err := q.Prompt(ctx, Question{Kind: Notice, Subject: subject}); err != nil {
		t.Error(err)
	}
}

func TestNoticeMakesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen()
		q := NewQueue(s)
		defer q.Close()
		notify(t, q, "n")
		notify(t, q, "n")
		notify(t, q, "m")
		s.shows(t, "[n]")
		time.Sleep(noticeFor / 2)
		a := ask(q, t.Context(), "a")
		s.shows(t, "[a]")
		notify(t, q, "n")
		s.reply <- struct{}{}
		<-a
		s.shows(t, "[n]")
		s.reply <- struct{}{}
		s.shows(t, "[m]")
		time.Sleep(noticeFor + time.Second)
		s.shows(t, "[]")
		if got := fmt.Sprint(s.log); got != "[+n -n +a -a +n -n +m -m]" {
			t.Errorf("shown: %v", got)
		}
	})
}

func TestNoticeKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen()
		q := NewQueue(s)
		defer q.Close()
		notify(t, q, "n")
		synctest.Wait()
		time.Sleep(noticeFor - time.Second)
		a := ask(q, t.Context(), "a")
		time.Sleep(time.Hour)
		s.reply <- struct{}{}
		<-a
		s.shows(t, "[n]")
		time.Sleep(time.Second + time.Millisecond)
		s.shows(t, "[]")
	})
}

func TestNoticesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen()
		q := NewQueue(s)
		for i := range 100 {
			notify(t, q, fmt.Sprint(i))
		}
		q.mu.Lock()
		n := len(q.notices)
		q.mu.Unlock()
		if n != maxNotices {
			t.Errorf("%d notices wait", n)
		}
		q.Close()
		s.shows(t, "[]")
		notify(t, q, "late")
		s.shows(t, "[]")
		a := ask(q, t.Context(), "a")
		s.shows(t, "[a]")
		s.reply <- struct{}{}
		if err := <-a; err != nil {
			t.Error(err)
		}
	})
}

func TestChainFallsThroughOnlyWhenUnavailable(t *testing.T) {
	unavailable := prompterFunc(func(context.Context, Question) (Answer, error) {
		return Answer{}, fmt.Errorf("no display: %w", ErrUnavailable)
	})
	dismissed := prompterFunc(func(context.Context, Question) (Answer, error) {
		return Answer{}, fmt.Errorf("closed: %w", ErrDismissed)
	})
	broken := errors.New("broken")
	odd := prompterFunc(func(context.Context, Question) (Answer, error) { return Answer{}, broken })
	yes := prompterFunc(func(context.Context, Question) (Answer, error) { return Answer{}, nil })
	never := prompterFunc(func(context.Context, Question) (Answer, error) {
		t.Error("asked again")
		return Answer{}, nil
	})
	for i, test := range []struct {
		p    Prompter
		want error
	}{
		{Chain(), ErrUnavailable},
		{Chain(None{}), ErrUnavailable},
		{Chain(unavailable, None{}), ErrUnavailable},
		{Chain(unavailable, dismissed, never), ErrDismissed},
		{Chain(None{}, unavailable, yes, never), nil},
		{Chain(odd, never), broken},
		{Chain(yes), nil},
	} {
		if _, err := test.p.Prompt(t.Context(), Question{}); !errors.Is(err, test.want) {
			t.Errorf("%d: error %v, want %v", i, err, test.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := prompterFunc(func(context.Context, Question) (Answer, error) {
		cancel()
		return Answer{}, ErrUnavailable
	})
	if _, err := Chain(gone, never).Prompt(ctx, Question{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after a hang-up: %v", err)
	}
}
