package prompt

import (
	"context"
	"errors"
)

// Chain returns a Prompter that asks the first of ps that can ask: the next is
// tried only after an [ErrUnavailable], so that a question which the user
// refused does not come up again. An empty chain is a [None].
func Chain(ps ...Prompter) Prompter {
	if len(ps) == 1 {
		return ps[0]
	}
	return chain(ps)
}

type chain []Prompter

func (c chain) Prompt(ctx context.Context, q Question) (Answer, error) {
	err := ErrUnavailable
	for _, p := range c {
		var a Answer
		if a, err = p.Prompt(ctx, q); !errors.Is(err, ErrUnavailable) {
			return a, err
		}
		if ctx.Err() != nil {
			return Answer{}, ctx.Err()
		}
	}
	return Answer{}, err
}

// None is the Prompter where there is nobody to ask.
type None struct{}

// Prompt returns [ErrUnavailable].
func (None) Prompt(context.Context, Question) (Answer, error) { return Answer{}, ErrUnavailable }
