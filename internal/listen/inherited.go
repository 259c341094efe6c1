package listen

import (
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// Inherited returns the stream sockets that the service manager passed to this
// process, by the names it gave them (sd_listen_fds_with_names(3)); empty when
// it passed none. Of several sockets of one name the first is taken; the others
// and those of another kind are closed. It takes the variables out of the
// environment, so that a second call returns none and children do not see them.
//
// Their paths are the service manager's: nothing here removes or remakes them.
func Inherited() map[string]net.Listener {
	// The only error there is comes with sockets that are not listening.
	named, _ := activation.ListenersWithNames()
	found := make(map[string]net.Listener)
	for name, ls := range named {
		for _, l := range ls {
			if l == nil {
				continue
			}
			if _, ok := l.(*net.UnixListener); !ok || found[name] != nil {
				l.Close()
				continue
			}
			found[name] = l
		}
	}
	return found
}
