package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
)

// tree is every file below a folder with its content, and every link.
func tree(t *testing.T, root string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Type()&os.ModeSymlink != 0 {
			to, err := os.Readlink(path)
			all.WriteString(path + " -> " + to + "\n")
			return err
		}
		text, err := os.ReadFile(path)
		all.WriteString(path + ": " + string(text) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestSetupAndBack sets everything up, twice, looks at what is there then, and
// undoes it: the home is as it was.
func TestSetupAndBack(t *testing.T) {
	c := newClinic(t)
	c.follow("systemctl --user stop keyringd.service")
	services := c.home + "/.local/share/dbus-1/services/org.freedesktop.secrets.service"
	c.write(services, "[D-BUS Service]\nName=org.freedesktop.secrets\nExec=/usr/bin/other\n")
	if err := os.RemoveAll(c.home + "/.local/share/keyringd"); err != nil {
		t.Fatal(err)
	}
	before := tree(t, c.home)
	if status, out := c.ctl("setup", "--all", "--dry-run"); status != 0 || !strings.Contains(out, "systemctl --user enable") {
		t.Errorf("setup --dry-run: %d\n%s", status, out)
	}
	if now := tree(t, c.home); now != before {
		t.Errorf("a dry run has changed\n%s\nto\n%s", before, now)
	}
	for range 2 {
		if status, out := c.ctl("setup", "--all"); status != 0 {
			t.Fatalf("setup: %d\n%s", status, out)
		}
	}
	for path, want := range map[string]string{
		services: "Exec=" + c.bin + "/keyringd\n",
		c.home + "/.config/environment.d/50-keyringd.conf":        "SSH_AUTH_SOCK=${SSH_AUTH_SOCK:-${XDG_RUNTIME_DIR}/keyringd/ssh}\n",
		c.home + "/.config/xdg-desktop-portal/gnome-portals.conf": "default=gnome;gtk;\n" + portalKey + "=keyringd\n",
		filepath.Dir(c.bin) + "/environment":                      "SSH_AUTH_SOCK=" + c.run + "/keyringd/ssh\n",
	} {
		if !strings.Contains(readText(path), want) {
			t.Errorf("%s:\n%s\nwant %s", path, readText(path), want)
		}
	}
	for _, socket := range []string{"ssh", "pkcs11", "control"} {
		if !exists(c.home + "/.config/systemd/user/sockets.target.wants/keyringd-" + socket + ".socket") {
			t.Errorf("the socket %s is not enabled", socket)
		}
	}
	if status, out := c.ctl("setup", "--undo"); status != 0 {
		t.Fatalf("setup --undo: %d\n%s", status, out)
	}
	c.follow("systemctl --user stop keyringd.service")
	if err := os.RemoveAll(c.home + "/.local/share/keyringd"); err != nil {
		t.Fatal(err)
	}
	if now := tree(t, c.home); now != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, now)
	}
	if exists(filepath.Dir(c.bin) + "/environment") {
		t.Error("the service manager still tells of the socket")
	}
	if status, out := c.ctl("setup", "--undo"); status != 0 {
		t.Errorf("nothing to undo: %d\n%s", status, out)
	}
}

// TestSetupLeavesOthersAlone finds an agent and a keyring at work, and does
// nothing unless it is told to take over.
func TestSetupLeavesOthersAlone(t *testing.T) {
	c := newClinic(t)
	before := tree(t, c.home)
	c.listen(c.run+"/gcr/ssh", true)
	t.Setenv("SSH_AUTH_SOCK", c.run+"/gcr/ssh")
	if status, out := c.ctl("setup", "--ssh"); status != 1 || !strings.Contains(out, "gcr-ssh-agent serves ssh") || !strings.Contains(out, "--replace") {
		t.Errorf("setup --ssh: %d\n%s", status, out)
	}
	if now := tree(t, c.home); now != before {
		t.Errorf("it changed\n%s\nto\n%s", before, now)
	}
	if status, out := c.ctl("setup", "--ssh", "--replace"); status != 0 {
		t.Fatalf("setup --ssh --replace: %d\n%s", status, out)
	}
	for _, unit := range []string{"gcr-ssh-agent.socket", "gcr-ssh-agent.service"} {
		if to, _ := os.Readlink(c.home + "/.config/systemd/user/" + unit); to != "/dev/null" {
			t.Errorf("%s is not masked", unit)
		}
	}
	if text := readText(c.environmentFile()); text != "SSH_AUTH_SOCK=${XDG_RUNTIME_DIR}/keyringd/ssh\n" {
		t.Errorf("environment.d: %s", text)
	}
	if status, out := c.ctl("setup", "--undo"); status != 0 {
		t.Fatalf("setup --undo: %d\n%s", status, out)
	}
	if exists(c.home + "/.config/systemd/user/gcr-ssh-agent.socket") {
		t.Error("gcr-ssh-agent is not given back")
	}
	// An agent of nobody knows whom: perhaps that of another machine.
	c.listen(c.run+"/ssh-abc/agent.12", true)
	t.Setenv("SSH_AUTH_SOCK", c.run+"/ssh-abc/agent.12")
	if status, out := c.ctl("setup", "--ssh", "--replace"); status != 1 || !strings.Contains(out, "machine you came from") {
		t.Errorf("a forwarded agent: %d\n%s", status, out)
	}
}

