//go:build cgo

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/app"
	"fyne.io/fyne/v2/driver/desktop"
	"fyne.io/fyne/v2/lang"
	"github.com/rymdport/portal/filechooser"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager"
	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/secret"
)

const managerUsage = `usage: keyring-ui manager [--tray]

The window for looking after keys and keyrings.

`

// runManager is `keyring-ui manager`.
func runManager(args []string) int {
	fs := flag.NewFlagSet("keyring-ui manager", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), managerUsage)
		fs.PrintDefaults()
	}
	tray := fs.Bool("tray", false, "begin as an icon in the panel, without a window")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if fs.NArg() > 0 {
		fs.Usage()
		return 2
	}
	// Secrets that are shown are in this process's memory.
	if err := secret.Harden(); err != nil {
		fmt.Fprintf(os.Stderr, "keyring-ui: %v\n", err)
		return 1
	}
	if err := displayFault(); err != nil {
		fmt.Fprintf(os.Stderr, "keyring-ui: %v\n", err)
		return 1
	}
	only := manager.NewOnly(manager.Display(os.Getenv), !*tray)
	if only == nil {
		return 0
	}
	defer only.Close()
	for _, translate := range []func() error{promptui.Translate, manager.Translate} {
		if err := translate(); err != nil {
			fmt.Fprintf(os.Stderr, "keyring-ui: %v\n", err)
			return 1
		}
	}
	if os.Getenv("FYNE_THEME") == "" {
		os.Setenv("FYNE_THEME", colorScheme())
	}
	return newManagerWindow(only, *tray).run()
}

// A managerWindow is the window and, where it is wanted, the icon in the panel.
type managerWindow struct {
	app  fyne.App
	win  fyne.Window
	m    *manager.Manager
	link *manager.Link
	only *manager.Only
	tray bool
	gone bool // it is out of sight, and not minimised
	quit sync.Once
}

func newManagerWindow(only *manager.Only, tray bool) *managerWindow {
	w := &managerWindow{only: only, tray: tray, app: app.NewWithID("io.github.keyringd")}
	w.app.Settings().SetTheme(promptui.NewTheme())
	w.app.SetIcon(promptui.Icon())
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	w.link = manager.NewLink(client.SessionAddress(os.Getenv, os.Getuid()))
	w.m = manager.New(context.Background(), manager.Options{
		Daemon: w.link, Clock: manager.Time{}, Clipboard: w.app.Clipboard(), Do: fyne.Do, Home: home,
		Settings: settingsFiles(home), Choose: w.choose, Save: manager.Save,
	})
	w.win = w.app.NewWindow(w.m.Title())
	w.win.SetPadded(false)
	w.win.SetContent(w.m.Content())
	w.win.Resize(w.m.Size())
	w.win.SetMaster()
	w.win.SetCloseIntercept(w.close)
	return w
}

// settingsFiles are where the settings are: XDG Base Directory Specification.
func settingsFiles(home string) manager.Files {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(home, ".config")
	}
	program, err := os.Executable()
	if err != nil {
		program = "keyring-ui"
	}
	return manager.Files{
		Config:    filepath.Join(dir, "keyringd", "config.toml"),
		Autostart: filepath.Join(dir, "autostart", "io.github.keyringd.tray.desktop"),
		Program:   program,
	}
}

// run shows the window until it is closed.
func (w *managerWindow) run() int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, func() { fyne.Do(w.end) })
	w.app.Lifecycle().SetOnStarted(func() {
		w.m.Start(w.win.Canvas())
		w.only.Serve(func() { fyne.DoAndWait(w.show) })
	})
	w.win.Canvas().AddShortcut(&desktop.CustomShortcut{KeyName: fyne.KeyQ, Modifier: fyne.KeyModifierControl}, func(fyne.Shortcut) { w.end() })
	if w.tray {
		w.gone = true
		w.m.Hide()
		w.icon()
	} else {
		w.win.Show()
	}
	w.app.Run()
	w.link.Close()
	return 0
}

// close is what the window's own button does: with an icon in the panel, the
// window only goes out of sight.
func (w *managerWindow) close() {
	if w.tray {
		w.gone = true
		w.m.Hide()
		w.win.Hide()
		return
	}
	w.end()
}

// show brings the window before all others, wherever it was.
func (w *managerWindow) show() {
	if w.gone {
		w.gone = false
		w.win.Show() // one that is seen might be moved by that
		w.m.Show()
	}
	w.win.RequestFocus()
}

// end ends the program. What is on the clipboard and is a secret goes first.
func (w *managerWindow) end() {
	w.quit.Do(func() {
		w.only.Close()
		w.m.Stop()
		w.app.Quit()
	})
}

// icon shows the icon in the panel, where the desktop has such icons; where not,
// the window is the only way in, and is shown.
func (w *managerWindow) icon() {
	d, ok := w.app.(desktop.App)
	if !ok {
		w.tray = false
		w.show()
		return
	}
	show := fyne.NewMenuItem(lang.L("Open"), w.show)
	lock := fyne.NewMenuItem(lang.L("Lock everything"), w.m.LockAll)
	quit := fyne.NewMenuItem(lang.L("Quit"), w.end)
	quit.IsQuit = true
	d.SetSystemTrayIcon(promptui.Icon())
	d.SetSystemTrayMenu(fyne.NewMenu(w.m.Title(), show, lock, fyne.NewMenuItemSeparator(), quit))
}

// choose lets the user choose a file, with the desktop's own window.
func (w *managerWindow) choose(_ context.Context, save bool, title, name string) (string, error) {
	var uris []string
	var err error
	if save {
		uris, err = filechooser.SaveFile("", title, &filechooser.SaveFileOptions{CurrentName: name})
	} else {
		uris, err = filechooser.OpenFile("", title, &filechooser.OpenFileOptions{})
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", manager.ErrNoChooser, err)
	}
	if len(uris) == 0 {
		return "", nil
	}
	return local(uris[0])
}

// local is the path of a file's URI.
func local(uri string) (string, error) {
	path, ok := strings.CutPrefix(uri, "file://")
	if !ok {
		return "", fmt.Errorf("%.200q is not a file on this machine", uri)
	}
	return url.PathUnescape(path)
}
