package pinentry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/spawn"
	"github.com/keyringd/keyringd/prompt"
)

// Env is what prompters are chosen by.
type Env struct {
	Environ    []string      // as os.Environ returns it
	Executable string        // the daemon's own, beside which keyring-ui is looked for; "": nowhere
	TTY        string        // a terminal that may be used beside GPG_TTY, see ForegroundTTY; "": none
	Timeout    time.Duration // how long a question stays; 0: DefaultTimeout
	Log        *slog.Logger  // nil: nowhere
	Starter    spawn.Starter // who starts them; nil: this process
	Standby    time.Duration // how long keyring-ui is kept ready after a question; 0: DefaultStandby; negative: not at all

	// System asks through the desktop's own prompter; with start, one may be
	// started for it. nil: there is none.
	System func(start bool) prompt.Prompter
	// ScreenReader reports whether one is on, for which keyring-ui is silent. nil:
	// that is not known.
	ScreenReader func(ctx context.Context) bool

	standby *standby // of the prompter that New returns
}

// New returns the prompter that spec names: "auto", "ui", "gnome",
// "pinentry:PROGRAM", "askpass:PROGRAM" or "none". PROGRAM is a path, or a name
// that is looked for on PATH. It fails where the program does not exist, so
// that a mistake shows at the start and not at the first question.
//
// A prompter with keyring-ui keeps one ready between questions. It is also an
// io.Closer, which ends that; the process's end does so as well.
//
// "auto" looks at each question what there is, as programs and displays come
// and go, and asks with the first that can: GNOME's own prompter, under GNOME;
// with a screen reader, the desktop's prompter and the pinentry programs, which
// can be read aloud; keyring-ui; the pinentry programs of a graphical desktop; those of a terminal, if there is one; an SSH_ASKPASS
// program. Where there is none, each question is a [prompt.ErrUnavailable].
func New(spec string, env Env) (prompt.Prompter, error) {
	kind, arg, hasArg := strings.Cut(spec, ":")
	takesArg := kind == "pinentry" || kind == "askpass"
	if takesArg != hasArg || takesArg && arg == "" {
		return nil, fmt.Errorf("prompter %q: want auto, ui, gnome, pinentry:PROGRAM, askpass:PROGRAM or none", spec)
	}
	switch kind {
	case "auto":
		env.standby = newStandby(env.Standby)
		return auto{env}, nil
	case "none":
		return prompt.None{}, nil
	case "gnome":
		if env.System == nil {
			return nil, fmt.Errorf("prompter %q: it is asked over the session bus, and there is none", spec)
		}
		return env.System(true), nil
	case "ui":
		path := env.ui()
		if path == "" {
			return nil, fmt.Errorf("prompter %q: keyring-ui is neither beside keyringd nor on PATH", spec)
		}
		env.standby = newStandby(env.Standby)
		return env.window(path), nil
	case "pinentry", "askpass":
		path := env.find(arg)
		if path == "" {
			return nil, fmt.Errorf("prompter %q: program not found", spec)
		}
		if kind == "askpass" {
			return env.askpass(path), nil
		}
		return env.program(path), nil
	}
	return nil, fmt.Errorf("prompter %q: want auto, ui, gnome, pinentry:PROGRAM, askpass:PROGRAM or none", spec)
}

// auto chooses at each question.
type auto struct{ env Env }

func (a auto) Prompt(ctx context.Context, q prompt.Question) (prompt.Answer, error) {
	return prompt.Chain(a.env.candidates(ctx)...).Prompt(ctx, q)
}

// Close ends what is kept ready for the next question.
func (a auto) Close() error {
	a.env.standby.close()
	return nil
}

// desktopPrograms are the pinentry programs that open a window, best first:
// the first is the only one that is truly modal under GNOME; "pinentry" is the
// system's own choice, and may be one for terminals.
var desktopPrograms = []string{"pinentry-gnome3", "pinentry-qt", "pinentry-gtk-2", "pinentry-fltk", "pinentry"}

var terminalPrograms = []string{"pinentry-curses", "pinentry-tty", "pinentry"}

// askpassPlaces is where distributions put what OpenSSH uses by default.
var askpassPlaces = []string{
	"ssh-askpass", "/usr/lib/ssh/ssh-askpass", "/usr/libexec/ssh/ssh-askpass", "/usr/libexec/openssh/ssh-askpass",
	"/usr/libexec/openssh/gnome-ssh-askpass", "/usr/lib/openssh/gnome-ssh-askpass", "/usr/lib/ssh/x11-ssh-askpass",
	"ksshaskpass",
}

