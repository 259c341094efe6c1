package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/keyringd/keyringd/agent"
	"github.com/keyringd/keyringd/dbus"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/prompt/pinentry"
	"github.com/keyringd/keyringd/sshkeys"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpmkeys"
	"golang.org/x/sync/errgroup"
)

// daemon is one run of keyringd.
type daemon struct {
	settings
	tpmAddress link.Address
	env        environment
	executable string // this program's own path; empty: not known
	log        *slog.Logger
	stdout     io.Writer
}

// run serves until ctx ends, and then returns nil once everything is put away.
func (d *daemon) run(ctx context.Context) error {
	tty, err := pinentry.ForegroundTTY()
	if err != nil {
		tty = "" // started by a service manager, as usual
	}
	asker, err := pinentry.New(d.Prompter, pinentry.Env{
		Environ:    os.Environ(),
		Executable: d.executable,
		TTY:        tty,
		Log:        d.log,
	})
	if err != nil {
		return usageError{fmt.Errorf("--prompter: %w", err)}
	}
	prompter := prompt.NewQueue(asker)
	defer prompter.Close()

	// The sockets come first: a second daemon stops here, before it touches the
	// TPM, and a client that connects early waits in the backlog.
	sockets, err := d.openSockets()
	if err != nil {
		return err
	}
	defer sockets.Close()

	device, closeTPM, err := d.openTPM(ctx, prompter)
	if err != nil {
		return err
	}
	defer closeTPM()

	gate := keyring.NewGate(prompter)
	gate.Remember = d.Remember
	gate.Log = d.log
	defer gate.Lock()
	keys := keyring.NewKeys(gate)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	certificates := pkcs11.NewCertificates()
	folders, err := folder.Watch(ctx, folder.Options{Dirs: d.KeyDirs, Log: d.log},
		tpmkeys.New(device, keys, d.log), sshkeys.New(keys, d.log), certificates)
	if err != nil {
		return err
	}
	defer func() { cancel(); <-folders.Done() }()

	maker := &tpmkeys.Maker{Device: device, Keys: keys, Gate: gate, Dirs: d.KeyDirs, Rescan: folders.Rescan, Log: d.log}
	certificates.Rescan = folders.Rescan
	tokens := pkcs11.Options{Certificates: certificates}
	if device != nil {
		tokens.Maker, tokens.Random = maker, device.Random
	}
	fronts, ctx := errgroup.WithContext(ctx)
	fronts.Go(func() error { return agent.New(keys, d.log).Serve(ctx, sockets.ssh) })
	fronts.Go(func() error {
		return pkcs11.New(keys, d.log, tokens).Serve(ctx, sockets.pkcs11)
	})
	if d.Bus != "none" {
		front := dbus.New(keys, gate, d.log)
		front.Maker, front.Keeper, front.FileSealer = maker, maker, maker
		front.Status = (&status{sockets, d.tpmAddress.Resolve().String(), device, folders}).facts
		fronts.Go(func() error { d.serveBus(ctx, front); return nil })
	}

	// What starting needed is given back, so that an idle daemon is small.
	debug.FreeOSMemory()
	d.ready(sockets.ssh.Addr().String(), len(keys.List()))
	<-ctx.Done()
	_, _ = systemd.SdNotify(false, systemd.SdNotifyStopping)
	if err := fronts.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // asked to end, and did
}

// serveBus serves on D-Bus until ctx ends. Without a bus the other front ends go
// on, and when it comes back, so does this one.
func (d *daemon) serveBus(ctx context.Context, front *dbus.Server) {
	address := d.Bus
	if address == "session" {
		address = dbus.SessionAddress(d.env.Getenv, d.env.UID)
	}
	front.Version = version
	if err := front.Serve(ctx, address); ctx.Err() == nil {
		d.log.Error("nothing is served on D-Bus", "err", err)
	}
}

// ready says that the daemon serves: to the service manager, to the journal,
// and to the person who started it in a terminal.
func (d *daemon) ready(socket string, keys int) {
	d.log.Info("serving", "socket", socket, "keys", keys, "tpm", d.tpmAddress.String())
	fmt.Fprintf(d.stdout, "export SSH_AUTH_SOCK=%s\n", shellQuote(socket))
	_, _ = systemd.SdNotify(false, systemd.SdNotifyReady+fmt.Sprintf("\nSTATUS=Serving %d keys", keys))
}
