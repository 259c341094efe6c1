package client

import (
	"context"
	"errors"
	"fmt"

	godbus "github.com/godbus/dbus/v5"
)

// Owner returns the process that has a name on the bus; 0: nobody has. It
// starts nobody.
func (c *Client) Owner(ctx context.Context, name string) (pid int, err error) {
	var n uint32
	err = c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", godbus.FlagNoAutoStart, name).Store(&n)
	var remote godbus.Error
	if errors.As(err, &remote) && remote.Name == "org.freedesktop.DBus.Error.NameHasNoOwner" {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("who has %s: %w", name, err)
	}
	return int(n), nil
}

// ReloadServices makes the bus look again at the files that say which program
// has which name.
func (c *Client) ReloadServices(ctx context.Context) error {
	return c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ReloadConfig", godbus.FlagNoAutoStart).Err
}
