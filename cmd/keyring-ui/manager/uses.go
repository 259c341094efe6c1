package manager

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/theme"

	"github.com/keyringd/keyringd/dbus/client"
)

// A recentView shows what keys were used for, the latest first.
type recentView struct {
	*browser
	uses []client.Past
}

func newRecentView(m *Manager) *recentView {
	v := &recentView{}
	v.browser = newBrowser(m, v.about)
	v.title.set(lang.L("Recent uses"))
	v.nothing = lang.L("No key has been used since keyringd was started.")
	v.load()
	return v
}

func (v *recentView) leave() {}

func (v *recentView) load() {
	v.m.load("history", func(ctx context.Context) (func(), error) {
		uses, err := v.m.o.Daemon.History(ctx)
		slices.Reverse(uses)
		return func() {
			if now, ok := v.m.view.(*recentView); ok {
				now.uses = uses
			}
		}, err
	})
}

func (v *recentView) poll() { v.load() }

// useID tells one use from another.
func useID(p client.Past) string {
	return strconv.FormatInt(p.At.UnixNano(), 10) + p.Key + p.Caller + p.Reason
}

func (v *recentView) refresh() {
	now := v.m.o.Clock.Now()
	var all []entry
	for _, p := range v.uses {
		e := entry{id: useID(p), title: named(p.Label), below: recently(p.At, now), icon: icon("key"), find: p.Caller + "\n" + p.Reason + "\n" + p.Outcome}
		if c := clean(p.Caller); c != "" {
			e.below += " · " + arrows(c)
		}
		if p.Outcome != "" {
			e.mark = theme.NewErrorThemedResource(theme.CancelIcon())
		}
		all = append(all, e)
	}
	v.put(all, v.m.begun["history"])
}

func (v *recentView) about(id string) []fyne.CanvasObject {
	i := slices.IndexFunc(v.uses, func(p client.Past) bool { return useID(p) == id })
	if i < 0 {
		return nil
	}
	p := v.uses[i]
	outcome := newText(faceText, lang.L("Allowed"))
	if p.Outcome != "" {
		outcome = newText(faceFault, lang.L("Refused: {{.Why}}", map[string]any{"Why": clean(p.Outcome)}))
	}
	ways := map[string]string{"agent": "ssh-agent", "dbus": "D-Bus", "pkcs11": "PKCS #11"}
	way := ways[p.FrontEnd]
	if way == "" {
		way = clean(p.FrontEnd)
	}
	return []fyne.CanvasObject{heading(icon("key"), named(p.Label), moment(p.At)), facts(
		lang.L("Outcome"), outcome, lang.L("Program"), arrows(clean(p.Caller)), lang.L("For"), clean(p.Reason),
		lang.L("Through"), way, lang.L("When"), p.At.Format("15:04:05"), lang.L("Key ID"), clean(p.Key))}
}

// An approvalsView shows the permissions that stand, and takes them back.
type approvalsView struct {
	*browser
	list   []client.Approval
	revoke *button
}

func newApprovalsView(m *Manager) *approvalsView {
	v := &approvalsView{}
	v.browser = newBrowser(m, v.about)
	v.title.set(lang.L("Permissions"))
	v.nothing = lang.L("No program may use a key without asking.")
	v.revoke = newButton(lang.L("Revoke all"), theme.DeleteIcon(), v.revokeAll, m.escape)
	v.buttons.Add(v.revoke)
	v.load()
	return v
}

func (v *approvalsView) leave() {}

func (v *approvalsView) load() {
	v.m.load("approvals", func(ctx context.Context) (func(), error) {
		list, err := v.m.o.Daemon.Approvals(ctx)
		return func() {
			if now, ok := v.m.view.(*approvalsView); ok {
				now.list = list
			}
		}, err
	})
}

func (v *approvalsView) poll() { v.load() }

func (v *approvalsView) refresh() {
	now := v.m.o.Clock.Now()
	var all []entry
	for _, a := range v.list {
		all = append(all, entry{id: strconv.FormatUint(a.ID, 10), title: named(a.Label), icon: icon("shield"), find: a.Scope,
			below: arrows(clean(a.Program)) + " · " + ends(a, now)})
	}
	if len(all) > 0 {
		v.revoke.Enable()
	} else {
		v.revoke.Disable()
	}
	v.put(all, v.m.begun["approvals"])
}

// ends says how long a permission still stands.
func ends(a client.Approval, now time.Time) string {
	// One without an end is far in the future.
	if a.Until.Unix() <= 0 || a.Until.Sub(now) > 365*24*time.Hour {
		return lang.L("until locked")
	}
	return left(a.Until, now)
}

func (v *approvalsView) about(id string) []fyne.CanvasObject {
	i := slices.IndexFunc(v.list, func(a client.Approval) bool { return strconv.FormatUint(a.ID, 10) == id })
	if i < 0 {
		return nil
	}
	a, m := v.list[i], v.m
	revoke := newButton(lang.L("Revoke"), theme.DeleteIcon(), func() {
		m.act(lang.L("Revoked."), func(ctx context.Context) error {
			defer m.o.Do(v.load)
			return m.o.Daemon.Revoke(ctx, a.ID)
		})
	}, m.escape)
	return []fyne.CanvasObject{heading(icon("shield"), named(a.Label), ends(a, m.o.Clock.Now())), facts(
		lang.L("Program"), arrows(clean(a.Program)), lang.L("Allowed to"), clean(a.Scope), lang.L("Given"), moment(a.Given), lang.L("Key ID"), clean(a.Key)),
		newText(faceDim, lang.L("Until then, this program uses the key without asking you.")), actions(revoke)}
}

func (v *approvalsView) revokeAll() {
	list := slices.Clone(v.list)
	v.m.act(lang.L("All permissions were revoked."), func(ctx context.Context) error {
		defer v.m.o.Do(v.load)
		var all error
		for _, a := range list {
			var gone *client.Error
			if err := v.m.o.Daemon.Revoke(ctx, a.ID); err != nil && !errors.As(err, &gone) {
				all = err // one that has ended by itself is as good
			}
		}
		return all
	})
}
