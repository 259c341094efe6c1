package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyringd/keyringd/prompt"
)

// A program that nobody answers is not to pester: after maxUnanswered questions
// in a row without an answer, further ones about the same key are refused for
// coolDown. A row is over when there was none for rowEnds.
const (
	maxUnanswered = 2
	coolDown      = 30 * time.Second
	rowEnds       = 5 * time.Minute
)

// An asker is one program that wants one thing. Programs that are not known
// count as one: hiding must not pay.
type asker struct{ id, program string }

// A streak is an asker's questions in a row that nobody answered.
type streak struct {
	unanswered int
	last       time.Time
}

// A refusal is an ErrDenied that comes from the user, and not from do.
type refusal struct{ text string }

func (r *refusal) Error() string { return ErrDenied.Error() + ": " + r.text }
func (r *refusal) Unwrap() error { return ErrDenied }

// ask puts one question to the user, unless the asker is in its cool-down.
// Errors are ctx's or wrap ErrDenied or ErrUnavailable.
func (g *Gate) ask(ctx context.Context, u Use, q prompt.Question) (prompt.Answer, error) {
	if err := ctx.Err(); err != nil {
		return prompt.Answer{}, err
	}
	who := asker{u.ID, u.Caller.Program}
	if err := g.cooling(who); err != nil {
		return prompt.Answer{}, err
	}
	if g.prompter == nil {
		return prompt.Answer{}, unavailable(u, prompt.ErrUnavailable)
	}
	q.Subject, q.Reason, q.Caller = u.Subject, u.Reason, u.Caller.String()
	q.Host, q.HostWarning, q.Through, q.Fingerprint = u.Host, u.HostWarning, u.Through, u.Fingerprint
	answer, err := g.prompter.Prompt(ctx, q)
	gone := ctx.Err()
	if err != nil || gone != nil {
		answer.Passphrase.Wipe()
		answer = prompt.Answer{}
	}
	switch {
	case gone != nil:
		// An asker that hung up is not the user's no; one that waited as long as
		// it could was not answered.
		if errors.Is(gone, context.DeadlineExceeded) {
			g.unanswered(who)
		}
		return answer, gone
	case err == nil:
		g.answered(who)
		return answer, nil
	case errors.Is(err, prompt.ErrDismissed):
		g.unanswered(who)
		return answer, &refusal{"the question was dismissed"}
	case errors.Is(err, context.DeadlineExceeded):
		g.unanswered(who)
		return answer, &refusal{"the question was not answered in time"}
	default:
		return answer, unavailable(u, err)
	}
}

func unavailable(u Use, err error) error {
	return fmt.Errorf("%w: nobody could be asked about %s: %w; hint: install a pinentry program, or name one with --prompter",
		ErrUnavailable, u.Subject, err)
}

func (g *Gate) cooling(who asker) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for other, s := range g.streaks {
		if age(s.last) >= rowEnds {
			delete(g.streaks, other)
		}
	}
	s := g.streaks[who]
	if s == nil || s.unanswered < maxUnanswered || age(s.last) >= coolDown {
		return nil
	}
	return &refusal{fmt.Sprintf("%d questions in a row were not answered, the next is asked after %s",
		s.unanswered, s.last.Add(coolDown).Format("15:04:05"))}
}

func (g *Gate) unanswered(who asker) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.streaks[who]
	if s == nil {
		s = &streak{}
		g.streaks[who] = s
	}
	s.unanswered++
	s.last = time.Now()
}

func (g *Gate) answered(who asker) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.streaks, who)
}

// A question is what one answer can serve several uses for.
type question struct {
	id             string
	confirm        bool
	program, scope string // of a confirmation; a value serves every program
}

// A turn is somebody's right to ask a question while others wait.
type turn struct {
	done    chan struct{} // closed at the end; what is below is valid then
	program string
	refused error // the user said no
}

// inTurn runs slow, which asks q, unless another use is asking it already. Then
// it waits for that one's end: the user's no counts for all waiting uses of the
// same program; otherwise quick tries to do with what is remembered now. The
// next asks anew where that is not enough.
func (g *Gate) inTurn(ctx context.Context, u Use, q question, quick func() (done bool, err error), slow func() error) error {
	for {
		g.mu.Lock()
		t := g.turns[q]
		if t == nil {
			t = &turn{done: make(chan struct{}), program: u.Caller.Program}
			g.turns[q] = t
			g.mu.Unlock()
			return g.take(q, t, quick, slow)
		}
		g.mu.Unlock()
		select {
		case <-t.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if t.refused != nil && t.program == u.Caller.Program {
			return t.refused
		}
		if done, err := quick(); done {
			return err
		}
	}
}

// take takes the turn t, and ends it however slow ends.
func (g *Gate) take(q question, t *turn, quick func() (bool, error), slow func() error) (err error) {
	defer func() {
		if r := (*refusal)(nil); errors.As(err, &r) {
			t.refused = r
		}
		g.mu.Lock()
		delete(g.turns, q)
		g.mu.Unlock()
		close(t.done)
	}()
	// The turn before may have ended between the last look and this turn.
	if done, err := quick(); done {
		return err
	}
	return slow()
}
