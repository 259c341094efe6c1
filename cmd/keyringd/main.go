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

	"github.com/keyringd/keyringd/internal/listen"
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
	if len(os.Args) == 2 && os.Args[1] == outsideArgument {
		os.Exit(runOutside())
	}
	ends := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if onTerminal() {
		ends = append(ends, syscall.SIGHUP) // it is gone, and takes its programs along
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	// Neither SIGUSR1 before the agent listens for it, nor a reader that is gone,
	// may end the daemon. Ignoring them would be inherited by children.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1, syscall.SIGPIPE)
	err := command().ExecuteContext(ctx)
	told := context.Cause(ctx) // to end, perhaps while it still began
	stop()
	var usage usageError
	switch {
	case err == nil, told != nil && (errors.Is(err, told) || errors.Is(err, context.Canceled)):
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "keyringd: %v\nhint: keyringd --help lists the flags\n", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "keyringd:", err)
		if errors.Is(err, listen.ErrInUse) {
			fmt.Fprintln(os.Stderr, "hint: `systemctl --user stop 'keyringd*'` ends the one of your login session until you log in again; or give this one a --runtime-dir")
		}
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
	var checkOnly bool
	cmd.Flags().BoolVar(&checkOnly, "check-config", false, "say what is wrong with the settings, and end")
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
		if checkOnly {
			return nil
		}
		level := &slog.LevelVar{}
		log := newLog(os.Stderr, os.Getenv("JOURNAL_STREAM") != "", level)
		slog.SetDefault(log)
		executable, _ := os.Executable()
		d := &daemon{settings: s, tpmAddress: address, env: env, args: os.Args[1:], executable: executable, log: log, level: level, stdout: os.Stdout}
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
func newLog(w *os.File, journal bool, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
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
