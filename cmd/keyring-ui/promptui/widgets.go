package promptui

import (
	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"
)

// A button takes Enter as well as Space, and Escape for the whole window.
type button struct {
	widget.Button
	escape func()
	onKey  func() // told of every key; nil: nobody is
}

// newButton returns a button whose label is cut to width.
func newButton(label string, width float32, tapped, escape func()) *button {
	b := &button{escape: escape}
	b.Text = faceButton.ellipsize(label, width-2*theme.InnerPadding())
	b.OnTapped = tapped
	b.ExtendBaseWidget(b)
	return b
}

// Tapped implements [fyne.Tappable]. Unlike Fyne's own it leaves the focus where
// it is: a button that did not do anything yet is still the default.
func (b *button) Tapped(*fyne.PointEvent) {
	if !b.Disabled() {
		b.OnTapped()
	}
}

// TypedRune implements [fyne.Focusable].
func (b *button) TypedRune(rune) { b.touched() }

// TypedKey implements [fyne.Focusable].
func (b *button) TypedKey(e *fyne.KeyEvent) {
	b.touched()
	switch e.Name {
	case fyne.KeyEscape:
		b.escape()
	case fyne.KeyReturn, fyne.KeyEnter, fyne.KeySpace:
		b.Tapped(&fyne.PointEvent{})
	}
}

func (b *button) touched() {
	if b.onKey != nil {
		b.onKey()
	}
}

// An entry is a line for a passphrase.
type entry struct {
	widget.Entry
	enter, escape func()
}

func newEntry(visible bool, enter, escape func()) *entry {
	e := &entry{enter: enter, escape: escape}
	e.Password = !visible
	e.Wrapping = fyne.TextWrapOff
	e.Scroll = container.ScrollHorizontalOnly
	e.ExtendBaseWidget(e)
	return e
}

// TypedKey implements [fyne.Focusable].
func (e *entry) TypedKey(key *fyne.KeyEvent) {
	switch key.Name {
	case fyne.KeyEscape:
		e.escape()
	case fyne.KeyReturn, fyne.KeyEnter:
		e.enter()
	default:
		e.Entry.TypedKey(key)
	}
}

// hint is a line of text that comes and goes.
func newHint(f face, width float32) *hint {
	h := &hint{face: f, width: width, box: container.New(column{})}
	h.set("")
	return h
}

type hint struct {
	face  face
	width float32
	said  string
	box   *fyne.Container
}

// set shows s; "" is nothing, and takes no room.
func (h *hint) set(s string) {
	if s == h.said && s != "" {
		return
	}
	h.said = s
	h.box.Objects = nil
	if s == "" {
		h.box.Hide()
		return
	}
	h.box.Objects = []fyne.CanvasObject{newText(h.face, s, h.width)}
	h.box.Show()
	h.box.Refresh()
}

// newBanner shows what must not be missed.
func newBanner(s string, width float32) fyne.CanvasObject {
	const margin = 10
	return container.NewStack(newPlate(), container.New(framed{width - 2*margin, margin}, newText(faceCaution, s, width-2*margin)))
}

// A plate is what a banner stands on.
type plate struct{ widget.BaseWidget }

func newPlate() *plate {
	p := &plate{}
	p.ExtendBaseWidget(p)
	return p
}

// CreateRenderer implements [fyne.Widget].
func (p *plate) CreateRenderer() fyne.WidgetRenderer {
	r := &plateRenderer{canvas.NewRectangle(nil)}
	r.Refresh()
	return r
}

type plateRenderer struct{ back *canvas.Rectangle }

func (r *plateRenderer) MinSize() fyne.Size    { return fyne.Size{} }
func (r *plateRenderer) Layout(size fyne.Size) { r.back.Resize(size) }

// Refresh also follows a change from light to dark.
func (r *plateRenderer) Refresh() {
	th, variant := fyne.CurrentApp().Settings().Theme(), fyne.CurrentApp().Settings().ThemeVariant()
	r.back.FillColor = th.Color(colorBanner, variant)
	r.back.CornerRadius = th.Size(theme.SizeNameInputRadius)
	r.back.Refresh()
}

func (r *plateRenderer) Objects() []fyne.CanvasObject { return []fyne.CanvasObject{r.back} }
func (r *plateRenderer) Destroy()                     {}

// A gauge shows how good a passphrase is.
type gauge struct {
	widget.BaseWidget
	percent int // negative: not acceptable
}

func newGauge() *gauge {
	g := &gauge{}
	g.ExtendBaseWidget(g)
	return g
}

func (g *gauge) set(percent int) {
	g.percent = percent
	g.Refresh()
}

