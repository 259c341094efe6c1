package manager

import (
	"context"
	"strings"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
)

// menu is what else can be done with a keyring.
func (v *itemsView) menu() {
	m := v.m
	k := v.keyring
	entry := func(label string, r fyne.Resource, do func()) *fyne.MenuItem {
		i := fyne.NewMenuItem(label, do)
		i.Icon = r
		return i
	}
	menu := fyne.NewMenu("",
		entry(lang.L("Change the passphrase…"), icon("password"), func() { v.turn(m.o.Daemon.ChangePassphrase) }),
		entry(lang.L("Ways to unlock it…"), icon("unlock"), func() { m.slotsDialog(k) }),
		entry(lang.L("Rename…"), theme.DocumentCreateIcon(), func() { m.renameKeyringDialog(k) }),
		fyne.NewMenuItemSeparator(),
		entry(lang.L("Import passwords…"), theme.DownloadIcon(), m.importKeyringsDialog),
		entry(lang.L("Export passwords…"), theme.UploadIcon(), func() { m.exportKeyringDialog(k) }),
		fyne.NewMenuItemSeparator(),
		entry(lang.L("Delete…"), theme.DeleteIcon(), func() { m.deleteKeyringDialog(k) }),
	)
	widget.ShowPopUpMenuAtRelativePosition(menu, m.canvas, fyne.NewPos(0, v.moreB.Size().Height), v.moreB)
}

// createKeyringDialog makes a keyring.
func (m *Manager) createKeyringDialog() {
	d := m.newDialog(lang.L("New keyring"))
	label := d.field(lang.L("Name"), lang.L("as Work"), "")
	d.add(newText(faceDim, lang.L("keyringd asks for its passphrase in a window of its own.")))
	d.valid = func() bool { return strings.TrimSpace(label.Text) != "" }
	d.accept(lang.L("Create"), func() {
		name := strings.TrimSpace(label.Text)
		var id string
		d.run(lang.L("Waiting for your answer in the other window"), func(ctx context.Context) (err error) {
			id, err = m.o.Daemon.CreateKeyring(ctx, name)
			return err
		}, func() {
			m.done(d, lang.L("The keyring was made."))
			m.loadKeyrings()
			m.keyrings = append(m.keyrings, client.Keyring{ID: id, Label: name})
			m.enter(place{placeKeyring, id})
		})
	})
	d.show(label)
}

// renameKeyringDialog gives a keyring another name.
func (m *Manager) renameKeyringDialog(k client.Keyring) {
	d := m.newDialog(lang.L("Rename the keyring"))
	label := d.field(lang.L("Name"), "", clean(k.Label))
	d.valid = func() bool { return strings.TrimSpace(label.Text) != "" }
	d.accept(lang.L("Rename"), func() {
		name := strings.TrimSpace(label.Text)
		d.run(lang.L("Saving"), func(ctx context.Context) error { return m.o.Daemon.SetKeyringLabel(ctx, k.Path, name) },
			func() { m.done(d, lang.L("Renamed.")); m.loadKeyrings() })
	})
	d.show(label)
}

// deleteKeyringDialog says what goes before the daemon asks.
func (m *Manager) deleteKeyringDialog(k client.Keyring) {
	d := m.newDialog(lang.L("Delete this keyring?"))
	d.add(newText(faceTitle, keyringName(k)), caution(plural("{{.Count}} passwords in it are lost for ever.", k.Items)))
	d.danger(lang.L("Delete"), func() {
		d.run(lang.L("Waiting for your answer in the other window"), func(ctx context.Context) error {
			return m.o.Daemon.DeleteKeyring(ctx, k.Path)
		}, func() { m.done(d, lang.L("Deleted.")); m.loadKeyrings() })
	})
	d.show(d.cancel)
}

// slotName says what unlocks a keyring.
func slotName(s client.Slot) (name string, r fyne.Resource) {
	switch s.Kind {
	case "passphrase":
		return lang.L("Passphrase"), icon("password")
	case "tpm":
		name = lang.L("This machine's TPM")
		if s.PIN {
			name = lang.L("This machine's TPM, with a PIN")
		}
		return name, icon("chip")
	case "recovery":
		return lang.L("Recovery code"), theme.DocumentIcon()
	}
	return clean(s.Kind), icon("key")
}

