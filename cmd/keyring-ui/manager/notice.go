package manager

import (
	"crypto/sha256"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
)

const highImportance = widget.HighImportance

// A notice says above all else what was done, or what went wrong. What was done
// goes by itself; what went wrong stays until it was read.
type notice struct {
	m    *Manager
	box  *fyne.Container
	stop func() // of the time that it is shown
}

func newNotice(m *Manager) *notice {
	n := &notice{m: m, box: container.New(column{})}
	n.box.Hide()
	return n
}

func (n *notice) show(o fyne.CanvasObject) {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
	dismiss := newButton("", theme.CancelIcon(), n.hide, n.m.escape)
	dismiss.Importance = widget.LowImportance
	n.box.Objects = []fyne.CanvasObject{on(promptui.ColorBanner, container.New(beside{gap: 10, right: true}, dismiss, o))}
	n.box.Layout = tallBorder{margin{space, 12, space, 0}}
	n.box.Show()
	n.m.right.Refresh()
}

func (n *notice) hide() {
	n.box.Hide()
	n.box.Layout, n.box.Objects = column{}, nil
	n.m.right.Refresh()
}

// say tells what was done.
func (n *notice) say(s string) {
	n.show(newText(faceText, s))
	n.stop = n.m.o.Clock.AfterFunc(noticeTime, func() { n.m.o.Do(n.hide) })
}

// fault tells what went wrong, and what to do. That the user said no is no news.
func (n *notice) fault(err error) {
	said, hint := sentence(err)
	if said == "" {
		return
	}
	lines := container.New(column{gap: 3}, newText(faceFault, said))
	if hint != "" {
		lines.Add(newText(faceText, hint))
	}
	n.show(lines)
}

// A tallBorder is a margin that asks for the height it needs in the width that
// it was given last.
type tallBorder struct{ margin }

func (t tallBorder) MinSize(o []fyne.CanvasObject) fyne.Size {
	const least = 460
	return fyne.NewSize(least, t.heightOf(o, least))
}

// A clip knows whether what is on the clipboard is a secret that was put there.
type clip struct {
	held bool
	sum  [sha256.Size]byte
	stop func()
}

func (c *clip) forget() {
	if c.stop != nil {
		c.stop()
	}
	*c = clip{}
}

// secret puts a secret onto the clipboard for a while.
func (m *Manager) secret(s string) {
	m.clip.forget()
	m.o.Clipboard.SetContent(s)
	m.clip.held, m.clip.sum = true, sha256.Sum256([]byte(s))
	m.clip.stop = m.o.Clock.AfterFunc(ClipboardTime, func() { m.o.Do(func() { m.clip.clear(m.o.Clipboard) }) })
}

// clear takes the secret off the clipboard, unless there is something else by
// now.
func (c *clip) clear(from Clipboard) {
	if c.held && sha256.Sum256([]byte(from.Content())) == c.sum {
		from.SetContent("")
	}
	c.forget()
}
