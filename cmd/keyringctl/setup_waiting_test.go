package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// enable has a unit of the system's started in every session.
func (c *clinic) enable(unit string) {
	c.Helper()
	link := c.root + "/etc/systemd/user/sockets.target.wants/" + unit
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		c.Fatal(err)
	}
	if err := os.Symlink("/usr/lib/systemd/user/"+unit, link); err != nil {
		c.Fatal(err)
	}
}

// TestSetupSeesWhoWaits has gnome-keyring installed, and not yet running: the
// bus and a socket would start it. It is left alone like one that runs.
func TestSetupSeesWhoWaits(t *testing.T) {
	c := newClinic(t)
	c.follow("systemctl --user stop keyringd.service")
	if err := os.Remove(c.home + "/.local/share/dbus-1/services/org.freedesktop.secrets.service"); err != nil {
		t.Fatal(err)
	}
	c.write(c.root+"/usr/share/dbus-1/services/org.freedesktop.secrets.service",
		"[D-BUS Service]\nName=org.freedesktop.secrets\nExec=/usr/bin/gnome-keyring-daemon --start --control-directory=/run/x\n")
	before := tree(t, c.home)
	status, out := c.ctl("setup", "--all")
	if status != 1 || !strings.Contains(out, "gnome-keyring keeps passwords") || !strings.Contains(out, "--replace") {
		t.Errorf("setup --all: %d\n%s", status, out)
	}
	if now := tree(t, c.home); now != before {
		t.Errorf("it changed\n%s\nto\n%s", before, now)
	}
	f, _ := find(c.findings(), "secrets-other")
	if !strings.Contains(f.Title, "gnome-keyring") || f.Mend == "" {
		t.Fatalf("%+v", f)
	}
	c.follow(f.Mend)
	c.awaitHealth()
	if to, _ := os.Readlink(c.home + "/.config/systemd/user/gnome-keyring-daemon.socket"); to != "/dev/null" {
		t.Error("gnome-keyring-daemon.socket is not masked")
	}
}

// TestDoctorSeesTwoWaitForThePassword has gnome-keyring come after keyringd was
// set up, as Debian's package of its PAM module brings it along.
func TestDoctorSeesTwoWaitForThePassword(t *testing.T) {
	c := newClinic(t)
	c.enable("gnome-keyring-daemon.socket")
	// Its socket lets everybody in, to a folder that lets in nobody else.
	if err := os.Chmod(c.run+"/keyring/control", 0o666); err != nil {
		t.Fatal(err)
	}
	f, ok := find(c.findings(), "login-other")
	if !ok || !f.Wrong {
		t.Fatalf("%+v", c.findings())
	}
	if f, ok := find(c.findings(), "socket-mode"); ok {
		t.Errorf("of a socket that is not ours: %+v", f)
	}
	c.follow(f.Mend)
	c.awaitHealth()
}

// TestSetupSeesWhoTellsSSH has an agent whose unit sets SSH_AUTH_SOCK at every
// login, which is not set in this shell.
func TestSetupSeesWhoTellsSSH(t *testing.T) {
	c := newClinic(t)
	t.Setenv("SSH_AUTH_SOCK", "")
	c.write(c.root+"/usr/lib/systemd/user/gcr-ssh-agent.socket",
		"[Socket]\nListenStream=%t/gcr/ssh\nExecStartPost=-/usr/bin/systemctl --user set-environment SSH_AUTH_SOCK=%t/gcr/ssh\n")
	for range 2 {
		status, out := c.ctl("setup", "--ssh", "--dry-run")
		if _, err := os.Lstat(c.root + "/etc/systemd/user/sockets.target.wants"); err != nil {
			if status != 0 {
				t.Errorf("one that is not enabled: %d\n%s", status, out)
			}
			c.enable("gcr-ssh-agent.socket")
			continue
		}
		if status != 1 || !strings.Contains(out, "gcr-ssh-agent serves ssh") {
			t.Errorf("setup --ssh: %d\n%s", status, out)
		}
	}
	status, out := c.ctl("setup", "--ssh", "--replace")
	if to, _ := os.Readlink(c.home + "/.config/systemd/user/gcr-ssh-agent.socket"); status != 0 || to != "/dev/null" {
		t.Errorf("setup --ssh --replace: %d\n%s", status, out)
	}
	if !strings.Contains(out, "~/.profile") {
		t.Errorf("nothing for logins that read no environment.d:\n%s", out)
	}
}

// TestUndoEndsTheDaemon: what has no sockets and no activation any more does not
// stay behind with the name of the Secret Service.
func TestUndoEndsTheDaemon(t *testing.T) {
	c := newClinic(t)
	if status, out := c.ctl("setup", "--ssh", "--secrets"); status != 0 {
		t.Fatalf("setup: %d\n%s", status, out)
	}
	status, out := c.ctl("setup", "--undo", "--dry-run")
	if status != 0 || !strings.Contains(out, "remove "+c.environmentFile()) || strings.Contains(out, "put back "+c.environmentFile()) {
		t.Errorf("a dry run: %d\n%s", status, out)
	}
	if status, out := c.ctl("setup", "--undo"); status != 0 {
		t.Fatalf("undo: %d\n%s", status, out)
	}
	clinicDir := filepath.Dir(c.bin)
	said := strings.Split(strings.TrimSpace(readText(clinicDir+"/systemctl")), "\n")
	stop, disable := -1, -1
	for i, line := range said {
		if line == "stop keyringd.service" {
			stop = i
		}
		if strings.HasPrefix(line, "disable --now") {
			disable = i
		}
	}
	if stop < disable || disable < 0 || exists(clinicDir+"/pid") {
		t.Errorf("systemctl was told\n%s", strings.Join(said, "\n"))
	}
}
