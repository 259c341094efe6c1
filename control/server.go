package control

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/listen"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// requestTimeout is how long a client may take for its request, from its
	// connection on. All of them send it in one go.
	requestTimeout = 10 * time.Second
	// loginTimeout bounds how long a login waits for us: pam_gnome_keyring.so
	// itself waits for ever, and the user before it.
	loginTimeout = 30 * time.Second
	// writeTimeout is how long a client may take to read its few bytes.
	writeTimeout = 10 * time.Second
	// maxLogins is how many passwords are tried at a time. Each takes 64 MiB, so
	// that a thousand would take the machine.
	maxLogins = 2
)

// A Login is what a login password is for. Passwords are borrowed. Its methods
// may be called concurrently, and give up when ctx ends.
type Login interface {
	// Login unlocks the login keyring, or makes it if there is none.
	// keyring.ErrAuthFailed: the password is not that of the keyring.
	Login(ctx context.Context, c keyring.Caller, password secret.Bytes) error
	// ChangeLogin changes the keyring's password.
	ChangeLogin(ctx context.Context, c keyring.Caller, old, new secret.Bytes) error
}

// A Server serves the control socket. Make one with [New].
type Server struct {
	// Callers finds out who asks; nil: it is looked up here. It is set before
	// Serve.
	Callers *caller.Witness

	login Login
	log   *slog.Logger
	turns chan struct{} // one for each password that is tried

	requestTimeout, loginTimeout time.Duration
}

// New returns a Server that hands passwords to login. What came of them is told
// to log, a line each; never the password.
func New(login Login, log *slog.Logger) *Server {
	return &Server{
		login:          login,
		log:            log,
		turns:          make(chan struct{}, maxLogins),
		requestTimeout: requestTimeout,
		loginTimeout:   loginTimeout,
	}
}

// Serve answers the clients that connect to l, of the daemon's own user and
// root, until ctx ends. It closes l, and returns when every connection is
// closed and every goroutine it started is done. It may be called for several
// listeners at once.
//
// The socket must be named "control" and belong to the user: that is what
// pam_gnome_keyring.so looks for and looks at.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return listen.Serve(ctx, l, s.serveConn)
}

// turn waits for leave to try a password, which is given back by done.
func (s *Server) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.turns <- struct{}{}:
		return func() { <-s.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
