//go:build cgo

package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/app"
	"fyne.io/fyne/v2/driver"
	"github.com/rymdport/portal/settings/appearance"

	"github.com/keyringd/keyringd/cmd/keyring-ui/ask"
	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/internal/secret"
)

const (
	// answers is how long a display may take to say what it can: the asker is
	// to hear within two seconds that there is none.
	answers = 1500 * time.Millisecond
	// looks is how long the desktop may take to say whether it is dark.
	looks = 200 * time.Millisecond
	// opens is how long a window may take on a busy machine.
	opens = 15 * time.Second
	// looksEvery is how often Caps Lock is looked at: no toolkit tells.
	looksEvery = 200 * time.Millisecond
)

// A screen is an [ask.Screen] with one window of Fyne's, which comes and goes.
// Fyne starts with the first question: GETINFO needs no display.
type screen struct {
	begin chan struct{} // closed to start Fyne
	ready chan struct{} // closed when it runs
	ended chan struct{} // closed when it gave up
	once  sync.Once
	unfit error // why there is no display; set before begin or by start

	waiting bool          // it was started before there was a question
	asked   chan struct{} // closed by the first question
	heard   sync.Once     // closes asked
	style   string        // light or dark, as the desktop said at the start; "": the user's environment does

	unhurry func() // ends what hurry has begun
	settled bool   // used on Fyne's goroutine

	set  atomic.Pointer[ask.Settings]
	app  fyne.App
	win  fyne.Window
	view atomic.Pointer[promptui.View]
}

func newScreen() *screen {
	s := &screen{begin: make(chan struct{}), ready: make(chan struct{}), ended: make(chan struct{}), asked: make(chan struct{}), unhurry: hurry()}
	s.set.Store(&ask.Settings{})
	return s
}

// apply takes over what the asker said about where it is. Only what is known
// at the first question counts for display and language.
func (s *screen) apply(set ask.Settings) { s.set.Store(&set) }

// run is Fyne's main loop, on the main thread. It returns when Fyne gives up.
func (s *screen) run() {
	defer close(s.ended)
	<-s.begin
	s.app = app.NewWithID("io.github.keyringd.ui")
	s.app.Settings().SetTheme(promptui.NewTheme())
	together()
	s.win = s.app.NewWindow("keyringd")
	s.win.SetPadded(false)
	s.win.SetFixedSize(true)
	s.win.SetCloseIntercept(func() {
		if v := s.view.Load(); v != nil {
			v.Close()
		}
	})
	s.app.Lifecycle().SetOnStarted(func() { close(s.ready) })
	s.app.Run()
}

// start starts Fyne, if there is a display that it can use.
func (s *screen) start() error {
	s.once.Do(func() {
		if s.unfit = s.prepare(); s.unfit == nil {
			close(s.begin)
		}
	})
	if s.unfit != nil {
		return fmt.Errorf("%w: %w", ask.ErrNoScreen, s.unfit)
	}
	select {
	case <-s.ready:
		return nil
	case <-s.ended:
		return fmt.Errorf("%w: the toolkit gave up", ask.ErrNoScreen)
	case <-time.After(opens):
		return fmt.Errorf("%w: the toolkit does not start", ask.ErrNoScreen)
	}
}

// prepare puts the settings into the environment, where toolkits look for
// them, and asks the display what it can.
func (s *screen) prepare() error {
	set := s.set.Load()
	if set.Display != "" {
		os.Setenv("DISPLAY", set.Display)
	}
	if set.LCMessages != "" && os.Getenv("LC_ALL") == "" {
		os.Setenv("LC_MESSAGES", set.LCMessages)
	}
	keepCompose()
	if err := promptui.Translate(); err != nil {
		return err
	}
	fit, scheme := make(chan error, 1), make(chan string, 1)
	go func() { fit <- displayFault() }()
	go func() { scheme <- colorScheme() }()
	defer func() {
		// Before the first image: Fyne, which asks too, begins in the dark.
		name := "light"
		select {
		case name = <-scheme:
		case <-time.After(looks):
		}
		if os.Getenv("FYNE_THEME") == "" {
			os.Setenv("FYNE_THEME", name)
			s.style = name
		}
	}()
	select {
	case err := <-fit:
		return err
	case <-time.After(answers):
		return fmt.Errorf("the display does not answer")
	}
}

