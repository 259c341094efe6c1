package manager

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/test"
	"fyne.io/fyne/v2/theme"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/secret"
)

// A fakeDaemon answers from memory, and notes what it was asked to do.
type fakeDaemon struct {
	mu        sync.Mutex
	keys      []client.Key
	keyrings  []client.Keyring
	items     map[string][]client.Item
	secrets   map[string]string
	slots     []client.Slot
	approvals []client.Approval
	history   []client.Past
	absent    bool
	calls     []string
	fail      map[string]error         // by method
	hold      map[string]chan struct{} // by method; it waits for that, or for its ctx
	tell      func(client.Change, string)
	watching  chan struct{}
}

func (f *fakeDaemon) did(ctx context.Context, method string, args ...any) error {
	f.mu.Lock()
	call := method
	for _, a := range args {
		call += fmt.Sprintf(" %v", a)
	}
	f.calls = append(f.calls, call)
	err, hold := f.fail[method], f.hold[method]
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// asked reports whether something was called, with those arguments.
func (f *fakeDaemon) asked(call string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.calls, call)
}

func (f *fakeDaemon) Watch(ctx context.Context, tell func(client.Change, string)) {
	f.mu.Lock()
	f.tell = tell
	what := client.DaemonBegan
	if f.absent {
		what = client.DaemonEnded
	}
	f.mu.Unlock()
	tell(what, "")
	close(f.watching)
	<-ctx.Done()
}

func read[T any](ctx context.Context, f *fakeDaemon, method string, from *[]T) ([]T, error) {
	err := f.did(ctx, method)
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(*from), err
}

