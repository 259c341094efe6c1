package manager

import (
	"context"
	"slices"

	"fyne.io/fyne/v2/lang"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/dbus/client"
)

// reload asks for everything again.
func (m *Manager) reload() {
	m.loadKeys()
	m.loadKeyrings()
	m.loadStatus()
	m.loadValues()
	if v, ok := m.view.(interface{ load() }); ok {
		v.load()
	}
}

// A load is something that is being asked for.
type load struct{ running, again bool }

// load asks for something on a goroutine of its own, and has apply show it. What
// is wanted again while it is asked for is asked for once more afterwards.
func (m *Manager) load(name string, ask func(ctx context.Context) (apply func(), err error)) {
	l := m.loads[name]
	if l == nil {
		l = &load{}
		m.loads[name] = l
	}
	if l.running {
		l.again = true
		return
	}
	l.running = true
	background(m, func(ctx context.Context) (func(), error) { return ask(ctx) }, func(apply func(), err error) {
		l.running = false
		if l.again {
			l.again = false
			m.load(name, ask)
		}
		switch {
		case err != nil && !m.present:
		case err != nil:
			m.notice.fault(err)
		default:
			m.begun[name] = true
			apply()
			m.refresh()
		}
	})
}

// background does something on a goroutine of its own, and has then take the
// result on the one that draws, unless the window is gone by then.
func background[T any](m *Manager, do func(ctx context.Context) (T, error), then func(T, error)) {
	m.under++
	m.wg.Go(func() {
		result, err := do(m.ctx)
		m.o.Do(func() {
			m.under--
			if m.ctx.Err() == nil {
				then(result, err)
			}
		})
	})
}

// afterwards is background for what only goes well or wrong.
func (m *Manager) afterwards(do func(ctx context.Context) error, then func(error)) {
	background(m, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) },
		func(_ struct{}, err error) { then(err) })
}

func (m *Manager) loadKeys() {
	m.load("keys", func(ctx context.Context) (func(), error) {
		keys, err := m.o.Daemon.Keys(ctx)
		return func() { m.keys = keys }, err
	})
}

func (m *Manager) loadKeyrings() {
	m.load("keyrings", func(ctx context.Context) (func(), error) {
		keyrings, err := m.o.Daemon.Keyrings(ctx)
		return func() {
			slices.SortStableFunc(keyrings, func(a, b client.Keyring) int { return keyringRank(a) - keyringRank(b) })
			m.keyrings = keyrings
			if m.place.kind == placeKeyring && !slices.ContainsFunc(keyrings, func(k client.Keyring) bool { return k.ID == m.place.id }) {
				m.enter(place{kind: placeKeys, id: "tpm"}) // it was deleted
			}
		}, err
	})
}

// keyringRank puts the one that is used by itself first and the one that does
// not last, last.
func keyringRank(k client.Keyring) int {
	switch {
	case slices.Contains(k.Aliases, "default"):
		return 0
	case slices.Contains(k.Aliases, "session"):
		return 2
	}
	return 1
}

func (m *Manager) loadStatus() {
	m.load("status", func(ctx context.Context) (func(), error) {
		status, err := m.o.Daemon.Status(ctx)
		return func() { m.status = status }, err
	})
}

// loadValues reads the settings.
func (m *Manager) loadValues() {
	m.load("settings", func(context.Context) (func(), error) {
		values, err := m.o.Settings.Read()
		return func() { m.values, m.valuesFault = values, err }, nil
	})
}

// write changes settings.
func (m *Manager) write(changes ...config.Change) {
	pid, _ := m.status["PID"].(uint32)
	background(m, func(context.Context) (bool, error) { return m.o.Settings.Write(int(pid), changes...) }, func(now bool, err error) {
		switch {
		case err != nil:
			m.notice.fault(err)
		case now:
			m.notice.say(lang.L("Saved."))
		default:
			m.notice.say(lang.L("Saved. It takes effect when keyringd is started again."))
		}
		m.loadValues()
		m.loadKeys()
	})
}

// refresh shows what is known by now.
func (m *Manager) refresh() {
	m.nav.refresh()
	if !m.hidden {
		m.view.refresh()
	}
}
