package control

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A pam is a stack of the distribution's own pam_gnome_keyring.so for a user who
// logs in: pam_wrapper makes libpam look for services in a folder of ours, and
// lets us say what pam_unix.so would have asked for.
type pam struct {
	t        *testing.T
	services string
	runtime  string // $XDG_RUNTIME_DIR
	home     string
	user     string
	wrapper  string
}

// find returns the first file that one of the patterns names.
func find(t *testing.T, what string, patterns ...string) string {
	t.Helper()
	for _, p := range patterns {
		if all, err := filepath.Glob(p); err == nil && len(all) > 0 {
			return all[0]
		}
	}
	need(t, what, false)
	return ""
}

func need(t *testing.T, what string, there bool) {
	t.Helper()
	switch {
	case there:
	case os.Getenv("KEYRINGD_TEST_REQUIRE") == "1":
		t.Fatalf("%s is missing, and KEYRINGD_TEST_REQUIRE=1", what)
	default:
		t.Skipf("%s is missing", what)
	}
}

func newPAM(t *testing.T, runtimeDir string) *pam {
	t.Helper()
	_, err := exec.LookPath("pamtester")
	need(t, "pamtester", err == nil)
	module := find(t, "pam_gnome_keyring.so", "/lib/*/security/pam_gnome_keyring.so", "/usr/lib/security/pam_gnome_keyring.so", "/usr/lib64/security/pam_gnome_keyring.so")
	items := find(t, "pam_wrapper", "/usr/lib/*/pam_wrapper/pam_set_items.so", "/usr/lib/pam_wrapper/pam_set_items.so", "/usr/lib64/pam_wrapper/pam_set_items.so")
	p := &pam{t: t, services: t.TempDir(), runtime: runtimeDir, home: t.TempDir(),
		wrapper: find(t, "libpam_wrapper.so", "/usr/lib/*/libpam_wrapper.so", "/usr/lib/libpam_wrapper.so", "/usr/lib64/libpam_wrapper.so")}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	p.user = me.Username
	stack := fmt.Sprintf(`auth     required %[1]s
auth     required %[2]s
account  required %[1]s
password required %[1]s
password required %[2]s use_authtok
session  required %[3]s quiet %[4]s
session  required %[2]s auto_start
`, items, module, filepath.Join(filepath.Dir(module), "pam_exec.so"), filepath.Join(p.services, "session.sh"))
	p.put("keyringd-test", stack, 0o600)
	p.put("session.sh", "#!/bin/sh\n", 0o700)
	p.put("other", "auth required pam_deny.so\n", 0o600)
	return p
}

func (p *pam) put(name, text string, mode os.FileMode) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.services, name), []byte(text), mode); err != nil {
		p.t.Fatal(err)
	}
}

// run goes through operations of PAM, with environment in addition.
func (p *pam) run(env []string, operations ...string) (string, error) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "pamtester", append([]string{"keyringd-test", p.user}, operations...)...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "XDG_RUNTIME_DIR=" + p.runtime, "XDG_DATA_HOME=" + p.home,
		"LD_PRELOAD=" + p.wrapper, "PAM_WRAPPER=1", "PAM_WRAPPER_SERVICE_DIR=" + p.services,
	}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// noOther wants that nobody started gnome-keyring-daemon, which makes a keyring
// and sockets of its own.
func (p *pam) noOther() {
	p.t.Helper()
	if _, err := os.Stat(filepath.Join(p.home, "keyrings")); err == nil {
		p.t.Error("gnome-keyring-daemon was started")
	}
	all, err := os.ReadDir(filepath.Join(p.runtime, "keyring"))
	if err != nil || len(all) != 1 {
		p.t.Errorf("beside the socket there is %v %v", all, err)
	}
}

// The password of the login is the password of the keyring.
func TestPAMUnlocks(t *testing.T) {
	login := &fakeLogin{password: "sesame"}
	dir, log := start(t, login, nil)
	p := newPAM(t, dir)
	out, err := p.run([]string{"PAM_AUTHTOK=sesame"}, "authenticate", "open_session", "close_session")
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	if got := login.said(); !slices.Equal(got, []string{"login sesame"}) {
		t.Errorf("calls %q\n%s", got, log)
	}
	if who := login.callers[0].String(); !strings.Contains(who, "pamtester") {
		t.Errorf("caller %q", who)
	}
	p.noOther()
}

// At a real login the daemon is started after the password was asked for, when
// the session begins: the module keeps the password until then.
func TestPAMUnlocksWhenTheSessionBegins(t *testing.T) {
	login := &fakeLogin{password: "sesame"}
	dir, log := start(t, login, nil)
	p := newPAM(t, dir)
	away := filepath.Join(dir, "away")
	if err := os.Rename(filepath.Join(dir, "keyring"), away); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(away, filepath.Join(dir, "keyring")) })
	p.put("session.sh", "#!/bin/sh\nexec mv '"+away+"' '"+filepath.Join(dir, "keyring")+"'\n", 0o700)
	out, err := p.run([]string{"PAM_AUTHTOK=sesame"}, "authenticate", "open_session")
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	if got := login.said(); !slices.Equal(got, []string{"login sesame"}) {
		t.Errorf("calls %q\n%s", got, log)
	}
	p.noOther()
}

// The password of the keyring changes with that of the login.
func TestPAMChanges(t *testing.T) {
	login := &fakeLogin{password: "sesame"}
	dir, log := start(t, login, nil)
	p := newPAM(t, dir)
	if out, err := p.run([]string{"PAM_OLDAUTHTOK=sesame", "PAM_AUTHTOK=mellon"}, "chauthtok"); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	if got := login.said(); !slices.Equal(got, []string{"change sesame mellon"}) || login.password != "mellon" {
		t.Errorf("calls %q, password %q\n%s", got, login.password, log)
	}
	if out, err := p.run([]string{"PAM_AUTHTOK=mellon"}, "authenticate"); err != nil || len(login.said()) != 2 {
		t.Errorf("with the new one: %v\n%s\n%s", err, out, log)
	}
	if _, err := p.run([]string{"PAM_OLDAUTHTOK=sesame", "PAM_AUTHTOK=x"}, "chauthtok"); err == nil || login.password != "mellon" {
		t.Errorf("with an old one: %v, password %q\n%s", err, login.password, log)
	}
	p.noOther()
}

// gnome-keyring's own program speaks to us as it does to itself: it hands over
// the desktop's environment and takes what comes back.
func TestGnomeKeyringStart(t *testing.T) {
	_, err := exec.LookPath("gnome-keyring-daemon")
	need(t, "gnome-keyring-daemon", err == nil)
	dir, log := start(t, &fakeLogin{}, nil)
	cmd := exec.CommandContext(t.Context(), "gnome-keyring-daemon", "--start", "--components=secrets")
	home := t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + dir, "XDG_DATA_HOME=" + home, "DISPLAY=:77"}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "couldn't") {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(log.String(), "operation=initialize") {
		t.Errorf("it did not ask us\n%s\n%s", out, log)
	}
	all, err := os.ReadDir(filepath.Join(dir, "keyring"))
	if err != nil || len(all) != 1 {
		t.Errorf("it made sockets of its own: %v %v", all, err)
	}
}
