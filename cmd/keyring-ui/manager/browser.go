package manager

import (
	"image/color"
	"slices"
	"strconv"
	"strings"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"
)

// An entry is one line of a browser.
type entry struct {
	id, title, below string
	icon             fyne.Resource
	mark             fyne.Resource // at the right; nil: nothing
	find             string        // what else it is found by
}

// A browser is a title with buttons, a list that is searched, and what is known
// of the one that was chosen.
type browser struct {
	m       *Manager
	box     *fyne.Container
	title   *text
	buttons *fyne.Container
	query   *field
	list    *list
	empty   *text
	hint    *text
	page    *page
	split   *fyne.Container

	all, shown []entry
	chosen     string // its id; "": none
	details    func(id string) []fyne.CanvasObject
	nothing    string // said where there is no entry at all
	leaving    func() // the chosen one is no longer so
}

func newBrowser(m *Manager, details func(id string) []fyne.CanvasObject) *browser {
	b := &browser{m: m, details: details, title: newLine(faceHeading, ""), buttons: container.NewHBox()}
	b.query = newField(lang.L("Search"), nil, func() {
		if b.query.Text != "" {
			b.query.SetText("")
			return
		}
		m.escape()
	})
	b.query.Icon = theme.SearchIcon()
	b.query.shortcut = m.shortcut
	b.query.down = func() { m.canvas.Focus(b.list) }
	b.query.enter = b.query.down
	b.query.OnChanged = func(string) { b.filter() }
	b.list = newList(m.escape)
	b.list.HideSeparators = true
	b.list.Length = func() int { return len(b.shown) }
	b.list.CreateItem = func() fyne.CanvasObject { return newEntryRow() }
	b.list.UpdateItem = func(i widget.ListItemID, o fyne.CanvasObject) {
		if i < len(b.shown) {
			o.(*entryRow).show(b.shown[i])
		}
	}
	b.list.OnSelected = func(i widget.ListItemID) {
		if i < len(b.shown) {
			b.choose(b.shown[i].id)
		}
	}
	b.empty, b.hint = newText(faceDim, ""), newText(faceDim, "")
	b.empty.align = fyne.TextAlignCenter
	b.page = newPage(space)
	b.page.inner.Layout.(*pageInner).most = 560
	left := container.NewBorder(container.New(margin{12, 4, 12, 8}, b.query), nil, nil, nil,
		container.NewStack(container.New(margin{8, 0, 8, 8}, b.list), container.New(topThird{}, b.empty)))
	b.split = container.New(panes{}, left, newSquare(theme.ColorNameSeparator), b.page.Container)
	head := container.New(margin{space, 12, 12, 8}, container.New(beside{gap: 12, right: true}, tallAsButtons(b.buttons), b.title))
	b.box = container.NewBorder(head, nil, nil, nil, b.split)
	return b
}

// tallAsButtons is as high as a row of buttons, also where there is none.
func tallAsButtons(o fyne.CanvasObject) fyne.CanvasObject {
	strut := canvas.NewRectangle(color.Transparent)
	strut.SetMinSize(fyne.NewSize(1, newButton("M", nil, nil, nil).MinSize().Height))
	return container.NewStack(strut, o)
}

// panes are a list, a line, and what is known of the one that was chosen.
type panes struct{}

const leastList, mostList = 230, 340

func (panes) MinSize(o []fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(leastList+1+o[2].MinSize().Width, max(o[0].MinSize().Height, o[2].MinSize().Height))
}

func (panes) Layout(o []fyne.CanvasObject, size fyne.Size) {
	w := min(mostList, max(leastList, size.Width*0.40))
	o[0].Resize(fyne.NewSize(w, size.Height))
	o[1].Move(fyne.NewPos(w, 0))
	o[1].Resize(fyne.NewSize(1, size.Height))
	o[2].Move(fyne.NewPos(w+1, 0))
	o[2].Resize(fyne.NewSize(size.Width-w-1, size.Height))
}

// topThird puts a text where one looks first.
type topThird struct{}

