package dbus

import (
	"fmt"
	"log/slog"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/keyring"
)

// claimSecrets asks for the Secret Service's name. While another program has
// it, we wait in the bus's queue, and all else goes on. Others may take it from
// us, so that the user can change daemons without ending a session.
func (b *bus) claimSecrets() error {
	flags := godbus.NameFlagAllowReplacement
	if b.server.Replace {
		flags |= godbus.NameFlagReplaceExisting
	}
	reply, err := b.conn.RequestName(secretsName, flags)
	if err != nil {
		return fmt.Errorf("ask for the name %s: %w", secretsName, err)
	}
	if reply == godbus.RequestNameReplyInQueue {
		b.server.log.Warn("another program is the Secret Service; we are once it ends, or with --replace if it allows that",
			slog.String("name", secretsName), slog.String("owner", b.owner(secretsName)))
	}
	return nil
}

// owner is who has a name, as a person reads it.
func (b *bus) owner(name string) string {
	var unique string
	if err := b.conn.BusObject().CallWithContext(b.ctx, driver+".GetNameOwner", 0, name).Store(&unique); err != nil {
		return keyring.Caller{}.String()
	}
	who, err := b.identify(&sender{name: unique, ctx: b.ctx})
	if err != nil {
		return unique
	}
	return who.String()
}

// nameChanged follows the names that the bus gives us and takes from us. Whose
// name is gone is not who programs believe to speak with: their sessions end.
func (b *bus) nameChanged(f *wire.Frame) {
	if f.BodySize > maxArguments || f.Signature != "s" {
		return
	}
	body, err := f.Body()
	if err != nil {
		return
	}
	var name string
	if err := wire.Unmarshal(f.Order, body, &name); err != nil || name != secretsName {
		return
	}
	if f.Member == "NameAcquired" {
		b.server.log.Info("on the bus", "name", name)
		return
	}
	b.server.log.Warn("another program took our name on the bus; it is ours again when that one ends", "name", name)
	// Not here: it writes to the bus, which may wait for us to read.
	b.calls.Go(b.endSessions)
}
