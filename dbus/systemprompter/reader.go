package systemprompter

import (
	"context"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

// readerTime is how long it may take to find out: a question waits for it.
const readerTime = 500 * time.Millisecond

// ScreenReader reports whether a screen reader is on in the session whose bus is
// at address (AT-SPI, "org.a11y.Status"). Nothing is started to find out.
func ScreenReader(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, readerTime)
	defer cancel()
	conn, err := godbus.Dial(address)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if wire.Join(conn) != nil {
		return false
	}
	var on godbus.Variant
	err = conn.Object("org.a11y.Bus", "/org/a11y/bus").CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get",
		godbus.FlagNoAutoStart, "org.a11y.Status", "ScreenReaderEnabled").Store(&on)
	enabled, _ := on.Value().(bool)
	return err == nil && enabled
}
