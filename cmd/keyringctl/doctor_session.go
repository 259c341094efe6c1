package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ssh looks whom ssh asks.
func (d *doctor) ssh() {
	mine := d.sshSocket()
	if s, ok := d.status["SSHSocket"].(string); ok {
		mine = s
	}
	now := d.Getenv("SSH_AUTH_SOCK")
	if d.systemd() && exists(d.environmentFile()) && !d.enabled("keyringd-ssh.socket") {
		d.wrong("ssh-not-started", "keyringctl setup --ssh", "nothing starts keyringd when ssh asks for it: keyringd-ssh.socket is not enabled")
	} else if mine != "" && now == mine && !exists(mine) {
		mend := d.restartCommand()
		if d.systemd() && d.enabled("keyringd-ssh.socket") {
			// A socket is not listened on anew while its service runs.
			mend = "systemctl --user stop keyringd.service && systemctl --user restart keyringd-ssh.socket"
		}
		d.wrong("ssh-socket", mend, "ssh asks keyringd at %s, which is not there", mine)
	}
	if mine == "" || now == mine {
		return
	}
	if exists(d.environmentFile()) && now != "" {
		d.note("ssh-relogin", "eval \"$(keyringctl env --force)\"", "in this shell ssh asks at %s. After a new login it asks keyringd, unless a start file of yours, such as ~/.profile or ~/.bashrc, sets SSH_AUTH_SOCK", now)
		return
	}
	if exists(d.environmentFile()) {
		// A login on a console, or over ssh, does not read environment.d(5), and
		// one cannot tell such a login from one that began before it was written.
		d.note("ssh-relogin", "eval \"$(keyringctl env --force)\"", "in this shell ssh does not ask keyringd yet; after a new login it does. "+
			"Where it does not even then, as on a console, put eval \"$(keyringctl env)\" into ~/.profile")
		return
	}
	switch {
	case now == "":
		d.wrong("ssh-unset", "keyringctl setup --ssh", "ssh does not know keyringd here: SSH_AUTH_SOCK is not set")
	case !listening(now):
		d.wrong("ssh-dead", "keyringctl setup --ssh", "SSH_AUTH_SOCK is %s, where nobody listens", now)
	default:
		r, known := d.rivalOfSocket(now)
		if !known {
			r.name = "another agent"
		}
		mend := "keyringctl setup --ssh --replace"
		if r.manual != "" && len(r.units) == 0 {
			mend = ""
		}
		d.wrong("ssh-other", mend, "ssh asks %s, at %s", r.name, now)
	}
}

// secrets looks who keeps passwords.
func (d *doctor) secrets(ctx context.Context) {
	pid, err := d.secretsOwner(ctx)
	if err != nil {
		return // there is no bus, which was said
	}
	name := processName(pid)
	mend := "keyringctl setup --secrets"
	switch next, known := d.waiting(); {
	case pid > 0 && name != "keyringd":
		r, known := rivalOfProcess(name)
		if !known {
			r.name, r.manual = name, "?"
		}
		mend += " --replace"
		if r.manual != "" {
			mend = ""
		}
		d.wrong("secrets-other", mend, "passwords are kept by %s (process %d)", r.name, pid)
	case !strings.Contains(d.activation(), "keyringd") && known:
		mend += " --replace"
		if next.manual != "" {
			mend = ""
		}
		d.wrong("secrets-other", mend, "passwords are kept by %s, which starts when a program asks for one", next.name)
	case !strings.Contains(d.activation(), "keyringd"):
		// A daemon that runs, as one that this very question has started, has the
		// name; at the next login it does not run.
		d.wrong("secrets-nobody", mend, "keyringd does not keep passwords: nothing starts it when a program asks for one")
	case d.gnomeWaits():
		d.wrong("login-other", mend+" --replace", "from the next login on gnome-keyring may be given the login password instead of keyringd: both listen for it")
	}
}

// usesPAM finds the lines of PAM's files that hand the login password over.
var usesPAM = regexp.MustCompile(`(?m)^\s*-?(auth|session)\s.*pam_gnome_keyring\.so`)

// login looks whether the login password reaches keyringd.
func (d *doctor) login() {
	var modules []string
	for _, pattern := range []string{"/lib*/security/", "/lib/*/security/", "/usr/lib*/security/", "/usr/lib/*/security/"} {
		found, _ := filepath.Glob(d.at(pattern) + "pam_gnome_keyring.so")
		modules = append(modules, found...)
	}
	if len(modules) == 0 {
		name := "libpam-gnome-keyring"
		if !exists(d.at("/etc/debian_version")) {
			name = "gnome-keyring-pam"
		}
		// Without what it recommends: gnome-keyring itself.
		d.wrong("no-pam", strings.Replace(d.installCommand(name), "apt-get install", "apt-get install --no-install-recommends", 1), "the login password does not open the login keyring: pam_gnome_keyring.so is not installed")
		return
	}
	files, _ := os.ReadDir(d.at("/etc/pam.d"))
	has := map[string]bool{}
	for _, f := range files {
		for _, m := range usesPAM.FindAllStringSubmatch(readText(filepath.Join(d.at("/etc/pam.d"), f.Name())), -1) {
			has[m[1]] = true
		}
	}
	if has["auth"] && has["session"] {
		return
	}
	mend := ""
	if exists(d.at("/usr/share/pam-configs/keyringd")) {
		mend = "sudo pam-auth-update --enable keyringd"
	}
	d.wrong("pam", mend, "the login password does not open the login keyring: no file in %s has both auth and session lines for pam_gnome_keyring.so", d.at("/etc/pam.d"))
}

// portal looks who serves sandboxed programs.
func (d *doctor) portal() {
	if !exists(d.at("/usr/share/xdg-desktop-portal/portals")) {
		return // there are no portals
	}
	_, text := d.portalFile()
	if getINI(text, "preferred", portalKey) != "keyringd" {
		d.note("portal", "keyringctl setup --portal", "sandboxed programs do not get their secrets from keyringd")
	}
}
