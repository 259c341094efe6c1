// Package secretstest is a client of the Secret Service for tests: one that says
// what it was told, error for error, which the libraries that programs use do
// not. It knows nothing of keyringd and works with any daemon. It does not look
// after the secrets that it handles, which are a test's own.
package secretstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// The names of the Secret Service (Secret Service 0.2, "D-Bus names").
const (
	name       = "org.freedesktop.secrets"
	service    = "org.freedesktop.Secret.Service"
	collection = "org.freedesktop.Secret.Collection"
	item       = "org.freedesktop.Secret.Item"
	prompt     = "org.freedesktop.Secret.Prompt"
	internal   = "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface"
	properties = "org.freedesktop.DBus.Properties"
	root       = godbus.ObjectPath("/org/freedesktop/secrets")
)

// Login is where the login collection is, and Default what the default one goes
// by.
const (
	Login   = root + "/collection/login"
	Default = root + "/aliases/default"
)

// patience is how long an answer may take: the machine may be busy, and a
// passphrase takes its time.
const patience = 2 * time.Minute

// ErrDismissed says that the user refused what a prompt asked.
var ErrDismissed = errors.New("dismissed")

// A Secret is what goes over the bus (Secret Service 0.2, "Secrets").
type Secret struct {
	Session     godbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

// A Client is a connection with a D-Bus session of the Secret Service, without
// encryption. Its methods may be called concurrently, apart from those that
// prompt.
type Client struct {
	conn    *godbus.Conn
	session godbus.ObjectPath
	signals chan *godbus.Signal
}

// Dial connects to a bus and opens a D-Bus session with the daemon that owns the
// Secret Service there. Close ends both.
func Dial(address string) (*Client, error) {
	conn, err := godbus.Connect(address)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, signals: make(chan *godbus.Signal, 64)}
	conn.Signal(c.signals)
	var output godbus.Variant
	err = c.Call(root, service+".OpenSession", []any{"plain", godbus.MakeVariant("")}, &output, &c.session)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// Close hangs up.
func (c *Client) Close() error { return c.conn.Close() }

// Call calls a method, given with its interface, and stores what it returns.
func (c *Client) Call(path godbus.ObjectPath, method string, args []any, results ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// No daemon is to be started: the one under test runs, or is dead.
	call := c.conn.Object(name, path).CallWithContext(ctx, method, godbus.FlagNoAutoStart, args...)
	if err := call.Store(results...); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (c *Client) secret(value []byte) Secret {
	return Secret{Session: c.session, Parameters: []byte{}, Value: value, ContentType: "application/octet-stream"}
}

// Store puts an item into a collection and returns its path.
func (c *Client) Store(collectionPath godbus.ObjectPath, label string, attributes map[string]string, value []byte, replace bool) (godbus.ObjectPath, error) {
	var made, ask godbus.ObjectPath
	err := c.Call(collectionPath, collection+".CreateItem", []any{map[string]godbus.Variant{
		item + ".Label":      godbus.MakeVariant(label),
		item + ".Attributes": godbus.MakeVariant(attributes),
	}, c.secret(value), replace}, &made, &ask)
	if err == nil && ask != "/" {
		err = fmt.Errorf("CreateItem wants to prompt: %s", ask)
	}
	return made, err
}

// Secret returns an item's secret.
func (c *Client) Secret(path godbus.ObjectPath) ([]byte, error) {
	var s Secret
	err := c.Call(path, item+".GetSecret", []any{c.session}, &s)
	return s.Value, err
}

// Secrets returns the secrets of those items that have one to read.
func (c *Client) Secrets(paths ...godbus.ObjectPath) (map[godbus.ObjectPath][]byte, error) {
	var all map[godbus.ObjectPath]Secret
	if err := c.Call(root, service+".GetSecrets", []any{paths, c.session}, &all); err != nil {
		return nil, err
	}
	values := make(map[godbus.ObjectPath][]byte, len(all))
	for path, s := range all {
		values[path] = s.Value
	}
	return values, nil
}

// SetSecret changes an item's secret.
func (c *Client) SetSecret(path godbus.ObjectPath, value []byte) error {
	return c.Call(path, item+".SetSecret", []any{c.secret(value)})
}

// Delete deletes an item, or a collection after it has asked.
func (c *Client) Delete(path godbus.ObjectPath) error {
	kind := item
	if strings.Count(string(path), "/") == strings.Count(string(Login), "/") {
		kind = collection
	}
	var ask godbus.ObjectPath
	if err := c.Call(path, kind+".Delete", nil, &ask); err != nil {
		return err
	}
	_, err := c.Prompt(ask)
	return err
}

// Search finds items by attributes in all collections.
func (c *Client) Search(attributes map[string]string) (unlocked, locked []godbus.ObjectPath, err error) {
	err = c.Call(root, service+".SearchItems", []any{attributes}, &unlocked, &locked)
	return unlocked, locked, err
}

// Items lists the items of a collection.
func (c *Client) Items(path godbus.ObjectPath) (items []godbus.ObjectPath, err error) {
	var v godbus.Variant
	if err := c.Call(path, properties+".Get", []any{collection, "Items"}, &v); err != nil {
		return nil, err
	}
	err = v.Store(&items)
	return items, err
}

// Locked reports whether a collection is locked.
func (c *Client) Locked(path godbus.ObjectPath) (locked bool, err error) {
	var v godbus.Variant
	if err := c.Call(path, properties+".Get", []any{collection, "Locked"}, &v); err != nil {
		return false, err
	}
	err = v.Store(&locked)
	return locked, err
}

// Unlock unlocks collections or items; the user may be asked.
func (c *Client) Unlock(paths ...godbus.ObjectPath) error {
	var unlocked []godbus.ObjectPath
	var ask godbus.ObjectPath
	if err := c.Call(root, service+".Unlock", []any{paths}, &unlocked, &ask); err != nil {
		return err
	}
	_, err := c.Prompt(ask)
	return err
}

// Lock locks collections.
func (c *Client) Lock(paths ...godbus.ObjectPath) error {
	var locked []godbus.ObjectPath
	var ask godbus.ObjectPath
	if err := c.Call(root, service+".Lock", []any{paths}, &locked, &ask); err != nil {
		return err
	}
	if len(locked) != len(paths) {
		return fmt.Errorf("Lock %v: only %v", paths, locked)
	}
	return nil
}

// Make makes a collection with a passphrase, as scripts do that have nobody to
// ask.
func (c *Client) Make(label, passphrase string) (made godbus.ObjectPath, err error) {
	err = c.Call(root, internal+".CreateWithMasterPassword", []any{map[string]godbus.Variant{
		collection + ".Label": godbus.MakeVariant(label),
	}, c.secret([]byte(passphrase))}, &made)
	return made, err
}

// UnlockWith unlocks a collection with its passphrase; nobody is asked.
func (c *Client) UnlockWith(path godbus.ObjectPath, passphrase string) error {
	return c.Call(root, internal+".UnlockWithMasterPassword", []any{path, c.secret([]byte(passphrase))})
}

// ChangeWithPrompt has the user change a collection's passphrase, as seahorse
// does.
func (c *Client) ChangeWithPrompt(path godbus.ObjectPath) error {
	var ask godbus.ObjectPath
	if err := c.Call(root, internal+".ChangeWithPrompt", []any{path}, &ask); err != nil {
		return err
	}
	_, err := c.Prompt(ask)
	return err
}

// Prompt carries out a prompt and returns its result; "/" is none. An error that
// wraps ErrDismissed is the user's no.
func (c *Client) Prompt(path godbus.ObjectPath) (result godbus.Variant, err error) {
	if path == "/" {
		return result, nil
	}
	if err := c.Call(path, prompt+".Prompt", []any{""}); err != nil {
		return result, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case s, ok := <-c.signals:
			if !ok {
				return result, errors.New("the bus hung up during a prompt")
			}
			if s.Path != path || s.Name != prompt+".Completed" {
				continue
			}
			var dismissed bool
			if err := godbus.Store(s.Body, &dismissed, &result); err != nil {
				return result, err
			}
			if dismissed {
				return result, fmt.Errorf("%s: %w", path, ErrDismissed)
			}
			return result, nil
		case <-timer.C:
			return result, fmt.Errorf("%s: not completed within %v", path, patience)
		}
	}
}