// colorScheme returns "dark" if the user chose that, "light" if not.
func colorScheme() string {
	// Without an address the library would start a bus of its own.
	if os.Getenv("DBUS_SESSION_BUS_ADDRESS") == "" {
		if _, err := os.Stat(os.Getenv("XDG_RUNTIME_DIR") + "/bus"); err != nil {
			return "light"
		}
	}
	if scheme, err := appearance.GetColorScheme(); err == nil && scheme == appearance.Dark {
		return "dark"
	}
	return "light"
}

// Show implements [ask.Screen].
func (s *screen) Show(ctx context.Context, q ask.Question, h ask.Helpers) (ask.Answer, error) {
	s.heard.Do(func() { close(s.asked) })
	if err := s.start(); err != nil {
		return ask.Answer{}, err
	}
	s.restyle()
	answer := make(chan ask.Answer, 1)
	opened := make(chan error, 1)
	a := newAssistant(h)
	defer a.stop()
	fyne.Do(func() { opened <- s.open(q, a.options(s, answer)) })
	select {
	case err := <-opened:
		if err != nil {
			return ask.Answer{}, err
		}
	case <-s.ended:
		return ask.Answer{}, fmt.Errorf("%w: the toolkit gave up", ask.ErrNoScreen)
	case <-time.After(opens):
		return ask.Answer{}, fmt.Errorf("%w: the window does not open", ask.ErrNoScreen)
	}
	defer fyne.Do(s.close)
	watched, unwatch := context.WithCancel(ctx)
	defer unwatch()
	go s.watch(watched)
	select {
	case got := <-answer:
		return got, nil
	case <-ctx.Done():
		return ask.Answer{}, ctx.Err()
	case <-s.ended:
		return ask.Answer{}, fmt.Errorf("%w: the display went away", ask.ErrNoScreen)
	}
}

// open puts a question into the window, on Fyne's goroutine.
func (s *screen) open(q ask.Question, o promptui.Options) error {
	v := s.fill(q, o)
	s.win.CenterOnScreen()
	heed() // a hidden window appears where it last heard itself to be
	s.win.Show()
	if room := s.room(); room > 0 && v.Content().MinSize().Height > room {
		v = s.fill(q, o) // only a window that was made knows its scale
	}
	var handle uintptr
	s.native(func(window uintptr, _ bool) { handle = window })
	if handle == 0 {
		return fmt.Errorf("%w: no OpenGL on this display", ask.ErrNoScreen)
	}
	s.native(func(window uintptr, x11 bool) {
		if x11 {
			raise(window, s.set.Load().ParentWID)
		}
	})
	// The window manager may have taken the place that the window had while it was
	// out of sight for a wish.
	s.win.CenterOnScreen()
	s.win.RequestFocus()
	v.Start(s.win.Canvas())
	s.settle()
	return nil
}

// fill makes the view of a question, as high as there is room, and puts it into
// the window.
func (s *screen) fill(q ask.Question, o promptui.Options) *promptui.View {
	o.MaxHeight = s.room()
	v := promptui.New(q, o)
	s.view.Store(v)
	s.win.SetTitle(v.Title())
	s.win.SetContent(v.Content())
	s.win.Resize(v.Content().MinSize())
	return v
}

// settle does, once, what could wait until there is a window.
func (s *screen) settle() {
	if s.settled {
		return
	}
	s.settled = true
	s.unhurry()
	s.win.SetIcon(promptui.Icon())
}

// close takes the window away, on Fyne's goroutine.
func (s *screen) close() {
	if v := s.view.Swap(nil); v != nil {
		ungrab()
		s.win.Hide()
		s.win.SetContent(empty())
	}
}

// native calls fn with the system's own window: 0 where there is none.
func (s *screen) native(fn func(window uintptr, x11 bool)) {
	n, ok := s.win.(driver.NativeWindow)
	if !ok {
		fn(0, false)
		return
	}
	n.RunNative(func(c any) {
		switch c := c.(type) {
		case driver.X11WindowContext:
			fn(c.WindowHandle, true)
		case driver.WaylandWindowContext:
			fn(c.WaylandSurface, false)
		default:
			fn(0, false)
		}
	})
}