func (f *fakeDaemon) Status(ctx context.Context) (map[string]any, error) {
	return map[string]any{"Version": "1.2.3", "PID": uint32(4711), "Keys": uint32(len(f.keys))}, f.did(ctx, "Status")
}
func (f *fakeDaemon) Keys(ctx context.Context) ([]client.Key, error) {
	return read(ctx, f, "Keys", &f.keys)
}
func (f *fakeDaemon) Create(ctx context.Context, c client.Creation) (client.Made, error) {
	if c.Progress != nil {
		c.Progress("creating the key in the TPM")
	}
	return client.Made{ID: "new", Path: "/home/mia/.ssh/" + c.Path}, f.did(ctx, "Create", c.Path, c.Algorithm, c.Comment, c.NoPIN)
}
func (f *fakeDaemon) Import(ctx context.Context, source string, t client.Target) (client.Made, error) {
	return client.Made{ID: "new", Notes: []string{"The file is still there."}}, f.did(ctx, "Import", source, t.Path, t.NoPIN)
}
func (f *fakeDaemon) ChangeAuth(ctx context.Context, file client.File, noPIN bool, _ func(string)) (client.Made, error) {
	return client.Made{}, f.did(ctx, "ChangeAuth", file.ID, file.Path, noPIN)
}
func (f *fakeDaemon) SetLabel(ctx context.Context, file client.File, label string) error {
	return f.did(ctx, "SetLabel", file.ID, file.Path, label)
}
func (f *fakeDaemon) Remove(ctx context.Context, file client.File) error {
	return f.did(ctx, "Remove", file.ID, file.Path)
}
func (f *fakeDaemon) RequestCertificate(ctx context.Context, id string, r client.Request) ([]byte, error) {
	return []byte(strings.Repeat("request ", 40)), f.did(ctx, "RequestCertificate", id, r.Subject, r.AlternativeNames)
}
func (f *fakeDaemon) Keyrings(ctx context.Context) ([]client.Keyring, error) {
	return read(ctx, f, "Keyrings", &f.keyrings)
}
func (f *fakeDaemon) CreateKeyring(ctx context.Context, label string) (string, error) {
	return "new", f.did(ctx, "CreateKeyring", label)
}
func (f *fakeDaemon) turn(id string, locked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.keyrings {
		if f.keyrings[i].ID == id || id == "" {
			f.keyrings[i].Locked = locked
		}
	}
}
func (f *fakeDaemon) LockKeyring(ctx context.Context, id string) error {
	err := f.did(ctx, "LockKeyring", id)
	if err == nil {
		f.turn(id, true)
	}
	return err
}
func (f *fakeDaemon) UnlockKeyring(ctx context.Context, id string) error {
	err := f.did(ctx, "UnlockKeyring", id)
	if err == nil {
		f.turn(id, false)
	}
	return err
}
func (f *fakeDaemon) ChangePassphrase(ctx context.Context, id string) error {
	return f.did(ctx, "ChangePassphrase", id)
}
func (f *fakeDaemon) Slots(ctx context.Context, id string) ([]client.Slot, error) {
	return read(ctx, f, "Slots", &f.slots)
}
func (f *fakeDaemon) AddSlot(ctx context.Context, id, kind string, pin bool, pcrs string) (string, error) {
	return "s", f.did(ctx, "AddSlot", id, kind, pin)
}
func (f *fakeDaemon) AddRecoverySlot(ctx context.Context, id string) (string, []byte, error) {
	return "r", []byte("KXQ7-4M2P-9WZT-HB3C-5RND-8FYG"), f.did(ctx, "AddRecoverySlot", id)
}
func (f *fakeDaemon) RemoveSlot(ctx context.Context, id, slot string) error {
	return f.did(ctx, "RemoveSlot", id, slot)
}
func (f *fakeDaemon) ImportKeyrings(ctx context.Context, paths []string, into string, archive bool) ([]client.Moved, error) {
	return []client.Moved{
		{Label: "Login", Items: 12, There: 1, Notes: []string{"One item is a key of an application's; it works only where that application is."}},
		{Label: hostile, Error: "wrong passphrase"},
	}, f.did(ctx, "ImportKeyrings", paths, into, archive)
}
func (f *fakeDaemon) ExportKeyrings(ctx context.Context, e client.Export) ([]client.Moved, error) {
	return []client.Moved{{Label: "Login", Items: 4}}, f.did(ctx, "ExportKeyrings", e.Path, e.Keyrings, e.Plain, e.Force)
}
func (f *fakeDaemon) Items(ctx context.Context, at string) ([]client.Item, error) {
	err := f.did(ctx, "Items", at)
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.items[at]), err
}
func (f *fakeDaemon) Secret(ctx context.Context, at string) (secret.Bytes, string, error) {
	err := f.did(ctx, "Secret", at)
	return secret.Copy([]byte(f.secrets[at])), "text/plain", err
}
func (f *fakeDaemon) CreateItem(ctx context.Context, keyring, label string, attributes map[string]string, value secret.Bytes) (string, error) {
	var s string
	value.Use(func(b []byte) { s = string(b) })
	return "/new", f.did(ctx, "CreateItem", keyring, label, attributes, s)
}
func (f *fakeDaemon) ChangeItem(ctx context.Context, item string, c ItemChange) error {
	label, s := "-", "-"
	if c.Label != nil {
		label = *c.Label
	}
	if c.Secret != nil {
		c.Secret.Use(func(b []byte) { s = string(b) })
	}
	return f.did(ctx, "ChangeItem", item, label, c.Attributes, s)
}
func (f *fakeDaemon) DeleteItem(ctx context.Context, item string) error {
	return f.did(ctx, "DeleteItem", item)
}
func (f *fakeDaemon) SetKeyringLabel(ctx context.Context, at, label string) error {
	return f.did(ctx, "SetKeyringLabel", at, label)
}
func (f *fakeDaemon) DeleteKeyring(ctx context.Context, at string) error {
	return f.did(ctx, "DeleteKeyring", at)
}
func (f *fakeDaemon) Approvals(ctx context.Context) ([]client.Approval, error) {
	return read(ctx, f, "Approvals", &f.approvals)
}
func (f *fakeDaemon) Revoke(ctx context.Context, id uint64) error { return f.did(ctx, "Revoke", id) }
func (f *fakeDaemon) History(ctx context.Context) ([]client.Past, error) {
	return read(ctx, f, "History", &f.history)
}
func (f *fakeDaemon) Lock(ctx context.Context) error { return f.did(ctx, "Lock") }

// A fakeClock stands still until it is told to go on.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	later []*alarm
}

type alarm struct {
	at time.Time
	f  func()
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &alarm{c.now.Add(d), f}
	c.later = append(c.later, a)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.later = slices.DeleteFunc(c.later, func(o *alarm) bool { return o == a })
	}
}

// pass lets time pass.
func (c *fakeClock) pass(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []*alarm
	c.later = slices.DeleteFunc(c.later, func(a *alarm) bool {
		if a.at.After(c.now) {
			return false
		}
		due = append(due, a)
		return true
	})
	c.mu.Unlock()
	for _, a := range due {
		a.f()
	}
}

type fakeClipboard struct{ text string }

func (c *fakeClipboard) Content() string     { return c.text }
func (c *fakeClipboard) SetContent(s string) { c.text = s }

type fakeSettings struct {
	mu     sync.Mutex
	values config.Values
	writes []config.Change
	err    error
	tray   bool
}

func (s *fakeSettings) Read() (config.Values, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values, s.err
}

func (s *fakeSettings) Write(pid int, changes ...config.Change) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, changes...)
	return pid == 4711, s.err
}
func (s *fakeSettings) Tray() bool            { return s.tray }
func (s *fakeSettings) SetTray(on bool) error { s.tray = on; return nil }

