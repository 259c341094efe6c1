package dbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

const (
	// schemaAttribute is where libsecret keeps what sort of item it is. It is an
	// attribute like others, so that searching for it works.
	schemaAttribute = "xdg:schema"
	genericSchema   = "org.freedesktop.Secret.Generic"
)

// collectionProperties are all properties of a collection. While its items cannot
// be listed they are without the list, which is not the same as an empty one:
// who does not see that it is locked cannot unlock it, and unlocking may bring
// the list back.
func (s *Server) collectionProperties(info keyring.CollectionInfo) (properties, error) {
	p := collectionState(info)
	refs, err := s.Secrets.Items(info.ID)
	if err != nil {
		// It may be there by the time that this is noted, and is not told of then.
		s.shown.unlist(info.ID)
		refs, err = s.Secrets.Items(info.ID)
	}
	switch {
	case errors.Is(err, keyring.ErrNotFound):
		return nil, err // it was deleted meanwhile
	case err == nil:
		p["Items"] = godbus.MakeVariant(itemPaths(refs))
	}
	return p, nil
}

// collectionState is a collection's properties without the list of its items.
func collectionState(info keyring.CollectionInfo) properties {
	return properties{
		"Label":    godbus.MakeVariant(info.Label),
		"Locked":   godbus.MakeVariant(info.Locked),
		"Created":  godbus.MakeVariant(seconds(info.Created)),
		"Modified": godbus.MakeVariant(seconds(info.Modified)),
	}
}

// seconds since 1970; 0 where it is not known.
func seconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(0, t.Unix()))
}

// deleteCollection is Collection.Delete. It always asks: nothing brings the
// items back.
func (c *call) deleteCollection() (prompt godbus.ObjectPath, err error) {
	id := c.node.item.Collection
	if id == keyring.SessionCollection {
		return "", fmt.Errorf("the session collection: %w: it ends with the login session", keyring.ErrUnsupported)
	}
	return c.prompt("", func(ctx context.Context) (any, error) {
		return "", c.bus.server.Secrets.DeleteCollection(ctx, c.caller, id)
	})
}

// createItem is Collection.CreateItem. Programs that are told that the
// collection is locked unlock it and come again, so that there is no prompt.
func (c *call) createItem(all properties, p passed, replace bool) (made, prompt godbus.ObjectPath, err error) {
	item, err := newItem(all)
	if err != nil {
		return "", "", err
	}
	if item.ContentType, err = contentType(p); err != nil {
		return "", "", err
	}
	if len(c.body)-len(p.Value) > maxArguments {
		return "", "", fmt.Errorf("%w: %d bytes of properties", errLimit, len(c.body)-len(p.Value))
	}
	if item.Secret, err = c.received(p); err != nil {
		return "", "", err
	}
	defer item.Secret.Wipe()
	s, collection := c.bus.server, c.node.item.Collection
	var r keyring.ItemRef
	err = s.unlocking(c.ctx, collection, func() (err error) {
		r, err = s.Secrets.CreateItem(c.ctx, c.caller, collection, item, replace)
		return err
	})
	if err != nil {
		return "", "", err
	}
	return itemPath(r), nothing, nil
}

// newItem reads the properties that an item shall have. Those that we do not
// know are passed over, as some programs send what other services have.
func newItem(all properties) (item keyring.NewItem, err error) {
	label, err1 := property[string](all, itemInterface+".Label")
	attributes, err2 := property[map[string]string](all, itemInterface+".Attributes")
	schema, err3 := property[string](all, itemInterface+".Type")
	if err := errors.Join(err1, err2, err3); err != nil {
		return item, err
	}
	item.Label = label
	item.Attributes = withSchema(attributes, schema)
	return item, nil
}

// withSchema returns attributes that say what sort of item it is: as they do,
// or as schema does, or any.
func withSchema(attributes map[string]string, schema string) map[string]string {
	if _, given := attributes[schemaAttribute]; given {
		return attributes
	}
	if schema == "" {
		schema = genericSchema
	}
	with := maps.Clone(attributes)
	if with == nil {
		with = map[string]string{}
	}
	with[schemaAttribute] = schema
	return with
}

func (c *call) setCollectionLabel(label string) error {
	return c.bus.server.Secrets.SetCollectionLabel(c.ctx, c.caller, c.node.item.Collection, label)
}
