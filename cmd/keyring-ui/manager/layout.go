package manager

import (
	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

// tall is what is as high as the width that it gets makes it.
type tall interface{ heightFor(width float32) float32 }

// A tallLayout is a layout of such things.
type tallLayout interface {
	fyne.Layout
	heightOf(objects []fyne.CanvasObject, width float32) float32
}

// heightFor is how high an object is in that width.
func heightFor(o fyne.CanvasObject, width float32) float32 {
	switch o := o.(type) {
	case tall:
		return o.heightFor(width)
	case *fyne.Container:
		if l, ok := o.Layout.(tallLayout); ok {
			return l.heightOf(o.Objects, width)
		}
	}
	return o.MinSize().Height
}

// A column puts what is visible one below the other, in its full width.
type column struct{ gap float32 }

func (c column) each(objects []fyne.CanvasObject, width float32, do func(o fyne.CanvasObject, y, height float32)) (end float32) {
	for _, o := range objects {
		if !o.Visible() {
			continue
		}
		if end > 0 {
			end += c.gap
		}
		h := heightFor(o, width)
		do(o, end, h)
		end += h
	}
	return end
}

func (c column) heightOf(objects []fyne.CanvasObject, width float32) float32 {
	return c.each(objects, width, func(fyne.CanvasObject, float32, float32) {})
}

func (c column) MinSize(objects []fyne.CanvasObject) fyne.Size {
	var size fyne.Size
	for _, o := range objects {
		if o.Visible() {
			size.Width = max(size.Width, o.MinSize().Width)
		}
	}
	size.Height = c.each(objects, size.Width, func(fyne.CanvasObject, float32, float32) {})
	return size
}

func (c column) Layout(objects []fyne.CanvasObject, size fyne.Size) {
	c.each(objects, size.Width, func(o fyne.CanvasObject, y, h float32) {
		o.Move(fyne.NewPos(0, y))
		o.Resize(fyne.NewSize(size.Width, h))
	})
}

// A margin is room around one thing.
type margin struct{ left, top, right, bottom float32 }

func padded(o fyne.CanvasObject, n float32) *fyne.Container {
	return container.New(margin{n, n, n, n}, o)
}

func (m margin) heightOf(o []fyne.CanvasObject, width float32) float32 {
	return heightFor(o[0], width-m.left-m.right) + m.top + m.bottom
}

func (m margin) MinSize(o []fyne.CanvasObject) fyne.Size {
	return o[0].MinSize().AddWidthHeight(m.left+m.right, m.top+m.bottom)
}

func (m margin) Layout(o []fyne.CanvasObject, size fyne.Size) {
	o[0].Move(fyne.NewPos(m.left, m.top))
	o[0].Resize(size.SubtractWidthHeight(m.left+m.right, m.top+m.bottom))
}

// A fixed gives one thing a width of its own.
type fixed struct{ width float32 }

func (f fixed) heightOf(o []fyne.CanvasObject, _ float32) float32 { return heightFor(o[0], f.width) }

func (f fixed) MinSize(o []fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(f.width, heightFor(o[0], f.width))
}

func (f fixed) Layout(o []fyne.CanvasObject, size fyne.Size) {
	o[0].Resize(fyne.NewSize(f.width, size.Height))
}

// A beside puts a thing of fixed size left or right of another, which gets the
// rest.
type beside struct {
	gap   float32
	right bool // the small one is there
	top   bool // both begin at the top; otherwise they are in each other's middle
}

func (b beside) sizes(o []fyne.CanvasObject, width float32) (small fyne.Size, rest, restHeight float32) {
	small = o[0].MinSize()
	rest = max(0, width-small.Width-b.gap)
	return small, rest, heightFor(o[1], rest)
}

func (b beside) heightOf(o []fyne.CanvasObject, width float32) float32 {
	small, _, h := b.sizes(o, width)
	return max(small.Height, h)
}

func (b beside) MinSize(o []fyne.CanvasObject) fyne.Size {
	x, y := o[0].MinSize(), o[1].MinSize()
	return fyne.NewSize(x.Width+b.gap+y.Width, max(x.Height, y.Height))
}

func (b beside) Layout(o []fyne.CanvasObject, size fyne.Size) {
	small, rest, h := b.sizes(o, size.Width)
	x, restX := float32(0), small.Width+b.gap
	if b.right {
		x, restX = size.Width-small.Width, 0
	}
	y, restY := (size.Height-small.Height)/2, (size.Height-h)/2
	if b.top {
		y, restY = 0, 0
	}
	o[0].Move(fyne.NewPos(x, y))
	o[0].Resize(small)
	o[1].Move(fyne.NewPos(restX, restY))
	o[1].Resize(fyne.NewSize(rest, h))
}

// A table puts labels before values, which may be of several lines.
type table struct{ left, gap, between float32 }

func (t table) heightOf(o []fyne.CanvasObject, width float32) (height float32) {
	for i := 0; i+1 < len(o); i += 2 {
		if i > 0 {
			height += t.between
		}
		height += max(heightFor(o[i], t.left), heightFor(o[i+1], width-t.left-t.gap))
	}
	return height
}

func (t table) MinSize(o []fyne.CanvasObject) fyne.Size {
	w := t.left + t.gap + 60
	return fyne.NewSize(w, t.heightOf(o, w))
}

func (t table) Layout(o []fyne.CanvasObject, size fyne.Size) {
	var y float32
	rest := size.Width - t.left - t.gap
	for i := 0; i+1 < len(o); i += 2 {
		a, b := heightFor(o[i], t.left), heightFor(o[i+1], rest)
		first := b // of the value's first line, which the label stands beside
		if v, ok := o[i+1].(*text); ok {
			first = v.face.lineHeight()
		}
		o[i].Move(fyne.NewPos(0, y+max(0, (first-a)/2)))
		o[i].Resize(fyne.NewSize(t.left, a))
		o[i+1].Move(fyne.NewPos(t.left+t.gap, y))
		o[i+1].Resize(fyne.NewSize(rest, b))
		y += max(a, b) + t.between
	}
}

// A flow puts things side by side, and what has no room on the next line.
type flow struct{ gap float32 }

func (f flow) each(objects []fyne.CanvasObject, width float32, do func(fyne.CanvasObject, fyne.Position, fyne.Size)) float32 {
	var at fyne.Position
	var line float32
	for _, o := range objects {
		if !o.Visible() {
			continue
		}
		m := o.MinSize()
		if at.X > 0 && at.X+m.Width > width {
			at = fyne.NewPos(0, at.Y+line+f.gap)
			line = 0
		}
		do(o, at, m)
		at.X += m.Width + f.gap
		line = max(line, m.Height)
	}
	return at.Y + line
}

func (f flow) heightOf(o []fyne.CanvasObject, width float32) float32 {
	return f.each(o, width, func(fyne.CanvasObject, fyne.Position, fyne.Size) {})
}

func (f flow) MinSize(objects []fyne.CanvasObject) (size fyne.Size) {
	for _, o := range objects {
		size = size.Max(o.MinSize())
	}
	return size
}

func (f flow) Layout(o []fyne.CanvasObject, size fyne.Size) {
	f.each(o, size.Width, func(o fyne.CanvasObject, at fyne.Position, m fyne.Size) {
		o.Move(at)
		o.Resize(m)
	})
}

// A page is something tall in a scroll of its width.
type page struct {
	*fyne.Container
	inner  *fyne.Container
	scroll *container.Scroll
}

type pageLayout struct{ inner *pageInner }

// A pageInner is as wide as the page, and as high as that makes it.
type pageInner struct{ width, margin, most float32 }

func newPage(space float32, objects ...fyne.CanvasObject) *page {
	in := &pageInner{margin: space, width: 300}
	p := &page{inner: container.New(in, container.New(column{gap: gap}, objects...))}
	p.scroll = container.NewVScroll(p.inner)
	p.Container = container.New(&pageLayout{in}, p.scroll)
	return p
}

// show puts other things onto the page, from the top on.
func (p *page) show(objects ...fyne.CanvasObject) {
	p.scroll.Offset = fyne.Position{}
	p.keep(objects...)
}

// keep is show where the eye stays.
func (p *page) keep(objects ...fyne.CanvasObject) {
	p.inner.Objects[0].(*fyne.Container).Objects = objects
	p.Refresh()
}

func (l *pageLayout) MinSize([]fyne.CanvasObject) fyne.Size { return fyne.NewSize(220, 100) }

func (l *pageLayout) Layout(o []fyne.CanvasObject, size fyne.Size) {
	l.inner.width = size.Width
	o[0].Resize(size)
	o[0].Refresh()
}

func (l *pageInner) inside() (width float32) {
	width = l.width - 2*l.margin
	if l.most > 0 {
		width = min(width, l.most)
	}
	return width
}

func (l *pageInner) MinSize(o []fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(60, heightFor(o[0], l.inside())+2*l.margin)
}

func (l *pageInner) Layout(o []fyne.CanvasObject, size fyne.Size) {
	l.width = size.Width
	o[0].Move(fyne.NewPos((size.Width-l.inside())/2, l.margin))
	o[0].Resize(fyne.NewSize(l.inside(), size.Height-2*l.margin))
}
