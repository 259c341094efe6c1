package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
)

// patient is how long a program may take on a busy machine.
const patient = 30 * time.Second

// A clinic is a machine in a folder: a system, a home, a bus, a daemon that
// runs, and the programs that administer them, which do in the folder what the
// real ones do.
type clinic struct {
	*testing.T
	root, home, run, bin string
	bus                  *bustest.Bus
	env                  map[string]string
	daemon               string // the keyringd that was built
}

const mia = 4242 // a user that no test runs as

// newClinic makes one in which all is well.
func newClinic(t *testing.T) *clinic {
	t.Helper()
	for _, p := range []string{"sh", "sed", "kill", "busctl", "ssh-keygen"} {
		bustest.Need(t, p)
	}
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &clinic{T: t, root: dir + "/r", home: dir + "/h", run: dir + "/u", bin: dir + "/b", bus: bustest.Start(t)}
	c.env = map[string]string{
		"HOME": c.home, "XDG_RUNTIME_DIR": c.run, "PATH": c.bin + ":" + os.Getenv("PATH"), "USER": "mia",
		"DBUS_SESSION_BUS_ADDRESS": c.bus.Address, "SSH_AUTH_SOCK": c.run + "/keyringd/ssh", "XDG_CURRENT_DESKTOP": "GNOME",
		"CLINIC": dir, "SHELL": "/bin/sh",
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "DISPLAY", "WAYLAND_DISPLAY"} {
		c.env[name] = ""
	}
	for name, value := range c.env {
		t.Setenv(name, value)
	}

	c.write(c.root+"/etc/os-release", "ID=ubuntu\nID_LIKE=debian\n")
	c.write(c.root+"/etc/debian_version", "12\n")
	c.write(c.root+"/etc/passwd", fmt.Sprintf("root:x:0:0::/root:/bin/sh\nmia:x:%d:%d::/home/mia:/bin/sh\n", mia, mia))
	c.write(c.root+"/etc/group", fmt.Sprintf("tss:x:%d:mia\n", os.Getgid()))
	c.write(c.root+"/dev/tpmrm0", "")
	if err := os.Chmod(c.root+"/dev/tpmrm0", 0o660); err != nil {
		t.Fatal(err)
	}
	c.write(c.root+"/usr/lib/x86_64-linux-gnu/security/pam_gnome_keyring.so", "")
	c.write(c.root+"/usr/share/pam-configs/keyringd", "")
	c.write(c.root+"/etc/pam.d/common", "auth optional pam_gnome_keyring.so\nsession optional pam_gnome_keyring.so\n")
	c.write(c.root+"/usr/share/p11-kit/modules/keyringd.module", "module: keyringd-pkcs11.so\n")
	c.write(c.root+"/usr/lib/x86_64-linux-gnu/pkcs11/keyringd-pkcs11.so", "")
	c.write(c.root+"/usr/share/xdg-desktop-portal/portals/keyringd.portal", "[portal]\n")
	c.write(c.root+"/usr/share/xdg-desktop-portal/gnome-portals.conf", "[preferred]\ndefault=gnome;gtk;\n"+portalKey+"=gnome-keyring;\n")
	for _, unit := range []string{"keyringd.service", "keyringd-ssh.socket", "keyringd-pkcs11.socket", "keyringd-control.socket",
		"gnome-keyring-daemon.socket", "gnome-keyring-daemon.service", "gcr-ssh-agent.socket", "gcr-ssh-agent.service"} {
		c.write(c.root+"/usr/lib/systemd/user/"+unit, "[Unit]\n")
	}
	c.write(c.run+"/systemd/private", "")
	c.write(c.home+"/.ssh/known_hosts", "")
	c.write(c.home+"/.local/share/dbus-1/services/org.freedesktop.secrets.service", secretsService(c.bin+"/keyringd"))
	for _, dir := range []string{c.run, c.home + "/.ssh"} {
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}

	c.daemon = filepath.Join(t.TempDir(), "keyringd")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", c.daemon, "../keyringd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "HOME="+os.Getenv("HOME"), "GOCACHE="+goCache, "GOMODCACHE="+goModCache)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building keyringd: %v\n%s", err, out)
	}
	c.script("keyringd", `case "$*" in *--check-config*) exec "`+c.daemon+`" --tpm none "$@" ;; esac
exec "`+c.daemon+`" --tpm none --prompter none "$@"`)
	c.script("keyring-ui", "exit 1")
	c.script("sudo", `exec "$@"`)
	c.script("usermod", `sed -i "s/^$2:.*/&,$3/; s/:,/:/" "$CLINIC/r/etc/group"`)
	c.script("pam-auth-update", `printf 'auth optional pam_gnome_keyring.so\nsession optional pam_gnome_keyring.so\n' >"$CLINIC/r/etc/pam.d/common"`)
	c.script("apt-get", `for p; do case $p in
keyringd-ui | pinentry-qt) printf '#!/bin/sh\nexit 1\n' >"$CLINIC/b/keyring-ui"; chmod +x "$CLINIC/b/keyring-ui" ;;
libkeyringd-pkcs11) : >"$CLINIC/r/usr/lib/x86_64-linux-gnu/pkcs11/keyringd-pkcs11.so" ;;
libpam-gnome-keyring) : >"$CLINIC/r/usr/lib/x86_64-linux-gnu/security/pam_gnome_keyring.so" ;;
esac; done`)
	c.script("systemctl", systemctl)
	t.Cleanup(func() { _, _ = c.sh("systemctl --user stop keyringd.service") })
	if out, err := c.sh("systemctl --user start keyringd.service"); err != nil {
		t.Fatalf("start: %v\n%s", err, out)
	}
	return c
}

