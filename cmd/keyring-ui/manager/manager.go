package manager

import (
	"context"
	"errors"
	"sync"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/driver/desktop"
	"fyne.io/fyne/v2/lang"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/dbus/client"
)

const (
	// ClipboardTime is how long a secret stays on the clipboard.
	ClipboardTime = 30 * time.Second
	// shownTime is how long a secret stays on screen.
	shownTime = time.Minute
	// noticeTime is how long it is said that something was done.
	noticeTime = 4 * time.Second
	// pollTime is how often what has no signals is asked for, while it is shown.
	pollTime = 2 * time.Second
)

// A Clock is the time.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once, on any goroutine, unless stop is called first.
	AfterFunc(d time.Duration, f func()) (stop func())
}

// A Clipboard is where texts are copied to.
type Clipboard interface {
	Content() string
	SetContent(string)
}

// ErrNoChooser means that the desktop has no window to choose a file with.
var ErrNoChooser = errors.New("no window to choose a file with")

// A Chooser lets the user choose a file, to be opened or saved; "" is none. It
// waits for the user.
type Chooser func(ctx context.Context, save bool, title, name string) (path string, err error)

// Settings are the daemon's, as its user wrote them down.
type Settings interface {
	Read() (config.Values, error)
	// Write changes some of them and has the daemon, the process pid, read them
	// again. now: it does so at once.
	Write(pid int, changes ...config.Change) (now bool, err error)
	// Tray reports whether the icon in the panel comes with the login session,
	// and SetTray says so.
	Tray() bool
	SetTray(on bool) error
}

// Options are what a Manager needs of the program it is in.
type Options struct {
	Daemon    Daemon
	Settings  Settings
	Clipboard Clipboard
	Clock     Clock
	Choose    Chooser
	// Do runs f on the goroutine that draws, soon, and does not wait for it. It is
	// called on any goroutine.
	Do func(f func())
	// Save writes a file that the user has chosen.
	Save func(path string, data []byte) error
	Home string // the user's folder
}

// A Manager is the content of the window.
type Manager struct {
	o      Options
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup
	canvas fyne.Canvas

	content *fyne.Container // what there is, or that there is no daemon
	main    fyne.CanvasObject
	absent  *absence
	nav     *nav
	right   *fyne.Container // the notice and the body
	body    *fyne.Container
	notice  *notice
	dialogs []*dialog

	present, known bool // the daemon; and whether that is known
	place          place
	view           view
	keys           []client.Key
	keyrings       []client.Keyring
	status         map[string]any
	values         config.Values
	valuesFault    error // why they cannot be changed
	loads          map[string]*load
	begun          map[string]bool // what was loaded once
	clip           clip
	polling        func() // stops it; nil: it does not
	hidden         bool   // nobody sees the window
	under          int    // how much is under way
}

// A place is what the left side leads to.
type place struct {
	kind placeKind
	id   string // the kind of keys, or the keyring's ID
}

type placeKind int

const (
	placeKeys placeKind = iota
	placeKeyring
	placeRecent
	placeApprovals
	placeSettings
)

// A view is what is right of the places.
type view interface {
	object() fyne.CanvasObject
	// refresh shows what is known by now.
	refresh()
	// leave is called when it is shown no more, or nobody looks.
	leave()
	// search is where to type what to look for; nil: nothing.
	search() fyne.Focusable
}

// New returns a Manager that begins with Start. Stop ends it.
func New(ctx context.Context, o Options) *Manager {
	m := &Manager{o: o, loads: map[string]*load{}, begun: map[string]bool{}, place: place{kind: placeKeys, id: "tpm"}}
	m.ctx, m.stop = context.WithCancel(ctx)
	m.notice = newNotice(m)
	m.nav = newNav(m)
	m.body = container.NewStack()
	m.absent = newAbsence(m)
	m.right = container.NewBorder(m.notice.box, nil, nil, nil, m.body)
	m.main = container.New(sides{}, m.nav.object(), m.right)
	m.content = container.NewStack(m.absent.object())
	m.enter(m.place)
	return m
}

// Title is the window's.
func (m *Manager) Title() string { return lang.L("Keys and Passwords") }

// Content is what is in the window.
func (m *Manager) Content() fyne.CanvasObject { return m.content }

// Size is how large the window is at first.
func (m *Manager) Size() fyne.Size { return fyne.NewSize(1040, 660) }

// Start begins to listen to the daemon. The content is on c.
func (m *Manager) Start(c fyne.Canvas) {
	m.canvas = c
	c.SetOnTypedKey(func(e *fyne.KeyEvent) {
		switch e.Name {
		case fyne.KeyEscape:
			m.escape()
		case fyne.KeyF5:
			m.reload()
		}
	})
	for _, s := range shortcuts() {
		c.AddShortcut(s, m.shortcut)
	}
	m.wg.Go(func() {
		m.o.Daemon.Watch(m.ctx, func(what client.Change, keyring string) {
			m.o.Do(func() { m.changed(what, keyring) })
		})
	})
}

// Stop ends what is under way, and takes a secret of ours off the clipboard. Wait
// waits for the end.
func (m *Manager) Stop() {
	m.clip.clear(m.o.Clipboard)
	m.view.leave()
	m.stop()
}

// Wait returns when nothing that was begun is under way any more. It may be called
// on any goroutine.
func (m *Manager) Wait() { m.wg.Wait() }

