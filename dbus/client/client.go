// Package client is the other side of package dbus: it lists the daemon's keys
// and asks for their use, for keyringctl and every other program of ours that
// is not the daemon.
//
// A [Client] is one connection to the bus; a [Key] is what the daemon says of a
// key. Errors of the daemon are an [Error] with their name on the bus.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

const (
	busName      = "io.github.keyringd"
	rootPath     = godbus.ObjectPath("/io/github/keyringd")
	keysPath     = rootPath + "/keys"
	keyringIface = "io.github.keyringd.Keyring1"
	keysIface    = "io.github.keyringd.Keys1"
	keyIface     = "io.github.keyringd.Key1"
	manager      = "org.freedesktop.DBus.ObjectManager"

	handshakeTimeout = 10 * time.Second
)

var (
	// ErrNoBus means that there is no message bus at the address.
	ErrNoBus = errors.New("no session bus")
	// ErrNoDaemon means that nobody has the daemon's name on the bus.
	ErrNoDaemon = errors.New("keyringd is not running")
)

// An Error is what the daemon answered.
type Error struct {
	Name string // org.freedesktop.DBus.Error.AccessDenied
	Text string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// A Client is one connection to the bus. All methods may be called
// concurrently; a ctx that ends gives the answer up, and Close takes what the
// user is being asked off the screen.
type Client struct {
	tap  *wire.Tap
	conn *godbus.Conn

	mu      sync.Mutex
	waiting map[uint32]waiter // by serial

	heard listeners
}

// A waiter is a call that is open.
type waiter struct {
	reply    chan answer
	progress func(string) // nil: nobody wants to know
}

type answer struct {
	header wire.Header
	body   []byte
	err    error
}

// SessionAddress returns the address of the session bus.
func SessionAddress(getenv func(string) string, uid int) string {
	return wire.SessionAddress(getenv, uid)
}

// Dial connects to the bus at address. Errors wrap ErrNoBus.
func Dial(ctx context.Context, address string) (*Client, error) {
	socket, err := wire.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBus, err)
	}
	c := &Client{waiting: map[uint32]waiter{}}
	c.tap = wire.NewTap(socket, c.take)
	if err := c.join(); err != nil {
		c.Close()
		return nil, fmt.Errorf("%w: %w", ErrNoBus, err)
	}
	return c, nil
}

func (c *Client) join() (err error) {
	if err := c.tap.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if c.conn, err = godbus.NewConn(c.tap); err != nil {
		return err
	}
	if err := wire.Join(c.conn); err != nil {
		return err
	}
	return c.tap.SetDeadline(time.Time{})
}

// Close ends the connection and all that is asked for on it.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
	}
	_ = c.tap.Close()
}

// take keeps what is an answer to us, and passes on the rest.
func (c *Client) take(f *wire.Frame) (pass bool) {
	if f.Type == godbus.TypeSignal && f.Member == "Progress" {
		c.advance(f)
		return false
	}
	if f.Type == godbus.TypeSignal {
		return !c.heard.take(f)
	}
	c.mu.Lock()
	w := c.waiting[f.ReplySerial]
	delete(c.waiting, f.ReplySerial)
	c.mu.Unlock()
	if w.reply == nil {
		return true
	}
	body, err := f.Body()
	w.reply <- answer{f.Header, body, err}
	return false
}

// maxProgress is more than any step is called.
const maxProgress = 1024

// advance tells a call what it is at.
func (c *Client) advance(f *wire.Frame) {
	if f.Interface != keysIface && f.Interface != keyIface || f.Signature != "us" || f.BodySize > maxProgress {
		return
	}
	body, err := f.Body()
	if err != nil {
		return // the connection is lost, which the next read says
	}
	var serial uint32
	var step string
	if wire.Unmarshal(f.Order, body, &serial, &step) != nil {
		return
	}
	c.mu.Lock()
	tell := c.waiting[serial].progress
	c.mu.Unlock()
	if tell != nil {
		tell(step)
	}
}

// call calls a method and stores what it returns in the variables that into
// points to.
func (c *Client) call(ctx context.Context, at godbus.ObjectPath, iface, member string, args []any, into ...any) error {
	return c.follow(ctx, nil, at, iface, member, args, into...)
}

// follow is call, where progress is told what the daemon is at.
func (c *Client) follow(ctx context.Context, progress func(string), at godbus.ObjectPath, iface, member string, args []any, into ...any) error {
	return c.exchange(ctx, exchange{at: at, iface: iface, member: member, args: args, progress: progress}, into...)
}

