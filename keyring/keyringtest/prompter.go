package keyringtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

// A Reply is what a FakePrompter does with one question.
type Reply struct {
	Passphrase string          // the answer, if Err is nil
	Term       prompt.Term     // with Chosen: how long it stands
	Chosen     bool            //
	Automatic  bool            // the user wishes to be asked no more
	Err        error           // the failure, such as prompt.ErrDismissed
	When       <-chan struct{} // the question stays open until it is closed; nil: no wait
}

// A FakePrompter answers from a script and records what it was asked. The zero
// value has an empty script. All methods may be called concurrently.
type FakePrompter struct {
	// Default is asked once the script is over; nil: such a question fails, and
	// not with a prompt sentinel, so that no test takes it for the user's no.
	Default func(q prompt.Question) Reply

	mu      sync.Mutex
	script  []Reply
	asked   []prompt.Question
	answers []secret.Bytes
	open    int
	changed chan struct{} // closed, and made anew, when asked or open change
}

// Script appends replies, each for one question.
func (p *FakePrompter) Script(replies ...Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = append(p.script, replies...)
}

// Always sets Default while the prompter is in use.
func (p *FakePrompter) Always(reply func(prompt.Question) Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Default = reply
}

// Prompt takes the next reply of the script. It obeys ctx, as a Prompter does,
// even where no wait is scripted.
func (p *FakePrompter) Prompt(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	p.mu.Lock()
	p.asked = append(p.asked, q)
	n := len(p.asked)
	var r Reply
	switch {
	case len(p.script) > 0:
		r, p.script = p.script[0], p.script[1:]
	case p.Default != nil:
		r = p.Default(q)
	default:
		r = Reply{Err: fmt.Errorf("question %d is not in the script: %+v", n, q)}
	}
	p.open++
	p.tellLocked()
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
		p.tellLocked()
	}()

	if r.When != nil {
		select {
		case <-r.When:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return prompt.Answer{}, err
	}
	if r.Err != nil {
		return prompt.Answer{}, r.Err
	}
	given := prompt.Answer{Term: r.Term, Chosen: r.Chosen, Automatic: r.Automatic}
	if q.Kind != prompt.Passphrase && q.Kind != prompt.NewPassphrase {
		return given, nil
	}
	answer := secret.Copy([]byte(r.Passphrase))
	p.mu.Lock()
	p.answers = append(p.answers, answer)
	p.mu.Unlock()
	given.Passphrase = answer
	return given, nil
}

// tellLocked wakes those in Await.
func (p *FakePrompter) tellLocked() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// Questions returns all questions so far, in order.
func (p *FakePrompter) Questions() []prompt.Question {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]prompt.Question(nil), p.asked...)
}

// Reset forgets the questions so far and the rest of the script. Questions that
// are open stay so.
func (p *FakePrompter) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.script = nil, nil
}

// Open is how many questions are on the screen now.
func (p *FakePrompter) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// Unwiped is how many of the answers given are still readable: 0 once everybody
// who received one has wiped it.
func (p *FakePrompter) Unwiped() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, a := range p.answers {
		if a.Len() > 0 {
			n++
		}
	}
	return n
}

// Await waits until n questions are open at once.
func (p *FakePrompter) Await(ctx context.Context, n int) error {
	for {
		p.mu.Lock()
		if p.open == n {
			p.mu.Unlock()
			return nil
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d open questions: %w", n, ctx.Err())
		}
	}
}
