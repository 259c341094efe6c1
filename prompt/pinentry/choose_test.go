package pinentry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/prompt"
)

// install makes empty programs, in a directory that it returns.
func install(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A system is the desktop's own prompter; true if one may be started.
type system bool

func (system) Prompt(context.Context, prompt.Question) (prompt.Answer, error) {
	return prompt.Answer{}, prompt.ErrUnavailable
}

// chosen lists candidates as "program" or "askpass program", with their
// display and terminal.
func chosen(e Env) string {
	var s []string
	for _, c := range e.candidates(context.Background()) {
		switch c := c.(type) {
		case *Program:
			name := filepath.Base(c.Path)
			if c.TTY != "" {
				name += "@tty"
			}
			s = append(s, name)
		case system:
			s = append(s, fmt.Sprintf("system %v", bool(c)))
		case *Askpass:
			s = append(s, "askpass "+filepath.Base(c.Path))
		}
	}
	return strings.Join(s, ", ")
}

func TestAuto(t *testing.T) {
	all := install(t, "pinentry", "pinentry-gnome3", "pinentry-qt", "pinentry-gtk-2", "pinentry-fltk",
		"pinentry-curses", "pinentry-tty", "ssh-askpass", "keyring-ui", "my-askpass")
	beside := install(t, "keyring-ui")
	plain := install(t, "pinentry-curses")
	if err := os.Symlink("pinentry-curses", filepath.Join(plain, "pinentry")); err != nil {
		t.Fatal(err)
	}
	const desktop = "keyring-ui, pinentry-gnome3, pinentry-qt, pinentry-gtk-2, pinentry-fltk, pinentry"
	for _, test := range []struct {
		name string
		env  []string
		tty  bool
		want string
	}{
		{"x11", []string{"DISPLAY=:0", "PATH=" + all}, false, desktop + ", askpass ssh-askpass"},
		{"wayland", []string{"WAYLAND_DISPLAY=wayland-0", "PATH=" + all}, false, desktop + ", askpass ssh-askpass"},
		{"own askpass", []string{"DISPLAY=:0", "PATH=" + all, "SSH_ASKPASS=" + all + "/my-askpass"}, false,
			desktop + ", askpass my-askpass"},
		{"nothing to show on", []string{"PATH=" + all, "SSH_ASKPASS=" + all + "/my-askpass"}, false, ""},
		{"forced askpass", []string{"PATH=" + all, "SSH_ASKPASS=" + all + "/my-askpass", "SSH_ASKPASS_REQUIRE=force"}, false,
			"askpass my-askpass"},
		{"terminal", []string{"PATH=" + all}, true, "pinentry-curses@tty, pinentry-tty@tty"},
		{"terminal, system's choice", []string{"PATH=" + plain}, true, "pinentry-curses@tty, pinentry@tty"},
		{"display, but only terminal programs", []string{"PATH=" + plain, "DISPLAY=:0"}, false, ""},
		{"GPG_TTY is not a terminal", []string{"PATH=" + plain, "GPG_TTY=/dev/null"}, false, ""},
		{"nothing installed", []string{"PATH=relative:" + t.TempDir(), "DISPLAY=:0"}, true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := Env{Environ: test.env}
			if test.tty {
				e.TTY = newTerminal(t).path
			}
			got := chosen(e)
			if !strings.Contains(test.want, "askpass") {
				// A machine may have one in the usual places.
				got, _, _ = strings.Cut(got, ", askpass")
				if strings.HasPrefix(got, "askpass") {
					got = ""
				}
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
	e := Env{Environ: []string{"DISPLAY=:0", "PATH=" + all}, Executable: beside + "/keyringd"}
	if p, ok := e.candidates(context.Background())[0].(*Program); !ok || p.Path != beside+"/keyring-ui" {
		t.Error("keyring-ui beside the daemon does not come first")
	}
}

// A daemon that is older than the display finds it.
func TestDisplayThatCameLater(t *testing.T) {
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	e := Env{Environ: []string{"PATH=" + install(t, "keyring-ui"), "XDG_RUNTIME_DIR=" + dir}}
	if err := os.WriteFile(filepath.Join(dir, "wayland-0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := chosen(e); got != "" {
		t.Errorf("no display: %s", got)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "wayland-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	found := e.candidates(context.Background())
	if len(found) == 0 {
		t.Fatal("found nothing")
	}
	if env := found[0].(*Program).Environ; lookup(env, "WAYLAND_DISPLAY") != "wayland-1" {
		t.Errorf("environment %v", env)
	}
}

func TestNew(t *testing.T) {
	dir := install(t, "keyring-ui", "mine")
	env := Env{Environ: []string{"PATH=" + dir}}
	for spec, want := range map[string]string{
		"auto": "pinentry.auto", "none": "prompt.None", "ui": "*pinentry.Program", "pinentry:mine": "*pinentry.Program",
		"pinentry:" + dir + "/mine": "*pinentry.Program", "askpass:mine": "*pinentry.Askpass",
	} {
		p, err := New(spec, env)
		if got := fmt.Sprintf("%T", p); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", spec, got, err, want)
		}
	}
	for spec, want := range map[string]string{
		"": "want auto", "AUTO": "want auto", "pinentry": "want auto", "pinentry:": "want auto", "askpass": "want auto",
		"none:x": "want auto", "auto:": "want auto", "ui:x": "want auto",
		"pinentry:missing": "not found", "askpass:/etc/passwd": "not found", "gnome": "there is none",
	} {
		if p, err := New(spec, env); err == nil || p != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v %v, want an error with %q", spec, p, err, want)
		}
	}
	env.System = func(start bool) prompt.Prompter { return system(start) }
	if p, err := New("gnome", env); err != nil || p != system(true) {
		t.Errorf("gnome: %v, %v", p, err)
	}
	if _, err := New("ui", Env{}); err == nil {
		t.Error("keyring-ui found nowhere")
	}
	p, err := New("auto", Env{Environ: []string{"PATH=/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Prompt(t.Context(), prompt.Question{}); !errors.Is(err, prompt.ErrUnavailable) {
		t.Errorf("nobody to ask: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	env := []string{"A=1", "PATH=/x", "LC_TIME=C", "FYNE_THEME=dark", "LD_PRELOAD=/evil", "A=2", "PATH=/y"}
	if got := fmt.Sprint(filter(env)); got != "[PATH=/x LC_TIME=C FYNE_THEME=dark PATH=/y]" {
		t.Errorf("passed %s", got)
	}
	if lookup(env, "A") != "2" || lookup(env, "B") != "" {
		t.Error("lookup")
	}
}

// TestDesktopsOwn: GNOME's prompter comes first under GNOME, where nothing else
// is modal; what can be read aloud comes first with a screen reader.
func TestDesktopsOwn(t *testing.T) {
	all := install(t, "pinentry-qt", "keyring-ui")
	for _, test := range []struct {
		desktop string
		aloud   bool
		want    string
	}{
		{"KDE", false, "keyring-ui, pinentry-qt"},
		{"ubuntu:GNOME", false, "system false, keyring-ui, pinentry-qt"},
		{"sway", true, "system true, pinentry-qt, keyring-ui"},
		{"GNOME", true, "system true, pinentry-qt, keyring-ui"},
		{"XGNOMEX", false, "keyring-ui, pinentry-qt"},
	} {
		e := Env{
			Environ:      []string{"DISPLAY=:0", "PATH=" + all, "XDG_CURRENT_DESKTOP=" + test.desktop},
			System:       func(start bool) prompt.Prompter { return system(start) },
			ScreenReader: func(context.Context) bool { return test.aloud },
		}
		if got, _, _ := strings.Cut(chosen(e), ", askpass"); got != test.want {
			t.Errorf("%s, read aloud %v: %s, want %s", test.desktop, test.aloud, got, test.want)
		}
	}
}
