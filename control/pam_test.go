package control

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/pamtest"
)

// The password of the login is the password of the keyring.
func TestPAMUnlocks(t *testing.T) {
	login := &fakeLogin{password: "sesame"}
	dir, log := start(t, login, nil)
	p := pamtest.New(t, dir)
	out, err := p.Run([]string{"PAM_AUTHTOK=sesame"}, "authenticate", "open_session", "close_session")
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	if got := login.said(); !slices.Equal(got, []string{"login sesame"}) {
		t.Errorf("calls %q\n%s", got, log)
	}
	if who := login.callers[0].String(); !strings.Contains(who, "pamtester") {
		t.Errorf("caller %q", who)
	}
	p.NoOther()
}

// At a real login the daemon is started after the password was asked for, when
// the session begins: the module keeps the password until then.
func TestPAMUnlocksWhenTheSessionBegins(t *testing.T) {
	login := &fakeLogin{password: "sesame"}
	dir, log := start(t, login, nil)
	p := pamtest.New(t, dir)
	away := filepath.Join(dir, "away")
	if err := os.Rename(filepath.Join(dir, "keyring"), away); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(away, filepath.Join(dir, "keyring")) })
	p.BeforeSession("exec mv '" + away + "' '" + filepath.Join(dir, "keyring") + "'")
	out, err := p.Run([]string{"PAM_AUTHTOK=sesame"}, "authenticate", "open_session")
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	if got := login.said(); !slices.Equal(got, []string{"login sesame"}) {
		t.Errorf("calls %q\n%s", got, log)
	}
	p.NoOther()
}

// The password of the keyring changes with that of the login.
func TestPAMChanges(t *testing.T) {
	login := &fakeLogin{password: "sesame"}
	dir, log := start(t, login, nil)
	p := pamtest.New(t, dir)
	if out, err := p.Run([]string{"PAM_OLDAUTHTOK=sesame", "PAM_AUTHTOK=mellon"}, "chauthtok"); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	if got := login.said(); !slices.Equal(got, []string{"change sesame mellon"}) || login.password != "mellon" {
		t.Errorf("calls %q, password %q\n%s", got, login.password, log)
	}
	if out, err := p.Run([]string{"PAM_AUTHTOK=mellon"}, "authenticate"); err != nil || len(login.said()) != 2 {
		t.Errorf("with the new one: %v\n%s\n%s", err, out, log)
	}
	if _, err := p.Run([]string{"PAM_OLDAUTHTOK=sesame", "PAM_AUTHTOK=x"}, "chauthtok"); err == nil || login.password != "mellon" {
		t.Errorf("with an old one: %v, password %q\n%s", err, login.password, log)
	}
	p.NoOther()
}

// gnome-keyring's own program speaks to us as it does to itself: it hands over
// the desktop's environment and takes what comes back.
func TestGnomeKeyringStart(t *testing.T) {
	bustest.Need(t, "gnome-keyring-daemon")
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
