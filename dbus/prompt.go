package dbus

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/internal/panicsite"
)

// maxPrompts is how many prompts one program may have that are not completed.
const maxPrompts = 32

// A userPrompt is a question that a program may have asked: Secret Service API
// 0.2, "Prompts and Prompt Objects". It belongs to one sender, lies among its
// prompts until it is completed, and ends with it.
type userPrompt struct {
	path  godbus.ObjectPath
	empty any // the result where there is none, of the type that the program expects
	do    func(ctx context.Context) (any, error)

	// Guarded by bus.mu.
	begun  bool
	cancel context.CancelFunc // once it is being asked
}

// prompt makes a prompt for the caller, who is to call it. do may take as long
// as the user does; its error means that the user did not do what was asked.
func (c *call) prompt(empty any, do func(ctx context.Context) (any, error)) (godbus.ObjectPath, error) {
	b := c.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(c.sender.prompts) >= maxPrompts {
		return "", fmt.Errorf("%w: %d prompts are open, and no program may have more", errLimit, maxPrompts)
	}
	b.count++
	p := &userPrompt{path: promptsPath + "/p" + godbus.ObjectPath(strconv.FormatUint(b.count, 10)), empty: empty, do: do}
	c.sender.prompts[p.path] = p
	return p.path, nil
}

// show is Prompt.Prompt. The window is not looked at: what programs put there
// is of many forms, and the prompter finds its place by itself.
func (c *call) show(string) error {
	b, s, p := c.bus, c.sender, c.node.prompt
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.begun {
		return fmt.Errorf("%w: %s", errPrompted, p.path)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	p.begun, p.cancel = true, cancel
	// Some programs begin to listen when this call returns: Completed comes after
	// that, however soon the answer is there.
	c.after = func() {
		b.calls.Go(func() {
			defer cancel()
			result, err := b.ask(ctx, p)
			if err != nil {
				b.tell(ctx, p, err)
			}
			b.settled(ctx)
			b.complete(s, p, result, err != nil)
		})
	}
	return nil
}

// ask asks the user. A panic costs the prompt and nothing else.
func (b *bus) ask(ctx context.Context, p *userPrompt) (result any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w of type %T at %s", errPanic, r, panicsite.Of())
		}
	}()
	return p.do(ctx)
}

// tell tells the journal why a prompt came to nothing, as far as it is not the
// Gate's story: the program only learns that it did.
func (b *bus) tell(ctx context.Context, p *userPrompt, err error) {
	_, level := outcome(err)
	b.server.log.LogAttrs(ctx, level, "prompt ended without a result", slog.String("prompt", string(p.path)), slog.Any("err", err))
}

// dismiss is Prompt.Dismiss.
func (c *call) dismiss() error {
	b, s, p := c.bus, c.sender, c.node.prompt
	c.after = func() { b.dismiss(s, p) }
	return nil
}

// dismiss takes the question back.
func (b *bus) dismiss(s *sender, p *userPrompt) {
	b.mu.Lock()
	cancel := p.cancel
	p.begun = true
	b.mu.Unlock()
	if cancel != nil {
		cancel() // whoever asks completes it
		return
	}
	b.complete(s, p, nil, true)
}

// complete takes the prompt away and tells its owner alone, so that programs
// which listen without a match rule hear it, too. It does nothing if that was
// done already.
func (b *bus) complete(s *sender, p *userPrompt, result any, dismissed bool) {
	b.mu.Lock()
	open := s.prompts[p.path] == p
	delete(s.prompts, p.path)
	b.mu.Unlock()
	if !open || s.ctx.Err() != nil {
		return
	}
	if dismissed {
		result = p.empty
	}
	values := []any{dismissed, godbus.MakeVariant(result)}
	body, err := wire.Append(nil, values...)
	if err != nil {
		b.server.log.Error("a prompt's result cannot be told to the bus", "err", err)
		return
	}
	// A bus that is gone has nobody to tell.
	_, _ = b.tap.Send(wire.Header{
		Type: godbus.TypeSignal, Flags: godbus.FlagNoReplyExpected, Destination: s.name,
		Path: p.path, Interface: promptInterface, Member: "Completed", Signature: wire.Signature(values...),
	}, body)
}

// endSessions ends everybody's sessions and prompts, because the Secret Service
// is another's now.
func (b *bus) endSessions() {
	type open struct {
		of     *sender
		prompt *userPrompt
	}
	var prompts []open
	b.mu.Lock()
	for _, s := range b.byName {
		clear(s.sessions)
		for _, p := range s.prompts {
			prompts = append(prompts, open{s, p})
		}
	}
	b.mu.Unlock()
	for _, o := range prompts {
		b.dismiss(o.of, o.prompt)
	}
}
