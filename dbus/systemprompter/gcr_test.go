package systemprompter

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/prompt"
)

// gcrPrompter is where Debian has it.
const gcrPrompter = "/usr/libexec/gcr-prompter"

// TestGCR asks through gcr-prompter, and types into its window.
func TestGCR(t *testing.T) {
	for _, program := range []string{"Xvfb", "xdotool", gcrPrompter} {
		bustest.Need(t, program)
	}
	bus := bustest.Start(t)
	display := xvfb(t)
	env := append(os.Environ(), "DISPLAY="+display, "DBUS_SESSION_BUS_ADDRESS="+bus.Address, "GDK_BACKEND=x11", "NO_AT_BRIDGE=1", "LC_ALL=C.UTF-8")
	background(t, env, nil, gcrPrompter)
	p := &Prompter{Address: bus.Address}
	desktop := dial(t, bus)
	poll(t, "the prompter's name", func() bool {
		var owned bool
		return desktop.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&owned) == nil && owned
	})
	tool := func(args ...string) (string, error) {
		cmd := exec.Command("xdotool", args...)
		cmd.Env = env
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	window := func() bool {
		out, err := tool("search", "--onlyvisible", "--name", ".")
		return err == nil && out != ""
	}
	q := prompt.Question{Kind: prompt.Passphrase, Subject: "Login", Reason: "read a secret", Caller: "mail (7)"}
	begin := func(q prompt.Question) (context.CancelFunc, func() (string, error)) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		var text string
		var err error
		end := make(chan struct{})
		go func() {
			defer close(end)
			var a prompt.Answer
			a, err = p.Prompt(ctx, q)
			a.Passphrase.Use(func(b []byte) { text = string(b) })
			a.Passphrase.Wipe()
		}()
		poll(t, "its window", window)
		return cancel, func() (string, error) { <-end; return text, err }
	}

	_, end := begin(q)
	if _, err := tool("type", "--delay", "30", "pass phrase"); err != nil {
		t.Fatal(err)
	}
	if _, err := tool("key", "Return"); err != nil {
		t.Fatal(err)
	}
	if got, err := end(); got != "pass phrase" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	poll(t, "the window to go", func() bool { return !window() })

	_, end = begin(q)
	if _, err := tool("key", "Escape"); err != nil {
		t.Fatal(err)
	}
	if _, err := end(); !errors.Is(err, prompt.ErrDismissed) {
		t.Errorf("Escape: %v", err)
	}
	poll(t, "the window to go", func() bool { return !window() })

	hangUp, end := begin(prompt.Question{Kind: prompt.Confirm, Subject: "k"})
	hangUp()
	if _, err := end(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	poll(t, "the window to go", func() bool { return !window() })
}

// xvfb runs an X server and returns its name.
func xvfb(t *testing.T) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	background(t, os.Environ(), w, "Xvfb", "-displayfd", "3", "-screen", "0", "800x600x24", "-nolisten", "tcp")
	_ = w.Close()
	number, err := io.ReadAll(io.LimitReader(r, 16))
	if err != nil || len(number) == 0 {
		t.Fatalf("Xvfb did not start: %v", err)
	}
	return ":" + strings.TrimSpace(string(number))
}

// background runs a program until the test ends.
func background(t *testing.T, env []string, extra *os.File, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = env
	if extra != nil {
		cmd.ExtraFiles = []*os.File{extra}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}
