package manager

import (
	"context"
	"slices"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
)

// A settingsView shows the settings. A change is written at once.
type settingsView struct {
	m    *Manager
	box  *fyne.Container
	page *page
	tray bool
	seen string // what is shown, so that it is not built anew while it is used
}

func newSettingsView(m *Manager) *settingsView {
	v := &settingsView{m: m, page: newPage(space)}
	v.page.inner.Layout.(*pageInner).most = 560
	head := container.New(margin{space, 12, 12, 8}, container.New(beside{gap: 12, right: true}, tallAsButtons(container.NewHBox()), newLine(faceHeading, lang.L("Settings"))))
	v.box = container.NewBorder(head, nil, nil, nil, v.page.Container)
	v.load()
	return v
}

func (v *settingsView) object() fyne.CanvasObject { return v.box }
func (v *settingsView) search() fyne.Focusable    { return nil }
func (v *settingsView) leave()                    {}

func (v *settingsView) load() {
	v.m.loadValues()
	v.m.load("tray", func(context.Context) (func(), error) {
		on := v.m.o.Settings.Tray()
		return func() { v.tray = on }, nil
	})
}

// section is a heading and what belongs to it.
func section(title string, objects ...fyne.CanvasObject) fyne.CanvasObject {
	return container.New(column{gap: 2}, append([]fyne.CanvasObject{container.New(margin{bottom: 4}, newLine(faceTitle, title))}, objects...)...)
}

func (v *settingsView) refresh() {
	m := v.m
	if !m.begun["settings"] || !m.begun["tray"] {
		return
	}
	if m.valuesFault != nil {
		said, hint := sentence(m.valuesFault)
		v.page.keep(caution(said), newText(faceDim, hint))
		v.seen = ""
		return
	}
	values := m.values
	state := fingerprint(values, v.tray, m.status)
	if state == v.seen {
		return
	}
	v.seen = state
	v.page.keep(
		section(lang.L("PINs and permissions"),
			v.row(lang.L("Remember them for"), v.remember(values)),
			v.tick(lang.L("Ask for permission before every use of every key"), slices.Contains(values.Confirm, "*"), func(on bool) config.Change {
				rules := slices.DeleteFunc(slices.Clone(values.Confirm), func(r string) bool { return r == "*" })
				if on {
					rules = append(rules, "*")
				}
				return config.Change{Name: config.Confirm, Value: rules}
			}),
			v.tick(lang.L("Tell me of each use of a key"), values.Notify, func(on bool) config.Change {
				return config.Change{Name: config.Notify, Value: on}
			})),
		section(lang.L("Asking"), v.row(lang.L("Ask me with"), v.prompter(values)),
			newText(faceCaption, lang.L("This takes effect when keyringd is started again."))),
		v.events(lang.L("When the screen is locked"), config.LockScreen, values.LockScreen),
		v.events(lang.L("Before the machine sleeps"), config.LockSleep, values.LockSleep),
		v.events(lang.L("When nobody is there"), config.LockIdle, values.LockIdle),
		section(lang.L("This window"), v.trayCheck()),
		section(lang.L("About"), container.New(margin{top: 4}, v.about())),
	)
}

// fingerprint is equal where the same is shown.
func fingerprint(values config.Values, tray bool, status map[string]any) string {
	return sprint(values, tray, status["Version"], status["PID"])
}

// row is a label with something to choose at the right.
func (v *settingsView) row(label string, o fyne.CanvasObject) fyne.CanvasObject {
	return container.New(beside{gap: 12, right: true}, container.New(fixed{230}, outlined(o)), newLine(faceText, label))
}

func (v *settingsView) tick(label string, on bool, change func(bool) config.Change) fyne.CanvasObject {
	c := newCheck(label, nil, v.m.escape)
	c.Checked = on
	c.OnChanged = func(on bool) { v.m.write(change(on)) }
	return flush(c)
}

func (v *settingsView) remember(values config.Values) fyne.CanvasObject {
	times := []time.Duration{0, time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 8 * time.Hour}
	if !slices.Contains(times, values.Remember) {
		times = append(times, values.Remember)
		slices.Sort(times)
	}
	var shown []string
	for _, t := range times {
		shown = append(shown, period(t))
	}
	return newChoice(shown, period(values.Remember), func(s string) {
		if i := slices.Index(shown, s); i >= 0 && times[i] != values.Remember {
			v.m.write(config.Change{Name: config.Remember, Value: config.Duration(times[i])})
		}
	}, v.m.escape)
}

func (v *settingsView) prompter(values config.Values) fyne.CanvasObject {
	names := []string{"auto", "ui", "gnome", "none"}
	shown := []string{lang.L("whatever fits the desktop"), lang.L("keyringd's own window"), lang.L("GNOME's window"), lang.L("nothing: refuse instead")}
	if !slices.Contains(names, values.Prompter) {
		names, shown = append(names, values.Prompter), append(shown, clean(values.Prompter))
	}
	return newChoice(shown, shown[slices.Index(names, values.Prompter)], func(s string) {
		if i := slices.Index(shown, s); i >= 0 && names[i] != values.Prompter {
			v.m.write(config.Change{Name: config.Prompter, Value: names[i]})
		}
	}, v.m.escape)
}

// events is what goes at one event.
func (v *settingsView) events(title, name string, now []string) fyne.CanvasObject {
	change := func(what string) func(bool) config.Change {
		return func(on bool) config.Change {
			next := slices.DeleteFunc(slices.Clone(now), func(s string) bool { return s == what })
			if on {
				next = append(next, what)
			}
			slices.Sort(next)
			return config.Change{Name: name, Value: next}
		}
	}
	return section(title,
		v.tick(lang.L("Forget PINs and permissions"), slices.Contains(now, config.Forget), change(config.Forget)),
		v.tick(lang.L("Lock the keyrings"), slices.Contains(now, config.Keyrings), change(config.Keyrings)))
}

func (v *settingsView) trayCheck() fyne.CanvasObject {
	m := v.m
	c := newCheck(lang.L("Show an icon in the panel when I log in"), nil, m.escape)
	c.Checked = v.tray
	c.OnChanged = func(on bool) {
		m.act(lang.L("Saved."), func(context.Context) error {
			defer m.o.Do(v.load)
			return m.o.Settings.SetTray(on)
		})
	}
	return flush(c)
}

func (v *settingsView) about() fyne.CanvasObject {
	s := v.m.status
	text := func(name string) string {
		switch x := s[name].(type) {
		case string:
			return clean(x)
		case uint32:
			return sprint(x)
		}
		return ""
	}
	return facts(lang.L("Version"), text("Version"), lang.L("Process"), text("PID"), lang.L("Keys"), text("Keys"))
}
