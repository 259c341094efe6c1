package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyringd/keyringd/dbus/systemprompter"
	"github.com/keyringd/keyringd/internal/listen"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/prompt/pinentry"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpm/swtpm"
)

// asking is what prompters are chosen by.
func (d *daemon) asking() pinentry.Env {
	tty, err := pinentry.ForegroundTTY()
	if err != nil {
		tty = "" // started by a service manager, as usual
	}
	for _, path := range []string{tty, d.env.Getenv("GPG_TTY")} {
		if path != "" {
			d.terminals = append(d.terminals, path)
		}
	}
	env := pinentry.Env{Environ: os.Environ(), Executable: d.executable, TTY: tty, Log: d.log}
	if address := d.busAddress(); address != "" {
		env.System = func(start bool) prompt.Prompter { return &systemprompter.Prompter{Address: address, Start: start} }
		env.ScreenReader = func(ctx context.Context) bool { return systemprompter.ScreenReader(ctx, address) }
	}
	return env
}

// sockets are where the daemon listens.
type sockets struct {
	ssh     net.Listener
	pkcs11  []net.Listener // the first is ours, the others are where programs look by themselves
	control net.Listener   // for the login password; nil: another daemon has it, or there is no place
}

// openSockets returns the sockets: the service manager's, where it passed one by
// that name, or else our own. Those that other daemons may have as well are done
// without where they do.
func (d *daemon) openSockets() (s sockets, err error) {
	inherited := listen.Inherited()
	open := func(name, path string) (net.Listener, error) {
		if l := inherited[name]; l != nil {
			return l, nil
		}
		l, err := listen.Unix(path)
		if err != nil {
			return nil, err // and no Listener that holds a nil
		}
		return l, nil
	}
	if s.ssh, err = open("ssh", filepath.Join(d.RuntimeDir, "ssh")); err != nil {
		return s, err
	}
	l, err := open("pkcs11", filepath.Join(d.RuntimeDir, "pkcs11"))
	if err != nil {
		s.Close()
		return s, err
	}
	s.pkcs11 = append(s.pkcs11, l)
	run := d.env.userRuntimeDir()
	if run == "" && inherited["control"] == nil {
		return s, nil
	}
	if s.control, err = open("control", filepath.Join(run, "keyring", "control")); err != nil {
		s.control = nil
		d.log.Warn("the login password will not arrive: another keyring daemon has its socket", "err", err)
	}
	if d.P11KitSocket && run != "" {
		if l, err := listen.Unix(filepath.Join(run, "p11-kit", "pkcs11")); err != nil {
			d.log.Warn("p11-kit's own socket is left alone", "err", err)
		} else {
			s.pkcs11 = append(s.pkcs11, l)
		}
	}
	return s, nil
}

// Close closes the sockets, and removes those that are our own.
func (s sockets) Close() {
	for _, l := range append([]net.Listener{s.ssh, s.control}, s.pkcs11...) {
		if l != nil {
			_ = l.Close()
		}
	}
}

// openTPM returns the TPM to use, nil if there is none, and what puts it away.
// Nothing is sent to it yet.
func (d *daemon) openTPM(ctx context.Context, prompter prompt.Prompter, starter spawn.Starter) (*tpm.Device, func(), error) {
	address := d.tpmAddress.Resolve()
	closeSoftware := func() {}
	switch address.Kind {
	case link.None:
		d.log.Warn("no TPM: keys in TPM key files are not served", "tpm", d.TPM)
		return nil, closeSoftware, nil
	case link.Swtpm:
		options := d.softwareTPM()
		options.Starter = starter
		dir := options.Dir
		process, err := swtpm.Start(ctx, options)
		if err != nil {
			return nil, nil, err
		}
		d.log.Warn("this is a software TPM: its keys are as safe as the folder of its state, and no safer", "dir", dir)
		address = process.Address()
		closeSoftware = func() {
			if err := process.Stop(); err != nil {
				d.log.Warn("the software TPM did not stop in order", "err", err)
			}
		}
	}
	if err := os.MkdirAll(d.DataDir, 0o700); err != nil {
		// Keys sign all the same; what is lost is remembering the TPM's storage key.
		d.log.Warn("the data folder cannot be made", "err", err)
	}
	device := tpm.New(address, tpm.Options{
		Log:        d.log,
		PinFile:    filepath.Join(d.DataDir, "tpm-parents"),
		Place:      d.tpmAddress.Resolve().String(),
		ParentAuth: askParentAuth(prompter),
	})
	return device, func() {
		if err := device.Close(); err != nil {
			d.log.Warn("the TPM was not left tidy", "err", err)
		}
		closeSoftware()
	}, nil
}

// softwareTPM says where the software TPM lives, if that is what is set.
func (d *daemon) softwareTPM() swtpm.Options {
	dir := d.tpmAddress.Target
	if dir == "" {
		dir = filepath.Join(d.env.xdg("XDG_STATE_HOME", ".local/state"), "keyringd", "swtpm")
	}
	return swtpm.Options{Dir: dir, Socket: filepath.Join(d.RuntimeDir, "swtpm"), Log: d.log}
}

// askParentAuth asks for the authorization value of a TPM's hierarchy or parent
// key, which few machines have set.
func askParentAuth(prompter prompt.Prompter) func(context.Context, uint32, bool) (secret.Bytes, error) {
	return func(ctx context.Context, parent uint32, retry bool) (secret.Bytes, error) {
		answer, err := prompter.Prompt(ctx, prompt.Question{
			Kind:    prompt.Passphrase,
			Subject: parentName(parent),
			Reason:  "load a key that hangs under it",
			Caller:  "keyringd",
			Retry:   retry,
		})
		return answer.Passphrase, err
	}
}

// parentName names a parent as a person who set its password would know it
// (TPM 2.0 Library Part 2, §7.4 "TPM_RH").
func parentName(handle uint32) string {
	switch handle {
	case 0x40000001:
		return "the TPM's owner password"
	case 0x4000000B:
		return "the TPM's endorsement password"
	case 0x4000000C:
		return "the TPM's platform password"
	}
	return fmt.Sprintf("the password of the TPM's parent key 0x%08x", handle)
}

// shellQuote quotes s for a POSIX shell where it needs it.
func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_.,:+-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
