// Command keyringd is the keyring daemon of a login session: it takes every
// private key in ~/.ssh, those wrapped by the machine's TPM first of all, and
// serves them on the ssh-agent socket, asking its user where a key wants it.
//
// It is the only package that knows all the others. It reads the flags, the
// environment and config.toml, and is the only one that exits.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/internal/secret"
)

// version is set by the build.
var version = "devel"

// A usageError is a mistake in the flags or in config.toml.
type usageError struct{ error }

func main() {
	if err := secret.Harden(); err != nil {
		fmt.Fprintln(os.Stderr, "keyringd: this process cannot be protected from others:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// SIGUSR1 drops added keys in ssh-agent. This daemon's keys come from files,
	// so there is nothing to drop; but it must not die of the signal, nor of a
	// terminal that is gone. Ignoring them would be inherited by children.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1, syscall.SIGPIPE)
	err := command().ExecuteContext(ctx)
	stop()
	var usage usageError
	switch {
	case err == nil:
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "keyringd: %v\nhint: keyringd --help lists the flags\n", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "keyringd:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	env := environment{Getenv: os.Getenv, Home: home, UID: os.Getuid()}
	// config.toml is read first and gives the flags their defaults, so that a
	// flag wins and --help shows what is in force.
	s := env.defaults()
	badConfig := s.load(env.configPath(), home)
	cmd := &cobra.Command{
		Use:           "keyringd",
		Short:         "serve the private keys in ~/.ssh, TPM keys first of all, over the ssh-agent protocol",
		Version:       version,
		Args:          func(c *cobra.Command, args []string) error { return asUsage(cobra.NoArgs(c, args)) },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	s.flags(cmd.Flags())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if badConfig != nil {
			return usageError{badConfig}
		}
		address, err := s.check()
		if err != nil {
			return usageError{err}
		}
		log := newLog(os.Stderr, os.Getenv("JOURNAL_STREAM") != "")
		slog.SetDefault(log)
		executable, _ := os.Executable()
		d := &daemon{settings: s, tpmAddress: address, env: env, executable: executable, log: log, stdout: os.Stdout}
		return d.run(cmd.Context())
	}
	return cmd
}

func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// newLog writes text lines; under the journal without times, which it adds
// itself.
func newLog(w *os.File, journal bool) *slog.Logger {
	options := &slog.HandlerOptions{}
	if journal {
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, options))
}
