package agent

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

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

// A Server serves the ssh-agent protocol. Make one with [New].
type Server struct {
	Keys *keyring.Keys // what is served; may not be replaced

	journal journal

	frameTimeout, writeTimeout, halfCloseGrace time.Duration

	current atomic.Pointer[identitySet]
	mu      sync.Mutex // held while current is made anew
}

// New returns a Server of these keys. Failed requests are told to log, one line
// each and limited in number, without anything secret.
func New(keys *keyring.Keys, log *slog.Logger) *Server {
	return &Server{
		Keys:           keys,
		journal:        journal{log: log},
		frameTimeout:   frameTimeout,
		writeTimeout:   writeTimeout,
		halfCloseGrace: halfCloseGrace,
	}
}

// Serve answers the clients that connect to l, of the daemon's own user only,
// until ctx ends. It closes l, and returns when every connection is closed and
// every goroutine it started is done. It may be called for several listeners
// at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return listen.Serve(ctx, l, s.serveConn)
}
