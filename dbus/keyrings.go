package dbus

import (
	"errors"
	"fmt"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// maxKeyringLabel is how many bytes a keyring's name has.
const maxKeyringLabel = 255

// named returns the ID of the keyring of that ID or alias.
func (s *Server) named(name string) (string, error) {
	info, err := s.Secrets.Collection(name)
	if !errors.Is(err, keyring.ErrNotFound) {
		return info.ID, err
	}
	if id, ok := s.Secrets.Alias(name); ok {
		info, err = s.Secrets.Collection(id)
	}
	return info.ID, err
}

// keyring returns the ID of a keyring for what only programs outside of a
// sandbox may do: it is the user's to look after them, and a sandbox's to stay
// out of that.
func (c *call) keyring(name string) (string, error) {
	if c.sender.app != "" {
		return "", fmt.Errorf("%w, and not for %s", errKeyrings, c.sender.app)
	}
	return c.bus.server.named(name)
}

// listKeyrings is Keyrings1.ListKeyrings.
func (c *call) listKeyrings() ([]properties, error) {
	s := c.bus.server
	aliases := map[string][]string{}
	for _, alias := range s.aliases() {
		if id, ok := s.Secrets.Alias(alias); ok {
			aliases[id] = append(aliases[id], alias)
		}
	}
	list := []properties{}
	for _, info := range s.Secrets.Collections() {
		p := collectionState(info)
		p["ID"] = godbus.MakeVariant(info.ID)
		// Where they cannot be counted their number is left out: the user still
		// has to see what there is to unlock.
		if items, err := s.Secrets.Items(info.ID); err == nil {
			p["Items"] = godbus.MakeVariant(uint32(len(items)))
		}
		p["Path"] = godbus.MakeVariant(collectionPath(info.ID))
		p["Aliases"] = godbus.MakeVariant(append([]string{}, aliases[info.ID]...))
		list = append(list, p)
	}
	return list, nil
}

// createKeyring is Keyrings1.CreateKeyring.
func (c *call) createKeyring(label string) (string, error) {
	o := readOptions(nil)
	label = o.line("the label", label)
	if label == "" || len(label) > maxKeyringLabel {
		o.wrong("a label of %d bytes, and 1 to %d are allowed", len(label), maxKeyringLabel)
	}
	if err := o.end(); err != nil {
		return "", err
	}
	if c.sender.app != "" {
		return "", fmt.Errorf("%w, and not for %s", errKeyrings, c.sender.app)
	}
	return c.bus.server.Secrets.CreateCollection(c.ctx, c.caller, label, "")
}

// lockKeyring is Keyrings1.Lock.
func (c *call) lockKeyring(name string) error {
	s := c.bus.server
	if name == "" {
		return s.Secrets.Lock(c.ctx, c.caller)
	}
	id, err := s.named(name)
	if err != nil {
		return err
	}
	return s.Secrets.Lock(c.ctx, c.caller, id)
}

// unlockKeyring is Keyrings1.Unlock.
func (c *call) unlockKeyring(name string) error {
	id, err := c.keyring(name)
	if err != nil {
		return err
	}
	return c.bus.server.Secrets.Unlock(c.ctx, c.caller, id)
}

// changePassphrase is Keyrings1.ChangePassphrase.
func (c *call) changePassphrase(name string) error {
	id, err := c.keyring(name)
	if err != nil {
		return err
	}
	return c.bus.server.Secrets.ChangePassphrase(c.ctx, c.caller, id)
}

// listSlots is Keyrings1.ListSlots.
func (c *call) listSlots(name string) ([]properties, error) {
	id, err := c.bus.server.named(name)
	if err != nil {
		return nil, err
	}
	slots, err := c.bus.server.Secrets.Slots(id)
	list := []properties{}
	for _, slot := range slots {
		list = append(list, properties{
			"ID":      godbus.MakeVariant(slot.ID),
			"Kind":    godbus.MakeVariant(string(slot.Kind)),
			"PIN":     godbus.MakeVariant(slot.PIN),
			"PCRs":    godbus.MakeVariant(slot.PCRs),
			"Created": godbus.MakeVariant(seconds(slot.Created)),
		})
	}
	return list, err
}

// addSlot is Keyrings1.AddSlot.
func (c *call) addSlot(name, kind string, options map[string]godbus.Variant) (string, error) {
	o := readOptions(options)
	var with keyring.SlotOptions
	switch keyring.SlotKind(kind) {
	case keyring.SlotPassphrase:
	case keyring.SlotTPM:
		with.PIN, with.PCRs = option[bool](o, "pin"), option[string](o, "pcrs")
	default:
		o.wrong("a slot of the kind %.64q", kind)
	}
	if err := o.end(); err != nil {
		return "", err
	}
	id, err := c.keyring(name)
	if err != nil {
		return "", err
	}
	slot, code, err := c.bus.server.Secrets.AddSlot(c.ctx, c.caller, id, keyring.SlotKind(kind), with)
	code.Wipe() // none, of these kinds
	return slot.ID, err
}

// addRecoverySlot is Keyrings1.AddRecoverySlot.
func (c *call) addRecoverySlot(name string, fd godbus.UnixFDIndex) (string, error) {
	id, err := c.keyring(name)
	if err != nil {
		return "", err
	}
	file, err := c.file(fd)
	if err != nil {
		return "", err
	}
	slot, code, err := c.bus.server.Secrets.AddSlot(c.ctx, c.caller, id, keyring.SlotRecovery, keyring.SlotOptions{})
	if err != nil {
		return "", err
	}
	defer code.Wipe()
	if err := handOver(file, code); err != nil {
		return "", fmt.Errorf("slot %s was added, but nobody has its code; remove it: %w", slot.ID, err)
	}
	return slot.ID, nil
}

// removeSlot is Keyrings1.RemoveSlot.
func (c *call) removeSlot(name, slot string) error {
	id, err := c.keyring(name)
	if err != nil {
		return err
	}
	return c.bus.server.Secrets.RemoveSlot(c.ctx, c.caller, id, slot)
}