// slotsDialog shows the ways to unlock a keyring, adds some and removes others.
func (m *Manager) slotsDialog(k client.Keyring) {
	d := m.newDialog(lang.L("Ways to unlock {{.Name}}", map[string]any{"Name": keyringName(k)}))
	list := container.New(column{gap: 10}, newText(faceDim, lang.L("One moment…")))
	var load func()
	remove := func(s client.Slot) {
		d.run(lang.L("Waiting for your answer in the other window"), func(ctx context.Context) error {
			return m.o.Daemon.RemoveSlot(ctx, k.ID, s.ID)
		}, func() { load() })
	}
	show := func(slots []client.Slot) {
		list.Objects = nil
		for _, s := range slots {
			name, r := slotName(s)
			below := moment(s.Created)
			if s.PCRs != "" {
				below = strings.TrimPrefix(below+" · "+lang.L("bound to {{.Registers}}", map[string]any{"Registers": clean(s.PCRs)}), " · ")
			}
			drop := newButton("", theme.DeleteIcon(), func() { remove(s) }, d.cancelled)
			drop.Importance = widget.LowImportance
			if len(slots) < 2 {
				drop.Disable() // the last one stays
			}
			lines := container.New(column{gap: 1}, newText(faceText, name))
			if below != "" {
				lines.Add(newText(faceCaption, below))
			}
			list.Add(container.New(beside{gap: 10, right: true}, drop, container.New(beside{gap: 11}, picture(r, 22), lines)))
		}
		d.check()
		d.fit()
	}
	load = func() {
		background(m, func(ctx context.Context) ([]client.Slot, error) { return m.o.Daemon.Slots(ctx, k.ID) }, func(slots []client.Slot, err error) {
			if err != nil {
				list.Objects = nil
				d.failed(err)
				return
			}
			show(slots)
		})
	}
	add := func(kind string, pin bool) func() {
		return func() {
			d.run(lang.L("Waiting for your answer in the other window"), func(ctx context.Context) error {
				_, err := m.o.Daemon.AddSlot(ctx, k.ID, kind, pin, "")
				return err
			}, func() { load() })
		}
	}
	recovery := func() {
		var code []byte
		d.run(lang.L("Making the code"), func(ctx context.Context) (err error) {
			_, code, err = m.o.Daemon.AddRecoverySlot(ctx, k.ID)
			return err
		}, func() {
			load()
			m.recoveryDialog(k, string(code))
			clear(code)
		})
	}
	button := func(label string, r fyne.Resource, do func()) *button {
		b := newButton(label, r, do, d.cancelled)
		d.locked = append(d.locked, b)
		return b
	}
	d.add(on(promptui.ColorSide, list), newLine(faceDim, lang.L("Add another way")), actions(
		button(lang.L("Passphrase"), icon("password"), add("passphrase", false)),
		button(lang.L("TPM"), icon("chip"), add("tpm", false)),
		button(lang.L("TPM with a PIN"), icon("chip"), add("tpm", true)),
		button(lang.L("Recovery code"), theme.DocumentIcon(), recovery)))
	d.show(d.cancel)
	load()
}

// recoveryDialog shows a recovery code, which is nowhere else, once.
func (m *Manager) recoveryDialog(k client.Keyring, code string) {
	d := m.newDialog(lang.L("Your recovery code"))
	shown := newText(faceCode, clean(code))
	shown.align = fyne.TextAlignCenter
	noted := newCheck(lang.L("I have written it down"), func(bool) { d.check() }, d.cancelled)
	d.add(newText(faceText, lang.L("It unlocks {{.Name}} when nothing else does. Write it down now, and keep it away from this machine: it is not shown again.", map[string]any{"Name": keyringName(k)})),
		on(promptui.ColorSide, shown), flush(noted))
	d.valid = func() bool { return noted.Checked }
	d.accept(lang.L("Done"), d.close)
	d.cancel.SetText(lang.L("Copy"))
	d.cancel.OnTapped = func() {
		m.secret(code)
		m.notice.say(lang.L("Copied. It stays on the clipboard for {{.Count}} seconds.", map[string]any{"Count": int(ClipboardTime.Seconds())}))
	}
	// Escape must not take away what was not written down.
	stay := func() {}
	d.ok.escape, d.cancel.escape, noted.escape = stay, stay, stay
	d.keep = true
	d.closed = func() { code = ""; shown.set("") }
	d.show(noted)
}