// goCache and goModCache are go's, whose home the tests replace.
var goCache, goModCache = goEnv("GOCACHE"), goEnv("GOMODCACHE")

func goEnv(name string) string {
	out, _ := exec.Command("go", "env", name).Output()
	return strings.TrimSpace(string(out))
}

// systemctl starts and stops the daemon, and masks and enables units as the
// real one does: by links. It notes what it was told.
const systemctl = `shift
echo "$*" >>"$CLINIC/systemctl"
verb=$1; shift
now=
[ "$1" != --now ] || { now=1; shift; }
stop() { [ ! -e "$CLINIC/pid" ] || { kill "$(cat "$CLINIC/pid")"; while kill -0 "$(cat "$CLINIC/pid")" 2>/dev/null; do sleep 0.05; done; rm "$CLINIC/pid"; } 2>/dev/null; }
start() { keyringd >"$CLINIC/out" 2>"$CLINIC/log" & echo $! >"$CLINIC/pid"; while ! grep -q SSH_AUTH_SOCK "$CLINIC/out" && kill -0 "$(cat "$CLINIC/pid")"; do sleep 0.05; done
while ! busctl --address="$DBUS_SESSION_BUS_ADDRESS" call io.github.keyringd / org.freedesktop.DBus.Peer Ping >/dev/null 2>&1 && kill -0 "$(cat "$CLINIC/pid")"; do sleep 0.05; done; }
d=$HOME/.config/systemd/user
mkdir -p "$d/sockets.target.wants"
case $verb in
start) start ;;
stop) stop ;;
restart) stop; start ;;
mask) for u; do ln -sf /dev/null "$d/$u"; done ;;
unmask) for u; do rm -f "$d/$u"; done ;;
enable) for u; do ln -sf "$u" "$d/sockets.target.wants/$u"; done; [ -z "$now" ] || start ;;
disable) for u; do rm -f "$d/sockets.target.wants/$u"; done ;;
set-environment) echo "$1" >"$CLINIC/environment" ;;
unset-environment) rm -f "$CLINIC/environment" ;;
daemon-reload | reset-failed) ;;
*) echo "systemctl $verb?" >&2; exit 1 ;;
esac`

func (c *clinic) write(path, text string) {
	c.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.Fatal(err)
	}
}

func (c *clinic) script(name, text string) {
	c.Helper()
	c.write(c.bin+"/"+name, "#!/bin/sh\n"+text+"\n")
	if err := os.Chmod(c.bin+"/"+name, 0o755); err != nil {
		c.Fatal(err)
	}
}

