package manager

import (
	"context"
	"errors"
	"slices"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/layout"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
)

const dialogWidth = 480

// A dialog asks for what is needed before something is done, does it, and shows
// how it gets on. What went wrong is said in it, so that nothing that was typed
// is lost.
type dialog struct {
	m       *Manager
	pop     *widget.PopUp
	body    *fyne.Container
	all     *fyne.Container
	fault   *fyne.Container
	running *progress
	cancel  *button
	ok      *button // nil: there is only one button
	submit  func()  // what ok does
	valid   func() bool
	locked  []fyne.Disableable // while it is being done
	stop    context.CancelFunc // of what is being done; nil: nothing is
	closed  func()             // when it goes; nil: nothing
	keep    bool               // Escape does not close it
}

func (m *Manager) newDialog(title string) *dialog {
	d := &dialog{m: m, body: container.New(column{gap: gap})}
	d.fault = container.New(column{gap: 3})
	d.fault.Hide()
	d.running = newProgress(m.o.Clock, m.o.Do)
	d.cancel = newButton(lang.L("Cancel"), nil, d.cancelled, d.cancelled)
	d.all = container.New(column{gap: gap}, newText(faceHeading, title), d.body, d.fault, d.running.box)
	return d
}

// add puts something into the dialog.
func (d *dialog) add(objects ...fyne.CanvasObject) {
	for _, o := range objects {
		if o != nil {
			d.body.Add(o)
		}
	}
}

// labelled puts a label above something.
func labelled(label string, o fyne.CanvasObject) fyne.CanvasObject {
	return container.New(column{gap: 3}, newLine(faceDim, label), o)
}

// field adds a labelled line to type into.
func (d *dialog) field(label, hint, text string) *field {
	f := newField(hint, d.enter, d.cancelled)
	f.Text = text
	d.typed(label, f)
	return f
}

// typed adds a labelled field.
func (d *dialog) typed(label string, f *field) {
	f.OnChanged = func(string) { d.check() }
	d.locked = append(d.locked, f)
	d.add(labelled(label, f))
}

// tick adds something to be ticked.
func (d *dialog) tick(label string, on bool) *check {
	c := newCheck(label, func(bool) { d.check() }, d.cancelled)
	c.Checked = on
	d.locked = append(d.locked, c)
	d.add(flush(c))
	return c
}

// choice adds one of several.
func (d *dialog) choice(label string, options []string, selected string) *choice {
	c := newChoice(options, selected, func(string) { d.check() }, d.cancelled)
	d.locked = append(d.locked, c)
	d.add(labelled(label, outlined(c)))
	return c
}

// chooseFile lets the user say which file of a key is meant, where it has
// several; nil: it has not. all: all of them may be.
func (d *dialog) chooseFile(k client.Key, all bool) (o fyne.CanvasObject, chosen func() string) {
	if len(k.Paths) < 2 {
		return nil, func() string { return "" }
	}
	var options []string
	if all {
		options = append(options, lang.L("All files"))
	}
	for _, p := range k.Paths {
		options = append(options, tilde(d.m, p))
	}
	c := newChoice(options, options[0], nil, d.cancelled)
	d.locked = append(d.locked, c)
	return labelled(lang.L("File"), outlined(c)), func() string {
		i := slices.Index(options, c.Selected)
		if all {
			i--
		}
		if i < 0 {
			return ""
		}
		return k.Paths[i]
	}
}

// accept gives the dialog its second button.
func (d *dialog) accept(label string, submit func()) {
	d.submit = submit
	d.ok = newButton(label, nil, d.enter, d.cancelled)
	d.ok.Importance = widget.HighImportance
}

// danger is accept for what nothing brings back.
func (d *dialog) danger(label string, submit func()) {
	d.accept(label, submit)
	d.ok.Importance = widget.DangerImportance
}

// enter does it, if all that is needed is there.
func (d *dialog) enter() {
	if d.ok != nil && !d.ok.Disabled() && d.stop == nil {
		d.submit()
	}
}

// check makes the button active when all that is needed is there.
func (d *dialog) check() {
	if d.ok == nil || d.stop != nil {
		return
	}
	if d.valid == nil || d.valid() {
		d.ok.Enable()
	} else {
		d.ok.Disable()
	}
	d.fit()
}

// show puts the dialog over everything else.
func (d *dialog) show(first fyne.Focusable) {
	buttons := container.New(layout.NewGridLayout(2))
	if d.ok == nil {
		d.cancel.SetText(lang.L("Close"))
		buttons.Layout = layout.NewGridLayout(1)
		buttons.Add(d.cancel)
	} else {
		buttons.Add(d.cancel)
		buttons.Add(d.ok)
	}
	d.all.Add(container.New(margin{top: 4}, buttons))
	inner := container.New(fixed{dialogWidth}, d.all)
	d.pop = widget.NewModalPopUp(padded(inner, space), d.m.canvas)
	d.m.dialogs = append(d.m.dialogs, d)
	d.check()
	d.pop.Show()
	if first != nil {
		d.m.canvas.Focus(first)
	}
}

// fit makes the dialog as large as it must be.
func (d *dialog) fit() {
	if d.pop == nil {
		return
	}
	d.pop.Content.Refresh()
	d.pop.Resize(d.pop.MinSize())
}

