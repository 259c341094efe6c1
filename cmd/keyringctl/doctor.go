package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

// A finding is one thing that doctor has to say.
type finding struct {
	ID    string `json:"id"` // the same for the same fault, for scripts
	Wrong bool   `json:"wrong"`
	Title string `json:"title"`
	// Mend is a command that mends it; empty: there is none, or nothing is wrong.
	Mend string `json:"mend,omitempty"`
}

// errFindings is the end of a doctor who has found something: all has been said.
var errFindings = errors.New("not all is well")

func (s *session) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "find what keeps keyringd from working, and say what mends it",
		Long: "Looks at the TPM, the daemon, its settings, sockets and folders, at ssh, the Secret\n" +
			"Service, PKCS #11, the login, the portal and the window that asks. Each thing that is\n" +
			"wrong comes with a command that mends it. It changes nothing itself.\n\n" +
			"Exit status: 0 when nothing is wrong, 1 otherwise.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			d := &doctor{machine: machine{s}}
			d.examine(c.Context())
			if err := d.print(); err != nil {
				return err
			}
			for _, f := range d.findings {
				if f.Wrong {
					return errFindings
				}
			}
			return nil
		},
	}
}

// A doctor is one examination.
type doctor struct {
	machine
	findings []finding
	status   map[string]any // what the daemon says; nil: it does not run
}

func (d *doctor) wrong(id, mend, title string, args ...any) {
	d.findings = append(d.findings, finding{ID: id, Wrong: true, Title: fmt.Sprintf(title, args...), Mend: mend})
}

// note is something to know that is not wrong, or that is on its way.
func (d *doctor) note(id, mend, title string, args ...any) {
	d.findings = append(d.findings, finding{ID: id, Title: fmt.Sprintf(title, args...), Mend: mend})
}

func (d *doctor) print() error {
	if d.json {
		if d.findings == nil {
			d.findings = []finding{}
		}
		return d.printJSON(d.findings)
	}
	for _, f := range d.findings {
		mark := "note: "
		if f.Wrong {
			mark = "wrong: "
		}
		text := mark + printable(f.Title) + "\n"
		if f.Mend != "" {
			text += "       " + printable(f.Mend) + "\n"
		}
		if _, err := fmt.Fprint(d.Out, text); err != nil {
			return err
		}
	}
	if len(d.findings) == 0 {
		_, err := fmt.Fprintln(d.Out, "all is well")
		return err
	}
	return nil
}

// examine looks at everything, from the ground up.
func (d *doctor) examine(ctx context.Context) {
	d.runtimeDir()
	d.configuration(ctx)
	d.units()
	d.daemon(ctx)
	d.tpm()
	d.folders()
	d.sockets()
	d.ssh()
	d.secrets(ctx)
	d.login()
	d.portal()
	d.prompter(ctx)
	d.pkcs11()
}

const daemonName = "io.github.keyringd"

// answerTime is how long the daemon may take to start and to say how it is.
const answerTime = 30 * time.Second

// daemon asks the daemon how it is.
func (d *doctor) daemon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := d.withDaemon(ctx, func(c *client.Client) (err error) {
		if slices.ContainsFunc(d.findings, func(f finding) bool { return f.ID == "config" }) {
			// The bus would start it in vain, and wait two minutes for it.
			if pid, err := c.Owner(ctx, daemonName); err == nil && pid == 0 {
				return client.ErrNoDaemon
			}
		}
		d.status, err = c.Status(ctx)
		return err
	})
	switch {
	case errors.Is(err, client.ErrNoBus):
		d.wrong("no-bus", "", "there is no session bus: %v", err)
		return
	case errors.Is(err, client.ErrNoDaemon):
		d.wrong("not-running", d.startCommand(), "keyringd does not run, and nothing starts it")
		return
	case err != nil:
		d.wrong("no-answer", d.restartCommand(), "keyringd does not answer: %v", err)
		return
	}
	if v, _ := d.status["Version"].(string); v != version {
		mend := d.restartCommand()
		if d.systemd() { // an upgrade brings units, too, of which nobody tells the users' managers
			mend = "systemctl --user daemon-reload && " + mend
		}
		d.wrong("old-daemon", mend, "the keyringd that runs is of version %s, and keyringctl of %s", v, version)
	}
	if box, ok := d.status["Sandbox"].(string); ok && (!strings.HasPrefix(box, "on ") || strings.Contains(box, ";")) {
		d.note("sandbox", "", "the daemon's sandbox: %s", box)
	}
	if left, _ := d.status["TPMTriesLeft"].(string); strings.HasPrefix(left, "none") {
		d.wrong("lockout", "sudo tpm2_dictionarylockout --clear-lockout", "the TPM takes no PIN for now, as there were too many wrong ones: %s", left)
	}
	if problem, _ := d.status["TPMProblem"].(string); problem != "" {
		d.wrong("tpm-problem", "", "the TPM: %s", problem)
	}
	files, _ := d.status[leftOut].([]string)
	for _, f := range files {
		path, reason, _ := strings.Cut(f, ": ")
		mend := ""
		if _, command, ok := strings.Cut(reason, "; chmod "); ok {
			mend = "chmod " + command
		}
		d.wrong("key-file", mend, "a key file is left out: %s: %s", path, reason)
	}
}

func (d *doctor) startCommand() string {
	if d.systemd() {
		// Started in vain too often, it is not started again for a while.
		return "systemctl --user reset-failed 'keyringd*' && systemctl --user start keyringd.service"
	}
	return "keyringd &"
}

func (d *doctor) restartCommand() string {
	if d.systemd() {
		return "systemctl --user reset-failed 'keyringd*' && systemctl --user restart keyringd.service"
	}
	return "pkill -x keyringd; keyringd &"
}