// A shot is a manager on a canvas of its own.
type shot struct {
	*Manager
	t     *testing.T
	f     *fakeDaemon
	s     *fakeSettings
	clock *fakeClock
	board *fakeClipboard
	file  string // what the user chooses
	saved map[string]string
	w     fyne.Window
	c     fyne.Canvas
	queue chan func()
}

func show(t *testing.T, f *fakeDaemon, dark bool) *shot {
	t.Helper()
	v := theme.VariantLight
	if dark {
		v = theme.VariantDark
	}
	app := test.NewTempApp(t)
	app.Settings().SetTheme(promptui.NewTheme().In(v == theme.VariantDark))
	if err := Translate(); err != nil {
		t.Fatal(err)
	}
	f.watching = make(chan struct{})
	s := &shot{t: t, f: f, clock: &fakeClock{now: noon}, board: &fakeClipboard{}, saved: map[string]string{},
		queue: make(chan func(), 10000), s: &fakeSettings{values: config.Values{Remember: 10 * time.Minute, Prompter: "auto", LockScreen: []string{config.Forget}}}}
	s.Manager = New(t.Context(), Options{Daemon: f, Settings: s.s, Clipboard: s.board, Clock: s.clock, Home: "/home/mia",
		Do:     func(f func()) { s.queue <- f },
		Choose: func(context.Context, bool, string, string) (string, error) { return s.file, nil },
		Save:   func(path string, data []byte) error { s.saved[path] = string(data); return nil },
	})
	s.w = test.NewTempWindow(t, s.Content())
	s.w.SetPadded(false)
	s.w.Resize(s.Size())
	s.c = s.w.Canvas()
	s.Start(s.c)
	t.Cleanup(func() {
		done := make(chan struct{})
		s.Manager.stop()
		go func() { s.wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("something does not end with the window")
		}
	})
	<-f.watching
	s.settle()
	return s
}

// settle draws until nothing is under way.
func (s *shot) settle() {
	s.t.Helper()
	s.until("nothing is under way", func() bool { return s.under == 0 && len(s.queue) == 0 })
}

// until draws until cond holds.
func (s *shot) until(what string, cond func() bool) {
	s.t.Helper()
	timeout := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case f := <-s.queue:
			f()
		case <-tick.C:
		case <-timeout:
			s.t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// go to a place.
func (s *shot) to(p place) {
	s.t.Helper()
	s.enter(p)
	s.refresh()
	s.settle()
}

// button finds one that is on screen.
func (s *shot) button(label string) *button {
	s.t.Helper()
	var roots []fyne.CanvasObject
	if top := s.c.Overlays().Top(); top != nil {
		roots = append(roots, top)
	} else {
		roots = append(roots, s.c.Content())
	}
	for _, root := range roots {
		for _, o := range test.LaidOutObjects(root) {
			if b, ok := o.(*button); ok && b.Text == label && b.Visible() {
				return b
			}
		}
	}
	s.t.Fatalf("no button %q", label)
	return nil
}

func (s *shot) press(label string) {
	s.t.Helper()
	b := s.button(label)
	if b.Disabled() {
		s.t.Fatalf("%q cannot be pressed", label)
	}
	test.Tap(b)
	s.settle()
}

// fields are those of the dialog on top, in their order.
func (s *shot) fields() (all []*field) {
	for _, o := range test.LaidOutObjects(s.c.Overlays().Top()) {
		if f, ok := o.(*field); ok {
			all = append(all, f)
		}
	}
	return all
}

func (s *shot) ticks() (all []*check) {
	root := s.c.Content()
	if top := s.c.Overlays().Top(); top != nil {
		root = top
	}
	for _, o := range test.LaidOutObjects(root) {
		if c, ok := o.(*check); ok {
			all = append(all, c)
		}
	}
	return all
}

// says reports whether a text is on screen.
func (s *shot) says(part string) bool {
	roots := []fyne.CanvasObject{s.c.Content()}
	roots = append(roots, s.c.Overlays().List()...)
	for _, root := range roots {
		for _, o := range test.LaidOutObjects(root) {
			if t, ok := o.(*text); ok && t.Visible() && strings.Contains(t.full, part) {
				return true
			}
		}
	}
	return false
}

// pick chooses a line of the list.
func (s *shot) pick(id string) {
	s.t.Helper()
	var b *browser
	switch v := s.view.(type) {
	case *keysView:
		b = v.browser
	case *itemsView:
		b = v.browser
	case *recentView:
		b = v.browser
	case *approvalsView:
		b = v.browser
	}
	i := slices.IndexFunc(b.shown, func(e entry) bool { return e.id == id })
	if i < 0 {
		s.t.Fatalf("%q is not in the list", id)
	}
	b.list.Select(i)
	s.settle()
}
