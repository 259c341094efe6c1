package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// A source is where settings come from: defaults, then config.toml, then flags.
// It may be read again and again.
type source struct {
	env  environment
	args []string // the command line without the program's name
}

// read returns the settings as they stand now. An error is a mistake in
// config.toml, which it names by line, or in the flags.
func (c source) read() (settings, error) {
	s := c.env.defaults()
	if err := s.load(c.env.configPath(), c.env.Home); err != nil {
		return s, err
	}
	fs := pflag.NewFlagSet("keyringd", pflag.ContinueOnError)
	s.flags(fs)
	if err := fs.Parse(c.args); err != nil {
		return s, err
	}
	_, err := s.check()
	return s, err
}

// restart are the settings that stand until the daemon is started again, by the
// names of their fields, with the names that the user knows. All others take
// effect at once.
var restart = map[string]string{
	"TPM": "tpm", "KeyDirs": "key-dir", "RuntimeDir": "runtime-dir", "DataDir": "data-dir", "Prompter": "prompter",
	"Bus": "bus", "Upstream": "upstream", "Replace": "replace", "P11KitSocket": "p11-kit-socket",
	"PKCS11StrictLogin": "pkcs11-strict-login", "AllowProviders": "allow-provider", "SecretService": "secret-service",
	"ConfirmForwarded": "confirm-forwarded", "Landlock": "landlock", "RemoteChanges": "allow-remote-changes",
}

// live returns the settings to go on with when the file says next: those of now
// where a change wants a restart, and the others anew. waiting names what has
// changed and waits for the restart.
func (s settings) live(next settings) (now settings, waiting []string) {
	now = next
	old, new, result := reflect.ValueOf(s), reflect.ValueOf(next), reflect.ValueOf(&now).Elem()
	for i := range old.NumField() {
		name, needs := restart[old.Type().Field(i).Name]
		if !needs || reflect.DeepEqual(old.Field(i).Interface(), new.Field(i).Interface()) {
			continue
		}
		result.Field(i).Set(old.Field(i))
		waiting = append(waiting, name)
	}
	return now, waiting
}

// follow reads the settings again each time hangup tells it to, until ctx ends,
// and calls apply with those that are in force then. What is wrong is logged,
// and changes nothing; so is what waits for a restart.
func (c source) follow(ctx context.Context, hangup <-chan os.Signal, now settings, log *slog.Logger, apply func(settings)) {
	for {
		select {
		case <-hangup:
		case <-ctx.Done():
			return
		}
		next, err := c.read()
		if err != nil {
			log.Error("config.toml was not read again; all stays as it was", "err", err)
			continue
		}
		var waiting []string
		if now, waiting = now.live(next); len(waiting) > 0 {
			log.Warn("config.toml was read again; some of it waits until keyringd is started again", "settings", waiting)
		} else {
			log.Info("config.toml was read again")
		}
		apply(now)
	}
}

// hangups returns a channel that gets SIGHUP as a request to read config.toml
// again, or nil where it means that the terminal which keyringd was started in
// is gone: then the daemon ends with it, as every program does.
func hangups() <-chan os.Signal {
	if onTerminal() {
		return nil
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}

// onTerminal reports whether keyringd was started by hand, in a terminal.
func onTerminal() bool {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return err == nil
}
