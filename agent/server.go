package agent

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyringd/keyringd/agent/knownhosts"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/listen"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// frameTimeout is how long a client may take over one request, from its
	// first byte to its last. Between requests it may wait for ever, as ssh
	// with a ControlMaster does.
	frameTimeout = 30 * time.Second
	// writeTimeout is how long a client may take to read an answer.
	writeTimeout = 10 * time.Second
	// halfCloseGrace is how long a request may go on whose client has said that
	// it sends nothing more. It may be waiting for its answers (a script with a
	// pipe), or be gone with only that much known (ssh -A, whose remote asker
	// was killed), so that a prompt must not stay.
	halfCloseGrace = 500 * time.Millisecond
)

// A Server serves the ssh-agent protocol. Make one with [New]; its fields are
// set before Serve.
type Server struct {
	Keys *keyring.Keys // what is served; may not be replaced

	// Holder keeps the keys that clients add; nil: none can be added.
	Holder Holder
	// Providers reach smart cards and security keys; nil: none can be added.
	Providers Providers
	// AllowProviders is a list of patterns, separated by commas, for the libraries
	// that clients may name; "": those of the system, as in OpenSSH.
	AllowProviders string
	// AllowRemoteChanges lets an asker on another machine add, remove and lock, as
	// OpenSSH does.
	AllowRemoteChanges bool
	// Certificates are offered with their keys; nil: none but added ones.
	Certificates *Certificates
	// KnownHosts names hosts in questions; nil: they have fingerprints only.
	KnownHosts *knownhosts.Files
	// Callers finds out who asks; nil: it is looked up here.
	Callers *caller.Witness
	// Upstream is the socket of another agent, whose keys are listed after ours;
	// "": there is none.
	Upstream string

	journal journal // of requests that failed
	changes journal // of what was added, removed, locked; no failure crowds these out
	added   *addedSet
	lock    *lock
	cards   turns
	absent  absence // of the other agent
	pid     int     // our own, which is not to be the other agent's

	frameTimeout, writeTimeout, halfCloseGrace time.Duration

	current atomic.Pointer[identitySet]
	mu      sync.Mutex // held while current is made anew
}

// New returns a Server of these keys. Failed requests and changes are told to
// log, one line each and limited in number, without anything secret.
func New(keys *keyring.Keys, log *slog.Logger) *Server {
	s := &Server{
		Keys:           keys,
		journal:        journal{log: log},
		changes:        journal{log: log},
		lock:           newLock(),
		pid:            os.Getpid(),
		frameTimeout:   frameTimeout,
		writeTimeout:   writeTimeout,
		halfCloseGrace: halfCloseGrace,
	}
	s.added = newAddedSet(keys, func() Holder { return s.Holder })
	return s
}

// Serve answers the clients that connect to l, of the daemon's own user only,
// until ctx ends. It closes l, and returns when every connection is closed and
// every goroutine it started is done. It may be called for several listeners
// at once. Added keys stay until they are removed or [Server.DropAdded] is
// called.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return listen.Serve(ctx, l, s.serveConn)
}
