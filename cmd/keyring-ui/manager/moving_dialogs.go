package manager

import (
	"context"
	"path/filepath"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
)

// pathField adds a file's path that can be typed and chosen.
func (d *dialog) pathField(label, hint, text string, save bool, title, name string) *field {
	f := newField(hint, d.enter, d.cancelled)
	f.Text = text
	f.OnChanged = func(string) { d.check() }
	browse := newButton(lang.L("Browse…"), theme.FolderOpenIcon(), func() {
		d.m.choose(save, title, name, func(p string) { f.SetText(p) })
	}, d.cancelled)
	d.locked = append(d.locked, f, browse)
	d.add(labelled(label, container.New(beside{gap: small, right: true}, browse, f)))
	return f
}

// importKeyringsDialog takes over passwords from another program's keyring, or
// from an archive.
func (m *Manager) importKeyringsDialog() {
	d := m.newDialog(lang.L("Import passwords"))
	d.add(newText(faceDim, lang.L("The keyrings of GNOME and other programs, and archives that keyringd made. The file itself stays as it is.")))
	path := d.pathField(lang.L("File"), "~/.local/share/keyrings/login.keyring", "", false, lang.L("Choose a keyring"), "")
	into, shown := []string{""}, []string{lang.L("a keyring of its own")}
	for _, k := range m.keyrings {
		if !k.Locked {
			into, shown = append(into, k.ID), append(shown, keyringName(k))
		}
	}
	to := d.choice(lang.L("Import into"), shown, shown[0])
	archive := d.tick(lang.L("It is an archive that keyringd made"), false)
	d.valid = func() bool { return filepath.IsAbs(m.whole(path.Text)) }
	d.accept(lang.L("Import"), func() {
		from, target, ours := m.whole(path.Text), into[to.SelectedIndex()], archive.Checked
		var moved []client.Moved
		d.run(lang.L("Importing the passwords"), func(ctx context.Context) (err error) {
			moved, err = m.o.Daemon.ImportKeyrings(ctx, []string{from}, target, ours)
			return err
		}, func() {
			d.close()
			m.loadKeyrings()
			m.movedDialog(lang.L("Imported"), moved)
		})
	})
	d.show(path)
}

// exportKeyringDialog writes a copy of a keyring, or of all, into a file.
func (m *Manager) exportKeyringDialog(k client.Keyring) {
	d := m.newDialog(lang.L("Export passwords"))
	d.add(newText(faceDim, lang.L("The copy is encrypted with a passphrase that you choose, and can be imported on any machine.")))
	const name = "passwords.keyringd"
	path := d.pathField(lang.L("File"), "~/"+name, "~/"+name, true, lang.L("Save the copy"), name)
	shown := []string{keyringName(k), lang.L("All keyrings")}
	what := d.choice(lang.L("What to export"), shown, shown[0])
	replace := d.tick(lang.L("Replace a file that is there"), false)
	d.valid = func() bool { return filepath.IsAbs(m.whole(path.Text)) }
	d.accept(lang.L("Export"), func() {
		e := client.Export{Path: m.whole(path.Text), Force: replace.Checked}
		if what.SelectedIndex() == 0 {
			e.Keyrings = []string{k.ID}
		}
		var moved []client.Moved
		d.run(lang.L("Waiting for your answer in the other window"), func(ctx context.Context) (err error) {
			moved, err = m.o.Daemon.ExportKeyrings(ctx, e)
			return err
		}, func() {
			d.close()
			m.movedDialog(lang.L("Exported"), moved)
		})
	})
	d.show(path)
}

// movedDialog says what became of each keyring: what failed must not be missed.
func (m *Manager) movedDialog(title string, moved []client.Moved) {
	d := m.newDialog(title)
	list := container.New(column{gap: 10})
	for _, one := range moved {
		lines := container.New(column{gap: 2}, newText(faceTitle, named(one.Label)))
		say := func(f face, s string) {
			t := newText(f, s)
			t.most = maxLines
			lines.Add(t)
		}
		if one.Error != "" {
			say(faceFault, capital(clean(one.Error)))
		} else {
			say(faceText, plural("{{.Count}} passwords moved", one.Items))
			if one.There > 0 {
				say(faceText, plural("{{.Count}} passwords were there already", one.There))
			}
		}
		for _, n := range one.Notes {
			say(faceDim, clean(n))
		}
		list.Add(lines)
	}
	if len(moved) == 0 {
		list.Add(newText(faceText, lang.L("There was nothing in it.")))
	}
	// Many keyrings must not push the button off the screen.
	const most = 320
	p := newPage(0, list)
	p.inner.Layout.(*pageInner).width = dialogWidth - 20
	height := min(most, heightFor(list, dialogWidth-20))
	d.add(on(promptui.ColorSide, container.New(lofty{height}, p.Container)))
	d.show(d.cancel)
}

// A lofty gives one thing a height of its own.
type lofty struct{ height float32 }

func (l lofty) heightOf([]fyne.CanvasObject, float32) float32 { return l.height }
func (l lofty) MinSize([]fyne.CanvasObject) fyne.Size         { return fyne.NewSize(60, l.height) }
func (l lofty) Layout(o []fyne.CanvasObject, size fyne.Size)  { o[0].Resize(size) }
