package pinentry

import (
	"slices"
	"strings"
)

// passed are the variables that a prompt program needs to find its display, its
// bus, its looks and its input method. All others stay here: one that is meant
// for this process (a preloaded library, a notification socket, another
// agent's address) is not meant for the program that sees the passphrase.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "TERM", "GPG_TTY", "LANG", "LANGUAGE",
	"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS",
	"XDG_RUNTIME_DIR", "XDG_SESSION_TYPE", "XDG_CURRENT_DESKTOP", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME",
	"XDG_DATA_DIRS", "XDG_CONFIG_DIRS",
	"XMODIFIERS", "GTK_IM_MODULE", "QT_IM_MODULE", "GDK_SCALE", "QT_SCALE_FACTOR",
}

var passedPrefixes = []string{"LC_", "FYNE_"}

// filter returns those variables of environ that a prompt program gets.
func filter(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !slices.Contains(passed, name) &&
			!slices.ContainsFunc(passedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	})
}

// lookup returns a variable of environ, of which the last one counts.
func lookup(environ []string, name string) string {
	for _, kv := range slices.Backward(environ) {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v
		}
	}
	return ""
}
