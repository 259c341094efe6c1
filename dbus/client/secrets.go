package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sync/errgroup"

	"github.com/keyringd/keyringd/dbus/internal/transfer"
	"github.com/keyringd/keyringd/internal/secret"
)

// ErrDismissed means that the user did not want what was to be confirmed.
var ErrDismissed = errors.New("it was not confirmed")

// inFlight is how many items are asked for at once: a keyring of thousands must
// not wait for as many round trips one after the other.
const inFlight = 32

// An Item is what the daemon says of one item of a keyring. All but Path is
// empty while the keyring is locked.
type Item struct {
	Path       string
	Label      string
	Attributes map[string]string
	Locked     bool
	Created    time.Time
	Modified   time.Time
}

// Secrets is the Secret Service as a client sees it: the items of keyringd's
// keyrings. It speaks to keyringd, whoever else may have the name
// org.freedesktop.secrets. All methods may be called concurrently. Keyrings and
// items are named by the paths of their objects.
//
// A secret goes over the bus encrypted with a key that both ends agree on: Secret
// Service API 0.2, "Transfer of Secrets".
type Secrets struct {
	client *Client

	mu      sync.Mutex
	session godbus.ObjectPath // "": there is none yet
	channel *transfer.Channel
}

// NewSecrets returns the Secret Service that c is connected to.
func NewSecrets(c *Client) *Secrets { return &Secrets{client: c} }

