package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/keyringd/keyringd/tpm/link"
)

// settings is everything that can be set: by a flag and, under the flag's name,
// in config.toml; what is asked for rarely, only there. keyringd.toml(5)
// documents each.
type settings struct {
	TPM            string
	KeyDirs        []string
	RuntimeDir     string
	DataDir        string
	Prompter       string
	Bus            string
	Upstream       string   // another ssh-agent's socket; "": none
	AllowProviders []string // globs of PKCS #11 and security-key libraries that ssh-add may name
	Remember       time.Duration
	Replace        bool // take org.freedesktop.secrets from a daemon that allows it
	P11KitSocket   bool // listen where p11-kit looks by itself, too
	Landlock       bool // the daemon gives up what it does not need, where the kernel can

	// In config.toml alone.
	Confirm           confirmRules // the keys whose every use wants permission
	ConfirmForwarded  bool         // each use by another machine wants permission, whatever the key asks for
	RemoteChanges     bool         // another machine may add, remove and lock through a forwarded agent
	Notify            bool         // tell the user of each use of a key
	SecretService     bool         // serve org.freedesktop.secrets, where no other program does
	PKCS11StrictLogin bool         // PKCS #11 wants C_Login before a key that has a PIN is used
	LogLevel          slog.Level
	Lock              lockSettings
}

// lockSettings say what goes when. On the last logout all goes, whatever they
// say.
type lockSettings struct {
	Screen lockActions // the screen is locked
	Sleep  lockActions // before the machine sleeps
	Idle   lockActions // the desktop says that nobody is there
}

// lockActions are what an event takes away.
type lockActions struct {
	Forget   bool // PINs, passphrases and approvals that are remembered
	Keyrings bool // collections are locked
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

// userRuntimeDir is the user's runtime directory; "": there is none.
func (e environment) userRuntimeDir() string {
	if dir := e.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return dir
	}
	run := filepath.Join("/run/user", strconv.Itoa(e.UID))
	if info, err := os.Stat(run); err == nil && info.IsDir() {
		return run
	}
	return ""
}

// runtimeDir is where sockets go by default. Without a login session there may
// be no XDG_RUNTIME_DIR; the fallback is a folder of the user's own, which the
// sockets' owner check then guards.
func (e environment) runtimeDir() string {
	if dir := e.userRuntimeDir(); dir != "" {
		return filepath.Join(dir, "keyringd")
	}
	return filepath.Join(os.TempDir(), "keyringd-"+strconv.Itoa(e.UID))
}

func (e environment) configPath() string {
	return filepath.Join(e.xdg("XDG_CONFIG_HOME", ".config"), "keyringd", "config.toml")
}

func (e environment) defaults() settings {
	return settings{
		TPM:            "auto",
		KeyDirs:        []string{filepath.Join(e.Home, ".ssh")},
		RuntimeDir:     e.runtimeDir(),
		DataDir:        filepath.Join(e.xdg("XDG_DATA_HOME", ".local/share"), "keyringd"),
		Prompter:       "auto",
		Bus:            "session",
		AllowProviders: []string{"/usr/lib*/*", "/usr/local/lib*/*"}, // as ssh-agent(1) has it
		Remember:       10 * time.Minute,
		Notify:         true,
		SecretService:  true,
		Landlock:       true,
		LogLevel:       slog.LevelInfo,
		Lock:           lockSettings{Screen: lockActions{Forget: true}, Sleep: lockActions{Forget: true}},
	}
}

// flags registers every setting that has one. The values already in s are the
// defaults.
func (s *settings) flags(fs *pflag.FlagSet) {
	fs.StringVar(&s.TPM, "tpm", s.TPM, "the TPM: auto, none, device:/dev/tpmrm0, unix:PATH, tcp:HOST:PORT or swtpm[:DIR];\n"+
		"\",rm\" after an address says that a resource manager stands behind it")
	fs.StringArrayVar(&s.KeyDirs, "key-dir", s.KeyDirs, "a folder of private keys; may be given several times")
	fs.StringVar(&s.RuntimeDir, "runtime-dir", s.RuntimeDir, "where the sockets are made")
	fs.StringVar(&s.DataDir, "data-dir", s.DataDir, "where the daemon keeps what must survive")
	fs.StringVar(&s.Prompter, "prompter", s.Prompter, "who asks the user: auto, ui, gnome, pinentry:PROGRAM, askpass:PROGRAM or none")
	fs.StringVar(&s.Bus, "bus", s.Bus, "the D-Bus to be on: session, none or an address")
	fs.StringVar(&s.Upstream, "upstream", s.Upstream, "the socket of another ssh-agent, whose keys are listed after ours")
	fs.StringArrayVar(&s.AllowProviders, "allow-provider", s.AllowProviders, "a GLOB of the libraries that ssh-add may name; may be given several times")
	fs.DurationVar(&s.Remember, "remember", s.Remember, "how long a PIN or approval is remembered; 0: never")
	fs.BoolVar(&s.Replace, "replace", s.Replace, "take org.freedesktop.secrets from a daemon that allows it")
	fs.BoolVar(&s.P11KitSocket, "p11-kit-socket", s.P11KitSocket, "listen for PKCS #11 where p11-kit's own client looks, too")
	fs.BoolVar(&s.Landlock, "landlock", s.Landlock, "give up what the daemon does not need, where the kernel has Landlock")
}

// providers is AllowProviders as the agent takes it, where an empty list is the
// system's own: a user who allows none means none.
func (s *settings) providers() string {
	if len(s.AllowProviders) == 0 {
		return "!*"
	}
	return strings.Join(s.AllowProviders, ",")
}

// check refuses what no part of the daemon could make sense of, makes paths
// absolute, and returns the TPM's address.
func (s *settings) check() (link.Address, error) {
	address, err := link.ParseAddress(s.TPM)
	if err != nil {
		return address, fmt.Errorf("--tpm: %w", err)
	}
	if err := checkRemember(s.Remember); err != nil {
		return address, fmt.Errorf("--remember: %w", err)
	}
	for _, glob := range s.AllowProviders {
		if err := checkProvider(glob); err != nil {
			return address, fmt.Errorf("--allow-provider: %w", err)
		}
	}
	if err := checkBus(s.Bus); err != nil {
		return address, fmt.Errorf("--bus: %w", err)
	}
	paths := []*string{&s.RuntimeDir, &s.DataDir}
	for i := range s.KeyDirs {
		paths = append(paths, &s.KeyDirs[i])
	}
	if s.Upstream != "" {
		paths = append(paths, &s.Upstream)
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