// An exchange is a call and what goes along with it.
type exchange struct {
	at            godbus.ObjectPath
	iface, member string
	args          []any
	files         []*os.File   // an argument of type h is a place in it
	progress      func(string) // nil: nobody wants to know
}

func (c *Client) exchange(ctx context.Context, x exchange, into ...any) error {
	at, iface, member, args := x.at, x.iface, x.member, x.args
	body, err := wire.Append(nil, args...)
	if err != nil {
		return err
	}
	h := wire.Header{
		Type: godbus.TypeMethodCall, Serial: c.tap.NextSerial(), Destination: busName,
		Path: at, Interface: iface, Member: member, Signature: wire.Signature(args...),
	}
	reply := make(chan answer, 1)
	c.mu.Lock()
	c.waiting[h.Serial] = waiter{reply, x.progress}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, h.Serial)
		c.mu.Unlock()
	}()
	send := c.tap.SendAs
	if len(x.files) > 0 {
		send = func(h wire.Header, body []byte) error { return c.tap.SendFilesAs(h, body, x.files) }
	}
	if err := send(h, body); err != nil {
		return fmt.Errorf("%w: %w", ErrNoBus, err)
	}
	select {
	case a := <-reply:
		return a.store(member, into)
	case <-c.tap.Ended():
		return fmt.Errorf("%w: it ended the connection", ErrNoBus)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a answer) store(member string, into []any) error {
	if a.err != nil {
		return fmt.Errorf("%w: %w", ErrNoBus, a.err)
	}
	if a.header.Type == godbus.TypeError {
		e := &Error{Name: a.header.ErrorName, Text: a.header.ErrorName}
		if a.header.Signature == "s" {
			_ = wire.Unmarshal(a.header.Order, a.body, &e.Text)
		}
		switch e.Name {
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
			return fmt.Errorf("%w: %w", ErrNoDaemon, e)
		}
		return e
	}
	if want := pointed(into); a.header.Signature != want {
		return fmt.Errorf("%s returned %q, want %q: is keyringd of another version?", member, a.header.Signature, want)
	}
	return wire.Unmarshal(a.header.Order, a.body, into...)
}

// A Key is what the daemon says of a key.
type Key struct {
	ID                   string   `json:"id"`
	Label                string   `json:"label"`
	Algorithm            string   `json:"algorithm"`
	Fingerprint          string   `json:"fingerprint"`
	Kind                 string   `json:"kind"`
	Paths                []string `json:"paths"`
	NeedsAuth            bool     `json:"needs_auth"`
	Confirm              bool     `json:"confirm"`
	PublicKey            []byte   `json:"public_key"` // SSH wire format
	SubjectPublicKeyInfo []byte   `json:"subject_public_key_info"`
	Certificates         [][]byte `json:"certificates"` // X.509 in DER, OpenSSH's in wire format
	URI                  string   `json:"uri"`          // RFC 7512, for PKCS #11 programs
}

// Keys returns all keys in the daemon's own order: TPM keys first, then by
// first path, keys without a file last.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var objects map[godbus.ObjectPath]map[string]map[string]godbus.Variant
	if err := c.call(ctx, rootPath, manager, "GetManagedObjects", nil, &objects); err != nil {
		return nil, err
	}
	keys := make([]Key, 0, len(objects))
	for path, interfaces := range objects {
		id, ok := idOf(path)
		p := interfaces[keyIface]
		if !ok || p == nil {
			continue
		}
		k := Key{ID: id}
		// A property of another type than ours is one that we do not know.
		k.Label, _ = p["Label"].Value().(string)
		k.Algorithm, _ = p["Algorithm"].Value().(string)
		k.Fingerprint, _ = p["Fingerprint"].Value().(string)
		k.Kind, _ = p["Kind"].Value().(string)
		k.Paths, _ = p["Paths"].Value().([]string)
		k.NeedsAuth, _ = p["NeedsAuth"].Value().(bool)
		k.Confirm, _ = p["Confirm"].Value().(bool)
		k.PublicKey, _ = p["PublicKey"].Value().([]byte)
		k.SubjectPublicKeyInfo, _ = p["SubjectPublicKeyInfo"].Value().([]byte)
		k.Certificates, _ = p["Certificates"].Value().([][]byte)
		k.URI, _ = p["URI"].Value().(string)
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(last(a.Kind != "tpm", b.Kind != "tpm"), last(len(a.Paths) == 0, len(b.Paths) == 0),
			slices.Compare(a.Paths, b.Paths), cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID))
	})
	return keys, nil
}

