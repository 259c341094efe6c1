package notify

import (
	"context"
	"fmt"
	"html"
	"log/slog"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

const (
	name  = "org.freedesktop.Notifications"
	place = godbus.ObjectPath("/org/freedesktop/Notifications")

	// answerTime is how long the desktop may take; a program may be started first.
	answerTime = 5 * time.Second
	// every is how often something is shown at most: a rebase that signs a
	// hundred commits is one thing to the user, and not a hundred.
	every = 2 * time.Second
	// shown is how long a notification stays, where the desktop leaves that to us.
	shown = 6 * time.Second
)

// A Text is one notification, in a person's words.
type Text struct {
	Title string
	Body  string
}

// A Notifier shows texts. Make one with [New]; Show may be called concurrently.
type Notifier struct {
	address string
	log     *slog.Logger
	texts   chan Text
	every   time.Duration
}

// New returns a Notifier on the session bus at address.
func New(address string, log *slog.Logger) *Notifier {
	return &Notifier{address: address, log: log, texts: make(chan Text, 100), every: every}
}

// Show shows a text soon, or counts it. It never waits.
func (n *Notifier) Show(t Text) {
	select {
	case n.texts <- t:
	default: // as many are waiting already; the next one says so
	}
}

// Run shows what there is to be shown until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	for {
		var t Text
		select {
		case t = <-n.texts:
		case <-ctx.Done():
			return
		}
		more := len(n.texts)
		for range more {
			t = <-n.texts // the latest is the one that can still be acted upon
		}
		if more > 0 {
			t.Body += fmt.Sprintf("\nand %d more before it", more)
		}
		if err := n.show(ctx, t); err != nil && ctx.Err() == nil {
			n.log.Debug("no notification was shown", "err", err)
		}
		pause := time.NewTimer(n.every)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// show shows one, on a connection of its own: there are few of them, and none
// has to be looked after in between.
func (n *Notifier) show(ctx context.Context, t Text) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := godbus.Dial(n.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := wire.Join(conn); err != nil {
		return err
	}
	hints := map[string]godbus.Variant{
		"urgency":       godbus.MakeVariant(byte(0)), // low
		"transient":     godbus.MakeVariant(true),    // not kept: the journal has it
		"desktop-entry": godbus.MakeVariant("io.github.keyringd"),
	}
	// Bodies may have markup (specification, "Markup"): what others say must not.
	return conn.Object(name, place).CallWithContext(ctx, name+".Notify", 0,
		"keyringd", uint32(0), "io.github.keyringd", t.Title, html.EscapeString(t.Body), []string{}, hints, int32(shown.Milliseconds())).Err
}
