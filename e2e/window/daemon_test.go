package window

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/daemontest"
	"github.com/keyringd/keyringd/internal/sshdtest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

var pictures = flag.String("pictures", "", "a `folder` to put pictures of the windows into")

// picture takes one of a window, where that is wanted. Without a window import
// would wait for somebody to point at one.
func (s *screen) picture(window, name string) {
	s.t.Helper()
	switch {
	case *pictures == "":
	case window == "":
		s.t.Errorf("no window for the picture %s", name)
	default:
		if err := s.tool("import", "-frame", "-window", window, filepath.Join(*pictures, name+".png")); err != nil {
			s.t.Error(err)
		}
	}
}

// daemon starts keyringd on the screen, with one key of a TPM whose PIN is 4711
// and which is used by sign.
func (s *screen) daemon(flags ...string) (d *daemontest.Session, sign func() <-chan error) {
	t := s.t
	t.Helper()
	t.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
	for _, kv := range s.env[len(os.Environ()):] {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	t.Setenv("DISPLAY", s.display)
	t.Setenv("LC_ALL", "C.UTF-8")
	tpm := tpmtest.Start(t)
	d = daemontest.New(t)
	d.Key("work-laptop", tpm.OpenSSLKey(t, "EC:P-256", "4711", 0))
	d.Start(tpm.Address().String(), append([]string{"--prompter", "ui"}, flags...)...)
	keys, err := d.Client().List()
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	return d, func() <-chan error {
		done := make(chan error, 1)
		go func() {
			sig, err := d.Client().Sign(keys[0], []byte("data"))
			if err == nil {
				err = keys[0].Verify([]byte("data"), sig)
			}
			done <- err
		}()
		return done
	}
}

// keyringd signs with a PIN key of a TPM, and the PIN is typed into the window.
func TestDaemon(t *testing.T) {
	s := newScreen(t)
	_, sign := s.daemon()
	done := sign()
	s.window()
	s.keys("Escape")
	if err := <-done; err == nil {
		t.Error("signed without a PIN")
	}
	s.gone()
	done = sign()
	s.window()
	s.types("4711")
	s.keys("Return")
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.gone()
	if err := <-sign(); err != nil { // remembered
		t.Error(err)
	}
}

// What is remembered is the user's to say, in the window.
func TestDaemonRemembersWhatItMay(t *testing.T) {
	s := newScreen(t)
	_, sign := s.daemon()
	for range 2 {
		done := sign()
		s.window()
		s.types("4711")
		s.keys("Tab", "space", "Return")
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.gone()
	}
}

// ssh logs in to a real sshd with a PIN key, by typing into a window that says
// which key, which host and which program.
func TestLogin(t *testing.T) {
	s := newScreen(t)
	// In between keyringd and the window, who listens to what is said.
	dir := shortDir(t)
	heard := filepath.Join(dir, "heard")
	between := fmt.Sprintf("#!/bin/sh\ntee -a '%s' | '%s' \"$@\"\n", heard, binary)
	if err := os.WriteFile(filepath.Join(dir, "between"), []byte(between), 0o700); err != nil {
		t.Fatal(err)
	}
	d, _ := s.daemon("--prompter", "pinentry:"+filepath.Join(dir, "between"))
	lines := d.Must("ssh-add", "-L")
	public := filepath.Join(dir, "key.pub")
	if err := os.WriteFile(public, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	sshd := sshdtest.Start(t, lines)
	login := func(name string) (said string) {
		t.Helper()
		_ = os.Remove(heard)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error, 1)
		go func() {
			out, err := sshd.Login(ctx, d.Socket, public)
			if err == nil && out != "logged in" {
				err = fmt.Errorf("sshd said %q", out)
			}
			done <- err
		}()
		s.window()
		armed() // for the picture: all of it is painted
		s.picture(s.visible(), name)
		s.types("4711")
		s.keys("Tab", "space", "Return") // not remembered: it is asked again
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.gone()
		b, err := os.ReadFile(heard)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	told := func(said string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(said, "OPTION keyringd-"+p) {
				t.Errorf("the window was not told %q:\n%s", p, said)
			}
		}
	}
	shown := []string{"subject=work-laptop\n", "fingerprint=" + ssh.FingerprintSHA256(key) + "\n", "caller=ssh (", "reason="}
	if ssh9(t) {
		host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(sshd.HostKey()))
		if err != nil {
			t.Fatal(err)
		}
		// A host that nobody knows goes by its key, and the window says so.
		told(login("login-unknown-host"), append(shown, "host="+ssh.FingerprintSHA256(host)+"\n", "host-warning=not verified")...)
		// One that the user knows goes by its name.
		if err := os.WriteFile(filepath.Join(d.Keys, "known_hosts"), []byte("git.example.org "+sshd.HostKey()), 0o600); err != nil {
			t.Fatal(err)
		}
		said := login("login")
		told(said, append(shown, "host=git.example.org\n")...)
		if strings.Contains(said, "host-warning") {
			t.Errorf("a host that is known is doubted:\n%s", said)
		}
		return
	}
	told(login("login-old-ssh"), shown...)
}

