package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/internal/atomicfile"
)

// Time is the real one.
type Time struct{}

// Now implements [Clock].
func (Time) Now() time.Time { return time.Now() }

// AfterFunc implements [Clock].
func (Time) AfterFunc(d time.Duration, f func()) (stop func()) {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}

// Files are the [Settings] in the user's files.
type Files struct {
	Config    string // config.toml
	Autostart string // the entry that starts the icon in the panel
	Program   string // what the entry starts
}

// Read implements [Settings].
func (f Files) Read() (config.Values, error) { return config.Read(f.Config) }

// waiting are the settings that stand until keyringd is started again.
var waiting = map[string]bool{config.Prompter: true}

// Write implements [Settings]. keyringd reads its settings again when it is
// hung up on, unless it was started by hand: then it would end, as programs do
// whose terminal goes away.
func (f Files) Write(pid int, changes ...config.Change) (now bool, err error) {
	if err := config.Write(f.Config, changes...); err != nil {
		return false, err
	}
	for _, c := range changes {
		if waiting[c.Name] {
			return false, nil
		}
	}
	if pid <= 1 || onTerminal(pid) {
		return false, nil
	}
	return unix.Kill(pid, unix.SIGHUP) == nil, nil
}

// onTerminal reports whether a process has a terminal, or may have one: proc(5),
// /proc/PID/stat, field 7.
func onTerminal(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:]) // a name may have anything in it
	return len(fields) < 5 || fields[4] != "0"
}

// Tray implements [Settings].
func (f Files) Tray() bool {
	_, err := os.Stat(f.Autostart)
	return err == nil
}

// SetTray implements [Settings]. The entry is as the Desktop Application
// Autostart Specification has it.
func (f Files) SetTray(on bool) error {
	if !on {
		err := os.Remove(f.Autostart)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.Autostart), 0o700); err != nil {
		return err
	}
	entry := "[Desktop Entry]\nType=Application\nName=Keys and Passwords\nName[de]=Schlüssel und Passwörter\n" +
		"Exec=" + quoted(f.Program) + " manager --tray\nIcon=io.github.keyringd\nTerminal=false\nNoDisplay=true\n"
	return put(atomicfile.File{Path: f.Autostart, Data: []byte(entry), Perm: 0o644, Replace: true})
}

// quoted is a program as an entry's Exec has it: Desktop Entry Specification,
// "The Exec key". Backslashes are escaped twice, as in every string there.
func quoted(path string) string {
	path = strings.NewReplacer(`\`, `\\\\`, `"`, `\\"`, "`", "\\\\`", `$`, `\\$`, `%`, `%%`).Replace(path)
	return `"` + path + `"`
}

// Save writes a file that the user has chosen, and was asked about.
func Save(path string, data []byte) error {
	return put(atomicfile.File{Path: path, Data: data, Perm: 0o600, Replace: true})
}

func put(f atomicfile.File) error {
	staged, err := atomicfile.Stage(nil, f)
	if err != nil {
		return err
	}
	return staged.Commit()
}
