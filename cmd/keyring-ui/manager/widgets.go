package manager

import (
	"embed"
	"image/color"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/driver/desktop"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
)

const (
	gap   = 14 // between parts
	small = 6  // between what belongs together
	space = 20 // around a page

	// maxLines is how many lines a value takes at most.
	maxLines = 10
)

//go:embed icons
var icons embed.FS

// icon returns one of our own, in the colour of the text.
func icon(name string) fyne.Resource {
	b, err := icons.ReadFile("icons/" + name + ".svg")
	if err != nil {
		return theme.BrokenImageIcon()
	}
	return theme.NewThemedResource(fyne.NewStaticResource("keyringd-"+name+".svg", b))
}

// picture shows an icon in a size.
func picture(r fyne.Resource, size float32) fyne.CanvasObject {
	i := widget.NewIcon(r)
	return container.NewGridWrap(fyne.NewSize(size, size), i)
}

// A button takes Enter as well as Space, and Escape for what it is in.
type button struct {
	widget.Button
	escape func()
}

func newButton(label string, r fyne.Resource, tapped, escape func()) *button {
	b := &button{escape: escape}
	b.Text, b.Icon, b.OnTapped = label, r, tapped
	b.ExtendBaseWidget(b)
	return b
}

// TypedKey implements [fyne.Focusable].
func (b *button) TypedKey(e *fyne.KeyEvent) {
	switch e.Name {
	case fyne.KeyEscape:
		b.escape()
	case fyne.KeyReturn, fyne.KeyEnter, fyne.KeySpace:
		b.Tapped(&fyne.PointEvent{})
	}
}

// Tapped implements [fyne.Tappable].
func (b *button) Tapped(*fyne.PointEvent) {
	if !b.Disabled() && b.OnTapped != nil {
		b.OnTapped()
	}
}

// A field is a line to type into.
type field struct {
	widget.Entry
	enter, escape func()
	down          func()              // the arrow key; nil: nothing
	shortcut      func(fyne.Shortcut) // those that are not for the text
}

func newField(hint string, enter, escape func()) *field {
	f := &field{enter: enter, escape: escape}
	f.PlaceHolder = hint
	f.Wrapping = fyne.TextWrapOff
	f.Scroll = container.ScrollHorizontalOnly
	f.ExtendBaseWidget(f)
	return f
}

// newSecretField is a field whose text is not shown unless it is asked for.
func newSecretField(hint string, enter, escape func()) *field {
	f := newField(hint, enter, escape)
	f.Password = true
	f.ActionItem = newReveal(f)
	return f
}

// A reveal shows what is in a field, or hides it.
type reveal struct {
	widget.BaseWidget
	of   *field
	icon *widget.Icon
}

func newReveal(of *field) *reveal {
	r := &reveal{of: of, icon: widget.NewIcon(theme.VisibilityIcon())}
	r.ExtendBaseWidget(r)
	return r
}

// Tapped implements [fyne.Tappable].
func (r *reveal) Tapped(*fyne.PointEvent) {
	r.of.Password = !r.of.Password
	if r.icon.SetResource(theme.VisibilityIcon()); !r.of.Password {
		r.icon.SetResource(theme.VisibilityOffIcon())
	}
	r.of.Refresh()
}

// CreateRenderer implements [fyne.Widget].
func (r *reveal) CreateRenderer() fyne.WidgetRenderer {
	return widget.NewSimpleRenderer(container.New(margin{left: 8, right: 10}, container.NewCenter(container.NewGridWrap(fyne.NewSquareSize(18), r.icon))))
}

// Cursor implements [desktop.Cursorable].
func (r *reveal) Cursor() desktop.Cursor { return desktop.DefaultCursor }

// TypedKey implements [fyne.Focusable].
func (f *field) TypedKey(e *fyne.KeyEvent) {
	switch {
	case e.Name == fyne.KeyEscape:
		f.escape()
	case (e.Name == fyne.KeyReturn || e.Name == fyne.KeyEnter) && f.enter != nil:
		f.enter()
	case e.Name == fyne.KeyDown && f.down != nil:
		f.down()
	default:
		f.Entry.TypedKey(e)
	}
}

// TypedShortcut implements [fyne.Shortcutable].
func (f *field) TypedShortcut(s fyne.Shortcut) {
	if _, ours := s.(*desktop.CustomShortcut); ours && f.shortcut != nil {
		f.shortcut(s)
	}
	f.Entry.TypedShortcut(s)
}

// A check takes Escape for what it is in.
type check struct {
	widget.Check
	escape func()
}

func newCheck(label string, changed func(bool), escape func()) *check {
	c := &check{escape: escape}
	c.Text, c.OnChanged = label, changed
	c.ExtendBaseWidget(c)
	return c
}

// TypedKey implements [fyne.Focusable].
func (c *check) TypedKey(e *fyne.KeyEvent) {
	if e.Name == fyne.KeyEscape {
		c.escape()
		return
	}
	c.Check.TypedKey(e)
}