// sh runs a command as a user types it.
func (c *clinic) sh(line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	f, err := os.CreateTemp(c.root, "out") // a daemon that is started may keep it open
	if err != nil {
		return "", err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	text, _ := os.ReadFile(f.Name())
	out.Write(text)
	return out.String(), err
}

// ctl runs keyringctl in the clinic.
func (c *clinic) ctl(args ...string) (status int, out string) {
	c.Helper()
	var b bytes.Buffer
	status = run(c.Context(), args, world{Getenv: os.Getenv, UID: mia, Root: c.root, Out: &b, Err: &b})
	return status, b.String()
}

// findings is what doctor finds.
func (c *clinic) findings() []finding {
	c.Helper()
	var b, e bytes.Buffer
	status := run(c.Context(), []string{"doctor", "--json"}, world{Getenv: os.Getenv, UID: mia, Root: c.root, Out: &b, Err: &e})
	var found []finding
	if err := json.Unmarshal(b.Bytes(), &found); err != nil {
		c.Fatalf("doctor --json: %v\n%s%s", err, b.String(), e.String())
	}
	if wrong := slices.ContainsFunc(found, func(f finding) bool { return f.Wrong }); wrong != (status == 1) {
		c.Errorf("exit status %d with %+v", status, found)
	}
	return found
}

// follow does what doctor advises.
func (c *clinic) follow(mend string) {
	c.Helper()
	if args, ok := strings.CutPrefix(mend, "keyringctl "); ok {
		if status, out := c.ctl(strings.Fields(args)...); status != 0 {
			c.Fatalf("%s: %d\n%s", mend, status, out)
		}
		return
	}
	if out, err := c.sh(mend); err != nil {
		c.Fatalf("%s: %v\n%s", mend, err, out)
	}
}

func find(found []finding, id string) (finding, bool) {
	i := slices.IndexFunc(found, func(f finding) bool { return f.ID == id })
	if i < 0 {
		return finding{}, false
	}
	return found[i], true
}

// listen leaves a socket, served or not.
func (c *clinic) listen(path string, served bool) {
	c.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		c.Fatal(err)
	}
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		c.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if !served {
		_ = l.Close()
		return
	}
	c.Cleanup(func() { _ = l.Close() })
}

