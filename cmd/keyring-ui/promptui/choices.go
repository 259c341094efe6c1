package promptui

import (
	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/driver/desktop"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/prompt"
)

// wishes are the choices beside the answer; nil: the question has none.
func (v *View) wishes() fyne.CanvasObject {
	box := container.New(column{gap: 2})
	checks := container.New(column{gap: -10, left: 7}) // without Fyne's own margins
	switch {
	case !v.q.Terms || v.q.Remember <= 0:
	case v.q.Kind == prompt.Confirm:
		v.term = newChoice(v.Cancel, lang.L("Just once"), capital(period(v.q.Remember)), lang.L("Until locked"))
		v.term.onKey = v.touched
		box.Add(newLine(faceCaption, lang.L("This permission stands"), width))
		box.Add(v.term)
	default:
		// Checked, as keyringd is set to remember; a permission, which is no secret
		// that one types, is given for once unless the user says more.
		v.remember = newCheck(lang.L("Remember for {{.Time}}", map[string]any{"Time": period(v.q.Remember)}), v.enter, v.Cancel)
		v.remember.Checked = true
		checks.Add(v.remember)
	}
	if v.q.Automatic {
		say := lang.L("Unlock automatically when I log in")
		if v.q.Fingerprint != "" {
			say = lang.L("Keep it, and unlock this key whenever I am logged in")
		}
		v.automatic = newCheck(say, v.enter, v.Cancel)
		checks.Add(v.automatic)
	}
	if len(checks.Objects) > 0 {
		box.Add(checks)
	}
	if len(box.Objects) == 0 {
		return nil
	}
	return box
}

// chosen is the term of an accepted answer.
func (v *View) chosen() prompt.Term {
	switch {
	case v.term != nil:
		return prompt.Term(v.term.selected)
	case v.remember != nil && v.remember.Checked:
		return prompt.ForAWhile
	}
	return prompt.Once
}

// A check takes Escape for the whole window and Enter as an entry does. One that
// was clicked leaves the focus where it is: what is typed next is the passphrase.
type check struct {
	widget.Check
	enter, escape func()
}

func newCheck(label string, enter, escape func()) *check {
	c := &check{enter: enter, escape: escape}
	c.Text = faceText.ellipsize(label, width-40)
	c.ExtendBaseWidget(c)
	return c
}

// Tapped implements [fyne.Tappable].
func (c *check) Tapped(*fyne.PointEvent) { c.SetChecked(!c.Checked) }

// TypedKey implements [fyne.Focusable].
func (c *check) TypedKey(e *fyne.KeyEvent) {
	switch e.Name {
	case fyne.KeyEscape:
		c.escape()
	case fyne.KeyReturn, fyne.KeyEnter:
		c.enter()
	}
}

// A choice is several words of which one is selected, side by side. The arrow
// keys move the selection; Enter does nothing, so that nobody approves who meant
// to choose.
type choice struct {
	widget.BaseWidget
	words    []string
	selected int
	focused  bool
	hovered  int // -1: none
	escape   func()
	onKey    func() // told of every key; nil: nobody is
}

const choiceHeight = 34

func newChoice(escape func(), words ...string) *choice {
	c := &choice{escape: escape, hovered: -1}
	wide := equal{}.width(width, len(words)) - 2*theme.Padding()
	for _, w := range words {
		c.words = append(c.words, faceText.ellipsize(w, wide))
	}
	c.ExtendBaseWidget(c)
	return c
}

// at returns the word at a place, -1 for none.
func (c *choice) at(p fyne.Position) int {
	i := int(p.X / (c.Size().Width / float32(len(c.words))))
	if p.X < 0 || i >= len(c.words) {
		return -1
	}
	return i
}

func (c *choice) choose(i int) {
	if i >= 0 && i < len(c.words) {
		c.selected = i
		c.Refresh()
	}
}

// Tapped implements [fyne.Tappable]. Like a [check] it leaves the focus alone.
func (c *choice) Tapped(e *fyne.PointEvent) { c.choose(c.at(e.Position)) }

// MouseIn implements [desktop.Hoverable].
func (c *choice) MouseIn(e *desktop.MouseEvent) { c.MouseMoved(e) }

