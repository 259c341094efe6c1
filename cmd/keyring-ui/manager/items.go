package manager

import (
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/secret"
)

// maxShown is how many characters of a secret are shown. A longer one is copied.
const maxShown = 4000

// schemaAttribute is where programs say what sort of item it is.
const schemaAttribute = "xdg:schema"

// An itemsView shows a keyring: its items or, while it is locked, how to unlock
// it.
type itemsView struct {
	*browser
	keyring client.Keyring
	items   []client.Item
	loaded  bool
	shut    *fyne.Container // instead of the list, while locked
	unlockB *button
	lockB   *button
	addB    *button
	moreB   *button
	busy    bool // it is being locked or unlocked

	revealed string // the secret of the chosen item, while it is shown
	open     bool   // it is
	hide     func() // stops the time that it is shown
}

func newItemsView(m *Manager, id string) *itemsView {
	v := &itemsView{}
	v.browser = newBrowser(m, v.about)
	v.nothing = lang.L("This keyring is empty. Programs keep passwords here, and you may, too.")
	v.leaving = v.conceal
	v.keyring.ID = id
	v.lockB = newButton(lang.L("Lock"), icon("lock"), func() { v.turn(m.o.Daemon.LockKeyring) }, m.escape)
	v.unlockB = newButton(lang.L("Unlock…"), icon("unlock"), func() { v.turn(m.o.Daemon.UnlockKeyring) }, m.escape)
	v.unlockB.Importance = widget.HighImportance
	v.addB = newButton(lang.L("Add…"), theme.ContentAddIcon(), func() { m.itemDialog(v, nil) }, m.escape)
	v.moreB = newButton("", theme.MoreVerticalIcon(), v.menu, m.escape)
	v.buttons.Objects = []fyne.CanvasObject{v.lockB, v.addB, v.moreB}
	center := func(s string, f face) *text {
		t := newText(f, s)
		t.align = fyne.TextAlignCenter
		return t
	}
	v.shut = container.NewCenter(container.New(fixed{380}, container.New(column{gap: gap},
		container.NewCenter(picture(icon("lock"), 56)), center(lang.L("This keyring is locked"), faceHeading),
		center(lang.L("Unlock it to see what is in it. keyringd asks for its passphrase in a window of its own."), faceDim),
		container.NewCenter(v.unlockB))))
	head := v.box.Objects[1]
	v.box = container.NewBorder(head, nil, nil, nil, container.NewStack(v.split, v.shut))
	v.load()
	return v
}

// turn locks or unlocks the keyring.
func (v *itemsView) turn(do func(ctx context.Context, id string) error) {
	if v.busy {
		return
	}
	v.conceal()
	v.busy = true
	id := v.keyring.ID
	v.buttonsFor()
	v.m.afterwards(func(ctx context.Context) error { return do(ctx, id) }, func(err error) {
		v.busy = false
		v.buttonsFor()
		if err != nil {
			v.m.notice.fault(err)
		}
		v.m.loadKeyrings()
	})
}

// buttonsFor shows the buttons that make sense.
func (v *itemsView) buttonsFor() {
	session := slices.Contains(v.keyring.Aliases, "session")
	v.lockB.Hidden = v.keyring.Locked || session
	v.addB.Hidden = v.keyring.Locked
	v.moreB.Hidden = session
	for _, b := range []*button{v.lockB, v.unlockB} {
		if v.busy {
			b.Disable()
		} else {
			b.Enable()
		}
	}
	v.buttons.Refresh()
}

func (v *itemsView) refresh() {
	i := slices.IndexFunc(v.m.keyrings, func(k client.Keyring) bool { return k.ID == v.keyring.ID })
	if i < 0 {
		return
	}
	before := v.keyring
	v.keyring = v.m.keyrings[i]
	v.title.set(keyringName(v.keyring))
	if v.keyring.Locked {
		v.conceal()
		v.items, v.loaded = nil, false
	} else if before.Locked || before.Path == "" {
		v.load()
	}
	v.split.Hidden, v.shut.Hidden = v.keyring.Locked, !v.keyring.Locked
	v.buttonsFor()
	v.fill()
	v.box.Refresh()
}

// load asks for the items.
func (v *itemsView) load() {
	if v.keyring.Path == "" || v.keyring.Locked {
		return
	}
	at := v.keyring.Path
	v.m.load("items "+at, func(ctx context.Context) (func(), error) {
		items, err := v.m.o.Daemon.Items(ctx, at)
		return func() {
			if !v.keyring.Locked {
				v.items, v.loaded = slices.DeleteFunc(items, func(i client.Item) bool { return i.Locked }), true
			}
		}, err
	})
}

