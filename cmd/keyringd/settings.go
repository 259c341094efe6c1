package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"github.com/keyringd/keyringd/tpm/link"
)

// settings is everything that can be set, by a flag or, under the flag's name,
// in config.toml. Only this file knows the names.
type settings struct {
	TPM        string        `toml:"tpm"`
	KeyDirs    []string      `toml:"key-dir"`
	RuntimeDir string        `toml:"runtime-dir"`
	DataDir    string        `toml:"data-dir"`
	Prompter   string        `toml:"prompter"`
	Bus        string        `toml:"bus"`
	Remember   time.Duration `toml:"-"` // TOML has no durations: see configFile
}

// configFile is settings as config.toml spells them.
type configFile struct {
	settings
	Remember *string `toml:"remember"`
}

// environment is what the settings' defaults depend on.
type environment struct {
	Getenv func(string) string
	Home   string
	UID    int
}

// xdg returns an XDG base directory, RuntimeDir apart (XDG Base Directory
// Specification 0.8). Relative values are ignored, as the specification asks.
func (e environment) xdg(name, fallback string) string {
	if dir := e.Getenv(name); filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(e.Home, fallback)
}

// runtimeDir is where sockets go by default. Without a login session there may
// be no XDG_RUNTIME_DIR; the fallback is a folder of the user's own, which the
// sockets' owner check then guards.
func (e environment) runtimeDir() string {
	if dir := e.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "keyringd")
	}
	run := filepath.Join("/run/user", strconv.Itoa(e.UID))
	if info, err := os.Stat(run); err == nil && info.IsDir() {
		return filepath.Join(run, "keyringd")
	}
	return filepath.Join(os.TempDir(), "keyringd-"+strconv.Itoa(e.UID))
}

func (e environment) configPath() string {
	return filepath.Join(e.xdg("XDG_CONFIG_HOME", ".config"), "keyringd", "config.toml")
}

func (e environment) defaults() settings {
	return settings{
		TPM:        "auto",
		KeyDirs:    []string{filepath.Join(e.Home, ".ssh")},
		RuntimeDir: e.runtimeDir(),
		DataDir:    filepath.Join(e.xdg("XDG_DATA_HOME", ".local/share"), "keyringd"),
		Prompter:   "auto",
		Bus:        "session",
		Remember:   10 * time.Minute,
	}
}

// flags registers every setting. The values already in s are the defaults.
func (s *settings) flags(fs *pflag.FlagSet) {
	fs.StringVar(&s.TPM, "tpm", s.TPM, "the TPM: auto, none, device:/dev/tpmrm0, unix:PATH, tcp:HOST:PORT or swtpm[:DIR];\n"+
		"\",rm\" after an address says that a resource manager stands behind it")
	fs.StringArrayVar(&s.KeyDirs, "key-dir", s.KeyDirs, "a folder of private keys; may be given several times")
	fs.StringVar(&s.RuntimeDir, "runtime-dir", s.RuntimeDir, "where the sockets are made")
	fs.StringVar(&s.DataDir, "data-dir", s.DataDir, "where the daemon keeps what must survive")
	fs.StringVar(&s.Prompter, "prompter", s.Prompter, "who asks the user: auto, ui, gnome, pinentry:PROGRAM, askpass:PROGRAM or none")
	fs.StringVar(&s.Bus, "bus", s.Bus, "the D-Bus to be on: session, none or an address")
	fs.DurationVar(&s.Remember, "remember", s.Remember, "how long a PIN or approval is remembered; 0: never")
}

// load reads config.toml into s; no file is no settings. An unknown name or a
// value of the wrong type is an error that names the line.
func (s *settings) load(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	file := configFile{settings: *s}
	decoder := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return configError(path, err)
	}
	*s = file.settings
	if file.Remember != nil {
		if s.Remember, err = time.ParseDuration(*file.Remember); err != nil {
			return fmt.Errorf("%s: remember: %w", path, err)
		}
	}
	return nil
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
		return fmt.Errorf("%s:%d: %s", path, row, strings.TrimPrefix(bad.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// check refuses what no part of the daemon could make sense of, makes paths
// absolute, and returns the TPM's address.
func (s *settings) check() (link.Address, error) {
	address, err := link.ParseAddress(s.TPM)
	if err != nil {
		return address, fmt.Errorf("--tpm: %w", err)
	}
	if s.Remember < 0 {
		return address, fmt.Errorf("--remember: %s is in the past", s.Remember)
	}
	paths := []*string{&s.RuntimeDir, &s.DataDir}
	for i := range s.KeyDirs {
		paths = append(paths, &s.KeyDirs[i])
	}
	for _, p := range paths {
		if *p == "" {
			return address, errors.New("a folder's name is empty")
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return address, err
		}
	}
	return address, nil
}
