package systemprompter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/prompt"
)

const (
	name     = "org.gnome.keyring.SystemPrompter"
	place    = godbus.ObjectPath("/org/gnome/keyring/Prompter")
	iface    = "org.gnome.keyring.internal.Prompter"
	callback = "org.gnome.keyring.internal.Prompter.Callback"
	ours     = godbus.ObjectPath("/io/github/keyringd/prompt")

	// answerTime is how long the bus and the prompter may take over a call. A
	// program that is started for it takes a while.
	answerTime = 25 * time.Second
	// beginTime is how long another program's prompt may be in our way before it
	// is said that nobody can be asked.
	beginTime = 10 * time.Minute
)

// A Prompter asks through the desktop's prompter. It may be used concurrently;
// the desktop shows one prompt at a time.
type Prompter struct {
	// Address is the session bus's.
	Address string
	// Start lets the bus start a prompter where none is running. Without it a
	// question is a [prompt.ErrUnavailable] then.
	Start bool
}

// Prompt asks. A [prompt.Notice] is shown as a question with one answer.
func (p *Prompter) Prompt(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	if ctx.Err() != nil {
		return prompt.Answer{}, ctx.Err()
	}
	s, err := p.open(ctx)
	if err != nil {
		return prompt.Answer{}, ended(ctx, err)
	}
	defer s.close(ctx)
	a, err := s.ask(ctx, q)
	if err != nil {
		return prompt.Answer{}, ended(ctx, err)
	}
	return a, nil
}

// ended makes an error one of package prompt's, or ctx's.
func ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, prompt.ErrDismissed):
		return err
	}
	return fmt.Errorf("%w: system prompter: %w", prompt.ErrUnavailable, err)
}

// A session is one prompt, on a connection of its own: what the prompter knows
// of us ends with it, however it ends.
type session struct {
	conn  *godbus.Conn
	owner string // the prompter's own name on the bus
	begun bool

	ready chan reply
	done  chan struct{} // closed when the prompter has put the prompt away
	once  sync.Once
	gone  chan struct{} // closed when the prompter is off the bus
}

// A reply is a call of PromptReady.
type reply struct {
	answer     string // "yes", "no", or "" at the beginning
	properties map[string]godbus.Variant
	exchange   string
}

func (p *Prompter) open(ctx context.Context) (*session, error) {
	// The connection outlives ctx for as long as it takes to say goodbye.
	conn, err := godbus.Dial(p.Address)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, ready: make(chan reply), done: make(chan struct{}), gone: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = s.join(ctx, p.Start)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) join(ctx context.Context, start bool) error {
	if err := wire.Join(s.conn); err != nil {
		return err
	}
	if err := s.conn.Export(caller{s}, ours, callback); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	bus := s.conn.BusObject()
	if start {
		if err := bus.CallWithContext(ctx, "org.freedesktop.DBus.StartServiceByName", 0, name, uint32(0)).Err; err != nil {
			return err
		}
	}
	if err := s.conn.AddMatchSignalContext(ctx, godbus.WithMatchSender("org.freedesktop.DBus"),
		godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, name)); err != nil {
		return err
	}
	signals := make(chan *godbus.Signal, 4)
	s.conn.Signal(signals)
	go s.watch(signals)
	return bus.CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, name).Store(&s.owner)
}

// watch notices when the prompter goes. It ends with the connection.
func (s *session) watch(signals <-chan *godbus.Signal) {
	defer close(s.gone)
	for signal := range signals {
		if signal.Name == "org.freedesktop.DBus.NameOwnerChanged" {
			return
		}
	}
}

// caller is what the prompter calls.
type caller struct{ s *session }

func errStranger() *godbus.Error {
	return godbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"only the prompter may call this"})
}

// PromptReady says that the prompt can be shown, or was answered.
func (c caller) PromptReady(from godbus.Sender, answer string, properties map[string]godbus.Variant, exchange string) *godbus.Error {
	if string(from) != c.s.owner {
		return errStranger()
	}
	select {
	case c.s.ready <- reply{answer, properties, exchange}:
	case <-c.s.done:
	case <-c.s.conn.Context().Done():
	}
	return nil
}

// PromptDone says that the prompt is put away.
func (c caller) PromptDone(from godbus.Sender) *godbus.Error {
	if string(from) != c.s.owner {
		return errStranger()
	}
	c.s.once.Do(func() { close(c.s.done) })
	return nil
}

func (s *session) call(ctx context.Context, member string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return s.conn.Object(s.owner, place).CallWithContext(ctx, iface+"."+member, 0, args...).Err
}

var errGone = errors.New("the prompter ended")

// next waits for the prompter's next word. The user may think as long as it
// takes.
func (s *session) next(ctx context.Context) (reply, error) {
	select {
	case r := <-s.ready:
		return r, nil
	case <-s.done:
		// Put away and not answered: somebody closed it.
		return reply{}, prompt.ErrDismissed
	case <-s.gone:
		return reply{}, errGone
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}

func (s *session) ask(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	x, err := newExchange()
	if err != nil {
		return prompt.Answer{}, err
	}
	if err := s.call(ctx, "BeginPrompting", ours); err != nil {
		return prompt.Answer{}, err
	}
	s.begun = true
	// Another program's prompt may be open.
	waiting, cancel := context.WithTimeout(ctx, beginTime)
	_, err = s.next(waiting)
	cancel()
	if err != nil {
		if errors.Is(err, prompt.ErrDismissed) {
			err = errGone // the user has not seen it
		}
		return prompt.Answer{}, err
	}
	kind := "confirm"
	if q.Kind == prompt.Passphrase || q.Kind == prompt.NewPassphrase {
		kind = "password"
	}
	if err := s.call(ctx, "PerformPrompt", ours, kind, properties(q), x.offer()); err != nil {
		return prompt.Answer{}, err
	}
	r, err := s.next(ctx)
	switch {
	case err != nil:
		return prompt.Answer{}, err
	case r.answer != "yes":
		return prompt.Answer{}, prompt.ErrDismissed
	}
	var a prompt.Answer
	if q.Automatic && kind == "password" {
		a.Automatic, _ = r.properties["choice-chosen"].Value().(bool)
	}
	if kind == "password" {
		a.Passphrase, err = x.open(r.exchange)
	}
	return a, err
}

// close takes the prompt off the screen, if it is still there, and ends the
// connection.
func (s *session) close(ctx context.Context) {
	if s.begun {
		// ctx may have ended, which is when saying so matters most.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		// If it fails, the end of the connection says the same.
		_ = s.conn.Object(s.owner, place).CallWithContext(ctx, iface+".StopPrompting", 0, ours).Err
		cancel()
	}
	s.conn.Close()
	<-s.gone
}
