package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/keyringd/keyringd/agent"
	"github.com/keyringd/keyringd/dbus"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/prompt/pinentry"
	"github.com/keyringd/keyringd/sshkeys"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpmkeys"
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

	// The socket comes first: a second daemon stops here, before it touches the
	// TPM, and a client that connects early waits in the backlog.
	socket, err := d.sshSocket()
	if err != nil {
		return err
	}
	defer socket.Close()

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
	folders, err := folder.Watch(ctx, folder.Options{Dirs: d.KeyDirs, Log: d.log},
		tpmkeys.New(device, keys, d.log), sshkeys.New(keys, d.log))
	if err != nil {
		return err
	}
	defer func() { cancel(); <-folders.Done() }()

	var fronts sync.WaitGroup
	defer fronts.Wait()
	defer cancel()
	if d.Bus != "none" {
		fronts.Go(func() { d.serveBus(ctx, keys, gate, socket.Addr().String()) })
	}

	// What starting needed is given back, so that an idle daemon is small.
	debug.FreeOSMemory()
	d.ready(socket.Addr().String(), len(keys.List()))
	err = agent.New(keys, d.log).Serve(ctx, socket)
	_, _ = systemd.SdNotify(false, systemd.SdNotifyStopping)
	if ctx.Err() != nil {
		return nil // asked to end, and did
	}
	return err
}

// serveBus serves on D-Bus until ctx ends. Without a bus the other front ends go
// on, and when it comes back, so does this one.
func (d *daemon) serveBus(ctx context.Context, keys *keyring.Keys, gate *keyring.Gate, socket string) {
	address := d.Bus
	if address == "session" {
		address = dbus.SessionAddress(d.env.Getenv, d.env.UID)
	}
	front := dbus.New(keys, gate, d.log)
	front.Version = version
	front.Status = func(context.Context) map[string]any {
		return map[string]any{"SSHSocket": socket, "TPM": d.tpmAddress.Resolve().String()}
	}
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