// MouseMoved implements [desktop.Hoverable].
func (c *choice) MouseMoved(e *desktop.MouseEvent) {
	if i := c.at(e.Position); i != c.hovered {
		c.hovered = i
		c.Refresh()
	}
}

// MouseOut implements [desktop.Hoverable].
func (c *choice) MouseOut() {
	c.hovered = -1
	c.Refresh()
}

// FocusGained implements [fyne.Focusable].
func (c *choice) FocusGained() {
	c.focused = true
	c.Refresh()
}

// FocusLost implements [fyne.Focusable].
func (c *choice) FocusLost() {
	c.focused = false
	c.Refresh()
}

// TypedRune implements [fyne.Focusable].
func (c *choice) TypedRune(rune) { c.touched() }

// TypedKey implements [fyne.Focusable].
func (c *choice) TypedKey(e *fyne.KeyEvent) {
	c.touched()
	switch e.Name {
	case fyne.KeyEscape:
		c.escape()
	case fyne.KeyLeft, fyne.KeyUp:
		c.choose(c.selected - 1)
	case fyne.KeyRight, fyne.KeyDown:
		c.choose(c.selected + 1)
	}
}

func (c *choice) touched() {
	if c.onKey != nil {
		c.onKey()
	}
}

// CreateRenderer implements [fyne.Widget].
func (c *choice) CreateRenderer() fyne.WidgetRenderer {
	r := &choiceRenderer{c: c, track: canvas.NewRectangle(nil)}
	r.objects = append(r.objects, r.track)
	for range c.words {
		r.plates = append(r.plates, canvas.NewRectangle(nil))
		r.words = append(r.words, canvas.NewText("", nil))
	}
	for _, p := range r.plates {
		r.objects = append(r.objects, p)
	}
	for _, w := range r.words {
		r.objects = append(r.objects, w)
	}
	r.Refresh()
	return r
}

type choiceRenderer struct {
	c       *choice
	track   *canvas.Rectangle
	plates  []*canvas.Rectangle
	words   []*canvas.Text
	objects []fyne.CanvasObject
}

func (r *choiceRenderer) MinSize() fyne.Size {
	var w float32
	for _, s := range r.c.words {
		w = max(w, faceText.width(s))
	}
	return fyne.NewSize((w+2*theme.Padding())*float32(len(r.c.words)), choiceHeight)
}

func (r *choiceRenderer) Layout(size fyne.Size) {
	const inset = 3
	r.track.Resize(size)
	w := size.Width / float32(len(r.words))
	for i := range r.words {
		x := float32(i) * w
		r.plates[i].Move(fyne.NewPos(x+inset, inset))
		r.plates[i].Resize(fyne.NewSize(w-2*inset, size.Height-2*inset))
		r.words[i].Move(fyne.NewPos(x, 0))
		r.words[i].Resize(fyne.NewSize(w, size.Height))
	}
}

// Refresh also follows a change from light to dark.
func (r *choiceRenderer) Refresh() {
	th, variant := fyne.CurrentApp().Settings().Theme(), fyne.CurrentApp().Settings().ThemeVariant()
	radius := th.Size(theme.SizeNameInputRadius)
	r.track.FillColor, r.track.CornerRadius = th.Color(theme.ColorNameButton, variant), radius
	r.track.StrokeWidth, r.track.StrokeColor = 0, nil
	if r.c.focused {
		r.track.StrokeWidth, r.track.StrokeColor = 2, th.Color(theme.ColorNamePrimary, variant)
	}
	for i, p := range r.plates {
		p.FillColor, p.CornerRadius = nil, radius-3
		ink := colorDim
		switch i {
		case r.c.selected:
			p.FillColor, ink = th.Color(colorChosen, variant), theme.ColorNameForeground
		case r.c.hovered:
			p.FillColor = th.Color(theme.ColorNameHover, variant)
		}
		w := r.words[i]
		w.Text, w.Color, w.Alignment = r.c.words[i], th.Color(ink, variant), fyne.TextAlignCenter
		w.TextSize, w.TextStyle = faceText.points(), fyne.TextStyle{Bold: i == r.c.selected}
		w.Refresh()
		p.Refresh()
	}
	r.track.Refresh()
}

func (r *choiceRenderer) Objects() []fyne.CanvasObject { return r.objects }
func (r *choiceRenderer) Destroy()                     {}
