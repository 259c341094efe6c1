package wire

import (
	"fmt"
	"os"
	"strconv"

	godbus "github.com/godbus/dbus/v5"
)

// Join makes a new connection one of the bus's: it authenticates as this
// process's user, by what the kernel says and nothing else, and says hello.
// Messages may come before it returns. It is ended by the end of the
// connection, which is the caller's to close, also with an error.
func Join(conn *godbus.Conn) error {
	if err := conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	if err := conn.Hello(); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	return nil
}
