package main

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// runtimeDir looks for a place for sockets.
func (d *doctor) runtimeDir() {
	if d.runtime() == "" {
		d.wrong("no-runtime-dir", "", "there is no XDG_RUNTIME_DIR: log in through a login manager, or over ssh")
	}
}

// configuration has keyringd itself read its settings.
func (d *doctor) configuration(ctx context.Context) {
	if d.find("keyringd") == "" {
		d.wrong("no-keyringd", d.installCommand("keyringd"), "there is no keyringd on PATH")
		return
	}
	path := d.config("keyringd/config.toml")
	if !exists(path) {
		return
	}
	out, err := d.run(ctx, []string{"keyringd", "--check-config"})
	if err == nil {
		return
	}
	mend := ""
	if m := regexp.MustCompile(`config\.toml:([1-9][0-9]*): `).FindStringSubmatch(out); m != nil {
		mend = "sed -i " + shellWord(m[1]+"s/^/# /") + " " + shellWord(path)
	}
	text := strings.TrimPrefix(strings.SplitN(out, "\n", 2)[0], "keyringd: ")
	d.wrong("config", mend, "keyringd does not start with these settings: %s", text)
}

// execOf are the lines by which units, and files of the bus, start a program.
var execOf = regexp.MustCompile(`(?m)^(?:ExecStart|Exec)=[-@:+!]*([^\s]+)`)

// units looks for files of ours that hide the package's, or start what is not
// there any more.
func (d *doctor) units() {
	for _, dir := range []string{d.config("systemd/user"), d.data("systemd/user")} {
		found, _ := filepath.Glob(filepath.Join(dir, "keyringd*"))
		for _, path := range found {
			if gone := missingProgram(path); gone != "" {
				d.wrong("stale-unit", "rm "+shellWord(path)+" && systemctl --user daemon-reload",
					"%s starts %s, which is not there, and hides the unit of the package", path, gone)
			}
		}
	}
	for _, name := range []string{"keyringd.service", "keyringd-ssh.socket", "keyringd-pkcs11.socket", "keyringd-control.socket"} {
		if to, _ := os.Readlink(d.unit(name)); to == "/dev/null" {
			d.wrong("masked", "systemctl --user unmask "+name, "%s is masked, so that nothing can start it", name)
		}
	}
	if gone := missingProgram(d.secretsFile()); gone != "" {
		d.wrong("stale-activation", "keyringctl setup --secrets", "%s starts %s, which is not there", d.secretsFile(), gone)
	}
	if path := d.config("autostart/keyringd.desktop"); missingProgram(path) != "" {
		d.wrong("stale-autostart", "rm "+shellWord(path), "%s starts %s, which is not there", path, missingProgram(path))
	}
}

// missingProgram is the program that a file starts, if it does not exist.
func missingProgram(path string) string {
	m := execOf.FindStringSubmatch(readText(path))
	if m == nil || !filepath.IsAbs(m[1]) || exists(m[1]) {
		return ""
	}
	return m[1]
}