func (c *clinic) environmentFile() string { return c.home + "/.config/environment.d/50-keyringd.conf" }

// TestSetupTakesOverFromGnomeKeyring has the real one keep the passwords.
func TestSetupTakesOverFromGnomeKeyring(t *testing.T) {
	bustest.Need(t, "gnome-keyring-daemon")
	c := newClinic(t)
	c.follow("systemctl --user stop keyringd.service")
	gnome := exec.Command("gnome-keyring-daemon", "--foreground", "--components=secrets")
	if err := gnome.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- gnome.Wait() }()
	t.Cleanup(func() { _ = gnome.Process.Kill() })
	c.awaitFinding("secrets-other")
	f, _ := find(c.findings(), "secrets-other")
	if !strings.Contains(f.Title, "gnome-keyring") || f.Mend != "keyringctl setup --secrets --replace" {
		t.Fatalf("%+v", f)
	}
	if status, out := c.ctl("setup", "--secrets"); status != 1 || !strings.Contains(out, "--replace") {
		t.Errorf("without --replace: %d\n%s", status, out)
	}
	c.follow(f.Mend)
	<-ended
	for _, unit := range []string{"gnome-keyring-daemon.socket", "gnome-keyring-daemon.service"} {
		if to, _ := os.Readlink(c.home + "/.config/systemd/user/" + unit); to != "/dev/null" {
			t.Errorf("%s is not masked", unit)
		}
	}
	c.awaitHealth()
}

