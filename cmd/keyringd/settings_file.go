package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/tpm/link"
)

// maxConfig is more than anybody writes into config.toml.
const maxConfig = 1 << 20

// configFile is settings as config.toml spells them: nil is not given.
type configFile struct {
	TPM               *string   `toml:"tpm"`
	KeyDirs           *[]string `toml:"key-dir"`
	RuntimeDir        *string   `toml:"runtime-dir"`
	DataDir           *string   `toml:"data-dir"`
	Prompter          *string   `toml:"prompter"`
	Bus               *string   `toml:"bus"`
	Upstream          *string   `toml:"upstream"`
	AllowProviders    *[]string `toml:"allow-provider"`
	Remember          *string   `toml:"remember"`
	Replace           *bool     `toml:"replace"`
	P11KitSocket      *bool     `toml:"p11-kit-socket"`
	Landlock          *bool     `toml:"landlock"`
	Confirm           *[]string `toml:"confirm"`
	Notify            *bool     `toml:"notify"`
	ConfirmForwarded  *bool     `toml:"confirm-forwarded"`
	RemoteChanges     *bool     `toml:"allow-remote-changes"`
	SecretService     *bool     `toml:"secret-service"`
	PKCS11StrictLogin *bool     `toml:"pkcs11-strict-login"`
	LogLevel          *string   `toml:"log-level"`
	Lock              struct {
		Screen *[]string `toml:"screen"`
		Sleep  *[]string `toml:"sleep"`
		Idle   *[]string `toml:"idle"`
	} `toml:"lock"`
}

// check finds the first value that makes no sense, and its name.
func (f *configFile) check() (key string, err error) {
	one := func(v *string) []string {
		if v == nil {
			return nil
		}
		return []string{*v}
	}
	several := func(v *[]string) []string {
		if v == nil {
			return nil
		}
		return *v
	}
	for _, c := range []struct {
		key    string
		values []string
		check  func(string) error
	}{
		{"tpm", one(f.TPM), func(s string) error { _, err := link.ParseAddress(s); return err }},
		{"key-dir", several(f.KeyDirs), checkPath},
		{"runtime-dir", one(f.RuntimeDir), checkPath},
		{"data-dir", one(f.DataDir), checkPath},
		{"prompter", one(f.Prompter), checkPrompter},
		{"bus", one(f.Bus), checkBus},
		{"upstream", one(f.Upstream), checkPath},
		{"allow-provider", several(f.AllowProviders), checkProvider},
		{"remember", one(f.Remember), func(s string) error { _, err := parseRemember(s); return err }},
		{"confirm", several(f.Confirm), func(s string) error { _, err := parseConfirmRule(s); return err }},
		{"log-level", one(f.LogLevel), func(s string) error { _, err := parseLevel(s); return err }},
		{"lock.screen", several(f.Lock.Screen), checkAction},
		{"lock.sleep", several(f.Lock.Sleep), checkAction},
		{"lock.idle", several(f.Lock.Idle), checkAction},
	} {
		for _, v := range c.values {
			if err := c.check(v); err != nil {
				return c.key, err
			}
		}
	}
	return "", nil
}

// checkPath wants one that means the same wherever the daemon is started.
func checkPath(s string) error {
	if filepath.IsAbs(s) || s == "~" || strings.HasPrefix(s, "~/") {
		return nil
	}
	return fmt.Errorf("%q: want an absolute path, or one that begins with ~/", s)
}

func checkPrompter(s string) error {
	kind, arg, has := strings.Cut(s, ":")
	switch kind {
	case "auto", "ui", "gnome", "none":
		if !has {
			return nil
		}
	case "pinentry", "askpass":
		if arg != "" {
			return nil
		}
	}
	return fmt.Errorf("%q: want auto, ui, gnome, pinentry:PROGRAM, askpass:PROGRAM or none", s)
}

func checkBus(s string) error {
	if s == "session" || s == "none" || strings.HasPrefix(s, "unix:") {
		return nil
	}
	return fmt.Errorf("%q: want session, none or an address like unix:path=SOCKET", s)
}

// checkProvider wants a pattern that cannot match a file of the current folder.
func checkProvider(glob string) error {
	if !strings.HasPrefix(glob, "/") {
		return fmt.Errorf("%q: want a pattern of absolute paths", glob)
	}
	return nil
}

func parseRemember(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q: want a time like 10m, 1h30m or 0", s)
	}
	return d, checkRemember(d)
}

