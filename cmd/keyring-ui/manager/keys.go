package manager

import (
	"context"
	"slices"
	"strings"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/dbus/client"
)

// A keysView shows the keys of one kind.
type keysView struct {
	*browser
	kind string
}

func newKeysView(m *Manager, kind string) *keysView {
	v := &keysView{kind: kind}
	v.browser = newBrowser(m, v.about)
	switch kind {
	case "tpm":
		v.title.set(lang.L("TPM keys"))
		v.nothing = lang.L("There are no keys in the TPM yet. Make one, or import one that is in a file.")
	case "file":
		v.title.set(lang.L("Key files"))
		v.nothing = lang.L("There are no private keys in ordinary files.")
	case "added":
		v.title.set(lang.L("Added keys"))
		v.nothing = lang.L("No program has added a key for this session, as ssh-add does.")
	}
	if kind != "added" {
		v.buttons.Add(newButton(lang.L("Import…"), theme.FolderOpenIcon(), func() { m.importKeyDialog("") }, m.escape))
	}
	if kind == "tpm" {
		create := newButton(lang.L("New key…"), theme.ContentAddIcon(), m.createKeyDialog, m.escape)
		create.Importance = widget.HighImportance
		v.buttons.Add(create)
	}
	return v
}

func (v *keysView) leave() {}

func keyIcon(k client.Key) fyne.Resource {
	if k.Kind == "tpm" {
		return icon("chip")
	}
	return icon("key")
}

func (v *keysView) refresh() {
	var all []entry
	for _, k := range v.m.keys {
		if k.Kind != v.kind {
			continue
		}
		e := entry{id: k.ID, title: named(k.Label), below: algorithm(k.Algorithm), icon: keyIcon(k),
			find: k.Fingerprint + "\n" + k.ID + "\n" + strings.Join(k.Paths, "\n")}
		if len(k.Paths) > 0 {
			e.below += " · " + tilde(v.m, k.Paths[0])
		}
		if k.NeedsAuth {
			e.mark = icon("lock")
		}
		all = append(all, e)
	}
	v.put(all, v.m.begun["keys"])
}

// tilde shortens a path in the user's own folder.
func tilde(m *Manager, path string) string {
	if home := m.o.Home; home != "" && strings.HasPrefix(path, home+"/") {
		path = "~" + path[len(home):]
	}
	return clean(path)
}

func (m *Manager) key(id string) (client.Key, bool) {
	i := slices.IndexFunc(m.keys, func(k client.Key) bool { return k.ID == id })
	if i < 0 {
		return client.Key{}, false
	}
	return m.keys[i], true
}

// about is what is known of a key, and what can be done with it.
func (v *keysView) about(id string) []fyne.CanvasObject {
	m := v.m
	k, ok := m.key(id)
	if !ok {
		return nil
	}
	var files []string
	for _, p := range k.Paths {
		files = append(files, tilde(m, p))
	}
	certificates := ""
	if n := len(k.Certificates); n > 0 {
		certificates = number(n)
	}
	table := facts(
		lang.L("Kept"), kindOf(k),
		lang.L("Algorithm"), algorithm(k.Algorithm),
		lang.L("Fingerprint"), clean(k.Fingerprint),
		lang.L("A use asks for"), asks(k),
		lang.L("Files"), strings.Join(files, "\n"),
		lang.L("Certificates"), certificates,
		lang.L("Key ID"), clean(k.ID),
	)
	act := func(label string, r fyne.Resource, do func()) fyne.CanvasObject {
		return newButton(label, r, do, m.escape)
	}
	var buttons []fyne.CanvasObject
	if line := publicLine(k); line != "" {
		buttons = append(buttons, act(lang.L("Copy public key"), theme.ContentCopyIcon(), func() { m.copy(line) }))
	}
	if len(k.Paths) > 0 {
		buttons = append(buttons, act(lang.L("Rename…"), theme.DocumentCreateIcon(), func() { m.renameKeyDialog(k) }))
	}
	switch k.Kind {
	case "tpm":
		label := lang.L("Set a PIN…")
		if k.NeedsAuth {
			label = lang.L("Change PIN…")
		}
		buttons = append(buttons, act(label, icon("password"), func() { m.changePINDialog(k) }))
	case "file":
		if len(k.Paths) > 0 {
			buttons = append(buttons, act(lang.L("Import into the TPM…"), icon("chip"), func() { m.importKeyDialog(k.Paths[0]) }))
		}
	}
	buttons = append(buttons, act(lang.L("Request a certificate…"), theme.DocumentIcon(), func() { m.certificateDialog(k) }))
	if k.Kind == "tpm" {
		remove := newButton(lang.L("Remove…"), theme.DeleteIcon(), func() { m.removeKeyDialog(k) }, m.escape)
		buttons = append(buttons, remove)
	}
	return []fyne.CanvasObject{heading(keyIcon(k), named(k.Label), algorithm(k.Algorithm)), table, m.confirmCheck(k), actions(buttons...)}
}

// idRule is how the settings name a key.
func idRule(k client.Key) string {
	return "id:" + k.ID[:min(16, len(k.ID))]
}

// confirmCheck is whether each use of a key wants permission. What other rules
// say of it cannot be changed here.
func (m *Manager) confirmCheck(k client.Key) fyne.CanvasObject {
	values, err := m.values, m.valuesFault
	own := slices.IndexFunc(values.Confirm, func(r string) bool {
		id, ok := strings.CutPrefix(strings.ToLower(r), "id:")
		return ok && strings.HasPrefix(k.ID, id)
	}) >= 0
	c := newCheck(lang.L("Ask for permission before every use"), nil, m.escape)
	c.Checked = k.Confirm || own
	if err != nil || k.Confirm && !own {
		c.Disable()
	}
	c.OnChanged = func(on bool) {
		rules := slices.DeleteFunc(slices.Clone(values.Confirm), func(r string) bool {
			id, ok := strings.CutPrefix(strings.ToLower(r), "id:")
			return ok && strings.HasPrefix(k.ID, id)
		})
		if on {
			rules = append(rules, idRule(k))
		}
		m.write(config.Change{Name: config.Confirm, Value: rules})
	}
	return flush(c)
}

// removeKeyDialog says what goes before the daemon asks.
func (m *Manager) removeKeyDialog(k client.Key) {
	d := m.newDialog(lang.L("Remove this key?"))
	choose, file := d.chooseFile(k, true)
	d.add(facts(lang.L("Key"), named(k.Label), lang.L("Fingerprint"), clean(k.Fingerprint)), choose,
		caution(lang.L("The key exists in this machine's TPM alone. Nothing brings it back once its files are deleted.")))
	d.danger(lang.L("Remove"), func() {
		d.run(lang.L("Removing the key"), func(ctx context.Context) error {
			return m.o.Daemon.Remove(ctx, client.File{ID: k.ID, Path: file()})
		}, func() { m.done(d, lang.L("The key was removed.")) })
	})
	d.show(d.cancel)
}
