package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

const secretsName = "org.freedesktop.secrets"

// A wish is what setup is asked for.
type wish struct {
	ssh, secrets, portal   bool
	replace, undo, pretend bool
}

func (s *session) setupCommand() *cobra.Command {
	var w wish
	var all bool
	c := &cobra.Command{
		Use:   "setup",
		Short: "make this login session use keyringd, or stop doing so",
		Long: "Makes keyringd a part of your login session, by files in your home and by your service\n" +
			"manager. It says what it does, and --undo takes it back.\n\n" +
			"Where another program does the same already, setup leaves it alone and says so;\n" +
			"--replace hands over from gnome-keyring, gcr-ssh-agent, KWallet, oo7, ssh-tpm-agent,\n" +
			"gpg-agent or OpenSSH's ssh-agent. What those have stored stays where it is.",
		Example: "  keyringctl setup --ssh                ssh and git use keyringd's keys\n" +
			"  keyringctl setup --secrets --replace  programs keep their passwords here from now on\n" +
			"  keyringctl setup --all --dry-run      show what would be done\n" +
			"  keyringctl setup --undo               as it was before",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if all {
				w.ssh, w.secrets, w.portal = true, true, true
			}
			if some := w.ssh || w.secrets || w.portal; some == w.undo {
				return usageError{errors.New("keyringctl setup wants --ssh, --secrets, --portal, --all or --undo")}
			}
			return machine{s}.setup(c.Context(), w)
		},
	}
	f := c.Flags()
	f.BoolVar(&w.ssh, "ssh", false, "ssh, git and PKCS #11 programs use keyringd")
	f.BoolVar(&w.secrets, "secrets", false, "keyringd keeps programs' passwords, and takes the login password to unlock them")
	f.BoolVar(&w.portal, "portal", false, "sandboxed programs get their secrets from keyringd")
	f.BoolVar(&all, "all", false, "all of these")
	f.BoolVar(&w.replace, "replace", false, "hand over from another program that does so now")
	f.BoolVar(&w.undo, "undo", false, "take back what setup has done")
	f.BoolVar(&w.pretend, "dry-run", false, "only say what would be done")
	return c
}

func (m machine) setup(ctx context.Context, w wish) error {
	if w.undo {
		if w.pretend {
			return m.showUndo()
		}
		if err := m.undo(ctx); err != nil {
			return err
		}
		m.tellManagers(ctx)
		_, err := fmt.Fprintln(m.Out, "log out and in again, so that every program notices")
		return err
	}
	if m.runtime() == "" {
		return hintedError{errNoRuntime, "run keyringctl inside your login session"}
	}
	var steps []step
	for _, part := range []struct {
		wanted bool
		plan   func(context.Context, bool) ([]step, error)
	}{{w.ssh, m.planSSH}, {w.secrets, m.planSecrets}, {w.portal, m.planPortal}} {
		if !part.wanted {
			continue
		}
		more, err := part.plan(ctx, w.replace)
		if err != nil {
			return err
		}
		steps = append(steps, more...)
	}
	if w.pretend {
		for _, s := range steps {
			if _, err := fmt.Fprintf(m.Out, "%s: %s\n", s.Say, printable(s.what())); err != nil {
				return err
			}
		}
		return nil
	}
	if err := m.do(ctx, steps); err != nil {
		return err
	}
	m.tellManagers(ctx)
	return m.sayNext(w)
}

func (m machine) showUndo() error {
	done, err := m.done()
	for _, s := range slices.Backward(done) {
		what := "put back " + s.File
		switch {
		case s.File == "":
			what = shellWords(s.Undo)
		case s.Before == nil:
			what = "remove " + s.File
		}
		if _, err := fmt.Fprintln(m.Out, printable(what)); err != nil {
			return err
		}
	}
	return err
}

// tellManagers makes those that read the files look again. Where they are not
// there, there is nobody to tell.
func (m machine) tellManagers(ctx context.Context) {
	if m.systemd() {
		_, _ = m.run(ctx, []string{"systemctl", "--user", "daemon-reload"})
	}
	if c, err := m.dial(ctx); err == nil {
		_ = c.ReloadServices(ctx)
		c.Close()
	}
}

