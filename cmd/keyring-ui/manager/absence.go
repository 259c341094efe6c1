package manager

import (
	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"

	"github.com/keyringd/keyringd/dbus/client"
)

// absence says that there is no daemon, and what to do.
type absence struct {
	m     *Manager
	box   *fyne.Container
	title *text
	again *button
}

func newAbsence(m *Manager) *absence {
	a := &absence{m: m, title: newText(faceHeading, "")}
	a.title.align = fyne.TextAlignCenter
	a.again = newButton(lang.L("Start it"), theme.MediaPlayIcon(), func() {
		background(m, m.o.Daemon.Status, func(_ map[string]any, err error) {
			if err == nil {
				m.changed(client.DaemonBegan, "")
				return
			}
			a.title.set(lang.L("keyringd could not be started"))
		})
	}, func() {})
	a.again.Importance = highImportance
	return a
}

func (a *absence) object() fyne.CanvasObject {
	if a.box == nil {
		center := func(s string, f face) *text {
			t := newText(f, s)
			t.align = fyne.TextAlignCenter
			return t
		}
		a.box = container.NewCenter(container.New(fixed{440}, container.New(column{gap: gap},
			container.NewCenter(picture(icon("lock"), 64)), a.title,
			center(lang.L("This window shows what keyringd keeps. It goes on by itself as soon as keyringd runs."), faceDim),
			container.NewCenter(a.again),
			center(lang.L("In a terminal: {{.Command}}", map[string]any{"Command": "systemctl --user start keyringd"}), faceCaption))))
		a.refresh()
	}
	return a.box
}

func (a *absence) refresh() {
	if a.m.known {
		a.title.set(lang.L("keyringd is not running"))
		a.again.Show()
	} else {
		a.title.set(lang.L("Looking for keyringd…"))
		a.again.Hide()
	}
	a.box.Refresh()
}
