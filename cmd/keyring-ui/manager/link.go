package manager

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/secret"
)

// redial is how long a bus that is gone is left alone.
const redial = 2 * time.Second

// A Link is the [Daemon] on a message bus. What the user may be asked for goes
// over a connection of its own: whoever ends that takes the question off the
// screen, and what was being made is not made.
type Link struct {
	address string

	mu      sync.Mutex
	conn    *client.Client // nil: none yet, or none any more
	secrets *client.Secrets
}

// NewLink returns the daemon on the bus at address. Close ends it.
func NewLink(address string) *Link { return &Link{address: address} }

// Close ends the connection.
func (l *Link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.Close()
	}
	l.conn, l.secrets = nil, nil
}

// dial returns the connection that all share, made if there is none.
func (l *Link) dial(ctx context.Context) (*client.Client, *client.Secrets, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		select {
		case <-l.conn.Ended():
			l.conn.Close()
			l.conn = nil
		default:
			return l.conn, l.secrets, nil
		}
	}
	c, err := client.Dial(ctx, l.address)
	if err != nil {
		return nil, nil, err
	}
	l.conn, l.secrets = c, client.NewSecrets(c)
	return l.conn, l.secrets, nil
}

// Watch implements [Daemon].
func (l *Link) Watch(ctx context.Context, tell func(client.Change, string)) {
	for ctx.Err() == nil {
		if c, _, err := l.dial(ctx); err == nil {
			l.watch(ctx, c, tell)
		}
		tell(client.DaemonEnded, "")
		select {
		case <-time.After(redial):
		case <-ctx.Done():
		}
	}
}

// watch is Watch on one connection, until it ends.
func (l *Link) watch(ctx context.Context, c *client.Client, tell func(client.Change, string)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.Watch(ctx, tell); err != nil {
		return
	}
	// Asking how it is starts a daemon that the bus knows how to start.
	if _, err := c.Status(ctx); err == nil {
		tell(client.DaemonBegan, "")
	} else if errors.Is(err, client.ErrNoDaemon) {
		tell(client.DaemonEnded, "")
	}
	select {
	case <-c.Ended():
	case <-ctx.Done():
	}
}

// shared does something on the connection that all share.
func shared[T any](ctx context.Context, l *Link, do func(*client.Client) (T, error)) (T, error) {
	c, _, err := l.dial(ctx)
	if err != nil {
		return *new(T), err
	}
	return do(c)
}

// apart does something on a connection of its own.
func apart[T any](ctx context.Context, l *Link, do func(*client.Client) (T, error)) (T, error) {
	c, err := client.Dial(ctx, l.address)
	if err != nil {
		return *new(T), err
	}
	defer c.Close()
	return do(c)
}

// alone is apart for what returns nothing.
func alone(ctx context.Context, l *Link, do func(*client.Client) error) error {
	_, err := apart(ctx, l, func(c *client.Client) (struct{}, error) { return struct{}{}, do(c) })
	return err
}

func (l *Link) items(ctx context.Context, do func(*client.Secrets) error) error {
	_, s, err := l.dial(ctx)
	if err != nil {
		return err
	}
	return do(s)
}

// Status implements [Daemon].
func (l *Link) Status(ctx context.Context) (map[string]any, error) {
	return shared(ctx, l, func(c *client.Client) (map[string]any, error) { return c.Status(ctx) })
}

// Keys implements [Keys].
func (l *Link) Keys(ctx context.Context) ([]client.Key, error) {
	return shared(ctx, l, func(c *client.Client) ([]client.Key, error) { return c.Keys(ctx) })
}

// Create implements [Keys].
func (l *Link) Create(ctx context.Context, n client.Creation) (client.Made, error) {
	return apart(ctx, l, func(c *client.Client) (client.Made, error) { return c.Create(ctx, n) })
}

// Import implements [Keys].
func (l *Link) Import(ctx context.Context, source string, t client.Target) (client.Made, error) {
	return apart(ctx, l, func(c *client.Client) (client.Made, error) { return c.Import(ctx, source, t) })
}

// ChangeAuth implements [Keys].
func (l *Link) ChangeAuth(ctx context.Context, f client.File, noPIN bool, progress func(string)) (client.Made, error) {
	return apart(ctx, l, func(c *client.Client) (client.Made, error) { return c.ChangeAuth(ctx, f, noPIN, progress) })
}

// SetLabel implements [Keys].
func (l *Link) SetLabel(ctx context.Context, f client.File, label string) error {
	return alone(ctx, l, func(c *client.Client) error { return c.SetLabel(ctx, f, label) })
}

// Remove implements [Keys].
func (l *Link) Remove(ctx context.Context, f client.File) error {
	return alone(ctx, l, func(c *client.Client) error { return c.Remove(ctx, f) })
}

// RequestCertificate implements [Keys].
func (l *Link) RequestCertificate(ctx context.Context, id string, r client.Request) ([]byte, error) {
	return apart(ctx, l, func(c *client.Client) ([]byte, error) { return c.RequestCertificate(ctx, id, r) })
}

// Keyrings implements [Keyrings].
func (l *Link) Keyrings(ctx context.Context) ([]client.Keyring, error) {
	return shared(ctx, l, func(c *client.Client) ([]client.Keyring, error) { return c.Keyrings(ctx) })
}

// CreateKeyring implements [Keyrings].
func (l *Link) CreateKeyring(ctx context.Context, label string) (string, error) {
	return apart(ctx, l, func(c *client.Client) (string, error) { return c.CreateKeyring(ctx, label) })
}

