package promptui

import (
	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

// A column puts what is visible one below the other, and a little to the left
// where it has a margin of its own.
type column struct{ gap, left float32 }

func (c column) MinSize(objects []fyne.CanvasObject) fyne.Size {
	var size fyne.Size
	for _, o := range objects {
		if !o.Visible() {
			continue
		}
		m := o.MinSize()
		if size.Height > 0 {
			size.Height += c.gap
		}
		size.Width, size.Height = max(size.Width, m.Width), size.Height+m.Height
	}
	return size
}

func (c column) Layout(objects []fyne.CanvasObject, size fyne.Size) {
	var y float32
	for _, o := range objects {
		if !o.Visible() {
			continue
		}
		h := o.MinSize().Height
		o.Move(fyne.NewPos(-c.left, y))
		o.Resize(fyne.NewSize(size.Width+c.left, h))
		y += h + c.gap
	}
}

// A row puts two things side by side: the first as wide as it says, the
// second with what is left. The lower one is in the middle of the other.
type row struct{ left, gap float32 }

func (r row) MinSize(o []fyne.CanvasObject) fyne.Size {
	a, b := o[0].MinSize(), o[1].MinSize()
	return fyne.NewSize(r.left+r.gap+b.Width, max(a.Height, b.Height))
}

func (r row) Layout(o []fyne.CanvasObject, size fyne.Size) {
	for i, x := range []float32{0, r.left + r.gap} {
		w := r.left
		if i == 1 {
			w = size.Width - x
		}
		h := o[i].MinSize().Height
		o[i].Move(fyne.NewPos(x, (size.Height-h)/2))
		o[i].Resize(fyne.NewSize(w, h))
	}
}

// A framed is a fixed width with a margin around it.
type framed struct{ width, margin float32 }

func (f framed) MinSize(o []fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(f.width+2*f.margin, o[0].MinSize().Height+2*f.margin)
}

func (f framed) Layout(o []fyne.CanvasObject, size fyne.Size) {
	o[0].Move(fyne.NewPos((size.Width-f.width)/2, f.margin))
	o[0].Resize(fyne.NewSize(f.width, size.Height-2*f.margin))
}

// A bounded is a scroll that is as high as its content, up to a limit.
type bounded struct{ limit float32 }

func newBounded(content fyne.CanvasObject, limit float32) *fyne.Container {
	scroll := container.NewVScroll(content)
	return container.New(bounded{limit}, scroll)
}

func (b bounded) MinSize(o []fyne.CanvasObject) fyne.Size {
	m := o[0].(*container.Scroll).Content.MinSize()
	return fyne.NewSize(m.Width, min(m.Height, b.limit))
}

func (b bounded) Layout(o []fyne.CanvasObject, size fyne.Size) { o[0].Resize(size) }

// An equal puts its objects side by side, all as wide.
type equal struct{ gap float32 }

func (e equal) width(total float32, n int) float32 {
	return (total - e.gap*float32(n-1)) / float32(n)
}

func (e equal) MinSize(objects []fyne.CanvasObject) fyne.Size {
	var size fyne.Size
	for _, o := range objects {
		m := o.MinSize()
		size.Width, size.Height = max(size.Width, m.Width), max(size.Height, m.Height)
	}
	n := float32(len(objects))
	return fyne.NewSize(size.Width*n+e.gap*(n-1), size.Height)
}

func (e equal) Layout(objects []fyne.CanvasObject, size fyne.Size) {
	w := e.width(size.Width, len(objects))
	for i, o := range objects {
		o.Move(fyne.NewPos(float32(i)*(w+e.gap), 0))
		o.Resize(fyne.NewSize(w, size.Height))
	}
}
