//go:build cgo

package main

import (
	"os"
	"path/filepath"
	"runtime/debug"

	"fyne.io/fyne/v2"
	"github.com/go-gl/glfw/v3.4/glfw"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
)

// How the first window comes up sooner: what takes the time is done side by
// side, put off until the window is there, or kept from the last time. See
// docs/decisions/0025.

// startHeap is what the start may allocate before any of it is collected. It
// needs a tenth of that.
const startHeap = 64 << 20

// hurry keeps the collector of garbage out of the way until the window is
// there. The function that it returns ends that.
func hurry() func() {
	limit := debug.SetMemoryLimit(startHeap)
	percent := debug.SetGCPercent(-1)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// keepCompose lets Xlib keep its table of composed characters between runs: it
// reads half a megabyte of text for it, twice. Xlib takes a table of its own
// user's only, and none as root. It knows one again by its source's name and
// length, so that a user with a source of their own, who may change a letter in
// it, is read anew.
func keepCompose() {
	home, err := os.UserHomeDir()
	if err != nil || os.Getenv("XCOMPOSECACHE") != "" || os.Getenv("XCOMPOSEFILE") != "" || os.Geteuid() == 0 {
		return
	}
	if _, err := os.Stat(filepath.Join(home, ".XCompose")); err == nil {
		return
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return
	}
	dir = filepath.Join(dir, "keyringd", "compose")
	if os.MkdirAll(dir, 0o700) == nil {
		os.Setenv("XCOMPOSECACHE", dir)
	}
}

// together starts GLFW and reads the fonts at the same time, on the main
// thread, which has the toolkit's tables to itself: GLFW does not know them.
// Fyne then finds GLFW started. Where it is Fyne that chooses the platform, it
// starts it.
func together() {
	if os.Getenv("WAYLAND_DISPLAY") != "" || os.Getenv("FYNE_PLATFORM") != "" {
		return
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for _, style := range promptui.Styles() {
			fyne.MeasureText("a", 1, style)
		}
	}()
	_ = glfw.Init() // Fyne gets the same error, and says it
	<-read
}
