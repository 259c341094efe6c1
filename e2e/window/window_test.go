package window

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
)

const (
	cancelled    = "ERR 83886179 Operation cancelled <keyring-ui>"
	notConfirmed = "ERR 83886194 Not confirmed <keyring-ui>"
)

func TestTypePIN(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	a.tell("OPTION grab", "OPTION keyringd-kind=passphrase", "OPTION keyringd-pin=1", "OPTION keyringd-subject=work laptop", "SETDESC x")
	a.send("GETPIN")
	s.window()
	s.keys("Return") // nothing was typed: that must not cost a try
	s.types("4%3 é1")
	s.keys("Return")
	a.want("D 4%253 é1|OK")
	s.gone()

	// The same process asks again.
	a.tell("OPTION keyringd-kind=passphrase", "OPTION keyringd-retry=1", "OPTION keyringd-left=2")
	a.send("GETPIN")
	s.window()
	s.types("zweite")
	s.keys("BackSpace", "Return")
	a.want("D zweit|OK")
	a.send("BYE")
	a.want("OK closing connection")
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// The flags of every pinentry, as gpg-agent and people give them.
func TestFlags(t *testing.T) {
	require(t)
	a := start(t, []string{"PATH=" + os.Getenv("PATH")}, "--display", ":5", "--ttyname=/dev/pts/1", "-N", "xterm", "--lc-ctype", "C.UTF-8",
		"--lc-messages", "C", "--timeout", "5", "--no-global-grab", "--parent-wid", "0x10", "--debug", "--colors", "none", "--ttyalert", "beep")
	a.send("GETINFO ttyinfo")
	a.want("D /dev/pts/1 xterm :5 - - -|OK")
	a.send("GETINFO pid")
	a.want(fmt.Sprintf("D %d|OK", a.cmd.Process.Pid))
	for _, c := range []struct {
		args   []string
		status int
		out    string
	}{
		{[]string{"--version"}, 0, "keyring-ui (keyringd) test\n"},
		{[]string{"--nonsense"}, 2, ""},
		{[]string{"one", "two"}, 2, ""},
		{[]string{"--help"}, 0, ""},
	} {
		cmd := exec.Command(binary, c.args...)
		out, _ := cmd.Output()
		if cmd.ProcessState.ExitCode() != c.status || string(out) != c.out {
			t.Errorf("%q: status %d, %q", c.args, cmd.ProcessState.ExitCode(), out)
		}
	}
}

func TestRefuse(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	a.send("GETPIN")
	s.window()
	s.types("half a p")
	s.keys("Escape")
	a.want(cancelled)
	s.gone()

	a.send("GETPIN")
	s.window()
	s.types("half")
	if err := s.tool("wmctrl", "-c", ":ACTIVE:"); err != nil {
		t.Fatal(err)
	}
	a.want("S BUTTON_INFO close|" + cancelled)
	s.gone()

	a.tell("SETTIMEOUT 1")
	a.send("GETPIN")
	s.window()
	a.want("ERR 83886142 Timeout <keyring-ui>")
}

func TestRepeat(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	a.tell("SETREPEAT Again:", "SETQUALITYBAR")
	a.send("GETPIN")
	s.window()
	s.types("ab")
	s.keys("Tab")
	s.types("ax")
	s.keys("Return", "BackSpace")
	s.types("b")
	s.keys("Return")
	var inquiries int
	for {
		if !a.lines.Scan() {
			t.Fatal("no answer")
		}
		line := a.lines.Text()
		if strings.HasPrefix(line, "INQUIRE QUALITY ") {
			inquiries++
			a.send("D 50")
			a.send("END")
			continue
		}
		if line != "S PIN_REPEATED" {
			t.Errorf("answer %q", line)
		}
		break
	}
	a.want("D ab|OK")
	if inquiries == 0 {
		t.Error("the client was not asked how good it is")
	}
}

// What was typed before the window came approves nothing.
func TestTypeAhead(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	for range 3 {
		a.tell("OPTION keyringd-kind=confirm", "OPTION keyringd-subject=work laptop")
		a.send("CONFIRM")
		// In one go: on a busy machine a pause between two programs would be as long
		// as the guard.
		s.keys(slices.Repeat([]string{"y", "e", "s", "Return", "Tab", "space"}, 4)...)
		// All of it may have come before the window, or during the guard. Then
		// the question is still there, and Tab went from one button to the other.
		answered := make(chan string, 1)
		go func() { answered <- a.reply() }()
		var got string
		select {
		case got = <-answered:
		case <-time.After(2 * time.Second):
			s.keys("Escape")
			got = <-answered
		}
		if got != notConfirmed && got != cancelled {
			t.Errorf("type-ahead was answered with %q", got)
		}
		s.gone()
	}
}

func TestConfirm(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	for _, c := range []struct {
		keys []string
		want string
	}{
		{[]string{"Return"}, notConfirmed}, // the default is no
		{[]string{"Tab", "Return"}, "OK"},
		{[]string{"Tab", "space"}, "OK"},
		{[]string{"Tab", "Tab", "Return"}, notConfirmed},
		{[]string{"Escape"}, cancelled},
	} {
		a.tell("OPTION keyringd-kind=confirm", "OPTION keyringd-subject=work laptop")
		a.send("CONFIRM")
		s.window()
		armed()
		s.keys(c.keys...)
		a.want(c.want)
		s.gone()
	}
	a.send("MESSAGE")
	s.window()
	armed()
	s.keys("Return")
	a.want("OK")
}

// Where no window can be opened the asker hears so, soon, and does not take it
// for the user's "no".
func TestNoDisplay(t *testing.T) {
	require(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	port := silent.Addr().(*net.TCPAddr).Port
	for name, display := range map[string]string{
		"none":         "",
		"nobody there": ":" + strconv.Itoa(64000),
		"silent":       "127.0.0.1:" + strconv.Itoa(port-6000),
		"no OpenGL":    server(t, "-extension", "GLX"),
	} {
		t.Run(name, func(t *testing.T) {
			env := append(os.Environ(), "DISPLAY="+display, "WAYLAND_DISPLAY=")
			for _, command := range []string{"GETPIN", "CONFIRM", "MESSAGE"} {
				a := start(t, env)
				began := time.Now()
				a.send(command)
				got := a.reply()
				if !strings.HasPrefix(got, "ERR 83886081 cannot open a window: ") {
					t.Errorf("%s: %q", command, got)
				}
				// Two seconds on a machine with nothing else to do.
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("%s: said so after %v", command, took)
				}
			}
		})
	}
}

// A client that goes away takes its window with it.
func TestHangUp(t *testing.T) {
	s := newScreen(t)
	cmd := exec.Command(binary)
	cmd.Env = s.env
	cmd.Stdin = strings.NewReader("GETPIN\n")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.window() // although its standard input has ended
	r.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended as if it had been answered")
	}
	s.gone()
}