// TestSetupWithoutServiceManager starts the daemon by the desktop's autostart.
func TestSetupWithoutServiceManager(t *testing.T) {
	c := newClinic(t)
	if err := os.RemoveAll(c.run + "/systemd"); err != nil {
		t.Fatal(err)
	}
	status, out := c.ctl("setup", "--ssh", "--secrets")
	if status != 0 || !strings.Contains(out, "eval \"$(keyringctl env)\"") || strings.Contains(out, "systemctl") {
		t.Errorf("setup: %d\n%s", status, out)
	}
	path := c.home + "/.config/autostart/keyringd.desktop"
	if text := readText(path); !strings.Contains(text, "Exec="+c.bin+"/keyringd\n") {
		t.Errorf("%s:\n%s", path, text)
	}
	bustest.Need(t, "desktop-file-validate")
	if out, err := exec.CommandContext(t.Context(), "desktop-file-validate", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestEnvironmentFile gives what setup writes to the service manager's own
// reader: an agent that is set is left as it is.
func TestEnvironmentFile(t *testing.T) {
	const generator = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"
	if _, err := os.Stat(generator); err != nil {
		bustest.Need(t, generator)
	}
	home := t.TempDir()
	m := machine{&session{world: world{Getenv: func(k string) string { return map[string]string{"HOME": home, "XDG_RUNTIME_DIR": "/run/user/7"}[k] }}}}
	if err := writeFile(m.environmentFile(), "SSH_AUTH_SOCK=${SSH_AUTH_SOCK:-${XDG_RUNTIME_DIR}/keyringd/ssh}\n", 0o644); err != nil {
		t.Fatal(err)
	}
	for set, want := range map[string]string{"": "/run/user/7/keyringd/ssh", "/other": "/other"} {
		cmd := exec.CommandContext(t.Context(), generator)
		cmd.Env = []string{"HOME=" + home, "XDG_RUNTIME_DIR=/run/user/7"}
		if set != "" {
			cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+set)
		}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got := "unset"
		if m := regexp.MustCompile(`(?m)^SSH_AUTH_SOCK=(.*)$`).FindSubmatch(out); m != nil {
			got = string(m[1])
		}
		if got != want && !(set != "" && got == "unset") {
			t.Errorf("with %q: %s, want %s", set, got, want)
		}
	}
}

// TestEnv has each shell evaluate its line, for a socket whose path is as
// awkward as paths get.
func TestEnv(t *testing.T) {
	for shell, line := range map[string]string{
		"sh":   `eval "$(cat line)"; printf %s "$SSH_AUTH_SOCK"`,
		"bash": `eval "$(cat line)"; printf %s "$SSH_AUTH_SOCK"`,
		"zsh":  `eval "$(cat line)"; printf %s "$SSH_AUTH_SOCK"`,
		"fish": `source line; printf %s "$SSH_AUTH_SOCK"`,
		"tcsh": "source line; printenv SSH_AUTH_SOCK",
	} {
		t.Run(shell, func(t *testing.T) {
			bustest.Need(t, shell)
			for _, dir := range []string{"/run/user/7", `/run/o'br!ien \ $HOME "x"`} {
				env := map[string]string{"XDG_RUNTIME_DIR": dir, "SHELL": "/usr/bin/" + shell}
				var out bytes.Buffer
				if status := run(t.Context(), []string{"env"}, world{Getenv: func(k string) string { return env[k] }, Out: &out, Err: &out}); status != 0 {
					t.Fatalf("%d: %s", status, out.String())
				}
				cmd := exec.CommandContext(t.Context(), shell, "-c", line)
				if shell == "tcsh" {
					cmd.Args = []string{shell, "-f", "-c", line}
				}
				cmd.Dir = t.TempDir()
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}
				if err := os.WriteFile(filepath.Join(cmd.Dir, "line"), out.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				got, err := cmd.CombinedOutput()
				if want := dir + "/keyringd/ssh"; err != nil || strings.TrimSuffix(string(got), "\n") != want {
					t.Errorf("%v: %q, want %q, from %s", err, got, want, out.String())
				}
			}
		})
	}
	// What is set stays.
	env := map[string]string{"XDG_RUNTIME_DIR": "/run/user/7", "SSH_AUTH_SOCK": "/other"}
	var out, said bytes.Buffer
	status := run(t.Context(), []string{"env"}, world{Getenv: func(k string) string { return env[k] }, Out: &out, Err: &said})
	if status != 0 || out.Len() > 0 || !strings.Contains(said.String(), "--force") {
		t.Errorf("with another agent: %d %q %q", status, out.String(), said.String())
	}
	if status := run(t.Context(), []string{"env", "--force"}, world{Getenv: func(k string) string { return env[k] }, Out: &out, Err: &said}); status != 0 || out.Len() == 0 {
		t.Errorf("--force: %d %q", status, out.String())
	}
}

// TestSameFiles compares what setup writes with what packages have.
func TestSameFiles(t *testing.T) {
	for path, want := range map[string]string{
		"../../packaging/dbus-1/org.freedesktop.secrets.service": secretsService("/usr/bin/keyringd"),
		"../../packaging/autostart/keyringd.desktop":             autostart("/usr/bin/keyringd"),
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
			if !strings.Contains(string(text), line+"\n") {
				t.Errorf("%s has no %s", path, line)
			}
		}
	}
}

func TestINI(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "[g]\nk=v\n"},
		{"[a]\nk=1\n", "[a]\nk=1\n[g]\nk=v\n"},
		{"[g]\nx=1\n\n[b]\ny=2\n", "[g]\nx=1\nk=v\n\n[b]\ny=2\n"},
		{"[b]\nk=0\n[g]\n# c\nk = old\nz=1", "[b]\nk=0\n[g]\n# c\nk=v\nz=1\n"},
	} {
		got := setINI(c.text, "g", "k", "v")
		if got != c.want || getINI(got, "g", "k") != "v" {
			t.Errorf("%q became %q, want %q", c.text, got, c.want)
		}
	}
	if getINI("[a]\nk=1\n", "g", "k") != "" {
		t.Error("a key of another group")
	}
}
