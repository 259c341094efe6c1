package pinentry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/prompt"
)

// maxAnswer bounds what an askpass program may answer.
const maxAnswer = 4 << 10

// An Askpass is a [prompt.Prompter] that runs a program by the convention of
// SSH_ASKPASS, ssh(1): the question is its argument, the answer its first line
// of output. Its fields may not be changed once it is used.
//
// The convention cannot tell a refusal from a failure: a program that exits
// with a status other than 0 counts as refused, one that cannot be run or is
// killed by a signal as not available.
type Askpass struct {
	Path    string
	Environ []string      // the environment to take the child's from, as os.Environ returns it
	Timeout time.Duration // how long a question stays; 0: DefaultTimeout
	Log     *slog.Logger  // what a failing program said on standard error; nil: nowhere

	Starter spawn.Starter // who starts it; nil: this process
}

// Prompt implements [prompt.Prompter].
func (p *Askpass) Prompt(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	text := describe(q)
	if s := q.Wrong(); s != "" {
		text = s + "\n" + text
	}
	switch q.Kind {
	case prompt.Confirm:
		return prompt.Answer{}, p.confirm(ctx, text)
	case prompt.Notice:
		b, err := p.run(ctx, text, "none")
		b.Wipe()
		if errors.Is(err, prompt.ErrDismissed) {
			err = nil // however it was closed, it was seen
		}
		return prompt.Answer{}, err
	case prompt.NewPassphrase:
		return p.choose(ctx, q, text)
	}
	b, err := p.run(ctx, text+"\n"+label(q)+" ", "")
	return prompt.Answer{Passphrase: b}, err
}

// confirm asks for a yes. A program that does not know the hint lets the user
// type: then only nothing or "yes" is one, as for ssh-agent.
func (p *Askpass) confirm(ctx context.Context, text string) error {
	b, err := p.run(ctx, text, "confirm")
	if err != nil {
		return err
	}
	defer b.Wipe()
	b.Use(func(said []byte) {
		if len(said) > 0 && !bytes.EqualFold(said, []byte("yes")) {
			err = prompt.ErrDismissed
		}
	})
	return err
}

func (p *Askpass) choose(ctx context.Context, q prompt.Question, text string) (prompt.Answer, error) {
	ask := text
	for range maxRounds {
		first, err := p.run(ctx, ask+"\n"+label(q)+" ", "")
		if err != nil {
			return prompt.Answer{}, err
		}
		again, err := p.run(ctx, "Repeat the new "+q.Word()+" for:\n"+fit(q.Subject, maxFields[0])+"\n"+label(q)+" ", "")
		same := err == nil && again.Equal(first)
		again.Wipe()
		if same {
			return prompt.Answer{Passphrase: first}, nil
		}
		first.Wipe()
		if err != nil {
			return prompt.Answer{}, err
		}
		ask = unequal(q) + "\n" + text
	}
	return prompt.Answer{}, errNeverSame
}

// run runs the program once and returns its first line. hint is the value of
// SSH_ASKPASS_PROMPT, which is set for this child alone: one that leaks into
// other programs turns their passphrase prompts into confirmations.
func (p *Askpass) run(ctx context.Context, text, hint string) (secret.Bytes, error) {
	// A NUL ends an argument, and exec refuses one inside.
	cmd := spawn.Command{Kind: KindAskpass, Path: p.Path, Args: []string{strings.ReplaceAll(text, "\x00", "")}, Env: filter(p.Environ)}
	if hint != "" {
		cmd.Env = append(cmd.Env, "SSH_ASKPASS_PROMPT="+hint)
	}
	timeout := p.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	var line secret.Bytes
	stderr, err := run(ctx, p.Starter, cmd, false, func(c *child) error {
		defer c.within(timeout, errNoAnswer)()
		var err error
		if line, err = firstLine(c.stdout); err != nil {
			return fmt.Errorf("%w: askpass program: %w", prompt.ErrUnavailable, err)
		}
		return exitMeaning(c.process.Err())
	})
	if err != nil {
		line.Wipe()
		report(p.Log, p.Path, stderr, err)
		return secret.Bytes{}, err
	}
	return line, nil
}

// exitMeaning says what the end of an askpass program means.
func exitMeaning(err error) error {
	var exit *spawn.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		if exit.Status.Exited() {
			return fmt.Errorf("%w: %w", prompt.ErrDismissed, err)
		}
	}
	return fmt.Errorf("%w: askpass program: %w", prompt.ErrUnavailable, err)
}

var errLongAnswer = fmt.Errorf("answer of more than %d bytes", maxAnswer)

// firstLine reads all of r, which is little, and returns what comes before the
// first CR or LF.
func firstLine(r io.Reader) (secret.Bytes, error) {
	buf := secret.New(maxAnswer + 1)
	defer buf.Wipe()
	var line secret.Bytes
	var err error
	buf.Use(func(b []byte) {
		n := 0
		for n < len(b) && err == nil {
			var m int
			m, err = r.Read(b[n:])
			n += m
		}
		switch {
		case err == nil:
			err = errLongAnswer
			return
		case err != io.EOF:
			return
		}
		err = nil
		if end := bytes.IndexAny(b[:n], "\r\n"); end >= 0 {
			n = end
		}
		line = secret.Copy(b[:n])
	})
	return line, err
}
