package dbus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// A bus that is not there is tried again after firstPause, then after twice
	// as long each time, up to lastPause: whoever restarts a bus waits a second
	// at most, and a machine without one is woken once a second.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// A Server serves keys on a message bus. Make one with [New].
type Server struct {
	// Version is what the daemon calls itself.
	Version string
	// Status, if set, returns more facts for Keyring1.Status: bool, string,
	// number or []string, by a name in upper camel case. It is called for each
	// Status, on that call's goroutine.
	Status func(ctx context.Context) map[string]any
	// Maker makes keys, Keeper looks after them, and FileSealer keeps other small
	// secrets. Nil: there is no TPM, and their methods are not supported.
	Maker      keyring.Maker
	Keeper     keyring.Keeper
	FileSealer keyring.FileSealer
	// Secrets is what the Secret Service, the portal's back end and Keyrings1
	// serve. Nil: none of them is there, and their name on the bus is left alone.
	Secrets *keyring.Secrets
	// Mover brings secrets in and takes them out, for Keyrings1. Nil: that is not
	// supported.
	Mover keyring.Mover
	// URI returns the RFC 7512 URI by which PKCS #11 programs name a key. Nil: that
	// is not told.
	URI func(keyring.KeyInfo) string
	// Certificates are what Key1 shows of a key's certificates.
	Certificates []Certificates
	// Callers finds out who asks; nil: it is looked up here.
	Callers *caller.Witness
	// Replace takes the Secret Service's name from another program that allows it.
	// Otherwise the name is ours once no other has it.
	Replace bool

	keys   *keyring.Keys
	gate   *keyring.Gate
	log    *slog.Logger
	tables tables

	searchWait time.Duration // see usualSearchWait

	shown   shown
	current atomic.Pointer[catalog]
	making  sync.Mutex // held while current is made anew
}

// New returns a Server of these keys, whose Gate is gate. Failed calls are told
// to log without anything secret. The exported fields may be set before Serve.
func New(keys *keyring.Keys, gate *keyring.Gate, log *slog.Logger) *Server {
	t, err := loadTables(handlers())
	if err != nil {
		panic(fmt.Sprintf("dbus: %v", err)) // a mistake in the tables, which every test finds
	}
	return &Server{keys: keys, gate: gate, log: log, tables: t, searchWait: usualSearchWait}
}

// SessionAddress returns the address of the session bus, as the environment
// says or else where systemd puts it.
func SessionAddress(getenv func(string) string, uid int) string {
	return wire.SessionAddress(getenv, uid)
}

// Serve serves on the bus at address (D-Bus Specification, "Server Addresses";
// unix sockets only) until ctx ends, and returns when every goroutine it started
// is done. While there is no bus it waits for one, and tells log once. It may be
// called for several buses at once. An error other than ctx's means that the
// address is none.
func (s *Server) Serve(ctx context.Context, address string) error {
	if err := wire.CheckAddress(address); err != nil {
		return err
	}
	pause, told := firstPause, false
	for {
		err := s.visit(ctx, address, func() {
			s.log.Info("on the bus", "name", busName, "address", address)
			pause, told = firstPause, false
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !told {
			s.log.Warn("no message bus; all else goes on, and the bus is tried again", "address", address, "err", err)
			told = true
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, lastPause)
	}
}
