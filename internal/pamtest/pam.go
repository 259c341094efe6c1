// Package pamtest logs a user in for a test, by the distribution's own
// pam_gnome_keyring.so: pam_wrapper makes libpam look for services in a folder
// of the test's, and lets it say what pam_unix.so would have asked for.
package pamtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"

	"github.com/keyringd/keyringd/internal/bustest"
)

// A Stack is a service that a user logs in to.
type Stack struct {
	// Home is where gnome-keyring-daemon would put keyrings if it were started.
	Home string

	tb       testing.TB
	services string
	runtime  string // $XDG_RUNTIME_DIR
	user     string
	wrapper  string
}

// New makes a service for a user whose XDG_RUNTIME_DIR is that folder. It skips
// the test where a part of it is missing, or fails it if KEYRINGD_TEST_REQUIRE
// is 1.
func New(tb testing.TB, runtimeDir string) *Stack {
	tb.Helper()
	bustest.Need(tb, "pamtester")
	module := find(tb, "pam_gnome_keyring.so", "/lib/*/security/pam_gnome_keyring.so", "/usr/lib/security/pam_gnome_keyring.so", "/usr/lib64/security/pam_gnome_keyring.so")
	items := find(tb, "pam_wrapper", "/usr/lib/*/pam_wrapper/pam_set_items.so", "/usr/lib/pam_wrapper/pam_set_items.so", "/usr/lib64/pam_wrapper/pam_set_items.so")
	p := &Stack{tb: tb, services: tb.TempDir(), runtime: runtimeDir, Home: tb.TempDir(),
		wrapper: find(tb, "libpam_wrapper.so", "/usr/lib/*/libpam_wrapper.so", "/usr/lib/libpam_wrapper.so", "/usr/lib64/libpam_wrapper.so")}
	me, err := user.Current()
	if err != nil {
		tb.Fatal(err)
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
	p.BeforeSession("")
	p.put("other", "auth required pam_deny.so\n", 0o600)
	return p
}

// find returns the first file that one of the patterns names.
func find(tb testing.TB, what string, patterns ...string) string {
	tb.Helper()
	for _, p := range patterns {
		if all, err := filepath.Glob(p); err == nil && len(all) > 0 {
			return all[0]
		}
	}
	bustest.Missing(tb, what)
	return ""
}

func (p *Stack) put(name, text string, mode os.FileMode) {
	p.tb.Helper()
	if err := os.WriteFile(filepath.Join(p.services, name), []byte(text), mode); err != nil {
		p.tb.Fatal(err)
	}
}

// BeforeSession sets the shell commands that are run after the password was
// asked for and before the session begins.
func (p *Stack) BeforeSession(commands string) {
	p.tb.Helper()
	p.put("session.sh", "#!/bin/sh\n"+commands+"\n", 0o700)
}

// Run goes through operations of PAM, named as pamtester names them, with
// environment in addition: PAM_AUTHTOK is the password, and PAM_OLDAUTHTOK the
// one before.
func (p *Stack) Run(env []string, operations ...string) (string, error) {
	p.tb.Helper()
	cmd := exec.CommandContext(p.tb.Context(), "pamtester", append([]string{"keyringd-test", p.user}, operations...)...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.Home, "XDG_RUNTIME_DIR=" + p.runtime, "XDG_DATA_HOME=" + p.Home,
		"LD_PRELOAD=" + p.wrapper, "PAM_WRAPPER=1", "PAM_WRAPPER_SERVICE_DIR=" + p.services,
	}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// NoOther wants that nobody started gnome-keyring-daemon, which makes a keyring
// and sockets of its own.
func (p *Stack) NoOther() {
	p.tb.Helper()
	if _, err := os.Stat(filepath.Join(p.Home, "keyrings")); err == nil {
		p.tb.Error("gnome-keyring-daemon was started")
	}
	all, err := os.ReadDir(filepath.Join(p.runtime, "keyring"))
	if err != nil || len(all) != 1 {
		p.tb.Errorf("beside the socket there is %v %v", all, err)
	}
}