// TestDoctorMends plants one fault after the other: each is found, the advice is
// followed to the letter, and then it is gone and nothing else is wrong.
func TestDoctorMends(t *testing.T) {
	c := newClinic(t)
	for _, f := range c.findings() {
		if f.Wrong {
			t.Fatalf("nothing is planted, and doctor says %+v", f)
		}
	}
	chmod := func(path string, mode os.FileMode) func() {
		return func() {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(path string) func() {
		return func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(path, text string) func() { return func() { c.write(path, text) } }
	stop := func() { c.follow("systemctl --user stop keyringd.service") }
	start := func() { c.follow("systemctl --user start keyringd.service") }
	setenv := func(name, value string) func() { return func() { t.Setenv(name, value) } }
	for _, fault := range []struct {
		id    string
		plant func()
		after func() // what a new login brings
	}{
		{"tpm-access", write(c.root+"/etc/group", fmt.Sprintf("tss:x:%d:\n", os.Getgid())), nil},
		{"tpm-mode", chmod(c.root+"/dev/tpmrm0", 0o600), nil},
		{"config", write(c.home+"/.config/keyringd/config.toml", "notify = true\nrember = \"1m\"\n"), nil},
		{"not-running", stop, nil},
		{"folder-mode", chmod(c.home+"/.ssh", 0o777), nil},
		{"folder-mode", func() {
			if err := os.MkdirAll(c.home+"/.local/share/keyringd", 0o700); err != nil {
				t.Fatal(err)
			}
			chmod(c.home+"/.local/share/keyringd", 0o755)()
		}, nil},
		{"folder-mode", chmod(c.run+"/keyringd", 0o750), nil},
		{"socket-mode", chmod(c.run+"/keyringd/ssh", 0o666), nil},
		{"stale-socket", func() { stop(); c.listen(c.run+"/keyring/control", false) }, start},
		{"no-socket", func() { stop(); c.write(c.run+"/keyring/control/x", "") }, start},
		{"stale-unit", write(c.home+"/.config/systemd/user/keyringd.service", "[Service]\nExecStart=/opt/gone/keyringd --foo\n"), nil},
		{"stale-activation", write(c.home+"/.local/share/dbus-1/services/org.freedesktop.secrets.service", secretsService("/opt/gone/keyringd")), nil},
		{"stale-autostart", write(c.home+"/.config/autostart/keyringd.desktop", autostart("/opt/gone/keyringd")), nil},
		{"secrets-nobody", func() {
			stop()
			remove(c.home + "/.local/share/dbus-1/services/org.freedesktop.secrets.service")()
		}, nil},
		{"secrets-nobody", remove(c.home + "/.local/share/dbus-1/services/org.freedesktop.secrets.service"), nil}, // it runs
		{"no-pam", remove(c.root + "/usr/lib/x86_64-linux-gnu/security/pam_gnome_keyring.so"), nil},
		{"pam", write(c.root+"/etc/pam.d/common", "password optional pam_gnome_keyring.so\n"), nil},
		{"no-prompter", func() { c.withoutPinentries(); remove(c.bin + "/keyring-ui")() }, nil},
		{"pkcs11-module", remove(c.root + "/usr/lib/x86_64-linux-gnu/pkcs11/keyringd-pkcs11.so"), nil},
		{"masked", func() {
			stop()
			c.follow("systemctl --user mask keyringd.service")
		}, start},
		{"not-running", func() { // and why: the bus is not asked to start what cannot start
			stop()
			c.write(c.home+"/.config/keyringd/config.toml", "rember = 3\n")
		}, func() { c.follow("rm " + c.home + "/.config/keyringd/config.toml"); start() }},
		{"ssh-socket", stop, nil}, // a daemon that made it itself makes it again
		{"ssh-unset", setenv("SSH_AUTH_SOCK", ""), setenv("SSH_AUTH_SOCK", c.run+"/keyringd/ssh")},
		{"ssh-dead", func() { t.Setenv("SSH_AUTH_SOCK", c.run+"/gone"); remove(c.environmentFile())() }, setenv("SSH_AUTH_SOCK", c.run+"/keyringd/ssh")},
		{"ssh-other", func() {
			remove(c.environmentFile())()
			c.listen(c.run+"/gcr/ssh", true)
			t.Setenv("SSH_AUTH_SOCK", c.run+"/gcr/ssh")
		}, setenv("SSH_AUTH_SOCK", c.run+"/keyringd/ssh")},
		{"ssh-not-started", remove(c.home + "/.config/systemd/user/sockets.target.wants/keyringd-ssh.socket"), nil},
		{"key-file", func() {
			c.follow("ssh-keygen -q -t ed25519 -N '' -f " + c.home + "/.ssh/open")
			chmod(c.home+"/.ssh/open", 0o644)()
			c.awaitFinding("key-file")
		}, nil},
		{"old-daemon", c.oldDaemon, nil},
	} {
		t.Run(fault.id, func(t *testing.T) {
			c.T = t
			fault.plant()
			f, ok := find(c.findings(), fault.id)
			if !ok || !f.Wrong || f.Mend == "" {
				t.Fatalf("found %+v", c.findings())
			}
			c.follow(f.Mend)
			if fault.after != nil {
				fault.after()
			}
			c.awaitHealth()
		})
	}
}

// awaitHealth waits until nothing is wrong: the daemon notices files by itself.
func (c *clinic) awaitHealth() {
	c.Helper()
	c.await("health", func() bool {
		return !slices.ContainsFunc(c.findings(), func(f finding) bool { return f.Wrong })
	})
}

func (c *clinic) awaitFinding(id string) {
	c.Helper()
	c.await(id, func() bool { _, ok := find(c.findings(), id); return ok })
}

func (c *clinic) await(what string, reached func() bool) {
	c.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patient); !reached(); {
		select {
		case <-tick.C:
		case <-end:
			log, _ := os.ReadFile(filepath.Dir(c.bin) + "/log")
			c.Fatalf("no %s: %+v\nkeyringd said:\n%s", what, c.findings(), log)
		}
	}
}

// withoutPinentries leaves on PATH what the clinic has, and the tools that its
// scripts need.
func (c *clinic) withoutPinentries() {
	c.Helper()
	for _, tool := range []string{"sh", "sed", "kill", "rm", "ln", "mkdir", "cat", "sleep", "grep", "chmod", "busctl", "printf", "env", "dirname"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			continue // a shell has it built in
		}
		_ = os.Symlink(path, c.bin+"/"+tool)
	}
	c.Setenv("PATH", c.bin)
}

// oldDaemon has another version run.
func (c *clinic) oldDaemon() {
	c.Helper()
	old := filepath.Join(c.TempDir(), "keyringd")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=0.0.1", "-o", old, "../keyringd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOCACHE="+goCache, "GOMODCACHE="+goModCache, "PATH="+goPath)
	if out, err := build.CombinedOutput(); err != nil {
		c.Fatalf("building keyringd: %v\n%s", err, out)
	}
	current := c.daemon
	c.script("keyringd", `exec "`+old+`" --tpm none --prompter none "$@"`)
	c.follow("systemctl --user restart keyringd.service")
	c.script("keyringd", `exec "`+current+`" --tpm none --prompter none "$@"`)
}

// goPath is PATH before the tests change it.
var goPath = os.Getenv("PATH")