// sayNext is what remains for the user to do.
func (m machine) sayNext(w wish) error {
	next := []string{"log out and in again, so that every program notices; `keyringctl doctor` then says whether all is well"}
	if w.ssh {
		next = append(next, "in this shell: eval \"$(keyringctl env --force)\"")
		if m.systemd() {
			next = append(next, "a login on a console or over ssh, and a desktop that does not start its programs by the service manager, "+
				"need this line in ~/.profile:", "    eval \"$(keyringctl env)\"")
		}
	}
	if !m.systemd() {
		next = append(next, "where your desktop starts nothing by itself (sway, i3, .xsession), put these lines into its start file:",
			"    keyringd &", "    eval \"$(keyringctl env)\"")
	}
	_, err := fmt.Fprintln(m.Out, strings.Join(next, "\n"))
	return err
}

// start are the steps that have the sockets listened on, or the daemon started
// at login where there is no service manager.
func (m machine) start(sockets ...string) ([]step, error) {
	if !m.systemd() {
		daemon := m.find("keyringd")
		if daemon == "" {
			return nil, hintedError{errors.New("keyringd is not on PATH"), "install it, or put the folder it is in on PATH"}
		}
		return []step{{Say: "start keyringd at login", File: m.config("autostart/keyringd.desktop"), Text: autostart(daemon)}}, nil
	}
	for _, u := range append(sockets, "keyringd.service") {
		if m.unit(u) == "" {
			return nil, hintedError{fmt.Errorf("the service manager does not know %s", u), "install keyringd's package, or run `sudo make install`"}
		}
	}
	return []step{
		// A socket is not listened on while the daemon has one of its own there.
		// Undone, it ends after its sockets: a daemon without them serves nobody,
		// and has the name of whoever comes back.
		{
			Say:  "let the service manager take over",
			Run:  []string{"systemctl", "--user", "stop", "keyringd.service"},
			Undo: []string{"systemctl", "--user", "stop", "keyringd.service"}, Optional: true,
		},
		{
			Say:  "start keyringd when it is first asked for something",
			Run:  append([]string{"systemctl", "--user", "enable", "--now"}, sockets...),
			Undo: append([]string{"systemctl", "--user", "disable", "--now"}, sockets...),
		},
	}, nil
}

// autostart is the file of the XDG Desktop Application Autostart Specification.
func autostart(daemon string) string {
	return "[Desktop Entry]\nType=Application\nName=keyringd\nExec=" + daemon + "\nTryExec=" + daemon +
		"\nNoDisplay=true\nTerminal=false\nX-GNOME-Autostart-Phase=PreDisplayServer\nX-systemd-skip=true\n"
}

func (m machine) environmentFile() string { return m.config("environment.d/50-keyringd.conf") }

// planSSH makes ssh ask keyringd.
func (m machine) planSSH(_ context.Context, replace bool) ([]step, error) {
	mine := m.sshSocket()
	value := "${SSH_AUTH_SOCK:-${XDG_RUNTIME_DIR}/keyringd/ssh}"
	var steps []step
	if now := m.Getenv("SSH_AUTH_SOCK"); now != "" && now != mine && listening(now) {
		r, known := m.rivalOfSocket(now)
		if !known {
			r.name = "an agent at " + now
		}
		if !replace {
			return nil, hintedError{fmt.Errorf("%s serves ssh in this session, and is left as it is", r.name), "keyringctl setup --ssh --replace hands over"}
		}
		if r.manual != "" && len(r.units) == 0 {
			return nil, hintedError{fmt.Errorf("%s serves ssh in this session", r.name), r.manual}
		}
		steps = m.handOver(r, 0)
	} else if r, ok := m.tellsSSH(); ok {
		if !replace {
			return nil, hintedError{fmt.Errorf("%s serves ssh in this session, and is left as it is", r.name), "keyringctl setup --ssh --replace hands over"}
		}
		steps = m.handOver(r, 0)
	}
	if replace {
		value = "${XDG_RUNTIME_DIR}/keyringd/ssh"
	}
	begin, err := m.start("keyringd-ssh.socket", "keyringd-pkcs11.socket")
	if err != nil {
		return nil, err
	}
	steps = append(steps, begin...)
	steps = append(steps, step{Say: "tell ssh at every login", File: m.environmentFile(), Text: "SSH_AUTH_SOCK=" + value + "\n"})
	if m.systemd() {
		steps = append(steps, step{
			Say:  "tell programs that are started from now on",
			Run:  []string{"systemctl", "--user", "set-environment", "SSH_AUTH_SOCK=" + mine},
			Undo: []string{"systemctl", "--user", "unset-environment", "SSH_AUTH_SOCK"},
		})
	}
	return steps, nil
}

