package pkcs11

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/listen"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// frameTimeout is how long a client may take over one request, from its
	// first byte to its last, and over the byte that it greets with. Between
	// requests it may wait for ever, as a web server with a token key does.
	frameTimeout = 30 * time.Second
	// writeTimeout is how long a client may take to read an answer.
	writeTimeout = 10 * time.Second
)

// Options of [New]. The zero value is the usual one.
type Options struct {
	// Certificates are shown beside the keys they belong to; nil: none.
	Certificates *Certificates
	// Strict asks programs to log in before they see private keys. Nothing is
	// gained by it but for those who want it so: a login takes no PIN, and the
	// user is asked in either case where a key is used.
	Strict bool
	// Maker makes TPM keys for C_GenerateKeyPair; nil: there is no TPM, and none
	// are made. With it there is a TPM token even before there is a key.
	Maker keyring.Maker
	// Callers finds out who asks; nil: it is looked up here.
	Callers *caller.Witness
	// Random fills a slice with random numbers of the TPM's, for its token; nil,
	// or an error that it returns: they are the kernel's.
	Random func(ctx context.Context, b []byte) error
}

// A Server serves the keys of a keyring.Keys as PKCS#11 tokens. Make one with
// [New]; it may serve several listeners at once.
type Server struct {
	keys    *keyring.Keys
	certs   *Certificates
	strict  bool
	maker   keyring.Maker
	random  func(context.Context, []byte) error
	callers *caller.Witness
	journal journal

	frameTimeout, writeTimeout time.Duration

	current atomic.Pointer[snapshot]
	mu      sync.Mutex    // held while current is made anew
	handle  atomic.Uint64 // the last one given to an object
}

// New returns a Server of these keys. What goes wrong on our side is told to
// log, what clients do wrong at level Debug only.
func New(keys *keyring.Keys, log *slog.Logger, o Options) *Server {
	certs := o.Certificates
	if certs == nil {
		certs = NewCertificates()
	}
	return &Server{
		keys:         keys,
		certs:        certs,
		strict:       o.Strict,
		maker:        o.Maker,
		random:       o.Random,
		callers:      o.Callers,
		journal:      journal{log: log},
		frameTimeout: frameTimeout,
		writeTimeout: writeTimeout,
	}
}

// Serve answers the clients that connect to l, of the daemon's own user only,
// until ctx ends. It closes l, and returns when every connection is closed and
// every goroutine it started is done. It may be called for several listeners
// at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return listen.Serve(ctx, l, s.serveConn)
}
