package client

import (
	"reflect"
	"strings"

	godbus "github.com/godbus/dbus/v5"
)

// idOf returns the key ID in an object's path.
func idOf(path godbus.ObjectPath) (string, bool) {
	return strings.CutPrefix(string(path), string(keysPath)+"/")
}

// pointed is the signature of the variables that into points to.
func pointed(into []any) string {
	var b strings.Builder
	for _, p := range into {
		b.WriteString(godbus.SignatureOfType(reflect.TypeOf(p).Elem()).String())
	}
	return b.String()
}
