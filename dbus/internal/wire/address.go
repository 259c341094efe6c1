package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	godbus "github.com/godbus/dbus/v5"
)

// SessionAddress returns the address of the session bus: what the session says
// in DBUS_SESSION_BUS_ADDRESS or else where systemd puts it.
func SessionAddress(getenv func(string) string, uid int) string {
	if a := getenv("DBUS_SESSION_BUS_ADDRESS"); a != "" && a != "autolaunch:" {
		return a
	}
	dir := getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join("/run/user", strconv.Itoa(uid))
	}
	return "unix:path=" + godbus.EscapeBusAddressValue(filepath.Join(dir, "bus"))
}

// CheckAddress reports what is wrong with a bus address, so that it is said
// once and not at each attempt.
func CheckAddress(address string) error {
	_, err := sockets(address)
	return err
}

// sockets returns the unix sockets that a bus address names: D-Bus
// Specification, "Server Addresses". Others are left out, because they do not
// tell the bus who we are.
func sockets(address string) ([]string, error) {
	var found []string
	for _, one := range strings.Split(address, ";") {
		transport, list, _ := strings.Cut(one, ":")
		if transport != "unix" {
			continue
		}
		for _, pair := range strings.Split(list, ",") {
			key, value, _ := strings.Cut(pair, "=")
			value, err := godbus.UnescapeBusAddressValue(value)
			if err != nil || value == "" {
				continue
			}
			switch key {
			case "path":
				found = append(found, value)
			case "abstract":
				found = append(found, "@"+value)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("bus address %q: want unix:path=SOCKET", address)
	}
	return found, nil
}

// Dial connects to the first socket of a bus address that answers.
func Dial(ctx context.Context, address string) (net.Conn, error) {
	paths, err := sockets(address)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, path := range paths {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