// Hide is told that nobody sees the window any more, so that nothing secret is
// left in it. Show is its opposite.
func (m *Manager) Hide() {
	m.hidden = true
	m.view.leave()
	m.poll()
}

// Show is told that the window is seen again.
func (m *Manager) Show() {
	m.hidden = false
	m.refresh()
	m.poll()
}

// shortcuts are the keys that work everywhere.
func shortcuts() []fyne.Shortcut {
	var all []fyne.Shortcut
	for _, k := range []fyne.KeyName{fyne.KeyF, fyne.KeyN, fyne.KeyL} {
		all = append(all, &desktop.CustomShortcut{KeyName: k, Modifier: fyne.KeyModifierControl})
	}
	return all
}

func (m *Manager) shortcut(s fyne.Shortcut) {
	c, ok := s.(*desktop.CustomShortcut)
	if !ok || !m.present || len(m.dialogs) > 0 || c.Modifier != fyne.KeyModifierControl {
		return
	}
	switch c.KeyName {
	case fyne.KeyF:
		if f := m.view.search(); f != nil {
			m.canvas.Focus(f)
		}
	case fyne.KeyN:
		m.createHere()
	case fyne.KeyL:
		m.lockAll()
	}
}

// createHere makes a new one of what is shown.
func (m *Manager) createHere() {
	if v, ok := m.view.(*itemsView); ok {
		if !v.keyring.Locked {
			m.itemDialog(v, nil)
		}
		return
	}
	m.createKeyDialog()
}

// escape closes the dialog on top.
func (m *Manager) escape() {
	if n := len(m.dialogs); n > 0 {
		m.dialogs[n-1].cancelled()
	}
}

// changed takes notice of what the daemon tells.
func (m *Manager) changed(what client.Change, keyring string) {
	switch what {
	case client.DaemonBegan:
		m.present, m.known = true, true
		m.reload()
	case client.DaemonEnded:
		m.present, m.known = false, true
		m.view.leave()
		m.begun = map[string]bool{}
	case client.KeysChanged:
		m.loadKeys()
	case client.KeyringsChanged:
		m.loadKeyrings()
	case client.ItemsChanged:
		m.loadKeyrings()
		if v, ok := m.view.(*itemsView); ok && v.keyring.Path == keyring {
			v.load()
		}
	}
	m.arrange()
}

// arrange shows the window, or why there is nothing in it.
func (m *Manager) arrange() {
	want := m.absent.object()
	if m.present {
		want = m.main
	}
	if m.content.Objects[0] != want {
		m.content.Objects = []fyne.CanvasObject{want}
		m.content.Refresh()
	}
	m.absent.refresh()
	m.poll()
}

// enter shows a place.
func (m *Manager) enter(p place) {
	if m.view != nil {
		m.view.leave()
	}
	m.place = p
	switch p.kind {
	case placeKeys:
		m.view = newKeysView(m, p.id)
	case placeKeyring:
		m.view = newItemsView(m, p.id)
	case placeRecent:
		m.view = newRecentView(m)
	case placeApprovals:
		m.view = newApprovalsView(m)
	case placeSettings:
		m.view = newSettingsView(m)
	}
	m.body.Objects = []fyne.CanvasObject{m.view.object()}
	m.view.refresh()
	m.body.Refresh()
	m.poll()
}

// poll asks again and again for what has no signals, while it is seen.
func (m *Manager) poll() {
	_, wants := m.view.(interface{ poll() })
	wants = wants && m.present && !m.hidden
	if wants == (m.polling != nil) {
		return
	}
	if !wants {
		m.polling()
		m.polling = nil
		return
	}
	m.polling = m.o.Clock.AfterFunc(pollTime, func() {
		m.o.Do(func() {
			if m.polling == nil || m.ctx.Err() != nil {
				return
			}
			m.polling = nil
			if v, ok := m.view.(interface{ poll() }); ok {
				v.poll()
			}
			m.poll()
		})
	})
}

// act does something with the daemon on a goroutine of its own and says what
// went wrong, or what was done.
func (m *Manager) act(done string, do func(ctx context.Context) error) {
	m.afterwards(do, func(err error) {
		if err != nil {
			m.notice.fault(err)
		} else if done != "" {
			m.notice.say(done)
		}
	})
}

// lockAll forgets everything and locks all keyrings.
func (m *Manager) lockAll() {
	m.view.leave()
	m.clip.clear(m.o.Clipboard)
	m.act(lang.L("Everything is locked."), func(ctx context.Context) error {
		err := m.o.Daemon.Lock(ctx)
		if other := m.o.Daemon.LockKeyring(ctx, ""); err == nil {
			err = other
		}
		return err
	})
}

// LockAll is for the icon in the panel.
func (m *Manager) LockAll() { m.lockAll() }

// copy puts a text that is no secret onto the clipboard.
func (m *Manager) copy(s string) {
	m.clip.forget()
	m.o.Clipboard.SetContent(s)
	m.notice.say(lang.L("Copied."))
}

// sides puts the places left of the rest.
type sides struct{}

const navWidth = 240

func (sides) MinSize(o []fyne.CanvasObject) fyne.Size {
	m := o[1].MinSize()
	return fyne.NewSize(navWidth+max(m.Width, 480), max(m.Height, 420))
}

func (sides) Layout(o []fyne.CanvasObject, size fyne.Size) {
	o[0].Resize(fyne.NewSize(navWidth, size.Height))
	o[1].Move(fyne.NewPos(navWidth, 0))
	o[1].Resize(fyne.NewSize(size.Width-navWidth, size.Height))
}
