package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/keyringd/keyringd/agent/sshhelper"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/internal/outside"
	"github.com/keyringd/keyringd/prompt/pinentry"
	"github.com/keyringd/keyringd/store/archive"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpm/swtpm"
)

// outsideArgument is the argument with which keyringd is its own process outside
// of the sandbox. It is of no use to anybody else.
const outsideArgument = "--outside-of-the-sandbox"

// The filters that the process outside knows.
const (
	filterPKCS11 = "pkcs11"
	filterSK     = "sk"
)

// The kinds of files that it puts down.
const (
	kindKey     = "key"
	kindPublic  = "public"
	kindArchive = "archive"
)

// keyFile wants a key file as it is written here, with no text around it.
func keyFile(b []byte) error {
	f, err := keyfile.Parse(b)
	if err != nil {
		return err
	}
	if text, err := f.PEM(); err != nil || !bytes.Equal(text, b) {
		return errors.New("not only a key file")
	}
	return nil
}

// publicKey wants one line of a public key.
func publicKey(b []byte) error {
	if bytes.Count(b, []byte("\n")) > 1 {
		return errors.New("more than one line")
	}
	if _, ok := pubfile.Parse(b); !ok {
		return errors.New("not a public key")
	}
	return nil
}

// runOutside is the process outside, from its start to the daemon's end. It
// returns what to exit with.
func runOutside() int {
	// The service manager tells all of its processes to end, and this one is needed
	// until the daemon has. Ignoring them would be inherited by programs.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1)
	debug.SetGCPercent(25)
	time.AfterFunc(settled, giveBack)
	conn := os.NewFile(3, "inside")
	syscall.CloseOnExec(3)
	err := outside.Serve(conn, os.Stdin, map[string]outside.Filter{
		filterPKCS11: sshhelper.FilterPKCS11,
		filterSK:     sshhelper.FilterSK,
	}, map[string]outside.Check{
		kindKey:     {Is: keyFile, Was: func(b []byte) error { _, err := keyfile.Parse(b); return err }, Hidden: true},
		kindPublic:  {Is: publicKey, Suffix: pubfile.Suffix, Hidden: true},
		kindArchive: {Is: archive.Check},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "keyringd: the process outside of the sandbox:", err)
		return 1
	}
	return 0
}

// programs are the rules for what the daemon may have started.
func (d *daemon) programs(env pinentry.Env) []outside.Rule {
	asks := pinentry.Allow(d.Prompter, env)
	environ := os.Environ()
	rules := []outside.Rule{
		{Kind: pinentry.KindPinentry, Paths: asks.Pinentry, Args: asks.PinentryArgs, Env: asks.Environ, Extra: asks.PinentryExtra, Files: 3},
		{Kind: pinentry.KindAskpass, Paths: asks.Askpass, Text: true, Env: asks.Environ, Extra: asks.AskpassExtra, Files: 3},
		{Kind: sshhelper.PKCS11Helper, Paths: sshhelper.Places(sshhelper.PKCS11Helper), Args: [][]string{{}}, Env: environ,
			Filter: filterPKCS11, Allow: d.providers(), Files: 3},
		{Kind: sshhelper.SKHelper, Paths: sshhelper.Places(sshhelper.SKHelper), Args: [][]string{{}}, Env: environ,
			Filter: filterSK, Allow: d.providers(), Files: 3},
	}
	if o := d.softwareTPM(); d.tpmAddress.Resolve().Kind == link.Swtpm {
		path, args := o.Command()
		rules = append(rules, outside.Rule{Kind: swtpm.Kind, Paths: []string{path}, Args: [][]string{args}, Env: environ, Files: 4})
	}
	return rules
}
