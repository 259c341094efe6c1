package promptui

import (
	_ "embed"
	"strings"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/lang"
	"fyne.io/fyne/v2/layout"
	"fyne.io/fyne/v2/widget"

	"github.com/keyringd/keyringd/cmd/keyring-ui/ask"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

//go:embed icon.svg
var icon []byte

// Icon is the program's own.
func Icon() fyne.Resource { return fyne.NewStaticResource("keyringd.svg", icon) }

const (
	width    = 472 // of what is in the window: a fingerprint of OpenSSH's fits into it
	margin   = 24
	gap      = 16 // between parts
	aside    = 10 // for a scroll bar
	iconSize = 48

	// maxMiddle is how high the texts may get before they scroll, and minMiddle
	// what is left to them on a small screen.
	maxMiddle, minMiddle = 300, 72
	// maxLabel is the widest label before a row.
	maxLabel = 110
)

// Options are what a View is shown with.
type Options struct {
	// Done is called once, with the answer. Whoever has it owns the passphrase.
	Done func(ask.Answer)
	// MaxHeight is how high the window may be; 0: as high as it likes.
	MaxHeight float32
	// Rate is called with each new version of a new passphrase, which is
	// borrowed, and answered by SetQuality some time later; nil: there is no
	// rating but our own.
	Rate func(secret.Bytes)
	// Generate is called when the user wants a proposal, and answered by
	// SetProposal; nil: the asker has none.
	Generate func()
	// Check is called with a new passphrase, which is the receiver's, instead of
	// Done, and answered by Done or by SetFault; nil: there is nothing to check.
	Check func(ask.Answer)
}

// A View is one question.
type View struct {
	q       ask.Question
	o       Options
	content fyne.CanvasObject

	entry, again    *entry
	caps            *hint
	fault           *hint
	match           *hint
	gauge           *gauge
	grade           *text
	ok              *button
	term            *choice
	remember        *check
	automatic       *check
	first           fyne.Focusable // what has the focus at the start
	armed, finished bool
	lastKey         time.Time // while not armed
}

// New returns the view of q. Put its Content into a window, call Start, and
// Arm when [Guard] is over.
func New(q ask.Question, o Options) *View {
	v := &View{q: q, o: o}
	wantsText := q.Kind == prompt.Passphrase || q.Kind == prompt.NewPassphrase
	v.armed = wantsText

	lower := container.New(column{gap: gap + 4})
	if wantsText {
		lower.Add(v.fields())
	}
	if w := v.wishes(); w != nil {
		lower.Add(w)
	}
	lower.Add(v.buttons())

	top := container.New(row{iconSize, gap}, v.picture(), newText(faceHeading, heading(q), width-iconSize-gap))
	all := container.New(column{gap: gap}, top)
	if middle := v.middle(); middle != nil {
		limit := float32(maxMiddle)
		if o.MaxHeight > 0 {
			rest := top.MinSize().Height + lower.MinSize().Height + 2*gap + 2*margin
			limit = max(minMiddle, min(limit, o.MaxHeight-rest))
		}
		all.Add(newBounded(middle, limit))
	}
	all.Add(lower)
	v.content = container.New(framed{width, margin}, all)
	v.refresh()
	return v
}

// Content is what is in the window.
func (v *View) Content() fyne.CanvasObject { return v.content }

// Title is the window's.
func (v *View) Title() string {
	if s := clean(v.q.Title); s != "" && !v.q.Known {
		return s
	}
	return "keyringd"
}

// Start gives the focus to what should have it, on the canvas that the content
// is on.
func (v *View) Start(c fyne.Canvas) {
	c.SetOnTypedKey(func(e *fyne.KeyEvent) { // nothing has the focus
		if e.Name == fyne.KeyEscape {
			v.Cancel()
		}
	})
	c.Focus(v.first)
}

// Unquiet returns how much longer to wait with Arm: somebody who is still typing
// has not seen the question. 0: not at all.
func (v *View) Unquiet() time.Duration { return max(0, Guard-time.Since(v.lastKey)) }

// touched is told of each key that went to something that could answer.
func (v *View) touched() { v.lastKey = time.Now() }

// Arm makes the answers active that Enter could give by mistake.
func (v *View) Arm() {
	v.armed = true
	v.refresh()
}

// Cancel answers the question with [ask.Cancelled].
func (v *View) Cancel() { v.finish(ask.Answer{Action: ask.Cancelled}) }

// Close answers the question with [ask.Closed].
func (v *View) Close() { v.finish(ask.Answer{Action: ask.Closed}) }

// SetCapsLock shows or hides the hint that Caps Lock is on.
func (v *View) SetCapsLock(on bool) {
	if v.caps == nil {
		return
	}
	s := ""
	if on {
		s = lang.L("Caps Lock is on.")
	}
	v.caps.set(s)
}

// SetQuality shows a rating, from -100 to 100, of the passphrase as it is.
func (v *View) SetQuality(percent int) {
	if v.gauge == nil {
		return
	}
	v.gauge.set(percent)
	v.grade.lines = []string{""}
	if v.entry.Text != "" {
		v.grade.lines[0] = strength(percent)
	}
	v.grade.Refresh()
}

// SetProposal fills in a passphrase, and shows it: it is to be written down.
func (v *View) SetProposal(p secret.Bytes) {
	if v.entry == nil {
		return
	}
	var s string
	p.Use(func(b []byte) { s = string(b) })
	for _, e := range []*entry{v.entry, v.again} {
		if e != nil {
			e.Password = false
			e.SetText(s)
			e.Refresh()
		}
	}
}

// SetFault says why an answer was turned down, and takes another one.
func (v *View) SetFault(s string) {
	v.finished = false
	v.fault.set(joined(clean(v.q.ErrorTitle), clean(s)))
	v.refresh()
}

func joined(texts ...string) string {
	var known []string
	for _, s := range texts {
		if s != "" {
			known = append(known, s)
		}
	}
	return strings.Join(known, " ")
}

func (v *View) finish(a ask.Answer) {
	if v.finished {
		a.Passphrase.Wipe()
		return
	}
	v.finished = true
	v.o.Done(a)
}

// accept is OK, or Enter.
func (v *View) accept() {
	if !v.ready() || v.finished {
		return
	}
	a := ask.Answer{Action: ask.Accepted, Repeated: v.again != nil, Term: v.chosen()}
	a.Automatic = v.automatic != nil && v.automatic.Checked
	if v.entry != nil {
		a.Passphrase = secret.From([]byte(v.entry.Text))
	}
	if v.o.Check != nil && v.again != nil {
		v.finished = true // until SetFault
		v.o.Check(a)
		return
	}
	v.finish(a)
}

// ready reports whether there is an answer that could be accepted.
func (v *View) ready() bool {
	switch {
	case !v.armed:
		return false
	case v.entry == nil:
		return true
	case v.again != nil && v.again.Text != v.entry.Text:
		return false
	}
	// Nothing is nobody's PIN, and a try is spent on it; but others than keyringd
	// may take an empty passphrase for "none".
	return v.entry.Text != "" || !v.q.Known
}

// refresh brings what is shown into line with what was typed.
func (v *View) refresh() {
	// What is disabled cannot have the focus, which a lone button is to have.
	if v.ready() || v.q.OneButton {
		v.ok.Enable()
	} else {
		v.ok.Disable()
	}
	if v.again == nil {
		return
	}
	said, same := "", v.again.Text == v.entry.Text
	switch {
	case v.again.Text == "":
	case !same && !strings.HasPrefix(v.entry.Text, v.again.Text): // not while it may still become the same
		said = either(v.q.RepeatError, lang.L("The two are not the same."))
		v.match.face = faceFault
	case same:
		said = either(v.q.RepeatOK, lang.L("The two are the same."))
		v.match.face = faceCaption
	}
	v.match.set(said)
}

// either returns the asker's words, or our own.
func either(theirs, ours string) string {
	if s := clean(theirs); s != "" {
		return s
	}
	return ours
}

func (v *View) picture() fyne.CanvasObject {
	img := canvas.NewImageFromResource(Icon())
	img.FillMode = canvas.ImageFillContain
	img.SetMinSize(fyne.NewSquareSize(iconSize))
	return img
}

// middle is what the question is about; nil: it does not say.
func (v *View) middle() fyne.CanvasObject {
	all := container.New(column{gap: gap})
	if s := cleanLines(v.q.Text); s != "" && !v.q.Known {
		all.Add(newText(faceText, s, width-aside))
	}
	if s := clean(v.q.Warning); s != "" && v.q.Known {
		all.Add(newBanner(s, width))
	}
	if rows := facts(v.q); len(rows) > 0 {
		var left float32
		for _, r := range rows {
			left = max(left, faceDim.width(r.label))
		}
		left = min(left, maxLabel)
		const beside = 16
		list := container.New(table{left: left, gap: beside, between: 7})
		for _, r := range rows {
			list.Add(newLine(faceDim, r.label, left))
			value := newFact(r.value, width-left-beside-aside, v.Cancel)
			if r.under != "" {
				value = container.New(column{gap: 1}, value, newText(r.face, r.under, width-left-beside-aside))
			}
			list.Add(value)
		}
		all.Add(list)
	}
	if len(all.Objects) == 0 {
		return nil
	}
	return all
}

// fields are the entries and what belongs to them.
func (v *View) fields() fyne.CanvasObject {
	const small = 6
	box := container.New(column{gap: small})
	v.entry = newEntry(v.q.Visible, v.enter, v.Cancel)
	v.entry.OnChanged = v.typed
	v.first = v.entry
	if !v.q.Visible {
		box.Add(newLine(faceCaption, v.label(), width))
	}
	box.Add(v.entry)
	if v.q.Kind == prompt.NewPassphrase {
		v.newFields(box)
	}
	v.caps = newHint(faceCaution, width)
	v.fault = newHint(faceFault, width)
	v.fault.set(fault(v.q))
	box.Add(v.caps.box)
	box.Add(v.fault.box)
	if s := joined(clean(v.q.Hint), remembered(v.q)); s != "" {
		box.Add(newText(faceCaption, s, width))
	}
	if s := cleanLines(v.q.HintLong); s != "" {
		box.Add(newBounded(newText(faceCaption, s, width), minMiddle))
	}
	return box
}

// newFields are those that only a new passphrase has.
func (v *View) newFields(box *fyne.Container) {
	if v.q.QualityLabel != "" || !isPIN(v.q) {
		v.gauge = newGauge()
		v.grade = newLine(faceCaption, "", 80)
		v.grade.align = fyne.TextAlignTrailing
		name := newLine(faceCaption, either(strings.TrimSuffix(plain(v.q.QualityLabel), ":"), lang.L("Quality")), 90)
		bar := container.NewVBox(layout.NewSpacer(), v.gauge, layout.NewSpacer())
		grade := container.New(layout.NewGridWrapLayout(fyne.NewSize(60, name.MinSize().Height)), v.grade)
		box.Add(container.NewBorder(nil, nil, name, grade, container.NewPadded(bar)))
	}
	v.again = newEntry(v.q.Visible, v.enter, v.Cancel)
	v.again.OnChanged = func(string) { v.refresh() }
	box.Add(newLine(faceCaption, either(strings.TrimSuffix(plain(v.q.RepeatLabel), ":"), lang.L("Repeat")), width))
	box.Add(v.again)
	v.match = newHint(faceCaption, width)
	box.Add(v.match.box)
	if v.o.Generate != nil {
		b := newButton(plain(v.q.Generate), width, v.o.Generate, v.Cancel)
		box.Add(container.NewHBox(b))
	}
}

// isPIN reports whether the asker calls it a PIN.
func isPIN(q ask.Question) bool {
	return q.PIN || !q.Known && strings.HasPrefix(plain(q.Label), "PIN")
}

// label stands above the entry.
func (v *View) label() string {
	ours := pick(isPIN(v.q), lang.L("PIN"), lang.L("Passphrase"))
	if v.q.Known {
		return ours
	}
	return either(strings.TrimSuffix(plain(v.q.Label), ":"), ours)
}

// typed is called when the first entry changes.
func (v *View) typed(s string) {
	v.fault.set("")
	v.refresh()
	if v.gauge == nil {
		return
	}
	if v.o.Rate == nil || s == "" {
		v.SetQuality(estimate(s))
		return
	}
	p := secret.From([]byte(s))
	v.o.Rate(p)
	p.Wipe()
}

// enter is Enter in an entry: it goes to the next one, or it is OK.
func (v *View) enter() {
	if v.again != nil && v.again.Text == "" && v.entry.Text != "" {
		if c := fyne.CurrentApp().Driver().CanvasForObject(v.entry); c != nil {
			c.Focus(v.again)
		}
		return
	}
	v.accept()
}

// buttons are the last row: what refuses stands left, what accepts right.
func (v *View) buttons() fyne.CanvasObject {
	const between = 10
	q, say := v.q, v.labels()
	n := 2
	if q.OneButton {
		n = 1
	} else if q.Kind == prompt.Confirm && q.NotOK != "" {
		n = 3
	}
	wide := equal{between}.width(width, n)
	box := container.New(equal{between})
	defer func() {
		for _, o := range box.Objects {
			if b, ok := o.(*button); ok {
				b.onKey = v.touched
			}
		}
	}()
	v.ok = newButton(say.ok, wide, v.accept, v.Cancel)
	if q.OneButton {
		v.ok.Importance = widget.HighImportance
		v.first = v.ok
		box.Add(v.ok)
		return box
	}
	action := ask.Cancelled
	if q.Known && q.Kind == prompt.Confirm {
		action = ask.Refused
	}
	no := newButton(say.cancel, wide, v.refuse(action), v.Cancel)
	if q.Kind == prompt.Confirm {
		v.first = no // the safe answer is the default
	} else {
		v.ok.Importance = widget.HighImportance
	}
	box.Add(no)
	if n == 3 {
		box.Add(newButton(plain(q.NotOK), wide, v.refuse(ask.Refused), v.Cancel))
	}
	box.Add(v.ok)
	return box
}

// refuse answers no, unless Enter was meant for another window.
func (v *View) refuse(a ask.Action) func() {
	return func() {
		if v.armed {
			v.finish(ask.Answer{Action: a})
		}
	}
}

type labels struct{ ok, cancel string }

// labels are the buttons' words: the asker's, but keyringd's are our own in
// the user's language.
func (v *View) labels() labels {
	ok, cancel := lang.L("OK"), lang.L("Cancel")
	switch {
	case v.q.OneButton:
		ok = lang.L("Close")
	case v.q.Kind == prompt.Confirm && v.q.Known:
		return labels{lang.L("Allow"), lang.L("Deny")}
	case v.q.Kind == prompt.Passphrase && v.q.Known:
		return labels{lang.L("Unlock"), lang.L("Cancel")}
	}
	if v.q.Known {
		return labels{ok, cancel}
	}
	return labels{either(plain(v.q.OK), ok), either(plain(v.q.Cancel), cancel)}
}