// cancelled takes back what is being done or, if nothing is, closes the dialog.
func (d *dialog) cancelled() {
	if d.stop != nil {
		d.stop()
		return
	}
	if !d.keep {
		d.close()
	}
}

func (d *dialog) close() {
	d.running.stop()
	if i := slices.Index(d.m.dialogs, d); i >= 0 {
		d.m.dialogs = slices.Delete(d.m.dialogs, i, i+1)
		d.pop.Hide()
		if d.closed != nil {
			d.closed()
		}
	}
}

// run does what the dialog is for, on a goroutine of its own; then is called when
// it was done.
func (d *dialog) run(step string, do func(ctx context.Context) error, then func()) {
	ctx, stop := context.WithCancel(d.m.ctx)
	d.stop = stop
	d.fault.Hide()
	d.lock(true)
	d.running.start(step)
	d.m.canvas.Focus(d.cancel)
	d.fit()
	d.m.afterwards(func(context.Context) error {
		defer stop()
		return do(ctx)
	}, func(err error) {
		d.stop = nil
		d.running.stop()
		d.lock(false)
		if err != nil {
			d.failed(err)
			return
		}
		then()
	})
}

// lock keeps what was typed as it is while it is being done.
func (d *dialog) lock(on bool) {
	all := d.locked
	if d.ok != nil {
		all = append(slices.Clone(all), d.ok)
	}
	for _, w := range all {
		if on {
			w.Disable()
		} else {
			w.Enable()
		}
	}
	if d.ok == nil {
		d.cancel.SetText(lang.L("Close"))
		if on {
			d.cancel.SetText(lang.L("Cancel"))
		}
	}
}

// step shows what is being done now; it may be called on any goroutine.
func (d *dialog) step(s string) {
	d.m.o.Do(func() {
		if d.stop != nil {
			d.running.step(stepName(s))
		}
	})
}

// failed says what went wrong. What the user took back is not.
func (d *dialog) failed(err error) {
	said, hint := sentence(err)
	d.fault.Objects = nil
	if said != "" && !errors.Is(err, context.Canceled) {
		d.fault.Add(newText(faceFault, said))
		if hint != "" && hint != said {
			d.fault.Add(newText(faceText, hint))
		}
		d.fault.Show()
	}
	d.check()
	d.fit()
}

// done closes a dialog and says what was done.
func (m *Manager) done(d *dialog, said string) {
	d.close()
	if said != "" {
		m.notice.say(said)
	}
}

// A progress says what is being done and moves, so that one sees that it is.
type progress struct {
	clock Clock
	do    func(func())
	box   *fyne.Container
	label *text
	bar   *pulse
	halt  func() // nil: it stands still
}

const (
	pulseEvery = 80 * time.Millisecond
	pulseSteps = 24
)

func newProgress(clock Clock, do func(func())) *progress {
	p := &progress{clock: clock, do: do, label: newText(faceDim, ""), bar: newPulse()}
	p.box = container.New(column{gap: small}, p.label, p.bar)
	p.box.Hide()
	return p
}

func (p *progress) start(step string) {
	p.label.set(step)
	p.box.Show()
	p.tick()
}

func (p *progress) step(s string) { p.label.set(s) }

func (p *progress) tick() {
	p.halt = p.clock.AfterFunc(pulseEvery, func() {
		p.do(func() {
			if p.halt != nil {
				p.bar.at = (p.bar.at + 1) % (2 * pulseSteps)
				p.bar.Refresh()
				p.tick()
			}
		})
	})
}

func (p *progress) stop() {
	if p.halt != nil {
		p.halt()
		p.halt = nil
	}
	p.box.Hide()
}

// A pulse is a bar with something that goes to and fro in it.
type pulse struct {
	widget.BaseWidget
	at int
}

func newPulse() *pulse {
	p := &pulse{at: 6}
	p.ExtendBaseWidget(p)
	return p
}

// CreateRenderer implements [fyne.Widget].
func (p *pulse) CreateRenderer() fyne.WidgetRenderer {
	r := &pulseRenderer{p: p, track: canvas.NewRectangle(nil), block: canvas.NewRectangle(nil)}
	r.Refresh()
	return r
}

type pulseRenderer struct {
	p            *pulse
	track, block *canvas.Rectangle
}

const pulseHeight = 6

func (r *pulseRenderer) MinSize() fyne.Size { return fyne.NewSize(60, pulseHeight) }

func (r *pulseRenderer) Layout(size fyne.Size) {
	at := r.p.at
	if at > pulseSteps {
		at = 2*pulseSteps - at
	}
	w := size.Width / 4
	r.track.Resize(size)
	r.block.Resize(fyne.NewSize(w, size.Height))
	r.block.Move(fyne.NewPos((size.Width-w)*float32(at)/pulseSteps, 0))
}

func (r *pulseRenderer) Refresh() {
	r.track.FillColor, r.block.FillColor = themed(promptui.ColorTrack), themed(theme.ColorNamePrimary)
	r.track.CornerRadius, r.block.CornerRadius = pulseHeight/2, pulseHeight/2
	r.Layout(r.p.Size())
	canvas.Refresh(r.p)
}

func (r *pulseRenderer) Objects() []fyne.CanvasObject {
	return []fyne.CanvasObject{r.track, r.block}
}
func (r *pulseRenderer) Destroy() {}