func (v *itemsView) fill() {
	var all []entry
	for _, i := range v.items {
		e := entry{id: i.Path, title: named(i.Label), icon: icon("password"), below: summary(i)}
		for name, value := range i.Attributes {
			e.find += name + " " + value + "\n"
		}
		all = append(all, e)
	}
	v.put(all, v.loaded)
}

// summary is what tells an item from others of its name.
func summary(i client.Item) string {
	var parts []string
	for _, name := range []string{"username", "user", "account", "login", "server", "host", "domain", "service", "url", "application"} {
		if s := clean(i.Attributes[name]); s != "" && len(parts) < 2 {
			parts = append(parts, s)
		}
	}
	if len(parts) == 0 {
		return schema(i)
	}
	return strings.Join(parts, " · ")
}

func (v *itemsView) leave() { v.conceal() }

// conceal forgets the secret that is shown.
func (v *itemsView) conceal() {
	if v.hide != nil {
		v.hide()
		v.hide = nil
	}
	if v.open {
		v.open, v.revealed = false, ""
		v.update()
	}
}

func (v *itemsView) item(at string) (client.Item, bool) {
	i := slices.IndexFunc(v.items, func(i client.Item) bool { return i.Path == at })
	if i < 0 {
		return client.Item{}, false
	}
	return v.items[i], true
}

// about is what is known of an item, and what can be done with it.
func (v *itemsView) about(at string) []fyne.CanvasObject {
	m := v.m
	i, ok := v.item(at)
	if !ok {
		return nil
	}
	shown, face, label, eye := "••••••••••", faceDim, lang.L("Show"), theme.VisibilityIcon()
	if v.open {
		shown, face, label, eye = v.revealed, faceSecret, lang.L("Hide"), theme.VisibilityOffIcon()
	}
	show := newButton(label, eye, v.reveal, m.escape)
	copyIt := newButton(lang.L("Copy"), theme.ContentCopyIcon(), v.copy, m.escape)
	plate := on(promptui.ColorSide, container.New(column{gap: 10}, newText(face, shown),
		actions(show, copyIt)))
	pairs := []any{}
	for _, name := range slices.Sorted(maps.Keys(i.Attributes)) {
		if name != schemaAttribute {
			pairs = append(pairs, named(name), clean(i.Attributes[name]))
		}
	}
	objects := []fyne.CanvasObject{heading(icon("password"), named(i.Label), schema(i)), plate}
	if len(pairs) > 0 {
		objects = append(objects, container.New(column{gap: small}, newLine(faceSection, lang.L("Attributes")), facts(pairs...)))
	}
	objects = append(objects, facts(lang.L("Made"), moment(i.Created), lang.L("Changed"), moment(i.Modified)))
	edit := newButton(lang.L("Edit…"), theme.DocumentCreateIcon(), func() { m.itemDialog(v, &i) }, m.escape)
	remove := newButton(lang.L("Delete…"), theme.DeleteIcon(), func() { m.deleteItemDialog(i) }, m.escape)
	return append(objects, actions(edit, remove))
}

// fetch asks for the secret of the chosen item, and has then do something with it
// as text.
func (v *itemsView) fetch(then func(s string)) {
	at := v.chosen
	background(v.m, func(ctx context.Context) (secret.Bytes, error) {
		value, _, err := v.m.o.Daemon.Secret(ctx, at)
		return value, err
	}, func(value secret.Bytes, err error) {
		defer value.Wipe()
		switch {
		case err != nil:
			v.m.notice.fault(err)
		case v.m.view == view(v) && v.chosen == at:
			then(plain(value))
		}
	})
}

// plain is a secret as text; what is no text is in Base64.
func plain(value secret.Bytes) (s string) {
	value.Use(func(b []byte) {
		if s = string(b); !utf8.Valid(b) {
			s = base64.StdEncoding.EncodeToString(b)
		}
	})
	return s
}

// reveal shows the secret for a while, or hides it.
func (v *itemsView) reveal() {
	if v.open {
		v.conceal()
		return
	}
	v.fetch(func(s string) {
		if len(s) > maxShown {
			s = s[:maxShown] + "…"
		}
		v.open, v.revealed = true, promptui.CleanLines(s)
		if v.hide != nil {
			v.hide()
		}
		v.hide = v.m.o.Clock.AfterFunc(shownTime, func() { v.m.o.Do(v.conceal) })
		v.update()
	})
}

// copy puts the secret onto the clipboard for a while.
func (v *itemsView) copy() {
	v.fetch(func(s string) {
		v.m.secret(s)
		v.m.notice.say(lang.L("Copied. It stays on the clipboard for {{.Count}} seconds.", map[string]any{"Count": int(ClipboardTime.Seconds())}))
	})
}

// keyringName is what a keyring is called.
func keyringName(k client.Keyring) string {
	if slices.Contains(k.Aliases, "session") && k.Label == "" {
		return lang.L("This session")
	}
	return named(k.Label)
}