// What the process is told and shows must not be for others to read.
func TestNothingLeaks(t *testing.T) {
	s := newScreen(t)
	a := start(t, s.env)
	a.send("GETPIN")
	s.window()
	dir := fmt.Sprintf("/proc/%d/", a.cmd.Process.Pid)
	if os.Getuid() != 0 {
		if _, err := os.ReadFile(dir + "environ"); err == nil {
			t.Error("the process may be traced")
		}
	}
	limits, err := os.ReadFile(dir + "limits")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(limits), "Max core file size        0 ") {
		t.Errorf("it may leave a core file:\n%s", limits)
	}
	s.types("canary")
	s.keys("ctrl+a", "ctrl+c", "ctrl+x", "Return")
	a.want("D canary|OK")
}

func TestAskpass(t *testing.T) {
	s := newScreen(t)
	ask := func(hint string, keys func()) (string, error) {
		cmd := exec.Command(binary, "Enter passphrase for key '/x': ")
		cmd.Env = append(s.env, "SSH_ASKPASS_PROMPT="+hint)
		done := make(chan error, 1)
		var out []byte
		go func() {
			var err error
			out, err = cmd.Output()
			done <- err
		}()
		s.window()
		keys()
		err := <-done
		s.gone()
		return string(out), err
	}
	if out, err := ask("", func() { s.types("p w"); s.keys("Return") }); out != "p w\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := ask("", func() { s.keys("Escape") }); out != "" || err == nil {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := ask("confirm", func() { armed(); s.keys("Tab", "Return") }); out != "" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := ask("confirm", func() { armed(); s.keys("Return") }); out != "" || err == nil {
		t.Errorf("%q, %v", out, err)
	}
}

