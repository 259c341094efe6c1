package manager

import (
	"slices"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
)

const (
	navRow     = 34
	navSection = 38
)

func (e navEntry) heading() bool { return e.place == nil && e.do == nil }

// A nav is the left side: where one can go.
type nav struct {
	m    *Manager
	list *list
	rows []navEntry
	box  *fyne.Container
}

// A navEntry is a place or, without one, the heading of those below.
type navEntry struct {
	label string
	icon  fyne.Resource
	count int
	place *place
	do    func() // instead of a place; nil: nothing
}

func newNav(m *Manager) *nav {
	n := &nav{m: m}
	n.list = newList(m.escape)
	n.list.HideSeparators = true
	n.list.Length = func() int { return len(n.rows) }
	n.list.CreateItem = func() fyne.CanvasObject { return newNavRow() }
	n.list.UpdateItem = func(i widget.ListItemID, o fyne.CanvasObject) {
		if i < len(n.rows) {
			o.(*navRowView).show(n.rows[i])
		}
	}
	n.list.OnSelected = n.selected
	lock := newButton(lang.L("Lock everything"), icon("lock"), m.lockAll, m.escape)
	lock.Alignment = widget.ButtonAlignLeading
	lock.Importance = widget.LowImportance
	inner := container.NewBorder(nil, padded(lock, 8), nil, nil, container.New(margin{6, 6, 6, 0}, n.list))
	edge := container.New(rightEdge{}, newSquare(theme.ColorNameSeparator))
	n.box = container.NewStack(newSquare(promptui.ColorSide), inner, edge)
	return n
}

func newSquare(c fyne.ThemeColorName) *plate {
	p := newPlate(c)
	p.square = true
	return p
}

// A rightEdge is a line at the right.
type rightEdge struct{}

func (rightEdge) MinSize([]fyne.CanvasObject) fyne.Size { return fyne.Size{} }
func (rightEdge) Layout(o []fyne.CanvasObject, size fyne.Size) {
	o[0].Move(fyne.NewPos(size.Width-1, 0))
	o[0].Resize(fyne.NewSize(1, size.Height))
}

func (n *nav) object() fyne.CanvasObject { return n.box }

// selected goes to a place. A heading is none.
func (n *nav) selected(i widget.ListItemID) {
	if i >= len(n.rows) || n.rows[i].place == nil {
		n.mark()
		if i < len(n.rows) && n.rows[i].do != nil {
			n.rows[i].do()
		}
		return
	}
	if p := *n.rows[i].place; p != n.m.place {
		n.m.enter(p)
	}
}

// mark shows where one is.
func (n *nav) mark() {
	i := slices.IndexFunc(n.rows, func(e navEntry) bool { return e.place != nil && *e.place == n.m.place })
	if i < 0 {
		n.list.UnselectAll()
		return
	}
	n.list.Select(i)
}

func (n *nav) refresh() {
	m := n.m
	count := map[string]int{}
	for _, k := range m.keys {
		count[k.Kind]++
	}
	n.rows = []navEntry{
		{label: lang.L("Keys")},
		{label: lang.L("TPM keys"), icon: icon("chip"), count: count["tpm"], place: &place{placeKeys, "tpm"}},
		{label: lang.L("Key files"), icon: icon("key"), count: count["file"], place: &place{placeKeys, "file"}},
		{label: lang.L("Added keys"), icon: theme.LoginIcon(), count: count["added"], place: &place{placeKeys, "added"}},
		{label: lang.L("Passwords")},
	}
	for _, k := range m.keyrings {
		e := navEntry{label: keyringName(k), icon: icon("unlock"), count: k.Items, place: &place{placeKeyring, k.ID}}
		if k.Locked {
			e.icon = icon("lock")
		}
		n.rows = append(n.rows, e)
	}
	n.rows = append(n.rows,
		navEntry{label: lang.L("New keyring…"), icon: theme.ContentAddIcon(), do: m.createKeyringDialog},
		navEntry{label: lang.L("Activity")},
		navEntry{label: lang.L("Recent uses"), icon: theme.HistoryIcon(), place: &place{kind: placeRecent}},
		navEntry{label: lang.L("Permissions"), icon: icon("shield"), place: &place{kind: placeApprovals}},
		navEntry{label: lang.L("Settings"), icon: theme.SettingsIcon(), place: &place{kind: placeSettings}},
	)
	for i, e := range n.rows {
		h := float32(navRow)
		if e.heading() {
			h = navSection
		}
		n.list.SetItemHeight(i, h)
	}
	n.list.Refresh()
	n.mark()
}

// A navRowView is one line of a nav.
type navRowView struct {
	widget.BaseWidget
	icon    *widget.Icon
	label   *text
	section *text
	count   *text
	counted *fyne.Container
	row     *fyne.Container
	all     *fyne.Container
}

func newNavRow() *navRowView {
	v := &navRowView{icon: widget.NewIcon(nil), label: newLine(faceText, ""), section: newLine(faceSection, ""), count: newLine(faceCaption, "")}
	v.count.align = fyne.TextAlignTrailing
	v.counted = container.New(fixed{34}, v.count)
	v.row = container.New(margin{8, 0, 8, 0}, container.New(beside{gap: 9},
		container.NewGridWrap(fyne.NewSize(18, 18), v.icon),
		container.New(beside{gap: 6, right: true}, v.counted, v.label)))
	v.all = container.NewStack(v.row, container.New(margin{8, 16, 8, 4}, v.section))
	v.ExtendBaseWidget(v)
	return v
}

func (v *navRowView) show(e navEntry) {
	v.section.Hidden, v.row.Hidden = !e.heading(), e.heading()
	v.section.set(e.label)
	v.label.set(e.label)
	v.icon.SetResource(e.icon)
	s := ""
	if e.count > 0 {
		s = number(e.count)
	}
	v.count.set(s)
	v.counted.Layout = fixed{v.count.natural() + 2}
	v.all.Refresh()
}

// CreateRenderer implements [fyne.Widget].
func (v *navRowView) CreateRenderer() fyne.WidgetRenderer { return widget.NewSimpleRenderer(v.all) }

// A list takes Escape for what it is in, and Enter as Space.
type list struct {
	widget.List
	escape func()
}

func newList(escape func()) *list {
	l := &list{escape: escape}
	l.ExtendBaseWidget(l)
	return l
}

// TypedKey implements [fyne.Focusable].
func (l *list) TypedKey(e *fyne.KeyEvent) {
	switch e.Name {
	case fyne.KeyEscape:
		l.escape()
	case fyne.KeyReturn, fyne.KeyEnter:
		l.List.TypedKey(&fyne.KeyEvent{Name: fyne.KeySpace})
	default:
		l.List.TypedKey(e)
	}
}
