//go:build cgo

package main

import (
	"os"
	"runtime/debug"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/widget"
	"github.com/go-gl/glfw/v3.4/glfw"

	"github.com/keyringd/keyringd/cmd/keyring-ui/ask"
	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/prompt"
)

// restyles is how long a question waits to hear whether the desktop has gone
// dark since the toolkit started.
const restyles = 30 * time.Millisecond

// standby starts the toolkit before there is a question, and does once, out of
// sight, all that takes its time: it reads the fonts, makes the window and its
// OpenGL context, and paints a question into it that nobody has asked. After
// that it rests, without a single wake-up, until the first question.
//
// What goes wrong is said when there is a question.
func (s *screen) standby() {
	if s.start() != nil {
		return
	}
	fyne.Do(func() {
		select {
		case <-s.asked:
			// It may be on screen already, in the window that this is about.
			return
		default:
		}
		s.rehearse()
		<-s.asked
	})
}

// rehearse paints a question into the window, on Fyne's goroutine. Where that
// cannot be kept out of sight, it only reads the fonts.
func (s *screen) rehearse() {
	v := promptui.New(ask.Question{Kind: prompt.Passphrase, Parts: ask.Parts{
		Known: true, Subject: "abcdefghijklmnopqrstuvwxyz", Fingerprint: "SHA256:ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/", Host: "-", HostWarning: "-",
		Caller: "‹ ()", Warning: ".", Terms: true, Remember: time.Hour, Automatic: true,
	}}, promptui.Options{Done: func(ask.Answer) {}})
	size := v.Content().MinSize()
	if display() == nil {
		return
	}
	// A window that is shown for the first time is made and mapped in one go. It
	// asks its content for its size in between, and there it is put where
	// neither the window manager nor anybody else will see it.
	parked := false
	h := newHook(func() {
		s.native(func(window uintptr, x11 bool) {
			if x11 && window != 0 && !parked {
				parked = true
				park(window, true)
			}
		})
	})
	glfw.WindowHint(glfw.FocusOnShow, glfw.False) // open asks for the focus itself
	s.win.SetContent(container.NewStack(h, v.Content()))
	s.win.Resize(size)
	s.win.Show()
	s.win.Hide()
	s.native(func(window uintptr, x11 bool) {
		if x11 && window != 0 {
			park(window, false)
		}
	})
	s.win.SetContent(empty())
	s.settle()
	debug.FreeOSMemory()
}

// A hook is nothing to see. It calls fn when somebody asks how large it is.
type hook struct {
	widget.BaseWidget
	fn func()
}

func newHook(fn func()) *hook {
	h := &hook{fn: fn}
	h.ExtendBaseWidget(h)
	return h
}

// MinSize implements [fyne.CanvasObject].
func (h *hook) MinSize() fyne.Size {
	h.fn()
	return fyne.Size{}
}

// CreateRenderer implements [fyne.Widget].
func (h *hook) CreateRenderer() fyne.WidgetRenderer {
	return widget.NewSimpleRenderer(canvas.NewRectangle(nil))
}

// restyle follows the desktop from light to dark or back, where the toolkit has
// been running for a while.
func (s *screen) restyle() {
	if !s.waiting || os.Getenv("FYNE_THEME") != s.style {
		return
	}
	scheme := make(chan string, 1)
	go func() { scheme <- colorScheme() }()
	select {
	case name := <-scheme:
		if name != s.style {
			fyne.Do(func() { s.app.Settings().SetTheme(promptui.NewTheme().In(name == "dark")) })
		}
	case <-time.After(restyles):
	}
}