// secretsOwner returns who has the Secret Service's name; 0: nobody.
func (m machine) secretsOwner(ctx context.Context) (pid int, err error) {
	c, err := m.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	pid, err = c.Owner(ctx, secretsName)
	return pid, explain(err)
}

func (m machine) secretsFile() string { return m.data("dbus-1/services", secretsName+".service") }

// secretsService is the file that makes the bus start keyringd for the name.
func secretsService(daemon string) string {
	return "[D-BUS Service]\nName=" + secretsName + "\nExec=" + daemon + "\nSystemdService=keyringd.service\n"
}

// planSecrets makes keyringd the Secret Service.
func (m machine) planSecrets(ctx context.Context, replace bool) ([]step, error) {
	var steps []step
	pid, err := m.secretsOwner(ctx)
	if err != nil && !errors.Is(err, client.ErrNoBus) {
		return nil, err
	}
	if name := processName(pid); pid > 0 && name != "keyringd" {
		r, known := rivalOfProcess(name)
		switch {
		case !known:
			return nil, hintedError{fmt.Errorf("%s (process %d) keeps passwords in this session", printable(name), pid), "end it, and keep it from being started; then try again"}
		case r.manual != "":
			return nil, hintedError{fmt.Errorf("%s keeps passwords in this session", r.name), r.manual}
		case !replace:
			return nil, hintedError{fmt.Errorf("%s keeps passwords in this session, and is left as it is", r.name), "keyringctl setup --secrets --replace hands over"}
		}
		steps = m.handOver(r, pid)
	}
	if r, ok := m.waiting(); ok && steps == nil {
		switch {
		case r.manual != "":
			return nil, hintedError{fmt.Errorf("%s keeps passwords in this session", r.name), r.manual}
		case !replace:
			return nil, hintedError{fmt.Errorf("%s keeps passwords in this session, though it does not run yet, and is left as it is", r.name),
				"keyringctl setup --secrets --replace hands over"}
		}
		steps = m.handOver(r, 0)
	}
	daemon := m.find("keyringd")
	if daemon == "" {
		return nil, hintedError{errors.New("keyringd is not on PATH"), "install it, or put the folder it is in on PATH"}
	}
	if r, ok := rivalOfProcess("gnome-keyring-d"); ok && replace && steps == nil && m.systemd() {
		steps = m.handOver(r, 0) // it would come back for the login password
	}
	begin, err := m.start("keyringd-control.socket")
	if err != nil {
		return nil, err
	}
	steps = append(steps, begin...)
	return append(steps, step{Say: "keep programs' passwords", File: m.secretsFile(), Text: secretsService(daemon)}), nil
}

const portalKey = "org.freedesktop.impl.portal.Secret"

// portalFile is the portals.conf(5) that is in force for the user, or is to be
// made, and what it says.
func (m machine) portalFile() (path, text string) {
	var names []string
	for _, desktop := range strings.Split(m.Getenv("XDG_CURRENT_DESKTOP"), ":") {
		if desktop != "" && !strings.Contains(desktop, "/") {
			names = append(names, strings.ToLower(desktop)+"-portals.conf")
		}
	}
	names = append(names, "portals.conf")
	for _, dir := range []string{m.config(), m.at("/etc/xdg"), m.data(), m.at("/usr/local/share"), m.at("/usr/share")} {
		for _, name := range names {
			if from := filepath.Join(dir, "xdg-desktop-portal", name); exists(from) {
				// The first file that is found is the only one that counts, so that a
				// copy of the user's own begins with what was in force.
				return m.config("xdg-desktop-portal", name), readText(from)
			}
		}
	}
	return m.config("xdg-desktop-portal", names[0]), "[preferred]\ndefault=*\n"
}

// planPortal makes keyringd the one that sandboxed programs' secrets come from.
func (m machine) planPortal(context.Context, bool) ([]step, error) {
	path, text := m.portalFile()
	return []step{{Say: "serve sandboxed programs", File: path, Text: setINI(text, "preferred", portalKey, "keyringd")}}, nil
}