func checkRemember(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s is in the past", d)
	}
	return nil
}

func parseLevel(s string) (slog.Level, error) {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if s == strings.ToLower(l.String()) {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q: want debug, info, warn or error", s)
}

func checkAction(s string) error {
	if s == "forget" || s == "keyrings" {
		return nil
	}
	return fmt.Errorf("%q: want \"forget\" or \"keyrings\"", s)
}

// load reads config.toml into s; no file is no settings, and an error changes
// none. An unknown name or a value that makes no sense is an error that names
// the line.
func (s *settings) load(path, home string) error {
	data, err := readConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.parse(path, data, home)
}

// parse is load of a file's content.
func (s *settings) parse(path string, data []byte, home string) error {
	var file configFile
	if err := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(&file); err != nil {
		return configError(path, err)
	}
	if key, err := file.check(); err != nil {
		return fmt.Errorf("%s:%d: %s: %w", path, lineOf(data, key), key, err)
	}
	file.into(s, home)
	return nil
}

// readConfig reads a file that somebody wrote by hand: a pipe or a device in
// its place does not hold up the start.
func readConfig(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not an ordinary file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxConfig)
	}
	return data, err
}

// into sets what is given, and was checked.
func (f *configFile) into(s *settings, home string) {
	set(&s.TPM, f.TPM)
	set(&s.Prompter, f.Prompter)
	set(&s.Bus, f.Bus)
	set(&s.RuntimeDir, f.RuntimeDir)
	set(&s.DataDir, f.DataDir)
	set(&s.Upstream, f.Upstream)
	for _, p := range []*string{&s.RuntimeDir, &s.DataDir, &s.Upstream} {
		*p = expand(*p, home)
	}
	if f.KeyDirs != nil {
		s.KeyDirs = nil
		for _, dir := range *f.KeyDirs {
			s.KeyDirs = append(s.KeyDirs, expand(dir, home))
		}
	}
	set(&s.AllowProviders, f.AllowProviders)
	if f.Remember != nil {
		s.Remember, _ = parseRemember(*f.Remember)
	}
	if f.LogLevel != nil {
		s.LogLevel, _ = parseLevel(*f.LogLevel)
	}
	if f.Confirm != nil {
		s.Confirm = nil
		for _, text := range *f.Confirm {
			rule, _ := parseConfirmRule(expand(text, home))
			s.Confirm = append(s.Confirm, rule)
		}
	}
	set(&s.Replace, f.Replace)
	set(&s.P11KitSocket, f.P11KitSocket)
	set(&s.Landlock, f.Landlock)
	set(&s.Notify, f.Notify)
	set(&s.ConfirmForwarded, f.ConfirmForwarded)
	set(&s.RemoteChanges, f.RemoteChanges)
	set(&s.SecretService, f.SecretService)
	set(&s.PKCS11StrictLogin, f.PKCS11StrictLogin)
	setActions(&s.Lock.Screen, f.Lock.Screen)
	setActions(&s.Lock.Sleep, f.Lock.Sleep)
	setActions(&s.Lock.Idle, f.Lock.Idle)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func setActions(to *lockActions, from *[]string) {
	if from != nil {
		*to = lockActions{Forget: slices.Contains(*from, "forget"), Keyrings: slices.Contains(*from, "keyrings")}
	}
}

// expand puts the home in the place of ~.
func expand(path, home string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		return filepath.Join(home, path[1:])
	}
	return path
}

// configError says in which line of the file something is wrong.
func configError(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("%s:%d: unknown setting %q", path, row, strings.Join(strict.Errors[0].Key(), "."))
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		row, _ := bad.Position()
		return fmt.Errorf("%s:%d: %s%s", path, row, keyOf(bad), strings.TrimPrefix(bad.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// lineOf returns the line in which a key of a well-formed file is set.
func lineOf(data []byte, key string) int {
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			line = p.Shape(it.Node().Raw).Start.Line
		}
		name := strings.Join(parts, ".")
		switch {
		case e.Kind == unstable.Table:
			table = name + "."
		case table+name == key, table == "" && strings.HasPrefix(key, name+"."): // lock = {screen = []}
			return line
		}
	}
	return 0
}

func keyOf(e *toml.DecodeError) string {
	if len(e.Key()) == 0 {
		return ""
	}
	return strings.Join(e.Key(), ".") + ": "
}
