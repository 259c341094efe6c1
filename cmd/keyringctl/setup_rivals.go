package main

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A rival is another program that keeps passwords or serves ssh keys.
type rival struct {
	name      string
	processes []string  // as the kernel names them, cut after 15 bytes
	sockets   []string  // of ssh, below the runtime directory
	units     []string  // the user's units that start it
	autostart []string  // files in XDG autostart folders that start it
	setting   [4]string // a file below the configuration, group, key and value that switch it off
	manual    string    // what the user has to do where nothing else helps
}

var rivals = []rival{
	{
		name: "gnome-keyring", processes: []string{"gnome-keyring-d"}, sockets: []string{"keyring/ssh", "keyring/.ssh"},
		units:     []string{"gnome-keyring-daemon.socket", "gnome-keyring-daemon.service"},
		autostart: []string{"gnome-keyring-secrets.desktop", "gnome-keyring-ssh.desktop", "gnome-keyring-pkcs11.desktop"},
	},
	{
		name: "gcr-ssh-agent", processes: []string{"gcr-ssh-agent"}, sockets: []string{"gcr/ssh", "gcr/.ssh"},
		units: []string{"gcr-ssh-agent.socket", "gcr-ssh-agent.service"},
	},
	{
		name: "KWallet", processes: []string{"kwalletd5", "kwalletd6", "ksecretd"},
		setting: [4]string{"kwalletrc", "org.freedesktop.secrets", "apiEnabled", "false"},
	},
	{
		name: "oo7", processes: []string{"oo7-daemon"},
		units: []string{"dbus-org.freedesktop.secrets.service", "oo7-daemon.socket", "oo7-daemon.service"},
	},
	{
		name: "ssh-tpm-agent", processes: []string{"ssh-tpm-agent"}, sockets: []string{"ssh-tpm-agent.sock"},
		units: []string{"ssh-tpm-agent.socket", "ssh-tpm-agent.service"},
	},
	{
		name: "gpg-agent", processes: []string{"gpg-agent"}, sockets: []string{"gnupg/S.gpg-agent.ssh"},
		units: []string{"gpg-agent-ssh.socket"},
	},
	{
		name: "OpenSSH's ssh-agent", processes: []string{"ssh-agent"}, sockets: []string{"ssh-agent.socket", "openssh_agent"},
		units: []string{"ssh-agent.socket", "ssh-agent.service"},
	},
	{
		name: "KeePassXC", processes: []string{"keepassxc"},
		manual: "switch off Tools > Settings > Secret Service Integration in KeePassXC",
	},
}

// rivalOfProcess finds who a process is.
func rivalOfProcess(name string) (rival, bool) {
	i := slices.IndexFunc(rivals, func(r rival) bool { return slices.Contains(r.processes, name) })
	if i < 0 {
		return rival{}, false
	}
	return rivals[i], true
}

// rivalOfSocket finds whose agent socket that is.
func (m machine) rivalOfSocket(path string) (rival, bool) {
	for _, r := range rivals {
		for _, s := range r.sockets {
			if path == m.runtime(s) {
				return r, true
			}
		}
	}
	// ssh-agent(1) makes its own where nobody says otherwise.
	if strings.HasPrefix(filepath.Base(filepath.Dir(path)), "ssh-") && strings.HasPrefix(filepath.Base(path), "agent.") {
		return rival{name: "ssh-agent, or the agent of the machine you came from", manual: "end that agent, or log in without it"}, true
	}
	return rival{}, false
}

// activation is the file by which the bus starts the Secret Service.
func (m machine) activation() string {
	for _, dir := range []string{m.runtime("dbus-1/services"), m.data("dbus-1/services"), m.at("/usr/local/share/dbus-1/services"), m.at("/usr/share/dbus-1/services")} {
		if text := readText(filepath.Join(dir, secretsName+".service")); text != "" {
			return text
		}
	}
	return ""
}

// waiting finds who would keep the user's passwords as soon as a program asked
// for one, or the login gave its password, though nobody does yet.
func (m machine) waiting() (rival, bool) {
	text := m.activation()
	program, _, _ := strings.Cut(getINI(text, "D-BUS Service", "Exec"), " ")
	program = filepath.Base(program)
	unit := getINI(text, "D-BUS Service", "SystemdService")
	for _, r := range rivals {
		if slices.Contains(r.processes, program[:min(len(program), 15)]) || slices.Contains(r.units, unit) && unit != "" {
			return r, true
		}
	}
	if m.gnomeWaits() {
		return rivalOfProcess("gnome-keyring-d")
	}
	return rival{}, false
}

// gnomeWaits reports whether gnome-keyring is given the login password in the
// sessions of a service manager: its socket is where ours is to be.
func (m machine) gnomeWaits() bool {
	return m.systemd() && m.enabled("gnome-keyring-daemon.socket")
}

// tellsSSH finds who has the service manager tell every program of an agent of
// its own, which comes after what environment.d(5) says.
func (m machine) tellsSSH() (rival, bool) {
	for _, r := range rivals {
		for _, u := range r.units {
			if text := readText(m.unit(u)); m.systemd() && strings.Contains(text, "set-environment SSH_AUTH_SOCK=") && m.enabled(u) {
				return r, true
			}
		}
	}
	return rival{}, false
}

// handOver are the steps that stop a rival now and keep it from coming back.
// pid is its process; 0: not known, or none.
func (m machine) handOver(r rival, pid int) []step {
	var steps []step
	var units []string
	for _, u := range r.units {
		if m.unit(u) != "" {
			units = append(units, u)
		}
	}
	if len(units) > 0 && m.systemd() {
		steps = append(steps, step{
			Say:  "stop " + r.name + " and keep it from being started",
			Run:  append([]string{"systemctl", "--user", "mask", "--now"}, units...),
			Undo: append([]string{"systemctl", "--user", "unmask"}, units...),
		})
	}
	for _, name := range r.autostart {
		if exists(m.at("/etc/xdg/autostart/" + name)) {
			steps = append(steps, step{
				Say:  "keep " + r.name + " from being started at login",
				File: m.config("autostart", name),
				Text: "[Desktop Entry]\nType=Application\nName=" + name + "\nExec=true\nHidden=true\n",
			})
		}
	}
	if file := r.setting[0]; file != "" {
		path := m.config(file)
		steps = append(steps, step{
			Say:  "switch off " + r.name + "'s part in it",
			File: path, Text: setINI(readText(path), r.setting[1], r.setting[2], r.setting[3]),
		})
	}
	if pid > 0 {
		steps = append(steps, step{Say: "end the " + r.name + " that runs now", Run: []string{"kill", strconv.Itoa(pid)}, Optional: true})
	}
	return steps
}
