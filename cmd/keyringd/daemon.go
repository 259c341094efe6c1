package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/keyringd/keyringd/agent"
	"github.com/keyringd/keyringd/agent/knownhosts"
	"github.com/keyringd/keyringd/agent/sshhelper"
	"github.com/keyringd/keyringd/control"
	"github.com/keyringd/keyringd/dbus"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/outside"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/prompt/pinentry"
	"github.com/keyringd/keyringd/sshkeys"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpmkeys"
)

// daemon is one run of keyringd.
type daemon struct {
	settings
	tpmAddress link.Address
	env        environment
	args       []string // the command line, to be read again with config.toml
	executable string   // this program's own path; empty: not known
	log        *slog.Logger
	level      *slog.LevelVar
	stdout     io.Writer
	terminals  []string // that prompters may use

	current atomic.Pointer[settings] // those in force, after config.toml was read again
}

// run serves until ctx ends, and then returns nil once everything is put away.
func (d *daemon) run(ctx context.Context) error {
	d.current.Store(&d.settings)
	d.level.Set(d.LogLevel)
	box := d.newSandbox()
	defer box.Close()
	asking := d.asking()
	asking.Starter = box
	box.orders = outside.Orders{Rules: d.programs(asking), Folders: d.KeyDirs, Home: d.env.Home}
	asker, err := pinentry.New(d.Prompter, asking)
	if err != nil {
		return usageError{fmt.Errorf("--prompter: %w", err)}
	}
	if c, ok := asker.(io.Closer); ok {
		defer c.Close()
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

	device, closeTPM, err := d.openTPM(ctx, prompter, box)
	if err != nil {
		return err
	}
	defer closeTPM()

	gate := keyring.NewGate(prompter)
	gate.Remember, gate.ConfirmForwarded = d.Remember, d.ConfirmForwarded
	gate.Log = d.log
	notifier := d.notifier(gate)
	defer gate.Lock()
	keys := keyring.NewKeys(gate)
	keys.Demand = func(info keyring.KeyInfo) bool { return d.current.Load().Confirm.wants(info) }

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	vault := d.openVault(ctx, gate, device, box)
	defer vault.close()
	keys.Passphrases = vault.passphrases

	agentCertificates, certificates := agent.NewCertificates(), pkcs11.NewCertificates()
	folders, err := folder.Watch(ctx, folder.Options{Dirs: d.KeyDirs, Log: d.log},
		tpmkeys.New(device, keys, d.log), sshkeys.New(keys, d.log), agentCertificates, certificates)
	if err != nil {
		return err
	}
	defer func() { cancel(); <-folders.Done() }()
	certificates.Rescan = folders.Rescan
	var maker *tpmkeys.Maker
	if device != nil {
		maker = &tpmkeys.Maker{Device: device, Keys: keys, Gate: gate, Dirs: d.KeyDirs, Rescan: folders.Rescan, Log: d.log, Elsewhere: box.putKey}
	}

	programs := &sshhelper.Programs{Environ: os.Environ(), Log: d.log, Starter: box}
	defer programs.Close()
	ssh := d.agent(keys, programs, agentCertificates)
	ssh.Callers = box.callers
	defer ssh.DropAdded()
	tokens := d.tokens(keys, certificates, maker, device, box.callers)

	fronts, ctx := errgroup.WithContext(ctx)
	fronts.Go(func() error { return ssh.Serve(ctx, sockets.ssh) })
	for _, l := range sockets.pkcs11 {
		fronts.Go(func() error { return tokens.Serve(ctx, l) })
	}
	if sockets.control != nil {
		login := control.New(vault, d.log)
		login.Callers = box.callers
		fronts.Go(func() error { return login.Serve(ctx, sockets.control) })
	}
	if address := d.busAddress(); address != "" {
		front := dbus.New(keys, gate, d.log)
		front.Version, front.Replace, front.URI = version, d.Replace, pkcs11.URI
		front.Callers = box.callers
		front.Certificates = []dbus.Certificates{certificates, agentCertificates}
		if maker != nil {
			front.Maker, front.Keeper, front.FileSealer = maker, maker, maker
		}
		front.Status = (&status{sockets, d.tpmAddress.Resolve().String(), device, folders, vault, box}).facts
		fronts.Go(func() error { d.serveBus(ctx, front, address, vault); return nil })
		fronts.Go(func() error { notifier.Run(ctx); return nil })
	}
	events := &session{daemon: d, gate: gate, vault: vault, agent: ssh, device: device}
	fronts.Go(func() error { events.watch(ctx); return nil })
	fronts.Go(func() error { events.signals(ctx, keys); return nil })

	fronts.Go(func() error { return box.watch(ctx) })
	fronts.Go(func() error { rest(ctx, vault.secrets.Opened()); return nil })
	d.ready(sockets.ssh.Addr().String(), len(keys.List()))
	box.enter(ctx, keys)
	<-ctx.Done()
	_, _ = systemd.SdNotify(false, systemd.SdNotifyStopping)
	if err := fronts.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // asked to end, and did
}

// agent returns the ssh-agent front end.
func (d *daemon) agent(keys *keyring.Keys, programs *sshhelper.Programs, certificates *agent.Certificates) *agent.Server {
	s := agent.New(keys, d.log)
	s.Holder = sshkeys.NewAdded(keys)
	s.Providers = programs
	s.AllowProviders = d.providers()
	s.Certificates = certificates
	s.KnownHosts = knownhosts.User(d.env.Home)
	s.Upstream, s.AllowRemoteChanges = d.Upstream, d.RemoteChanges
	return s
}

// tokens returns the PKCS #11 front end.
func (d *daemon) tokens(keys *keyring.Keys, certificates *pkcs11.Certificates, maker *tpmkeys.Maker, device *tpm.Device, callers *caller.Witness) *pkcs11.Server {
	o := pkcs11.Options{Callers: callers, Certificates: certificates, Strict: d.PKCS11StrictLogin}
	if maker != nil {
		o.Maker, o.Random = maker, device.Random
	}
	return pkcs11.New(keys, d.log, o)
}

// busAddress is the address of the bus to be on; "": none.
func (d *daemon) busAddress() string {
	switch d.Bus {
	case "none":
		return ""
	case "session":
		return dbus.SessionAddress(d.env.Getenv, d.env.UID)
	}
	return d.Bus
}

// serveBus serves on D-Bus until ctx ends. Without a bus the other front ends go
// on, and when it comes back, so does this one.
func (d *daemon) serveBus(ctx context.Context, front *dbus.Server, address string, v *vault) {
	if d.SecretService {
		front.Secrets, front.Mover = v.secrets, v.mover
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
