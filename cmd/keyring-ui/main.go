//go:build cgo

// Command keyring-ui asks the user: for a PIN or a passphrase, for a new one,
// or for permission. It is a pinentry program for keyringd and for gpg-agent,
// and an SSH_ASKPASS program when it is given a text to show.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/cmd/keyring-ui/ask"
	"github.com/keyringd/keyringd/internal/secret"
)

// version is set by the build.
var version = "unknown"

const usage = `usage: keyring-ui [FLAG]...        asks what it is told on standard input (pinentry protocol)
       keyring-ui TEXT             asks for the text's answer (SSH_ASKPASS)
       keyring-ui manager          looks after keys and keyrings

`

func main() {
	// GLFW works on the main thread only.
	runtime.LockOSThread()
	os.Exit(run())
}

func run() int {
	if len(os.Args) > 1 && os.Args[1] == "manager" {
		return runManager(os.Args[2:])
	}
	c, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return c.status
	}
	if c.version {
		fmt.Println("keyring-ui (keyringd) " + version)
		return 0
	}
	// A PIN is going to be in this process's memory.
	if err := secret.Harden(); err != nil {
		fmt.Fprintf(os.Stderr, "keyring-ui: %v\n", err)
		return 1
	}
	// Quit the way a killed prompter does: nothing is to be put in order.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()

	s := newScreen()
	s.waiting = c.standby
	go hangup(os.Stdout)
	if c.standby {
		go s.standby()
	}
	go func() {
		status := c.serve(ctx, s)
		// At once: the window and its grab go with the connection to the display,
		// and the process's memory, where the toolkit has copies, with it.
		os.Exit(status)
	}()
	s.run()
	// The toolkit gave up. Whoever asks is told so by serve, which then exits.
	select {}
}

// hangup ends the process when nobody is there to hear the answer any more. The
// end of standard input is no such sign: scripts write their commands and close
// it before the user has answered.
func hangup(out *os.File) {
	fds := []unix.PollFd{{Fd: int32(out.Fd())}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			break
		}
	}
	if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		os.Exit(1)
	}
}

// A command is what the command line says.
type command struct {
	settings ask.Settings
	text     string
	askpass  bool
	version  bool
	standby  bool
	status   int // to exit with where parse fails
}

// parse takes the flags of every pinentry, of which those that only concern
// terminals or debugging do nothing.
func parse(args []string, stderr io.Writer) (command, error) {
	c := command{settings: ask.Settings{Grab: true}}
	// ssh(1) gives an askpass one argument, which is prose and no flag.
	if len(args) == 1 && (!strings.HasPrefix(args[0], "-") || strings.Contains(args[0], " ")) {
		c.askpass, c.text = true, args[0]
		return c, nil
	}
	fs := flag.NewFlagSet("keyring-ui", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	var seconds uint
	var noGrab, debug bool
	var ignored string
	text := func(to *string, long, short, what string) {
		fs.StringVar(to, long, "", what)
		fs.StringVar(to, short, "", "short for -"+long)
	}
	text(&c.settings.Display, "display", "D", "the X `display` to use")
	text(&c.settings.TTYName, "ttyname", "T", "the asker's `terminal`")
	text(&c.settings.TTYType, "ttytype", "N", "its `type`")
	text(&c.settings.LCCType, "lc-ctype", "C", "the `locale` of characters")
	text(&c.settings.LCMessages, "lc-messages", "M", "the `locale` of words")
	text(&ignored, "colors", "c", "for pinentries on a terminal: does nothing")
	text(&ignored, "ttyalert", "a", "for pinentries on a terminal: does nothing")
	fs.UintVar(&seconds, "timeout", 0, "take a question away after so many `seconds` (0: never)")
	fs.UintVar(&seconds, "o", 0, "short for -timeout")
	fs.BoolVar(&noGrab, "no-global-grab", false, "leave the keyboard to other windows, too")
	fs.BoolVar(&noGrab, "no-local-grab", false, "the same")
	fs.BoolVar(&noGrab, "g", false, "short for -no-global-grab")
	fs.Uint64Var(&c.settings.ParentWID, "parent-wid", 0, "the X `window` that asks")
	fs.Uint64Var(&c.settings.ParentWID, "W", 0, "short for -parent-wid")
	fs.BoolVar(&debug, "debug", false, "does nothing: what is typed here is not for a log")
	fs.BoolVar(&debug, "d", false, "short for -debug")
	fs.BoolVar(&c.standby, "standby", false, "get the window ready, out of sight, before there is a question")
	fs.BoolVar(&c.version, "version", false, "print the version")
	if err := fs.Parse(args); err != nil {
		if c.status = 2; err == flag.ErrHelp {
			c.status = 0
		}
		return c, err
	}
	switch fs.NArg() {
	case 0:
	case 1:
		c.askpass, c.text = true, fs.Arg(0)
	default:
		fs.Usage()
		c.status = 2
		return c, fmt.Errorf("%d arguments", fs.NArg())
	}
	c.settings.Timeout = time.Duration(seconds) * time.Second
	c.settings.Grab = !noGrab
	return c, nil
}

// serve asks, and returns the exit status.
func (c command) serve(ctx context.Context, s *screen) int {
	if c.askpass {
		s.apply(c.settings)
		status, err := ask.Askpass(ctx, s, os.Stdout, c.text, os.Getenv("SSH_ASKPASS_PROMPT"))
		if err != nil {
			fmt.Fprintf(os.Stderr, "keyring-ui: %v\n", err)
		}
		return status
	}
	// The end of ctx also ends the wait for a command.
	context.AfterFunc(ctx, func() { os.Exit(1) })
	server := ask.Server{Screen: s, Settings: c.settings, Version: version, PID: os.Getpid(), Applied: s.apply}
	if err := server.Serve(ctx, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "keyring-ui: %v\n", err)
		return 1
	}
	return 0
}