// ssh-add asks for a key's passphrase, and ssh-agent for permission to use it.
func TestSSHAdd(t *testing.T) {
	s := newScreen(t)
	dir := shortDir(t)
	key := filepath.Join(dir, "key")
	env := append(s.env, "SSH_ASKPASS="+binary, "SSH_ASKPASS_REQUIRE=force", "SSH_AUTH_SOCK="+dir+"/agent")
	must(t, env, "ssh-keygen", "-q", "-t", "ed25519", "-N", "tulip 1", "-C", "mia", "-f", key)
	run(t, env, nil, "ssh-agent", "-D", "-a", dir+"/agent")
	await(t, "ssh-agent", func() bool { _, err := os.Stat(dir + "/agent"); return err == nil })

	done := begin(env, "ssh-add", "-c", key)
	s.window()
	s.types("tulip 1")
	s.keys("Return")
	if out, err := done(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.gone()
	file := filepath.Join(dir, "text")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		keys []string
		good bool
	}{{[]string{"Tab", "Return"}, true}, {[]string{"Return"}, false}} {
		_ = os.Remove(file + ".sig")
		done = begin(env, "ssh-keygen", "-Y", "sign", "-n", "test", "-f", key+".pub", file)
		s.window()
		armed()
		s.keys(c.keys...)
		if out, err := done(); (err == nil) != c.good {
			t.Errorf("%v: %v\n%s", c.keys, err, out)
		}
		s.gone()
	}
}

// gpg-agent with keyring-ui as its pinentry-program decrypts and signs.
func TestGPG(t *testing.T) {
	s := newScreen(t)
	bustest.Need(t, "gpg")
	dir := shortDir(t)
	if err := os.WriteFile(filepath.Join(dir, "gpg-agent.conf"),
		[]byte("pinentry-program "+binary+"\nallow-loopback-pinentry\ndefault-cache-ttl 0\nmax-cache-ttl 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(s.env, "GNUPGHOME="+dir)
	t.Cleanup(func() {
		cmd := exec.Command("gpgconf", "--kill", "all")
		cmd.Env = env
		_ = cmd.Run()
	})
	must(t, env, "gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "tulip %1", "--quick-gen-key", "Mia <mia@example.org>", "rsa2048", "default", "never")
	fingerprint := ""
	for line := range strings.Lines(must(t, env, "gpg", "--with-colons", "--list-keys")) {
		if strings.HasPrefix(line, "fpr:") && fingerprint == "" {
			fingerprint = strings.Split(line, ":")[9]
		}
	}
	must(t, env, "gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "tulip %1", "--quick-add-key", fingerprint, "rsa2048", "encr", "never")
	text, sealed := filepath.Join(dir, "text"), filepath.Join(dir, "sealed")
	if err := os.WriteFile(text, []byte("for mia"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, env, "gpg", "--batch", "--trust-model", "always", "-r", "mia@example.org", "-o", sealed, "--encrypt", text)

	done := begin(env, "gpg", "--quiet", "--decrypt", sealed)
	s.window()
	s.types("wrong")
	s.keys("Return")
	s.gone() // gpg-agent tries it, and asks again
	s.window()
	s.types("tulip %1")
	s.keys("Return")
	if out, err := done(); err != nil || !strings.HasSuffix(out, "for mia") {
		t.Errorf("%v\n%s", err, out)
	}
	s.gone()

	done = begin(env, "gpg", "--quiet", "--detach-sign", "-o", filepath.Join(dir, "sig"), text)
	s.window()
	s.types("tulip %1")
	s.keys("Return")
	if out, err := done(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	must(t, env, "gpg", "--verify", filepath.Join(dir, "sig"), text)
	s.gone()

	done = begin(env, "gpg", "--quiet", "--detach-sign", "-o", filepath.Join(dir, "sig2"), text)
	s.window()
	s.keys("Escape")
	if out, err := done(); err == nil || !strings.Contains(out, "cancelled") {
		t.Errorf("%v\n%s", err, out)
	}
}

// shortDir is a folder whose sockets have names that are short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	out, err := begin(env, name, args...)()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

// begin starts a program, and returns a function that waits for its end.
func begin(env []string, name string, args ...string) func() (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = env
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		done <- result{string(out), err}
	}()
	return func() (string, error) {
		select {
		case r := <-done:
			return r.out, r.err
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			return "", fmt.Errorf("it does not end")
		}
	}
}