// room is how high a window may be, with some space for panels and a title.
func (s *screen) room() float32 {
	const frame = 90
	height, scale := screenHeight(), s.win.Canvas().Scale()
	if height == 0 || scale <= 0 {
		return 0
	}
	return float32(height)/scale - frame
}

// watch does what takes its time while a question is on screen: it ends the
// guard, grabs the keyboard as soon as the window may have it, and looks at
// Caps Lock.
func (s *screen) watch(ctx context.Context) {
	guard, longer := time.After(promptui.Guard), make(chan time.Duration, 1)
	tick := time.NewTicker(looksEvery)
	defer tick.Stop()
	grabbed := !s.set.Load().Grab
	look := func() {
		v := s.view.Load()
		if v == nil || ctx.Err() != nil {
			return
		}
		v.SetCapsLock(capsLock())
		if !grabbed {
			s.native(func(window uintptr, x11 bool) { grabbed = !x11 || grab(window) })
		}
	}
	fyne.Do(look)
	for {
		select {
		case <-ctx.Done():
			return
		case <-guard:
			fyne.Do(func() {
				if v := s.view.Load(); v != nil && ctx.Err() == nil {
					if wait := v.Unquiet(); wait > 0 {
						longer <- wait
						return
					}
					v.Arm()
				}
			})
		case wait := <-longer:
			guard = time.After(wait)
		case <-tick.C:
			fyne.Do(look)
		}
	}
}

// An assistant asks the asker, away from Fyne's goroutine: a client that takes
// its time must not freeze the window.
type assistant struct {
	h    ask.Helpers
	rate chan secret.Bytes // the newest version that was not rated yet
	quit chan struct{}
	wg   sync.WaitGroup
}

func newAssistant(h ask.Helpers) *assistant {
	return &assistant{h: h, rate: make(chan secret.Bytes, 1), quit: make(chan struct{})}
}

// stop waits for what is under way.
func (a *assistant) stop() {
	close(a.quit)
	a.wg.Wait()
	select {
	case p := <-a.rate:
		p.Wipe()
	default:
	}
}

func (a *assistant) options(s *screen, answer chan<- ask.Answer) promptui.Options {
	view := func(fn func(*promptui.View)) {
		fyne.Do(func() {
			if v := s.view.Load(); v != nil {
				fn(v)
			}
		})
	}
	o := promptui.Options{Done: func(got ask.Answer) { answer <- got }}
	if a.h.Quality != nil {
		a.wg.Add(1)
		go a.rates(func(percent int) { view(func(v *promptui.View) { v.SetQuality(percent) }) })
		o.Rate = func(p secret.Bytes) {
			select {
			case old := <-a.rate:
				old.Wipe()
			default:
			}
			a.rate <- p.Clone()
		}
	}
	if a.h.Generate != nil {
		o.Generate = func() {
			a.wg.Go(func() {
				p, err := a.h.Generate()
				if err != nil {
					return
				}
				fyne.DoAndWait(func() {
					if v := s.view.Load(); v != nil {
						v.SetProposal(p)
					}
				})
				p.Wipe()
			})
		}
	}
	if a.h.Check != nil {
		o.Check = func(got ask.Answer) {
			a.wg.Go(func() {
				problem, err := a.h.Check(got.Passphrase)
				if err == nil && problem != "" {
					got.Passphrase.Wipe()
					view(func(v *promptui.View) { v.SetFault(problem) })
					return
				}
				answer <- got
			})
		}
	}
	return o
}

func (a *assistant) rates(set func(int)) {
	defer a.wg.Done()
	for {
		select {
		case <-a.quit:
			return
		case p := <-a.rate:
			percent, err := a.h.Quality(p)
			p.Wipe()
			if err == nil {
				set(percent)
			}
		}
	}
}

// empty is what is in a hidden window: nothing of the last question.
func empty() fyne.CanvasObject { return &fyne.Container{} }
