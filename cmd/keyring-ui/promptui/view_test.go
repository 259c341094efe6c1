package promptui

import (
	"regexp"
	"strings"
	"testing"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/test"
	"fyne.io/fyne/v2/theme"

	"github.com/keyringd/keyringd/cmd/keyring-ui/ask"
	"github.com/keyringd/keyringd/cmd/keyring-ui/uitest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

func (s *shot) wants(t *testing.T, action ask.Action, passphrase string) {
	t.Helper()
	if len(s.answers) != 1 {
		t.Fatalf("%d answers", len(s.answers))
	}
	var got string
	s.answers[0].Passphrase.Use(func(p []byte) { got = string(p) })
	if s.answers[0].Action != action || got != passphrase {
		t.Errorf("action %d with %q, want %d with %q", s.answers[0].Action, got, action, passphrase)
	}
}

func TestTypePIN(t *testing.T) {
	s := show(t, pinQuestion(), Options{}, theme.VariantLight)
	s.key(fyne.KeyReturn)
	if len(s.answers) != 0 {
		t.Error("an empty PIN was taken: that costs a try")
	}
	s.write(s.entry, "4%3 é😀")
	s.key(fyne.KeyReturn)
	s.key(fyne.KeyReturn)
	s.wants(t, ask.Accepted, "4%3 é😀")
}

// Others than keyringd may take nothing for an answer.
func TestEmptyPassphrase(t *testing.T) {
	s := show(t, ask.Question{Kind: prompt.Passphrase}, Options{}, theme.VariantLight)
	s.key(fyne.KeyReturn)
	s.wants(t, ask.Accepted, "")
}

func TestEscape(t *testing.T) {
	for _, kind := range []prompt.Kind{prompt.Passphrase, prompt.NewPassphrase, prompt.Confirm, prompt.Notice} {
		s := show(t, ask.Question{Kind: kind, OneButton: kind == prompt.Notice}, Options{}, theme.VariantLight)
		s.key(fyne.KeyEscape)
		s.wants(t, ask.Cancelled, "")
		s = show(t, ask.Question{Kind: kind}, Options{}, theme.VariantLight)
		s.c.Focus(nil)
		s.key(fyne.KeyEscape)
		s.wants(t, ask.Cancelled, "")
		s = show(t, ask.Question{Kind: kind}, Options{}, theme.VariantLight)
		s.Close()
		s.wants(t, ask.Closed, "")
	}
}

// What was typed for another window answers nothing, neither yes nor no.
func TestTypeAhead(t *testing.T) {
	q := pinQuestion()
	q.Kind = prompt.Confirm
	s := show(t, q, Options{}, theme.VariantLight)
	for range 3 {
		s.key(fyne.KeyReturn)
		s.key(fyne.KeySpace)
		s.c.FocusNext()
		s.key(fyne.KeyReturn)
	}
	test.Tap(s.ok)
	if len(s.answers) != 0 {
		t.Fatalf("answered %+v", s.answers)
	}
	s.c.Focus(s.first)
	s.Arm()
	s.key(fyne.KeyReturn)
	s.wants(t, ask.Refused, "") // the default is no

	s = show(t, q, Options{}, theme.VariantLight)
	s.Arm()
	s.c.FocusNext()
	s.key(fyne.KeyReturn)
	s.wants(t, ask.Accepted, "")

	s = show(t, ask.Question{Kind: prompt.Notice, OneButton: true}, Options{}, theme.VariantLight)
	s.key(fyne.KeyReturn)
	if len(s.answers) != 0 {
		t.Error("a notice went before it could be read")
	}
	s.Arm()
	s.key(fyne.KeyReturn)
	s.wants(t, ask.Accepted, "")
}

func TestThreeButtons(t *testing.T) {
	q := ask.Question{Kind: prompt.Confirm, OK: "_Yes", NotOK: "_No", Cancel: "_Cancel"}
	for tabs, action := range []ask.Action{ask.Cancelled, ask.Refused, ask.Accepted} {
		s := show(t, q, Options{}, theme.VariantLight)
		s.Arm()
		for range tabs {
			s.c.FocusNext()
		}
		s.key(fyne.KeyEnter)
		s.wants(t, action, "")
	}
}

// Tab goes from field to field and to the buttons: not through what reveals.
func TestTabOrder(t *testing.T) {
	s := show(t, ask.Question{Kind: prompt.NewPassphrase}, Options{}, theme.VariantLight)
	s.write(s.entry, "x")
	s.write(s.again, "x")
	s.c.Focus(s.entry)
	var order []string
	for range 4 {
		switch f := s.c.Focused(); f {
		case fyne.Focusable(s.entry):
			order = append(order, "entry")
		case fyne.Focusable(s.again):
			order = append(order, "again")
		default:
			order = append(order, f.(*button).Text)
		}
		s.c.FocusNext()
	}
	if got := strings.Join(order, " "); got != "entry again Cancel OK" {
		t.Errorf("order %q", got)
	}
}

func TestNewPassphrase(t *testing.T) {
	s := show(t, ask.Question{Kind: prompt.NewPassphrase, RepeatError: "not equal", RepeatOK: "equal"}, Options{}, theme.VariantLight)
	s.write(s.entry, "secret")
	s.key(fyne.KeyReturn) // on to the next field
	if s.c.Focused() != fyne.Focusable(s.again) {
		t.Error("Enter did not go to the repetition")
	}
	s.write(s.again, "sec")
	if s.match.said != "" {
		t.Errorf("%q before it was typed", s.match.said)
	}
	s.write(s.again, "x")
	s.key(fyne.KeyReturn)
	if s.match.said != "not equal" || len(s.answers) != 0 {
		t.Errorf("said %q, %d answers", s.match.said, len(s.answers))
	}
	s.key(fyne.KeyBackspace)
	s.write(s.again, "ret")
	if s.match.said != "equal" {
		t.Errorf("said %q", s.match.said)
	}
	s.key(fyne.KeyReturn)
	s.wants(t, ask.Accepted, "secret")
	if !s.answers[0].Repeated {
		t.Error("it was typed twice")
	}
}

// A passphrase that the asker turns down may be changed.
func TestCheck(t *testing.T) {
	var checked []ask.Answer
	s := show(t, ask.Question{Kind: prompt.NewPassphrase, ErrorTitle: "No."}, Options{Check: func(a ask.Answer) { checked = append(checked, a) }}, theme.VariantLight)
	s.write(s.entry, "a")
	s.write(s.again, "a")
	s.key(fyne.KeyReturn)
	s.key(fyne.KeyReturn)
	if len(checked) != 1 || len(s.answers) != 0 {
		t.Fatalf("%d checks, %d answers", len(checked), len(s.answers))
	}
	s.SetFault("Too short")
	if s.fault.said != "No. Too short" {
		t.Errorf("said %q", s.fault.said)
	}
	s.key(fyne.KeyReturn)
	if len(checked) != 2 {
		t.Error("it was not checked again")
	}
	s.SetFault("Too short")
	s.key(fyne.KeyEscape)
	s.wants(t, ask.Cancelled, "")
}

func TestRateAndPropose(t *testing.T) {
	var rated []string
	s := show(t, ask.Question{Kind: prompt.NewPassphrase, Generate: "Suggest"}, Options{
		Generate: func() {},
		Rate:     func(p secret.Bytes) { p.Use(func(b []byte) { rated = append(rated, string(b)) }) },
	}, theme.VariantLight)
	s.write(s.entry, "ab")
	if got := strings.Join(rated, " "); got != "a ab" {
		t.Errorf("rated %q", got)
	}
	s.SetQuality(-80)
	if s.gauge.percent != -80 || s.grade.lines[0] != "Weak" {
		t.Errorf("shows %d %q", s.gauge.percent, s.grade.lines[0])
	}
	p := secret.Copy([]byte("proposal"))
	s.SetProposal(p)
	if s.entry.Password || s.entry.Text != "proposal" {
		t.Error("the proposal cannot be read")
	}
	s.c.Focus(s.again)
	s.key(fyne.KeyReturn)
	s.wants(t, ask.Accepted, "proposal")
}

// Whatever the texts, entry and buttons are on screen.
func TestBounded(t *testing.T) {
	for name, make := range gallery() {
		s := make(t, theme.VariantLight)
		s.fit()
		if size := s.Content().MinSize(); size.Width > width+2*margin || size.Height > 620 {
			t.Errorf("%s: %v", name, size)
		}
	}
	q := pinQuestion()
	q.Known, q.Text = false, strings.Repeat("word ", 5000)+strings.Repeat("x", 10000)
	s := show(t, q, Options{MaxHeight: 380}, theme.VariantLight)
	if h := s.Content().MinSize().Height; h > 380 {
		t.Errorf("%v high on a screen of 380", h)
	}
}

// The full text is there on demand.
func TestExpand(t *testing.T) {
	q := pinQuestion()
	q.Caller = strings.Repeat("/usr/lib/something ", 10)
	s := show(t, q, Options{}, theme.VariantLight)
	before := s.Content().MinSize().Height
	more := expanders(s.Content())
	if len(more) != 1 {
		t.Fatalf("%d values can be opened, want 1", len(more))
	}
	test.Tap(more[0])
	if after := s.Content().MinSize().Height; after < before+20 {
		t.Errorf("%v high before, %v after", before, after)
	}
	s.c.Focus(more[0])
	s.key(fyne.KeySpace)
	if after := s.Content().MinSize().Height; after != before {
		t.Errorf("%v high before, %v when closed again", before, after)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                           "plain",
		"a\tb\r\nc  d":                    "a b c d",
		"a\u202eb\u200bc\x1b[0":           "a�b�c�[0",
		"\xff":                            "�",
		"<b>&amp;</b> *x*":                "<b>&amp;</b> *x*",
		"e\u0301":                         "e\u0301",
		"Z\u0300\u0300\u0300\u0300\u0300": "Z\u0300\u0300\u0300��",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q shows as %q, want %q", in, got, want)
		}
	}
	if got := cleanLines("one \n\n\n\n two\n\n"); got != "one\n\n two" {
		t.Errorf("%q", got)
	}
	if n := len([]rune(clean(strings.Repeat("x", 1<<20)))); n != maxText+1 {
		t.Errorf("%d characters", n)
	}
	if n := strings.Count(cleanLines(strings.Repeat("x\n", 1000)), "\n"); n != maxLines {
		t.Errorf("%d lines", n)
	}
	for in, want := range map[string]string{"_OK": "OK", "a__b_c": "a_bc", "": ""} {
		if got := plain(in); got != want {
			t.Errorf("%q shows as %q, want %q", in, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	test.NewTempApp(t)
	for _, in := range []string{"", "x", strings.Repeat("word ", 100), strings.Repeat("é", 500), "a\n\nb"} {
		var all string
		for _, line := range faceText.wrap(in, 200) {
			if w := faceText.width(line); w > 200 {
				t.Errorf("a line %v wide: %q", w, line)
			}
			all += line
		}
		if strip := strings.NewReplacer(" ", "", "\n", ""); strip.Replace(all) != strip.Replace(in) {
			t.Errorf("%q became %q", in, all)
		}
	}
	// Even where nothing fits.
	if got := faceText.wrap("abc", 1); len(got) != 3 {
		t.Errorf("%q", got)
	}
	if got := faceText.ellipsize(strings.Repeat("x", 300), 100); faceText.width(got) > 100 || !strings.HasSuffix(got, "…") {
		t.Errorf("%q", got)
	}
}

func TestEstimate(t *testing.T) {
	last := -1
	for _, s := range []string{"", "aaaaaaaaaaaaaaaa", "password", "correct horse", "correct horse battery staple"} {
		got := estimate(s)
		if got <= last {
			t.Errorf("%q rates %d, the one before it %d", s, got, last)
		}
		last = got
	}
	if n := estimate("12345678901234567890"); n > 25 {
		t.Errorf("a row of digits rates %d", n)
	}
}

// A window that comes up while somebody types waits until the typing is over.
func TestTypingPutsOffTheGuard(t *testing.T) {
	q := pinQuestion()
	q.Kind = prompt.Confirm
	s := show(t, q, Options{}, theme.VariantLight)
	if s.Unquiet() != 0 {
		t.Error("nobody has typed")
	}
	s.key(fyne.KeyReturn)
	if w := s.Unquiet(); w <= 0 || w > Guard {
		t.Errorf("after a key the guard goes on for %v", w)
	}
}

// How long an answer stands is chosen beside it, by keyboard as by mouse.
func TestTerms(t *testing.T) {
	q := pinQuestion()
	q.Kind = prompt.Confirm
	keys := func(s *shot, names ...fyne.KeyName) {
		for _, n := range names {
			s.key(n)
		}
	}
	for _, c := range []struct {
		keys []fyne.KeyName
		want prompt.Term
	}{
		{nil, prompt.Once},
		{[]fyne.KeyName{fyne.KeyRight}, prompt.ForAWhile},
		{[]fyne.KeyName{fyne.KeyDown, fyne.KeyRight, fyne.KeyRight}, prompt.UntilLock},
		{[]fyne.KeyName{fyne.KeyRight, fyne.KeyRight, fyne.KeyLeft}, prompt.ForAWhile},
		{[]fyne.KeyName{fyne.KeyRight, fyne.KeyUp, fyne.KeyUp}, prompt.Once},
	} {
		s := show(t, q, Options{}, theme.VariantLight)
		s.Arm()
		s.c.FocusPrevious() // from Deny
		if s.c.Focused() != fyne.Focusable(s.term) {
			t.Fatal("Tab does not lead there")
		}
		keys(s, c.keys...)
		keys(s, fyne.KeyReturn, fyne.KeySpace)
		if len(s.answers) != 0 {
			t.Fatal("choosing how long was taken for yes")
		}
		s.c.Focus(s.ok)
		s.key(fyne.KeyReturn)
		s.wants(t, ask.Accepted, "")
		if got := s.answers[0].Term; got != c.want {
			t.Errorf("%v: term %d, want %d", c.keys, got, c.want)
		}
	}

	s := show(t, q, Options{}, theme.VariantLight)
	s.Arm()
	for x, want := range map[float32]int{2: 0, width / 2: 1, width - 2: 2} {
		s.term.Tapped(&fyne.PointEvent{Position: fyne.NewPos(x, 5)})
		if s.term.selected != want {
			t.Errorf("a click at %v chose %d", x, s.term.selected)
		}
	}
	if s.c.Focused() != s.first {
		t.Error("a click took the focus from Deny")
	}
	s.c.Focus(s.term)
	s.key(fyne.KeyEscape)
	s.wants(t, ask.Cancelled, "")

	// Keys that are typed for another window put off the guard here, too.
	s = show(t, q, Options{}, theme.VariantLight)
	s.c.Focus(s.term)
	s.c.Focused().TypedRune('x')
	if s.Unquiet() == 0 {
		t.Error("typing was not noticed")
	}
	// Nothing is offered that keyringd will not do.
	q.Remember = 0
	if s = show(t, q, Options{}, theme.VariantLight); s.term != nil {
		t.Error("a term is offered that there is not")
	}
}

func TestRememberAndAutomatic(t *testing.T) {
	q := pinQuestion()
	q.Automatic = true
	for _, c := range []struct {
		toggle    func(*shot)
		term      prompt.Term
		automatic bool
	}{
		{func(*shot) {}, prompt.ForAWhile, false},
		{func(s *shot) { test.Tap(s.remember) }, prompt.Once, false},
		{func(s *shot) { test.Tap(s.automatic) }, prompt.ForAWhile, true},
		{func(s *shot) {
			s.c.FocusNext()
			if s.c.Focused() != fyne.Focusable(s.remember) {
				t.Error("Tab does not lead to it")
			}
			s.c.Focused().TypedRune(' ')
			s.c.FocusNext()
			s.c.Focused().TypedRune(' ')
		}, prompt.Once, true},
	} {
		s := show(t, q, Options{}, theme.VariantLight)
		s.write(s.entry, "12")
		focused := s.c.Focused()
		c.toggle(s)
		if f := s.c.Focused(); f == focused {
			s.c.Focused().TypedRune('3') // a click leaves the focus to the entry
		} else {
			s.write(s.entry, "3")
			s.c.Focus(s.automatic)
		}
		s.key(fyne.KeyReturn)
		s.wants(t, ask.Accepted, "123")
		if a := s.answers[0]; a.Term != c.term || a.Automatic != c.automatic {
			t.Errorf("term %d, automatic %v; want %d, %v", a.Term, a.Automatic, c.term, c.automatic)
		}
	}
	s := show(t, q, Options{}, theme.VariantLight)
	s.c.Focus(s.remember)
	s.key(fyne.KeyEscape)
	s.wants(t, ask.Cancelled, "")
}

// Every word is there in every language that there is.
func TestTranslationsAreWhole(t *testing.T) {
	said := uitest.Said(t, regexp.MustCompile(`lang\.[LN]\("([^"]+)"|"(\{\{\.Count\}\} [a-z]+)"`))
	if len(said) < 40 {
		t.Fatalf("found %d texts", len(said))
	}
	uitest.Translated(t, translations, said)
}
