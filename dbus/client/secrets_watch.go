package client

import (
	"context"
	"fmt"
	"strings"
	"sync"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

const (
	properties       = "org.freedesktop.DBus.Properties"
	driver           = "org.freedesktop.DBus"
	secretsPath      = godbus.ObjectPath("/org/freedesktop/secrets")
	collectionsPath  = secretsPath + "/collection/"
	serviceIface     = "org.freedesktop.Secret.Service"
	collectionIface  = "org.freedesktop.Secret.Collection"
	itemIface        = "org.freedesktop.Secret.Item"
	promptIface      = "org.freedesktop.Secret.Prompt"
	maxOwnerChange   = 4096    // more than three names have
	maxCompletion    = 1 << 20 // a prompt's result, which nobody here looks at
	ownerChanged     = "NameOwnerChanged"
	ownerChangedArgs = "sss"
)

// A Change is what may be another than it was.
type Change int

const (
	// KeysChanged: a key came, went or is another.
	KeysChanged Change = iota
	// KeyringsChanged: a keyring came, went, was locked, unlocked or renamed.
	KeyringsChanged
	// ItemsChanged: items of one keyring, whose path comes along.
	ItemsChanged
	// DaemonBegan: keyringd has its name on the bus.
	DaemonBegan
	// DaemonEnded: nobody has it.
	DaemonEnded
)

// listeners are told of the signals that come in.
type listeners struct {
	mu      sync.Mutex
	count   int
	tell    map[int]func(Change, string)
	prompts map[godbus.ObjectPath]chan<- bool // by path; told whether it was dismissed
}

// Watch calls tell with each change, and for ItemsChanged with the path of the
// keyring, until ctx or the connection ends. tell runs on the goroutine that
// reads the bus, so that it returns soon and calls no method. Changes do not
// start a daemon, and neither does Watch.
func (c *Client) Watch(ctx context.Context, tell func(what Change, keyring string)) error {
	c.heard.mu.Lock()
	if c.heard.tell == nil {
		c.heard.tell = map[int]func(Change, string){}
	}
	c.heard.count++
	id := c.heard.count
	c.heard.tell[id] = tell
	c.heard.mu.Unlock()
	context.AfterFunc(ctx, func() {
		c.heard.mu.Lock()
		delete(c.heard.tell, id)
		c.heard.mu.Unlock()
	})
	for _, rule := range [][]godbus.MatchOption{
		{godbus.WithMatchSender(busName)},
		{godbus.WithMatchSender(driver), godbus.WithMatchInterface(driver), godbus.WithMatchMember(ownerChanged), godbus.WithMatchArg(0, busName)},
	} {
		if err := c.conn.AddMatchSignalContext(ctx, rule...); err != nil {
			return fmt.Errorf("watch the bus: %w", err)
		}
	}
	return nil
}

// Ended is closed when the connection is gone.
func (c *Client) Ended() <-chan struct{} { return c.tap.Ended() }

// take tells of a signal, and reports whether it was one of ours.
func (l *listeners) take(f *wire.Frame) bool {
	what, keyring, ok := KeysChanged, "", true
	switch {
	case f.Interface == promptIface && f.Member == "Completed":
		return l.complete(f)
	case f.Sender == driver:
		if f.Member != ownerChanged || f.Signature != ownerChangedArgs || f.BodySize > maxOwnerChange {
			return false
		}
		body, err := f.Body()
		var name, old, owner string
		if err != nil || wire.Unmarshal(f.Order, body, &name, &old, &owner) != nil || name != busName {
			return true
		}
		if what = DaemonBegan; owner == "" {
			what = DaemonEnded
		}
	default:
		what, keyring, ok = changed(f.Header)
	}
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tell := range l.tell {
		tell(what, keyring)
	}
	return true
}

// changed says what a signal of the daemon's is about. What it says of that is
// not looked at: whoever wants to know asks.
func changed(h wire.Header) (what Change, keyring string, ok bool) {
	below, secret := strings.CutPrefix(string(h.Path), string(collectionsPath))
	collection, _, item := strings.Cut(below, "/")
	switch {
	case h.Interface == manager && h.Path == rootPath:
		return KeysChanged, "", true
	case h.Interface == properties && strings.HasPrefix(string(h.Path), string(keysPath)+"/"):
		return KeysChanged, "", true
	case h.Interface == serviceIface:
		return KeyringsChanged, "", true
	case secret && (item || h.Interface == collectionIface):
		return ItemsChanged, string(collectionsPath) + collection, true
	case secret && h.Interface == properties, h.Interface == properties && h.Path == secretsPath:
		return KeyringsChanged, "", true
	}
	return 0, "", false
}

// complete tells whoever waits for a prompt.
func (l *listeners) complete(f *wire.Frame) bool {
	if f.Signature != "bv" || f.BodySize > maxCompletion {
		return true
	}
	body, err := f.Body()
	var dismissed bool
	var result godbus.Variant
	if err != nil || wire.Unmarshal(f.Order, body, &dismissed, &result) != nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if to := l.prompts[f.Path]; to != nil {
		delete(l.prompts, f.Path)
		to <- dismissed // of one, for one
	}
	return true
}

// prompt has the user asked what a prompt is for, and reports whether they said
// no. If ctx ends, the question is taken back.
func (c *Client) prompt(ctx context.Context, at godbus.ObjectPath) (dismissed bool, err error) {
	if at == "/" {
		return false, nil
	}
	done := make(chan bool, 1)
	c.heard.mu.Lock()
	if c.heard.prompts == nil {
		c.heard.prompts = map[godbus.ObjectPath]chan<- bool{}
	}
	c.heard.prompts[at] = done
	c.heard.mu.Unlock()
	defer func() {
		c.heard.mu.Lock()
		delete(c.heard.prompts, at)
		c.heard.mu.Unlock()
	}()
	if err := c.call(ctx, at, promptIface, "Prompt", []any{""}); err != nil {
		return false, err
	}
	select {
	case dismissed = <-done:
		return dismissed, nil
	case <-c.tap.Ended():
		return false, fmt.Errorf("%w: it ended the connection", ErrNoBus)
	case <-ctx.Done():
		// Nobody waits for the answer; the daemon takes the question away.
		_ = c.tap.SendAs(wire.Header{
			Type: godbus.TypeMethodCall, Flags: godbus.FlagNoReplyExpected, Serial: c.tap.NextSerial(),
			Destination: busName, Path: at, Interface: promptIface, Member: "Dismiss",
		}, nil)
		return false, ctx.Err()
	}
}