// A passed is a secret on its way.
type passed struct {
	Session     godbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

// open returns the session, which is made for the first secret.
func (s *Secrets) open(ctx context.Context) (godbus.ObjectPath, *transfer.Channel, error) {
	s.mu.Lock()
	at, channel := s.session, s.channel
	s.mu.Unlock()
	if at != "" {
		return at, channel, nil
	}
	offer, err := transfer.NewOffer()
	if err != nil {
		return "", nil, err
	}
	var answer godbus.Variant
	err = s.client.call(ctx, secretsPath, serviceIface, "OpenSession", []any{transfer.DH, godbus.MakeVariant(offer.Public())}, &answer, &at)
	if err != nil {
		return "", nil, err
	}
	peer, _ := answer.Value().([]byte)
	if channel, err = offer.Accept(peer); err != nil {
		return "", nil, fmt.Errorf("a session for secrets: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session, s.channel = at, channel
	return at, channel, nil
}

// within does something in the session. One that the daemon knows no more, after
// it was started again, is made anew.
func (s *Secrets) within(ctx context.Context, do func(godbus.ObjectPath, *transfer.Channel) error) error {
	for again := true; ; again = false {
		at, channel, err := s.open(ctx)
		if err != nil {
			return err
		}
		err = do(at, channel)
		var answered *Error
		if !again || !errors.As(err, &answered) || answered.Name != "org.freedesktop.Secret.Error.NoSession" {
			return err
		}
		s.mu.Lock()
		s.session, s.channel = "", nil
		s.mu.Unlock()
	}
}

// Items returns the items of a keyring, by label. One that goes meanwhile is
// left out.
func (s *Secrets) Items(ctx context.Context, keyring string) ([]Item, error) {
	var list godbus.Variant
	if err := s.client.call(ctx, godbus.ObjectPath(keyring), properties, "Get", []any{collectionIface, "Items"}, &list); err != nil {
		return nil, err
	}
	paths, _ := list.Value().([]godbus.ObjectPath)
	items := make([]Item, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	for i, at := range paths {
		group.Go(func() (err error) {
			items[i], err = s.item(ctx, at)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	items = slices.DeleteFunc(items, func(i Item) bool { return i.Path == "" })
	slices.SortFunc(items, func(a, b Item) int { return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.Path, b.Path)) })
	return items, nil
}

// item returns one item; the zero Item if it is gone.
func (s *Secrets) item(ctx context.Context, at godbus.ObjectPath) (Item, error) {
	var p map[string]godbus.Variant
	err := s.client.call(ctx, at, properties, "GetAll", []any{itemIface}, &p)
	var answered *Error
	if errors.As(err, &answered) {
		switch answered.Name {
		case "org.freedesktop.Secret.Error.NoSuchObject", "org.freedesktop.DBus.Error.UnknownObject":
			return Item{}, nil
		}
	}
	if err != nil {
		return Item{}, err
	}
	i := Item{Path: string(at), Created: moment(p["Created"]), Modified: moment(p["Modified"])}
	i.Label, _ = p["Label"].Value().(string)
	i.Locked, _ = p["Locked"].Value().(bool)
	i.Attributes, _ = p["Attributes"].Value().(map[string]string)
	return i, nil
}

// Secret returns an item's secret, the caller's to Wipe, and what it is.
func (s *Secrets) Secret(ctx context.Context, item string) (value secret.Bytes, contentType string, err error) {
	err = s.within(ctx, func(session godbus.ObjectPath, channel *transfer.Channel) error {
		var p passed
		if err := s.client.call(ctx, godbus.ObjectPath(item), itemIface, "GetSecret", []any{session}, &p); err != nil {
			return err
		}
		value, err = channel.Unseal(p.Parameters, p.Value)
		contentType = p.ContentType
		return err
	})
	return value, contentType, err
}

// passed returns a secret, which is borrowed, as it goes over the bus.
func pass(session godbus.ObjectPath, channel *transfer.Channel, value secret.Bytes) passed {
	p := passed{Session: session, ContentType: "text/plain"}
	p.Parameters, p.Value = channel.Seal(value)
	return p
}

// Create makes an item in a keyring, whatever others are there, and returns its
// path. The secret, text, is borrowed.
func (s *Secrets) Create(ctx context.Context, keyring, label string, attributes map[string]string, value secret.Bytes) (item string, err error) {
	o := map[string]godbus.Variant{itemIface + ".Label": godbus.MakeVariant(label)}
	if len(attributes) > 0 {
		o[itemIface+".Attributes"] = godbus.MakeVariant(attributes)
	}
	err = s.within(ctx, func(session godbus.ObjectPath, channel *transfer.Channel) error {
		var made, prompt godbus.ObjectPath
		args := []any{o, pass(session, channel, value), false}
		err := s.client.call(ctx, godbus.ObjectPath(keyring), collectionIface, "CreateItem", args, &made, &prompt)
		item = string(made)
		return err
	})
	return item, err
}

// SetSecret gives an item another secret, text, which is borrowed.
func (s *Secrets) SetSecret(ctx context.Context, item string, value secret.Bytes) error {
	return s.within(ctx, func(session godbus.ObjectPath, channel *transfer.Channel) error {
		return s.client.call(ctx, godbus.ObjectPath(item), itemIface, "SetSecret", []any{pass(session, channel, value)})
	})
}

// SetLabel renames an item.
func (s *Secrets) SetLabel(ctx context.Context, item, label string) error {
	return s.set(ctx, item, itemIface, "Label", label)
}

// SetAttributes gives an item other attributes.
func (s *Secrets) SetAttributes(ctx context.Context, item string, attributes map[string]string) error {
	return s.set(ctx, item, itemIface, "Attributes", attributes)
}

// SetKeyringLabel renames a keyring.
func (s *Secrets) SetKeyringLabel(ctx context.Context, keyring, label string) error {
	return s.set(ctx, keyring, collectionIface, "Label", label)
}

func (s *Secrets) set(ctx context.Context, object, iface, property string, value any) error {
	return s.client.call(ctx, godbus.ObjectPath(object), properties, "Set", []any{iface, property, godbus.MakeVariant(value)})
}

// Delete deletes an item. Nobody is asked.
func (s *Secrets) Delete(ctx context.Context, item string) error {
	return s.delete(ctx, item, itemIface)
}

// DeleteKeyring deletes a keyring and all that is in it, after the user has been
// asked. ErrDismissed: they did not want it.
func (s *Secrets) DeleteKeyring(ctx context.Context, keyring string) error {
	return s.delete(ctx, keyring, collectionIface)
}

func (s *Secrets) delete(ctx context.Context, object, iface string) error {
	var prompt godbus.ObjectPath
	if err := s.client.call(ctx, godbus.ObjectPath(object), iface, "Delete", nil, &prompt); err != nil {
		return err
	}
	dismissed, err := s.client.prompt(ctx, prompt)
	if err == nil && dismissed {
		err = ErrDismissed
	}
	return err
}
