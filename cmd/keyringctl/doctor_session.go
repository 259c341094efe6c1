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
	if mine == "" || now == mine {
		return
	}
	if exists(d.environmentFile()) {
		d.note("ssh-relogin", "eval \"$(keyringctl env --force)\"", "ssh asks keyringd from the next login on; in this shell it does not yet")
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
	switch {
	case pid > 0 && name == "keyringd":
		return
	case pid > 0:
		r, known := rivalOfProcess(name)
		if !known {
			r.name, r.manual = name, "?"
		}
		mend := "keyringctl setup --secrets --replace"
		if r.manual != "" {
			mend = ""
		}
		d.wrong("secrets-other", mend, "passwords are kept by %s (process %d)", r.name, pid)
	case !strings.Contains(d.activation(), "keyringd"):
		d.wrong("secrets-nobody", "keyringctl setup --secrets", "keyringd does not keep passwords: nothing starts it when a program asks for one")
	}
}

// activation is the file by which the bus starts the Secret Service.
func (d *doctor) activation() string {
	for _, dir := range []string{d.runtime("dbus-1/services"), d.data("dbus-1/services"), d.at("/usr/local/share/dbus-1/services"), d.at("/usr/share/dbus-1/services")} {
		if text := readText(filepath.Join(dir, secretsName+".service")); text != "" {
			return text
		}
	}
	return ""
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
		d.wrong("no-pam", d.installCommand(name), "the login password does not open the login keyring: pam_gnome_keyring.so is not installed")
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