// ssh9 reports whether ssh tells an agent which host it talks to, as it does
// since 8.9.
func ssh9(t *testing.T) bool {
	t.Helper()
	out, _ := exec.Command("ssh", "-V").CombinedOutput()
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "OpenSSH_%d.%d", &major, &minor); err != nil {
		t.Fatalf("ssh -V: %q", out)
	}
	return major > 8 || major == 8 && minor >= 9
}

// How long an answer stands is said with the answer, before it.
func TestTerms(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	for _, c := range []struct {
		kind, command string
		keys          []string
		want          string
	}{
		{"confirm", "CONFIRM", []string{"Tab", "Return"}, "S KEYRINGD_TERM once|OK"},
		{"confirm", "CONFIRM", []string{"shift+Tab", "Right", "Return", "Tab", "Tab", "Return"}, "S KEYRINGD_TERM for-a-while|OK"},
		{"confirm", "CONFIRM", []string{"shift+Tab", "Right", "Right", "Tab", "Tab", "space"}, "S KEYRINGD_TERM until-lock|OK"},
		{"confirm", "CONFIRM", []string{"shift+Tab", "Right", "Tab", "Return"}, notConfirmed},
		{"passphrase", "GETPIN", []string{"x", "Return"}, "S KEYRINGD_TERM for-a-while|D x|OK"},
		{"passphrase", "GETPIN", []string{"x", "Tab", "space", "Return"}, "S KEYRINGD_TERM once|D x|OK"},
		{"passphrase", "GETPIN", []string{"x", "Tab", "Tab", "space", "Return"}, "S KEYRINGD_TERM for-a-while|S KEYRINGD_AUTOMATIC|D x|OK"},
	} {
		a.tell("OPTION keyringd-kind="+c.kind, "OPTION keyringd-subject=mia@laptop", "OPTION keyringd-remember=600", "OPTION keyringd-terms=1",
			"OPTION keyringd-fingerprint=SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM", "OPTION keyringd-host=git.example.org",
			"OPTION keyringd-reason=sign in as mia", "OPTION keyringd-caller=ssh (4711) ← git ← zsh")
		if c.kind == "passphrase" {
			a.tell("OPTION keyringd-automatic=1")
		}
		a.send(c.command)
		s.window()
		armed()
		s.picture(s.visible(), c.kind)
		s.keys(c.keys...)
		a.want(c.want)
		s.gone()
	}
}

// While somebody types, and has typed on since before the window came, nothing
// is taken for an answer, however long that goes on.
func TestTypingOnAndOn(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	const tries = 3
	for try := range tries {
		a.tell("OPTION keyringd-kind=confirm", "OPTION keyringd-subject=work laptop")
		a.send("CONFIRM")
		s.window()
		answered := make(chan string, 1)
		go func() { answered <- a.reply() }()
		// In one go, for three times as long as the guard that nobody disturbs.
		s.keys(slices.Repeat([]string{"a", "Return"}, 40)...)
		select {
		case got := <-answered:
			// A machine so busy that a pause came up may be forgiven, but not always.
			if t.Logf("typing was answered with %q", got); try == tries-1 {
				t.Error("typing was taken for an answer each time")
			}
			s.gone()
			continue
		default:
		}
		armed()
		s.keys("Tab", "Return")
		if got := <-answered; got != "OK" {
			t.Errorf("afterwards it was answered with %q", got)
		}
		return
	}
}
