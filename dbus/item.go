package dbus

import (
	"errors"
	"maps"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// itemProperties returns an item's properties.
//
// While its collection is locked, an item has no label, no attributes and no
// times: they are encrypted with the secret. Asking for them is no error all
// the same, because libsecret makes an object of each search result by asking
// for all properties, and gives the whole search up over one that fails. As it
// keeps what it was told, whoever asked is told the rest with PropertiesChanged
// as soon as the collection is unlocked; see announcer. For the same reason one
// that is damaged is shown without them, as nobody knows them: the others of a
// search are not to be lost with it, and asking for its secret says what is wrong.
func (s *Server) itemProperties(r keyring.ItemRef) (properties, error) {
	info, err := s.Secrets.Item(r)
	locked := errors.Is(err, keyring.ErrLocked)
	switch {
	case locked, errors.Is(err, keyring.ErrDamaged):
		info = keyring.ItemInfo{}
	case err != nil:
		return nil, err
	}
	s.shown.add(r)
	return itemState(info, locked), nil
}

// itemState is an item's properties.
func itemState(info keyring.ItemInfo, locked bool) properties {
	attributes, schema := info.Attributes, info.Attributes[schemaAttribute]
	if attributes == nil {
		attributes = map[string]string{}
	}
	if schema == "" {
		schema = genericSchema
	}
	return properties{
		"Locked":     godbus.MakeVariant(locked),
		"Attributes": godbus.MakeVariant(attributes),
		"Label":      godbus.MakeVariant(info.Label),
		"Type":       godbus.MakeVariant(schema),
		"Created":    godbus.MakeVariant(seconds(info.Created)),
		"Modified":   godbus.MakeVariant(seconds(info.Modified)),
	}
}

// deleteItem is Item.Delete. It does not ask: whoever may read and replace an
// item could as well leave nothing of it.
func (c *call) deleteItem() (prompt godbus.ObjectPath, err error) {
	s, r := c.bus.server, c.node.item
	err = s.unlocking(c.ctx, r.Collection, func() error { return s.Secrets.DeleteItem(c.ctx, c.caller, r) })
	return nothing, err
}

// getSecret is Item.GetSecret.
func (c *call) getSecret(session godbus.ObjectPath) (passed, error) {
	channel, err := c.channel(session)
	if err != nil {
		return passed{}, err
	}
	p, err := c.secret(c.node.item, session, channel)
	c.confidential = func() { clear(p.Value) }
	return p, err
}

// setSecret is Item.SetSecret.
func (c *call) setSecret(p passed) error {
	kind, err := contentType(p)
	if err != nil {
		return err
	}
	value, err := c.received(p)
	if err != nil {
		return err
	}
	defer value.Wipe()
	return c.changeItem(keyring.ItemChange{Secret: &value, ContentType: &kind})
}

func (c *call) changeItem(change keyring.ItemChange) error {
	s, r := c.bus.server, c.node.item
	return s.unlocking(c.ctx, r.Collection, func() error { return s.Secrets.ChangeItem(c.ctx, c.caller, r, change) })
}

func (c *call) setItemLabel(label string) error {
	return c.changeItem(keyring.ItemChange{Label: &label})
}

// setItemAttributes keeps the item's type where the new attributes say none.
func (c *call) setItemAttributes(attributes map[string]string) error {
	return c.describe(func(now keyring.ItemInfo) map[string]string {
		return withSchema(attributes, now.Attributes[schemaAttribute])
	})
}

func (c *call) setItemType(schema string) error {
	return c.describe(func(now keyring.ItemInfo) map[string]string {
		attributes := maps.Clone(now.Attributes)
		delete(attributes, schemaAttribute)
		return withSchema(attributes, schema)
	})
}

// describe gives the item other attributes.
func (c *call) describe(to func(now keyring.ItemInfo) map[string]string) error {
	s, r := c.bus.server, c.node.item
	return s.unlocking(c.ctx, r.Collection, func() error {
		now, err := s.Secrets.Item(r)
		if err != nil {
			return err
		}
		return s.Secrets.ChangeItem(c.ctx, c.caller, r, keyring.ItemChange{Attributes: to(now)})
	})
}