// candidates returns the prompters that may work now, best first.
func (e Env) candidates(ctx context.Context) []prompt.Prompter {
	var found []prompt.Prompter
	desktop := e.withDisplay()
	if desktop != nil {
		found = desktop.onDesktop(ctx)
	}
	if e.tty() != "" {
		for _, name := range terminalPrograms {
			if path := e.find(name); path != "" && needsTTY(path) {
				found = append(found, e.program(path))
			}
		}
	}
	force := lookup(e.Environ, "SSH_ASKPASS_REQUIRE") == "force"
	if desktop == nil && force {
		desktop = &e
	}
	if desktop != nil {
		for _, name := range append([]string{lookup(e.Environ, "SSH_ASKPASS")}, askpassPlaces...) {
			if path := e.find(name); path != "" {
				found = append(found, desktop.askpass(path))
				break
			}
		}
	}
	return found
}

// onDesktop returns those that open a window.
func (e Env) onDesktop(ctx context.Context) []prompt.Prompter {
	var system, window, programs []prompt.Prompter
	gnome := strings.Contains(":"+strings.ToUpper(lookup(e.Environ, "XDG_CURRENT_DESKTOP"))+":", ":GNOME:")
	aloud := e.ScreenReader != nil && e.ScreenReader(ctx)
	if e.System != nil && (gnome || aloud) {
		// GNOME's is there or not; started would be one that is not modal.
		system = append(system, e.System(aloud))
	}
	if path := e.ui(); path != "" {
		window = append(window, e.window(path))
	}
	for _, name := range desktopPrograms {
		if path := e.find(name); path != "" && !needsTTY(path) {
			programs = append(programs, e.program(path))
		}
	}
	if aloud {
		return slices.Concat(system, programs, window)
	}
	return slices.Concat(system, window, programs)
}

func (e Env) program(path string) *Program {
	return &Program{Path: path, Environ: e.Environ, TTY: e.tty(), Timeout: e.Timeout, Log: e.Log, Starter: e.Starter}
}

// window is program for keyring-ui, which can be kept ready.
func (e Env) window(path string) *Program {
	p := e.program(path)
	p.standby = e.standby
	return p
}

func (e Env) askpass(path string) *Askpass {
	return &Askpass{Path: path, Environ: e.Environ, Timeout: e.Timeout, Log: e.Log, Starter: e.Starter}
}

// tty returns a terminal that exists and is the user's, or "".
func (e Env) tty() string {
	path := cmp.Or(lookup(e.Environ, "GPG_TTY"), e.TTY)
	if path == "" {
		return ""
	}
	if _, err := keepTTY(path); err != nil {
		return ""
	}
	return path
}

// ui returns keyring-ui's path, or "".
func (e Env) ui() string {
	if path := e.besides(); path != "" && executable(path) {
		return path
	}
	return e.find(window)
}

// window is the name of the program that asks best.
const window = "keyring-ui"

// besides is where it is looked for first; "": nowhere.
func (e Env) besides() string {
	if !filepath.IsAbs(e.Executable) {
		return ""
	}
	return filepath.Join(filepath.Dir(e.Executable), window)
}

// find returns the absolute path of a program, or "". Only absolute entries of
// PATH count: what a relative one means depends on where the daemon was started.
func (e Env) find(name string) string {
	if strings.Contains(name, "/") {
		if path, err := filepath.Abs(name); err == nil && executable(path) {
			return path
		}
		return ""
	}
	if name == "" {
		return ""
	}
	for _, dir := range filepath.SplitList(lookup(e.Environ, "PATH")) {
		if path := filepath.Join(dir, name); filepath.IsAbs(dir) && executable(path) {
			return path
		}
	}
	return ""
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
}

// withDisplay returns e with a display in its environment, or nil if there is
// none. A daemon that the login itself starts is older than the display and
// does not have it in its environment: then a Wayland socket in the user's
// runtime directory is one.
func (e Env) withDisplay() *Env {
	if lookup(e.Environ, "WAYLAND_DISPLAY") != "" || lookup(e.Environ, "DISPLAY") != "" {
		return &e
	}
	dir := lookup(e.Environ, "XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		return nil
	}
	sockets, _ := filepath.Glob(filepath.Join(dir, "wayland-[0-9]*"))
	for _, path := range sockets {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK && int(st.Uid) == os.Geteuid() {
			e.Environ = append(e.Environ[:len(e.Environ):len(e.Environ)], "WAYLAND_DISPLAY="+filepath.Base(path))
			return &e
		}
	}
	return nil
}
