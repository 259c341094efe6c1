package manager

import (
	"image/color"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
)

// A face is how a text looks.
type face struct {
	size  fyne.ThemeSizeName
	color fyne.ThemeColorName
	style fyne.TextStyle
}

var (
	faceHeading = face{size: theme.SizeNameHeadingText, color: theme.ColorNameForeground, style: fyne.TextStyle{Bold: true}}
	faceTitle   = face{size: theme.SizeNameText, color: theme.ColorNameForeground, style: fyne.TextStyle{Bold: true}}
	faceText    = face{size: theme.SizeNameText, color: theme.ColorNameForeground}
	faceDim     = face{size: theme.SizeNameText, color: promptui.ColorDim}
	faceCaption = face{size: theme.SizeNameCaptionText, color: promptui.ColorDim}
	faceSection = face{size: theme.SizeNameCaptionText, color: promptui.ColorDim, style: fyne.TextStyle{Bold: true}}
	faceFault   = face{size: theme.SizeNameText, color: promptui.ColorFault, style: fyne.TextStyle{Bold: true}}
	faceCaution = face{size: theme.SizeNameText, color: promptui.ColorCaution}
	faceCode    = face{size: theme.SizeNameHeadingText, color: theme.ColorNameForeground, style: fyne.TextStyle{Monospace: true}}
	faceSecret  = face{size: theme.SizeNameText, color: theme.ColorNameForeground, style: fyne.TextStyle{Monospace: true}}
)

func themed(name fyne.ThemeColorName) color.Color {
	s := fyne.CurrentApp().Settings()
	return s.Theme().Color(name, s.ThemeVariant())
}

func (f face) points() float32 { return fyne.CurrentApp().Settings().Theme().Size(f.size) }

func (f face) lineHeight() float32 { return fyne.MeasureText("M", f.points(), f.style).Height }

// A text shows a line that is cut to the room there is or, where it may wrap, as
// many lines as it takes. Unlike a label it never asks for room because its
// text is long.
type text struct {
	widget.BaseWidget
	face  face
	full  string
	wraps bool
	align fyne.TextAlign
	most  int     // lines; 0: as many as it takes
	width float32 // what full was last broken for
	lines []string
}

// newLine shows one line.
func newLine(f face, s string) *text {
	t := &text{face: f, full: s}
	t.ExtendBaseWidget(t)
	return t
}

// newText shows as many lines as it takes, in the width that its layout gives.
func newText(f face, s string) *text {
	t := newLine(f, s)
	t.wraps = true
	return t
}

func (t *text) set(s string) {
	if s == t.full {
		return
	}
	t.full, t.width = s, 0
	t.Refresh()
}

// fit breaks the text for a width.
func (t *text) fit(width float32) {
	if width == t.width && t.lines != nil {
		return
	}
	t.width = width
	if t.wraps {
		t.lines = promptui.Wrap(t.full, t.face.size, t.face.style, width)
		if t.most > 0 && len(t.lines) > t.most {
			last := t.lines[t.most-1] + " " + t.lines[t.most]
			t.lines = append(t.lines[:t.most-1:t.most-1], promptui.Ellipsize(last, t.face.size, t.face.style, width))
		}
		return
	}
	t.lines = []string{promptui.Ellipsize(t.full, t.face.size, t.face.style, width)}
}

// heightFor implements tall.
func (t *text) heightFor(width float32) float32 {
	if !t.wraps {
		return t.face.lineHeight()
	}
	t.fit(width)
	return t.face.lineHeight() * float32(len(t.lines))
}

// natural is how wide the text is on one line.
func (t *text) natural() float32 {
	return fyne.MeasureText(t.full, t.face.points(), t.face.style).Width
}

// CreateRenderer implements [fyne.Widget].
func (t *text) CreateRenderer() fyne.WidgetRenderer { return &textRenderer{t: t} }

type textRenderer struct {
	t       *text
	objects []fyne.CanvasObject
}

func (r *textRenderer) MinSize() fyne.Size {
	if r.t.wraps && r.t.width > 0 {
		return fyne.NewSize(10, r.t.heightFor(r.t.width))
	}
	return fyne.NewSize(10, r.t.face.lineHeight())
}

func (r *textRenderer) Layout(size fyne.Size) {
	r.t.fit(size.Width)
	c, h := themed(r.t.face.color), r.t.face.lineHeight()
	for len(r.objects) < len(r.t.lines) {
		r.objects = append(r.objects, canvas.NewText("", c))
	}
	r.objects = r.objects[:len(r.t.lines)]
	for i, line := range r.t.lines {
		o := r.objects[i].(*canvas.Text)
		o.Text, o.Color, o.TextSize, o.TextStyle, o.Alignment = line, c, r.t.face.points(), r.t.face.style, r.t.align
		o.Move(fyne.NewPos(0, float32(i)*h))
		o.Resize(fyne.NewSize(size.Width, h))
		o.Refresh()
	}
}

// Refresh also follows a change from light to dark.
func (r *textRenderer) Refresh() {
	r.t.lines = nil
	r.Layout(r.t.Size())
	canvas.Refresh(r.t)
}

func (r *textRenderer) Objects() []fyne.CanvasObject { return r.objects }
func (r *textRenderer) Destroy()                     {}