// last puts the one that is true behind the other.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// SignOptions are Sign's, as the interface file explains them. The zero value
// asks for nothing special.
type SignOptions struct {
	Digest     bool
	Format     string
	SaltLength int
	Reason     string
}

// Sign signs data with the key of that ID.
func (c *Client) Sign(ctx context.Context, id string, data []byte, scheme string, o SignOptions) ([]byte, error) {
	options := map[string]godbus.Variant{}
	if o.Digest {
		options["digest"] = godbus.MakeVariant(true)
	}
	if o.Format != "" {
		options["format"] = godbus.MakeVariant(o.Format)
	}
	if o.SaltLength != 0 {
		options["salt-length"] = godbus.MakeVariant(int32(o.SaltLength))
	}
	if o.Reason != "" {
		options["reason"] = godbus.MakeVariant(o.Reason)
	}
	var sig []byte
	err := c.call(ctx, keysPath+"/"+godbus.ObjectPath(id), keyIface, "Sign", []any{data, scheme, options}, &sig)
	return sig, err
}

// Lock makes the daemon forget every PIN, passphrase and approval.
func (c *Client) Lock(ctx context.Context) error {
	return c.call(ctx, rootPath, keyringIface, "Lock", nil)
}

// Unlock makes the daemon ask for the PINs and passphrases of these keys now,
// or of all that have one if there are none, and returns how many keys it was.
func (c *Client) Unlock(ctx context.Context, ids ...string) (int, error) {
	paths := make([]godbus.ObjectPath, len(ids))
	for i, id := range ids {
		paths[i] = keysPath + "/" + godbus.ObjectPath(id)
	}
	var n uint32
	err := c.call(ctx, rootPath, keyringIface, "Unlock", []any{paths}, &n)
	return int(n), err
}

// Status returns how the daemon is, by name.
func (c *Client) Status(ctx context.Context) (map[string]any, error) {
	var all map[string]godbus.Variant
	if err := c.call(ctx, rootPath, keyringIface, "Status", nil, &all); err != nil {
		return nil, err
	}
	status := make(map[string]any, len(all))
	for name, v := range all {
		status[name] = v.Value()
	}
	return status, nil
}

// An Approval is a permission that stands for a while.
type Approval struct {
	ID      uint64    `json:"id"`
	Key     string    `json:"key"` // its ID
	Label   string    `json:"label"`
	Program string    `json:"program"`
	Scope   string    `json:"scope"`
	Given   time.Time `json:"given"`
	Until   time.Time `json:"until"` // zero: until locked
}

// Approvals returns the permissions that stand, the oldest first.
func (c *Client) Approvals(ctx context.Context) ([]Approval, error) {
	var wired []struct {
		ID                         uint64
		Key, Label, Program, Scope string
		Given, Until               int64
	}
	if err := c.call(ctx, rootPath, keyringIface, "Approvals", nil, &wired); err != nil {
		return nil, err
	}
	list := make([]Approval, len(wired))
	for i, a := range wired {
		list[i] = Approval{a.ID, a.Key, a.Label, a.Program, a.Scope, time.Unix(a.Given, 0), time.Time{}}
		if a.Until != 0 {
			list[i].Until = time.Unix(a.Until, 0)
		}
	}
	return list, nil
}

// A Past is a use of a key that is over.
type Past struct {
	At       time.Time `json:"at"`
	FrontEnd string    `json:"frontEnd"`
	Caller   string    `json:"caller"`
	Label    string    `json:"label"`
	Key      string    `json:"key"`
	Reason   string    `json:"reason"`
	Outcome  string    `json:"outcome"` // empty: it was granted
}

// History returns the latest uses of keys, the oldest first.
func (c *Client) History(ctx context.Context) ([]Past, error) {
	var wired []struct {
		At                                            int64
		FrontEnd, Caller, Label, Key, Reason, Outcome string
	}
	if err := c.call(ctx, rootPath, keyringIface, "History", nil, &wired); err != nil {
		return nil, err
	}
	list := make([]Past, len(wired))
	for i, p := range wired {
		list[i] = Past{time.Unix(p.At, 0), p.FrontEnd, p.Caller, p.Label, p.Key, p.Reason, p.Outcome}
	}
	return list, nil
}

// Revoke ends a permission.
func (c *Client) Revoke(ctx context.Context, id uint64) error {
	return c.call(ctx, rootPath, keyringIface, "Revoke", []any{id})
}
