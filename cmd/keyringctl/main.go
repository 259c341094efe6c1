// Command keyringctl is the command line to a running keyringd: it makes, lists
// and looks after keys, locks and unlocks, and shows what was allowed.
//
// Each command is a file of its own, which adds itself in command. Exit status:
// 0 done, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

// version is set by the build.
var version = "devel"

// A usageError is a mistake in the command line.
type usageError struct{ error }

// A hintedError says what to do about it.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

func main() {
	// One answer fits into memory many times over, and the process ends before
	// it would be worth the time to tidy up.
	debug.SetGCPercent(800)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], world{
		Getenv: os.Getenv, UID: os.Getuid(), In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Terminal: isTerminal(os.Stdout), ErrTerminal: isTerminal(os.Stderr),
	})
	stop()
	os.Exit(status)
}

// world is all that the commands know of what is around them.
type world struct {
	Getenv      func(string) string
	UID         int
	In          io.Reader
	Out, Err    io.Writer
	Root        string // where the system's files are; "": at /. For tests
	Terminal    bool   // Out is one
	ErrTerminal bool   // Err is one
}

// run runs one command line and returns the exit status.
func run(ctx context.Context, args []string, w world) int {
	c := command(w)
	c.SetArgs(args)
	c.SetOut(w.Out)
	c.SetErr(w.Err)
	err := c.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(w.Err, "keyringctl: %s\n", printable(err.Error()))
	var usage usageError
	var hinted hintedError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(w.Err, "hint: keyringctl --help lists the commands; a command's own --help explains it")
		return 2
	case errors.As(err, &hinted):
		fmt.Fprintln(w.Err, "hint: "+hinted.hint)
	}
	return 1
}

// A session is one run's options, and what it talks to.
type session struct {
	world
	bus  string
	json bool
}

func command(w world) *cobra.Command {
	s := &session{world: w}
	root := &cobra.Command{
		Use:           "keyringctl",
		Short:         "look after the keys that keyringd serves",
		Long:          "keyringctl talks to the keyringd of your login session: it makes and lists keys,\nlooks after them, locks and unlocks them, and shows and ends what you allowed.",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&s.bus, "bus", "session", "the D-Bus that keyringd is on: session or an address")
	root.PersistentFlags().BoolVar(&s.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	group(root)
	root.AddCommand(s.statusCommand(), s.keyCommand(), s.keyringCommand(), s.importCommand(), s.exportCommand(), s.lockCommand(), s.unlockCommand(), s.sealCommand(), s.unsealCommand(),
		s.approvalsCommand(), s.logCommand(), s.setupCommand(), s.doctorCommand(), s.envCommand(), manCommand())
	return root
}

// group makes c a command that only has others, and says so when it is called
// by itself.
func group(c *cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError{fmt.Errorf("%s wants a command: %s", c.CommandPath(), strings.Join(names(c), ", "))}
		}
		return usageError{fmt.Errorf("%s has no command %q, only %s", c.CommandPath(), args[0], strings.Join(names(c), ", "))}
	}
	return c
}

func names(c *cobra.Command) (all []string) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, sub.Name())
		}
	}
	return all
}

// usage makes what a check of the arguments finds a mistake in the command
// line.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{fmt.Errorf("%s: %w", c.CommandPath(), err)}
		}
		return nil
	}
}

// dial connects to the daemon's bus.
func (s *session) dial(ctx context.Context) (*client.Client, error) {
	address := s.bus
	if address == "session" {
		address = client.SessionAddress(s.Getenv, s.UID)
	}
	c, err := client.Dial(ctx, address)
	return c, explain(err)
}

// withDaemon runs do with a connection to the daemon.
func (s *session) withDaemon(ctx context.Context, do func(*client.Client) error) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return explain(do(c))
}

// hints are what a person can do about what the daemon said.
var hints = []struct{ said, hint string }{
	{"the TPM refuses more tries", "wait until then; keys without a PIN go on working, and the TPM's owner can end it with `tpm2_dictionarylockout --clear-lockout`"},
	{"one try is left before the TPM locks", "wait until the TPM gives tries back, so that a mistake does not lock it"},
	{"no TPM can use an ed25519 key", "leave it in its file, which keyringd serves as well, or make a new key: keyringctl key new NAME"},
	{"the other machine's storage key: ", "REQUEST is what `keyringctl key export-request` printed on the other machine"},
	{"there is no TPM", "keyringctl status says what was looked for; keyringd --tpm names another one"},
}

// ownHints are for what the daemon's errors of a kind have in common, by their
// D-Bus names.
var ownHints = map[string]string{
	"org.freedesktop.DBus.Error.AccessDenied":    "the question was refused or closed; run the command again, and allow it",
	"org.freedesktop.DBus.Error.AuthFailed":      "the PIN or passphrase was wrong too often; try again when you are sure of it",
	"org.freedesktop.DBus.Error.Failed":          "keyringctl status says what is wrong, and `journalctl --user -u keyringd` what came before",
	"org.freedesktop.DBus.Error.InvalidArgs":     "the command's --help explains what it takes",
	"org.freedesktop.DBus.Error.LimitsExceeded":  "wait until other calls are done, or ask for less at once",
	"org.freedesktop.DBus.Error.NoReply":         "see with `keyringctl status` whether keyringd is still running",
	"org.freedesktop.DBus.Error.NotSupported":    "the command's --help lists what there is, and keyringctl status what this TPM allows",
	"org.freedesktop.DBus.Error.Timeout":         "run the command again; keyringctl status says whether the TPM answers",
	"org.freedesktop.DBus.Error.UnknownObject":   "keyringctl key list shows the keys that there are now",
	"org.freedesktop.DBus.Error.UnknownMethod":   "this keyringd is of another version than keyringctl; restart it with `systemctl --user restart keyringd`",
	"org.freedesktop.Secret.Error.IsLocked":      "unlock it with `keyringctl keyring unlock`",
	"org.freedesktop.Secret.Error.NoSuchObject":  "keyringctl key list and keyringctl keyring list show what there is",
	"org.freedesktop.DBus.Error.ServiceUnknown":  "start keyringd with `systemctl --user start keyringd`",
	"org.freedesktop.DBus.Error.UnknownProperty": "this keyringd is of another version than keyringctl; restart it with `systemctl --user restart keyringd`",
}

// explain adds what a person can do about an error.
func explain(err error) error {
	var answer *client.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrNoBus):
		return hintedError{err, "run keyringctl inside your login session, or name its bus with --bus or DBUS_SESSION_BUS_ADDRESS"}
	case errors.Is(err, client.ErrNoDaemon):
		return hintedError{client.ErrNoDaemon, "start it with `systemctl --user start keyringd`, or run `keyringd` in a terminal"}
	case errors.Is(err, context.Canceled):
		return errors.New("stopped")
	}
	// The daemon's own errors may bring a hint along.
	if text, hint, ok := strings.Cut(err.Error(), "; hint: "); ok {
		return hintedError{errors.New(text), hint}
	}
	if !errors.As(err, &answer) {
		return err
	}
	for _, h := range hints {
		if strings.Contains(answer.Text, h.said) {
			return hintedError{err, h.hint}
		}
	}
	if hint := ownHints[answer.Name]; hint != "" {
		return hintedError{err, hint}
	}
	return err
}