func (topThird) MinSize([]fyne.CanvasObject) fyne.Size { return fyne.Size{} }
func (topThird) Layout(o []fyne.CanvasObject, size fyne.Size) {
	w := min(size.Width-40, 260)
	h := heightFor(o[0], w)
	o[0].Move(fyne.NewPos((size.Width-w)/2, max(20, size.Height/3-h)))
	o[0].Resize(fyne.NewSize(w, h))
}

func (b *browser) object() fyne.CanvasObject { return b.box }
func (b *browser) search() fyne.Focusable    { return b.query }

// put shows entries. What was chosen stays so, as long as it is there.
func (b *browser) put(all []entry, loaded bool) {
	b.all = all
	said := b.nothing
	if !loaded {
		said = lang.L("One moment…")
	}
	if len(all) > 0 {
		said = lang.L("Nothing found")
	}
	b.empty.set(said)
	b.filter()
}

func (b *browser) filter() {
	words := strings.Fields(strings.ToLower(b.query.Text))
	b.shown = nil
	for _, e := range b.all {
		in := strings.ToLower(e.title + "\n" + e.below + "\n" + e.find)
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(in, w) }) {
			b.shown = append(b.shown, e)
		}
	}
	b.empty.Hidden = len(b.shown) > 0
	b.empty.Refresh()
	b.list.Refresh()
	i := slices.IndexFunc(b.shown, func(e entry) bool { return e.id == b.chosen })
	if i < 0 && len(b.shown) > 0 {
		i = 0
	}
	if i < 0 {
		b.list.UnselectAll()
		b.choose("")
		return
	}
	same := b.shown[i].id == b.chosen
	b.choose(b.shown[i].id) // the list says nothing of another one in the same place
	b.list.Select(i)
	if same {
		b.update()
	}
}

// choose shows what is known of an entry.
func (b *browser) choose(id string) {
	if id == b.chosen {
		return
	}
	if b.leaving != nil {
		b.leaving()
	}
	b.chosen = id
	b.page.show(b.about()...)
}

// update shows it anew.
func (b *browser) update() { b.page.keep(b.about()...) }

func (b *browser) about() []fyne.CanvasObject {
	if b.chosen == "" {
		return nil
	}
	return b.details(b.chosen)
}

// An entryRow is one line of a browser.
type entryRow struct {
	widget.BaseWidget
	icon, mark   *widget.Icon
	title, below *text
	all          *fyne.Container
}

func newEntryRow() *entryRow {
	r := &entryRow{icon: widget.NewIcon(nil), mark: widget.NewIcon(nil), title: newLine(faceText, ""), below: newLine(faceCaption, "")}
	r.all = container.New(margin{8, 7, 8, 7}, container.New(beside{gap: 11},
		container.NewGridWrap(fyne.NewSize(22, 22), r.icon),
		container.New(beside{gap: 6, right: true}, container.NewGridWrap(fyne.NewSize(16, 16), r.mark),
			container.New(column{gap: 1}, r.title, r.below))))
	r.ExtendBaseWidget(r)
	return r
}

func (r *entryRow) show(e entry) {
	r.icon.SetResource(e.icon)
	r.mark.SetResource(e.mark)
	r.mark.Hidden = e.mark == nil
	r.title.set(e.title)
	r.below.set(e.below)
}

// CreateRenderer implements [fyne.Widget].
func (r *entryRow) CreateRenderer() fyne.WidgetRenderer { return widget.NewSimpleRenderer(r.all) }

// heading is what stands above the details of something.
func heading(r fyne.Resource, title, below string) fyne.CanvasObject {
	head := newText(faceHeading, title)
	head.most = 3
	lines := container.New(column{gap: 2}, head)
	if below != "" {
		lines.Add(newText(faceDim, below))
	}
	return container.New(beside{gap: 14}, picture(r, 40), lines)
}

// actions are buttons side by side.
func actions(buttons ...fyne.CanvasObject) fyne.CanvasObject {
	return container.New(flow{gap: small + 2}, buttons...)
}

func number(n int) string {
	if n > 9999 {
		return ">9999"
	}
	return strconv.Itoa(n)
}