// tpm looks whether the user may use it.
func (d *doctor) tpm() {
	device := d.at("/dev/tpmrm0")
	st, err := os.Stat(device)
	if errors.Is(err, fs.ErrNotExist) {
		if exists(d.at("/dev/tpm0")) {
			d.wrong("tpm-without-rm", "", "%s is there, but not /dev/tpmrm0: the kernel is older than 4.12", d.at("/dev/tpm0"))
		} else {
			d.note("no-tpm", "", "this machine has no TPM that the system knows; it may be switched off in the firmware. Keys in ordinary files work")
		}
		return
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if err != nil || !ok || d.UID == 0 {
		return
	}
	mode, gid := st.Mode().Perm(), int(sys.Gid)
	if mode&0o006 == 0o006 || int(sys.Uid) == d.UID && mode&0o600 == 0o600 {
		return
	}
	group, members := d.group(gid)
	user := d.userName()
	switch {
	case mode&0o060 != 0o060:
		d.wrong("tpm-mode", "sudo chmod g+rw "+shellWord(device), "the group %s may not use %s (mode %04o)", group, device, mode)
	case !slices.Contains(members, user):
		d.wrong("tpm-access", "sudo usermod -aG "+shellWord(group)+" "+shellWord(user), "%s may not use %s, as it is not in the group %s", user, device, group)
	case !slices.Contains(d.groups(), gid):
		d.note("tpm-relogin", "", "%s is in the group %s since this session began: log out and in again", user, group)
	}
}

// groups are those of this process.
func (d *doctor) groups() []int {
	list, _ := os.Getgroups()
	return append(list, os.Getgid())
}

// group returns a group's name and its members.
func (d *doctor) group(gid int) (name string, members []string) {
	for _, f := range d.lines("/etc/group") {
		if len(f) >= 4 && f[2] == strconv.Itoa(gid) {
			return f[0], strings.Split(f[3], ",")
		}
	}
	return strconv.Itoa(gid), nil
}

func (d *doctor) userName() string {
	for _, f := range d.lines("/etc/passwd") {
		if len(f) >= 3 && f[2] == strconv.Itoa(d.UID) {
			return f[0]
		}
	}
	return d.Getenv("USER")
}

// lines are those of a file like /etc/passwd.
func (d *doctor) lines(path string) (all [][]string) {
	f, err := os.Open(d.at(path))
	if err != nil {
		return nil
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		all = append(all, strings.Split(in.Text(), ":"))
	}
	return all
}

// folders looks at who may look into them.
func (d *doctor) folders() {
	for _, dir := range []struct {
		path string
		bad  fs.FileMode
		want string
		why  string
	}{
		{d.runtime("keyringd"), 0o077, "700", "others may enter the folder of the sockets, so that keyringd does not start there"},
		{d.data("keyringd"), 0o077, "700", "others may look into the folder of the keyrings"},
		{filepath.Join(d.Getenv("HOME"), ".ssh"), 0o022, "go-w", "others may put files into the folder of the keys, so that it is not read"},
	} {
		st, err := os.Stat(dir.path)
		if err != nil || dir.path == "" {
			continue
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != d.UID && d.Root == "" {
			d.wrong("folder-owner", "sudo chown -R "+shellWord(d.userName())+" "+shellWord(dir.path), "%s belongs to somebody else", dir.path)
			continue
		}
		if st.Mode().Perm()&dir.bad != 0 {
			d.wrong("folder-mode", "chmod "+dir.want+" "+shellWord(dir.path), "%s (mode %04o): %s", dir.path, st.Mode().Perm(), dir.why)
		}
	}
}

// installCommand installs a package of ours, or one named like it.
func (d *doctor) installCommand(name string) string {
	id := ""
	for _, line := range strings.Split(readText(d.at("/etc/os-release")), "\n") {
		if v, ok := strings.CutPrefix(line, "ID="); ok {
			id = strings.Trim(v, `"`)
		}
		if v, ok := strings.CutPrefix(line, "ID_LIKE="); ok && id != "debian" && id != "fedora" && id != "arch" {
			id += " " + strings.Trim(v, `"`)
		}
	}
	for _, known := range []struct{ id, command string }{
		{"debian", "sudo apt-get install "}, {"fedora", "sudo dnf install "}, {"arch", "sudo pacman -S "},
	} {
		if strings.Contains(" "+id+" ", " "+known.id+" ") {
			return known.command + name
		}
	}
	return ""
}

// prompter looks for a program that asks.
func (d *doctor) prompter(ctx context.Context) {
	for _, p := range []string{"keyring-ui", "pinentry-gnome3", "pinentry-qt", "pinentry-gtk-2", "pinentry-fltk", "pinentry-curses", "pinentry-tty", "pinentry"} {
		if d.find(p) != "" {
			return
		}
	}
	mend := d.installCommand("keyringd-ui")
	if strings.Contains(mend, "apt-get") {
		// A package that was built here is none that apt could fetch.
		if out, err := d.run(ctx, []string{"apt-cache", "madison", "keyringd-ui"}); err != nil || out == "" {
			mend = d.installCommand("pinentry-qt")
		}
	}
	d.wrong("no-prompter", mend, "there is no program that could ask for a PIN or for permission: keyring-ui of the package keyringd-ui, or any pinentry")
}

// sockets looks at what is listened on.
func (d *doctor) sockets() {
	for _, name := range []string{"keyringd/ssh", "keyringd/pkcs11", "keyring/control"} {
		path := d.runtime(name)
		st, err := os.Lstat(path)
		if err != nil || path == "" || name == "keyring/control" && d.gnomeWaits() {
			continue // another's socket is not ours to judge, and a look would start its owner
		}
		switch {
		case st.Mode().Type() != fs.ModeSocket:
			d.wrong("no-socket", "rm -r "+shellWord(path), "%s is in the place of a socket, and is none", path)
		case !listening(path):
			d.wrong("stale-socket", "rm "+shellWord(path), "nobody listens on %s", path)
		case st.Mode().Perm()&0o077 != 0:
			d.wrong("socket-mode", "chmod 600 "+shellWord(path), "others may use the socket %s (mode %04o)", path, st.Mode().Perm())
		}
	}
}

// pkcs11 looks whether p11-kit finds the module.
func (d *doctor) pkcs11() {
	for _, dir := range []string{d.config("pkcs11/modules"), d.at("/etc/pkcs11/modules"), d.at("/usr/share/p11-kit/modules"), d.at("/usr/local/share/p11-kit/modules")} {
		file := filepath.Join(dir, "keyringd.module")
		m := regexp.MustCompile(`(?m)^module:\s*(\S+)`).FindStringSubmatch(readText(file))
		if m == nil {
			continue
		}
		places := []string{m[1]}
		if !filepath.IsAbs(m[1]) {
			places, _ = filepath.Glob(d.at("/usr/lib*/pkcs11/") + m[1])
			more, _ := filepath.Glob(d.at("/usr/lib/*/pkcs11/") + m[1])
			places = append(places, more...)
		}
		if !slices.ContainsFunc(places, exists) {
			d.wrong("pkcs11-module", d.installCommand("--reinstall libkeyringd-pkcs11"), "%s names %s, which is not there", file, m[1])
		}
		return
	}
	d.note("no-pkcs11", d.installCommand("libkeyringd-pkcs11"), "programs that speak PKCS #11 do not find the keys")
}