// LockKeyring implements [Keyrings].
func (l *Link) LockKeyring(ctx context.Context, keyring string) error {
	return alone(ctx, l, func(c *client.Client) error { return c.LockKeyring(ctx, keyring) })
}

// UnlockKeyring implements [Keyrings].
func (l *Link) UnlockKeyring(ctx context.Context, keyring string) error {
	return alone(ctx, l, func(c *client.Client) error { return c.UnlockKeyring(ctx, keyring) })
}

// ChangePassphrase implements [Keyrings].
func (l *Link) ChangePassphrase(ctx context.Context, keyring string) error {
	return alone(ctx, l, func(c *client.Client) error { return c.ChangePassphrase(ctx, keyring) })
}

// Slots implements [Keyrings].
func (l *Link) Slots(ctx context.Context, keyring string) ([]client.Slot, error) {
	return shared(ctx, l, func(c *client.Client) ([]client.Slot, error) { return c.Slots(ctx, keyring) })
}

// AddSlot implements [Keyrings].
func (l *Link) AddSlot(ctx context.Context, keyring, kind string, pin bool, pcrs string) (string, error) {
	return apart(ctx, l, func(c *client.Client) (string, error) { return c.AddSlot(ctx, keyring, kind, pin, pcrs) })
}

// AddRecoverySlot implements [Keyrings].
func (l *Link) AddRecoverySlot(ctx context.Context, keyring string) (id string, code []byte, err error) {
	err = alone(ctx, l, func(c *client.Client) (err error) {
		id, code, err = c.AddRecoverySlot(ctx, keyring)
		return err
	})
	return id, code, err
}

// RemoveSlot implements [Keyrings].
func (l *Link) RemoveSlot(ctx context.Context, keyring, slot string) error {
	return alone(ctx, l, func(c *client.Client) error { return c.RemoveSlot(ctx, keyring, slot) })
}

// ImportKeyrings implements [Keyrings].
func (l *Link) ImportKeyrings(ctx context.Context, paths []string, into string, archive bool) ([]client.Moved, error) {
	return apart(ctx, l, func(c *client.Client) ([]client.Moved, error) { return c.ImportKeyrings(ctx, paths, into, archive) })
}

// ExportKeyrings implements [Keyrings].
func (l *Link) ExportKeyrings(ctx context.Context, e client.Export) ([]client.Moved, error) {
	return apart(ctx, l, func(c *client.Client) ([]client.Moved, error) { return c.ExportKeyrings(ctx, e) })
}

// Items implements [Items].
func (l *Link) Items(ctx context.Context, keyring string) (items []client.Item, err error) {
	err = l.items(ctx, func(s *client.Secrets) (err error) { items, err = s.Items(ctx, keyring); return err })
	return items, err
}

// Secret implements [Items].
func (l *Link) Secret(ctx context.Context, item string) (value secret.Bytes, contentType string, err error) {
	err = l.items(ctx, func(s *client.Secrets) (err error) { value, contentType, err = s.Secret(ctx, item); return err })
	return value, contentType, err
}

// CreateItem implements [Items].
func (l *Link) CreateItem(ctx context.Context, keyring, label string, attributes map[string]string, value secret.Bytes) (item string, err error) {
	err = l.items(ctx, func(s *client.Secrets) (err error) {
		item, err = s.Create(ctx, keyring, label, attributes, value)
		return err
	})
	return item, err
}

// ChangeItem implements [Items]. The secret comes first: it is what must not get
// lost.
func (l *Link) ChangeItem(ctx context.Context, item string, c ItemChange) error {
	return l.items(ctx, func(s *client.Secrets) error {
		if c.Secret != nil {
			if err := s.SetSecret(ctx, item, *c.Secret); err != nil {
				return err
			}
		}
		if c.Label != nil {
			if err := s.SetLabel(ctx, item, *c.Label); err != nil {
				return err
			}
		}
		if c.Attributes != nil {
			return s.SetAttributes(ctx, item, c.Attributes)
		}
		return nil
	})
}

// DeleteItem implements [Items].
func (l *Link) DeleteItem(ctx context.Context, item string) error {
	return l.items(ctx, func(s *client.Secrets) error { return s.Delete(ctx, item) })
}

// SetKeyringLabel implements [Items].
func (l *Link) SetKeyringLabel(ctx context.Context, keyring, label string) error {
	return l.items(ctx, func(s *client.Secrets) error { return s.SetKeyringLabel(ctx, keyring, label) })
}

// DeleteKeyring implements [Items].
func (l *Link) DeleteKeyring(ctx context.Context, keyring string) error {
	return alone(ctx, l, func(c *client.Client) error { return client.NewSecrets(c).DeleteKeyring(ctx, keyring) })
}

// Approvals implements [Uses].
func (l *Link) Approvals(ctx context.Context) ([]client.Approval, error) {
	return shared(ctx, l, func(c *client.Client) ([]client.Approval, error) { return c.Approvals(ctx) })
}

// Revoke implements [Uses].
func (l *Link) Revoke(ctx context.Context, id uint64) error {
	_, err := shared(ctx, l, func(c *client.Client) (struct{}, error) { return struct{}{}, c.Revoke(ctx, id) })
	return err
}

// History implements [Uses].
func (l *Link) History(ctx context.Context) ([]client.Past, error) {
	return shared(ctx, l, func(c *client.Client) ([]client.Past, error) { return c.History(ctx) })
}

// Lock implements [Uses].
func (l *Link) Lock(ctx context.Context) error {
	_, err := shared(ctx, l, func(c *client.Client) (struct{}, error) { return struct{}{}, c.Lock(ctx) })
	return err
}
