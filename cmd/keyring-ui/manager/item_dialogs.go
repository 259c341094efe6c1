package manager

import (
	"context"
	"maps"
	"slices"
	"strings"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/secret"
)

// maxAttributes is how many attributes have a row to be changed in. An item with
// more keeps them.
const maxAttributes = 8

// An attributeRow is one attribute that is being edited.
type attributeRow struct{ name, value *field }

// itemDialog makes an item or, where there is one, changes it.
func (m *Manager) itemDialog(v *itemsView, old *client.Item) {
	title, hint := lang.L("Add a password"), ""
	if old != nil {
		title, hint = lang.L("Edit"), lang.L("unchanged")
	}
	d := m.newDialog(title)
	label := d.field(lang.L("Label"), lang.L("what it is for"), "")
	value := newSecretField(hint, d.enter, d.cancelled)
	d.typed(lang.L("Password or secret"), value)
	rows := &attributeRows{d: d, box: container.New(column{gap: small})}
	if old != nil {
		label.Text = clean(old.Label)
		rows.fill(old.Attributes)
	}
	more := newButton(lang.L("Add an attribute"), theme.ContentAddIcon(), func() { rows.add("", "").focus(m); d.check() }, d.cancelled)
	more.Importance, more.Alignment = widget.LowImportance, widget.ButtonAlignLeading
	d.locked = append(d.locked, more)
	d.add(container.New(column{gap: small}, newLine(faceDim, lang.L("Attributes, by which programs find it")), rows.box, more))
	d.valid = func() bool {
		return strings.TrimSpace(label.Text) != "" && (old != nil || value.Text != "") && rows.valid()
	}
	d.closed = func() { value.SetText("") }
	d.accept(lang.L("Save"), func() {
		typed := secret.From([]byte(value.Text))
		name, keyring := strings.TrimSpace(label.Text), v.keyring.Path
		attributes := rows.read()
		d.run(lang.L("Saving"), func(ctx context.Context) error {
			defer typed.Wipe()
			if old == nil {
				_, err := m.o.Daemon.CreateItem(ctx, keyring, name, attributes, typed)
				return err
			}
			c := ItemChange{}
			if name != clean(old.Label) {
				c.Label = &name
			}
			if !maps.Equal(attributes, old.Attributes) {
				c.Attributes = attributes
			}
			if typed.Len() > 0 {
				c.Secret = &typed
			}
			return m.o.Daemon.ChangeItem(ctx, old.Path, c)
		}, func() {
			m.done(d, lang.L("Saved."))
			v.conceal()
			v.load()
		})
	})
	d.show(label)
}

// attributeRows are the attributes that are being edited, and those that are not.
type attributeRows struct {
	d    *dialog
	box  *fyne.Container
	rows []*attributeRow
	kept map[string]string // not shown
}

// fill shows what there is. What would look like something else stays as it is.
func (a *attributeRows) fill(attributes map[string]string) {
	a.kept = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		value := attributes[name]
		if name == schemaAttribute || len(a.rows) >= maxAttributes || clean(name) != name || clean(value) != value {
			a.kept[name] = value
			continue
		}
		a.add(name, value)
	}
}

func (a *attributeRows) add(name, value string) *attributeRow {
	r := &attributeRow{newField(lang.L("name"), a.d.enter, a.d.cancelled), newField(lang.L("value"), a.d.enter, a.d.cancelled)}
	r.name.Text, r.value.Text = name, value
	var line *fyne.Container
	drop := newButton("", theme.ContentRemoveIcon(), func() {
		a.rows = slices.DeleteFunc(a.rows, func(o *attributeRow) bool { return o == r })
		a.box.Remove(line)
		a.d.check()
	}, a.d.cancelled)
	drop.Importance = widget.LowImportance
	line = container.New(beside{gap: small, right: true}, drop, container.New(beside{gap: small}, container.New(fixed{150}, r.name), r.value))
	for _, f := range []*field{r.name, r.value} {
		f.OnChanged = func(string) { a.d.check() }
		a.d.locked = append(a.d.locked, f)
	}
	a.rows = append(a.rows, r)
	a.box.Add(line)
	return r
}

func (r *attributeRow) focus(m *Manager) { m.canvas.Focus(r.name) }

// valid reports whether no name is there twice, and none is missing.
func (a *attributeRows) valid() bool {
	seen := maps.Clone(a.kept)
	if seen == nil {
		seen = map[string]string{}
	}
	for _, r := range a.rows {
		name := strings.TrimSpace(r.name.Text)
		if _, twice := seen[name]; twice || name == "" && strings.TrimSpace(r.value.Text) != "" {
			return false
		}
		if name != "" {
			seen[name] = ""
		}
	}
	return true
}

func (a *attributeRows) read() map[string]string {
	all := maps.Clone(a.kept)
	if all == nil {
		all = map[string]string{}
	}
	for _, r := range a.rows {
		if name := strings.TrimSpace(r.name.Text); name != "" {
			all[name] = r.value.Text
		}
	}
	return all
}

// deleteItemDialog deletes an item. The daemon does not ask, so that we do.
func (m *Manager) deleteItemDialog(i client.Item) {
	d := m.newDialog(lang.L("Delete this password?"))
	d.add(newText(faceTitle, named(i.Label)), newText(faceText, lang.L("Programs that use it will ask for it again. Nothing brings it back.")))
	d.danger(lang.L("Delete"), func() {
		d.run(lang.L("Deleting"), func(ctx context.Context) error { return m.o.Daemon.DeleteItem(ctx, i.Path) },
			func() {
				m.done(d, lang.L("Deleted."))
				if v, ok := m.view.(*itemsView); ok {
					v.load()
				}
			})
	})
	d.show(d.cancel)
}
