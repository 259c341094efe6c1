package pinentry

import (
	"path/filepath"
	"slices"
	"strings"
)

// Kinds of programs, for who starts them.
const (
	KindPinentry = "pinentry"
	KindAskpass  = "askpass"
)

// Allowed are the programs that a prompter may ever start, by the paths that
// they have or may get while it is used, and what of the environment they get
// beside Environ's: names with a pattern of values, as path.Match has them.
type Allowed struct {
	Pinentry, Askpass           []string   // paths
	PinentryArgs                [][]string // the arguments that a pinentry program may be given
	Environ                     []string
	PinentryExtra, AskpassExtra []string
}

// Allow returns what the prompter that [New] returns for spec may start.
func Allow(spec string, env Env) Allowed {
	a := Allowed{
		PinentryArgs:  [][]string{{}, {"--standby"}},
		Environ:       filter(env.Environ),
		PinentryExtra: []string{"WAYLAND_DISPLAY=wayland-[0-9]*"},
	}
	a.AskpassExtra = append([]string{"SSH_ASKPASS_PROMPT=confirm", "SSH_ASKPASS_PROMPT=none"}, a.PinentryExtra...)
	kind, arg, _ := strings.Cut(spec, ":")
	switch kind {
	case "pinentry":
		a.Pinentry = env.places(arg)
	case "askpass":
		a.Askpass = env.places(arg)
	case "ui":
		a.Pinentry = env.places(window)
	case "auto":
		for _, name := range slices.Concat([]string{window}, desktopPrograms, terminalPrograms) {
			a.Pinentry = append(a.Pinentry, env.places(name)...)
		}
		for _, name := range append([]string{lookup(env.Environ, "SSH_ASKPASS")}, askpassPlaces...) {
			a.Askpass = append(a.Askpass, env.places(name)...)
		}
	}
	if path := env.besides(); path != "" && slices.Contains([]string{"auto", "ui"}, kind) {
		a.Pinentry = append(a.Pinentry, path)
	}
	slices.Sort(a.Pinentry)
	a.Pinentry = slices.Compact(a.Pinentry)
	return a
}

// places are all the paths where find looks for a program.
func (e Env) places(name string) []string {
	if strings.Contains(name, "/") {
		if path, err := filepath.Abs(name); err == nil {
			return []string{path}
		}
		return nil
	}
	if name == "" {
		return nil
	}
	var paths []string
	for _, dir := range filepath.SplitList(lookup(e.Environ, "PATH")) {
		if filepath.IsAbs(dir) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}