// CreateRenderer implements [fyne.Widget].
func (g *gauge) CreateRenderer() fyne.WidgetRenderer {
	r := &gaugeRenderer{g: g, track: canvas.NewRectangle(nil), fill: canvas.NewRectangle(nil)}
	r.Refresh()
	return r
}

type gaugeRenderer struct {
	g           *gauge
	track, fill *canvas.Rectangle
}

const gaugeHeight = 6

func (r *gaugeRenderer) MinSize() fyne.Size { return fyne.NewSize(60, gaugeHeight) }

func (r *gaugeRenderer) Layout(size fyne.Size) {
	r.track.Resize(size)
	w := size.Width * float32(max(r.g.percent, -r.g.percent)) / 100
	r.fill.Resize(fyne.NewSize(w, size.Height))
}

func (r *gaugeRenderer) Refresh() {
	th, variant := fyne.CurrentApp().Settings().Theme(), fyne.CurrentApp().Settings().ThemeVariant()
	name := theme.ColorNameSuccess
	switch {
	case r.g.percent < 30:
		name = theme.ColorNameError
	case r.g.percent < 60:
		name = theme.ColorNameWarning
	}
	r.track.FillColor, r.fill.FillColor = th.Color(colorTrack, variant), th.Color(name, variant)
	r.track.CornerRadius, r.fill.CornerRadius = gaugeHeight/2, gaugeHeight/2
	r.Layout(r.g.Size())
	r.track.Refresh()
	r.fill.Refresh()
}

func (r *gaugeRenderer) Objects() []fyne.CanvasObject { return []fyne.CanvasObject{r.track, r.fill} }
func (r *gaugeRenderer) Destroy()                     {}

// A fact is a value of one line that opens when there is more of it.
type fact struct {
	face  face
	full  string
	width float32
	open  bool
	value *fyne.Container
	more  *button // nil: all of it is on the line
}

// expander is how wide the button is that opens a fact.
const expander = 26

// newFact returns what stands right of a fact's label.
func newFact(full string, width float32, escape func()) fyne.CanvasObject {
	f := &fact{face: faceText, full: full, width: width, value: container.New(column{})}
	if f.face.width(full) <= width {
		return newLine(f.face, full, width)
	}
	f.more = newButton("", width, f.toggle, escape)
	f.more.Importance = widget.LowImportance
	f.show()
	return container.New(besides{}, f.value, f.more)
}

func (f *fact) toggle() {
	f.open = !f.open
	f.show()
}

func (f *fact) show() {
	if f.open {
		f.value.Objects = []fyne.CanvasObject{newText(f.face, f.full, f.width-expander)}
		f.more.SetIcon(theme.MenuDropUpIcon())
	} else {
		f.value.Objects = []fyne.CanvasObject{newLine(f.face, f.full, f.width-expander)}
		f.more.SetIcon(theme.MenuDropDownIcon())
	}
	f.value.Refresh()
}

// besides is a value with its expander at the right of the first line.
type besides struct{}

func (besides) MinSize(o []fyne.CanvasObject) fyne.Size {
	m := o[0].MinSize()
	return fyne.NewSize(m.Width+expander, m.Height)
}

func (besides) Layout(o []fyne.CanvasObject, size fyne.Size) {
	o[0].Resize(fyne.NewSize(size.Width-expander, size.Height))
	line := newLine(faceText, "M", size.Width).MinSize().Height
	o[1].Move(fyne.NewPos(size.Width-expander+4, (line-expander)/2))
	o[1].Resize(fyne.NewSize(expander, expander))
}

// A table puts labels before facts. Labels are aligned with the first line.
type table struct{ left, gap, between float32 }

func (t table) MinSize(o []fyne.CanvasObject) fyne.Size {
	var size fyne.Size
	for i := 0; i+1 < len(o); i += 2 {
		if i > 0 {
			size.Height += t.between
		}
		m := o[i+1].MinSize()
		size.Height += max(o[i].MinSize().Height, m.Height)
		size.Width = max(size.Width, t.left+t.gap+m.Width)
	}
	return size
}

func (t table) Layout(o []fyne.CanvasObject, size fyne.Size) {
	var y float32
	for i := 0; i+1 < len(o); i += 2 {
		h := max(o[i].MinSize().Height, o[i+1].MinSize().Height)
		o[i].Move(fyne.NewPos(0, y))
		o[i].Resize(fyne.NewSize(t.left, o[i].MinSize().Height))
		o[i+1].Move(fyne.NewPos(t.left+t.gap, y))
		o[i+1].Resize(fyne.NewSize(size.Width-t.left-t.gap, h))
		y += h + t.between
	}
}