// flush puts a check's box where texts begin.
func flush(c *check) fyne.CanvasObject { return container.New(margin{left: -8}, c) }

// A choice takes Escape for what it is in.
type choice struct {
	widget.Select
	escape func()
}

func newChoice(options []string, selected string, changed func(string), escape func()) *choice {
	c := &choice{escape: escape}
	c.Options, c.Selected, c.OnChanged = options, selected, changed
	c.ExtendBaseWidget(c)
	return c
}

// TypedKey implements [fyne.Focusable].
func (c *choice) TypedKey(e *fyne.KeyEvent) {
	if e.Name == fyne.KeyEscape {
		c.escape()
		return
	}
	c.Select.TypedKey(e)
}

// A plate is a coloured ground.
type plate struct {
	widget.BaseWidget
	color  fyne.ThemeColorName
	square bool
}

func newPlate(c fyne.ThemeColorName) *plate {
	p := &plate{color: c}
	p.ExtendBaseWidget(p)
	return p
}

// CreateRenderer implements [fyne.Widget].
func (p *plate) CreateRenderer() fyne.WidgetRenderer {
	r := &plateRenderer{p, canvas.NewRectangle(color.Transparent)}
	r.Refresh()
	return r
}

type plateRenderer struct {
	p    *plate
	back *canvas.Rectangle
}

func (r *plateRenderer) MinSize() fyne.Size    { return fyne.Size{} }
func (r *plateRenderer) Layout(size fyne.Size) { r.back.Resize(size) }

// Refresh also follows a change from light to dark.
func (r *plateRenderer) Refresh() {
	r.back.FillColor = themed(r.p.color)
	if !r.p.square {
		r.back.CornerRadius = theme.InputRadiusSize()
	}
	r.back.Refresh()
}

func (r *plateRenderer) Objects() []fyne.CanvasObject { return []fyne.CanvasObject{r.back} }
func (r *plateRenderer) Destroy()                     {}

// on puts something onto a coloured ground.
func on(c fyne.ThemeColorName, o fyne.CanvasObject) *fyne.Container {
	return container.New(stack{}, newPlate(c), padded(o, 10))
}

// outlined draws the border around a choice that an entry has by itself.
func outlined(o fyne.CanvasObject) fyne.CanvasObject { return container.New(stack{}, o, newOutline()) }

// An outline is a border of the colour of an entry's.
type outline struct{ widget.BaseWidget }

func newOutline() *outline {
	o := &outline{}
	o.ExtendBaseWidget(o)
	return o
}

// CreateRenderer implements [fyne.Widget].
func (o *outline) CreateRenderer() fyne.WidgetRenderer {
	r := &outlineRenderer{canvas.NewRectangle(color.Transparent)}
	r.Refresh()
	return r
}

type outlineRenderer struct{ line *canvas.Rectangle }

func (r *outlineRenderer) MinSize() fyne.Size    { return fyne.Size{} }
func (r *outlineRenderer) Layout(size fyne.Size) { r.line.Resize(size) }

// Refresh also follows a change from light to dark.
func (r *outlineRenderer) Refresh() {
	r.line.StrokeColor, r.line.StrokeWidth, r.line.CornerRadius = themed(theme.ColorNameInputBorder), 1, theme.InputRadiusSize()
	r.line.Refresh()
}

func (r *outlineRenderer) Objects() []fyne.CanvasObject { return []fyne.CanvasObject{r.line} }
func (r *outlineRenderer) Destroy()                     {}

// A stack puts things over each other, all as high as the highest.
type stack struct{}

func (stack) heightOf(objects []fyne.CanvasObject, width float32) (height float32) {
	for _, o := range objects {
		height = max(height, heightFor(o, width))
	}
	return height
}

func (stack) MinSize(objects []fyne.CanvasObject) (size fyne.Size) {
	for _, o := range objects {
		size = size.Max(o.MinSize())
	}
	return size
}

func (stack) Layout(objects []fyne.CanvasObject, size fyne.Size) {
	for _, o := range objects {
		o.Resize(size)
	}
}

// caution shows what must not be missed.
func caution(s string) fyne.CanvasObject { return on(promptui.ColorBanner, newText(faceCaution, s)) }

// facts is a table of what is known; pairs whose value is empty are left out.
func facts(pairs ...any) *fyne.Container {
	c := container.New(table{left: 124, gap: 12, between: 9})
	for i := 0; i+1 < len(pairs); i += 2 {
		value, ok := pairs[i+1].(fyne.CanvasObject)
		if s, isText := pairs[i+1].(string); isText {
			if s == "" {
				continue
			}
			lines := newText(faceText, s)
			lines.most = maxLines
			value, ok = lines, true
		}
		if !ok {
			continue
		}
		c.Add(newLine(faceDim, pairs[i].(string)))
		c.Add(value)
	}
	return c
}
