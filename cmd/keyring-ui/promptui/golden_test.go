package promptui

import (
	"strings"
	"testing"
	"time"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/test"
	"fyne.io/fyne/v2/theme"

	"github.com/keyringd/keyringd/cmd/keyring-ui/ask"
	"github.com/keyringd/keyringd/cmd/keyring-ui/uitest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

// speak makes the words those of a locale for the test.
func speak(t *testing.T, locale string) {
	t.Helper()
	uitest.Speak(t, locale, Translate)
}

// A shot is a view on a canvas of its own.
type shot struct {
	*View
	c       fyne.Canvas
	w       fyne.Window
	answers []ask.Answer
}

func show(t *testing.T, q ask.Question, o Options, v fyne.ThemeVariant) *shot {
	t.Helper()
	app := test.NewTempApp(t)
	app.Settings().SetTheme(NewTheme().In(v == theme.VariantDark))
	s := &shot{}
	o.Done = func(a ask.Answer) { s.answers = append(s.answers, a) }
	s.View = New(q, o)
	s.w = test.NewTempWindow(t, s.Content())
	s.w.SetPadded(false)
	s.w.Resize(s.Content().MinSize())
	s.c = s.w.Canvas()
	s.Start(s.c)
	return s
}

// write types into an entry as a person does.
func (s *shot) write(e *entry, text string) {
	s.c.Focus(e)
	for _, r := range text {
		s.c.Focused().TypedRune(r)
	}
}

// key presses a key wherever the focus is.
func (s *shot) key(name fyne.KeyName) {
	if f := s.c.Focused(); f != nil {
		f.TypedKey(&fyne.KeyEvent{Name: name})
	} else {
		s.c.OnTypedKey()(&fyne.KeyEvent{Name: name})
	}
}

// fit is what a real window does when its content changes.
func (s *shot) fit() { s.w.Resize(s.Content().MinSize()) }

func pinQuestion() ask.Question {
	return ask.Question{Kind: prompt.Passphrase, Parts: ask.Parts{
		Known: true, PIN: true, Subject: "work laptop (TPM, EC P-256)", Host: "git.example.org",
		Fingerprint: "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM",
		Reason:      "sign in as mia", Caller: "ssh (41234) ← git ← zsh", Remember: 10 * time.Minute, Terms: true,
	}}
}

const hostile = "\x1b[31m<b>Your bank</b> asks\u202e!gnp.exe\u202c for &lt;PIN&gt; \x00\x07 Z\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307"

// gallery is every picture that is in testdata.
func gallery() map[string]func(t *testing.T, v fyne.ThemeVariant) *shot {
	type make = func(t *testing.T, v fyne.ThemeVariant) *shot
	plain := func(q ask.Question, then func(*shot)) make {
		return func(t *testing.T, v fyne.ThemeVariant) *shot {
			s := show(t, q, Options{}, v)
			if then != nil {
				then(s)
			}
			return s
		}
	}
	wrong := pinQuestion()
	wrong.Retry, wrong.Left, wrong.Warning = true, 2, "After two more wrong tries the TPM refuses all PINs for some hours."
	confirm := pinQuestion()
	confirm.Kind, confirm.PIN = prompt.Confirm, false
	forwarded := confirm // each time
	forwarded.Remember, forwarded.Terms = 0, false
	forwarded.Host, forwarded.HostWarning = "SHA256:Uoq5dP4p660laYMMPBrath+uJtJCt2veEK2gkBQoSUQ", "Not verified: this host key is not in known_hosts."
	forwarded.Through = "gw.example.org → build7"
	file := pinQuestion()
	file.PIN, file.Subject, file.Automatic, file.HostWarning = false, "mia@laptop", true, "Not verified."
	delete := ask.Question{Kind: prompt.Confirm, Parts: ask.Parts{Known: true, Subject: "Old keyring", Warning: "All that is in it is lost for ever.",
		Reason: "to delete the keyring", Caller: "keyringctl (7)"}}
	notice := ask.Question{Kind: prompt.Notice, OneButton: true, Parts: ask.Parts{Known: true,
		Subject: "work laptop", Warning: "The TPM refuses more tries until 14:05.", Caller: "ssh (41234)"}}
	fresh := ask.Question{Kind: prompt.NewPassphrase, RepeatLabel: "Repeat:", Parts: ask.Parts{Known: true, Subject: "Login keyring"}}
	freshAutomatic := fresh
	freshAutomatic.Automatic = true
	freshPIN := fresh
	freshPIN.PIN = true
	long := pinQuestion()
	long.Subject = strings.Repeat("a very long name of a key that somebody chose ", 12)
	long.Host = strings.Repeat("sub.", 60) + "example.org"
	long.Caller = "/usr/lib/" + strings.Repeat("deep/", 80) + "ssh (7)"
	evil := pinQuestion()
	evil.Subject, evil.Host, evil.Caller = hostile, "*bold* [link](x) `code`", "sudo\n\nAllow? (1) ← \t"
	evil.HostWarning, evil.Through, evil.Fingerprint = "\u202everified\n\n"+hostile, strings.Repeat("hop → ", 90), strings.Repeat("SHA256:", 40)
	gpg := ask.Question{Kind: prompt.Passphrase, Label: "Passphrase:", OK: "_OK", Cancel: "_Cancel",
		Text: "Please enter the passphrase to unlock the OpenPGP secret key:\n\"Mia Moor <mia@example.org>\"\n3072-bit RSA key, ID 0123456789ABCDEF,\ncreated 2026-11-23.\n"}
	gpgNew := ask.Question{Kind: prompt.NewPassphrase, Label: "Passphrase:", RepeatLabel: "Repeat:", QualityLabel: "Quality:", OK: "_OK", Cancel: "_Cancel", Generate: "Suggest a passphrase",
		Text: "Please enter the passphrase to\nprotect your new key", Hint: "Use at least 8 characters."}
	three := ask.Question{Kind: prompt.Confirm, Text: "Do you ultimately trust\n    \"Example CA\"\nto correctly certify user certificates?", OK: "_Yes", NotOK: "_No", Cancel: "_Cancel"}
	wall := ask.Question{Kind: prompt.Passphrase, Text: strings.Repeat("All work and no play makes a long description. ", 40) + strings.Repeat("x", 300)}
	host := ask.Question{Kind: prompt.Passphrase, Visible: true, Text: "The authenticity of host 'git.example.org (192.0.2.7)' can't be established.\nED25519 key fingerprint is SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM.\nThis key is not known by any other names.\nAre you sure you want to continue connecting (yes/no/[fingerprint])? "}
	return map[string]make{
		"pin":        plain(pinQuestion(), nil),
		"pin-typed":  plain(pinQuestion(), func(s *shot) { s.write(s.entry, "4321") }),
		"pin-reveal": plain(pinQuestion(), func(s *shot) { s.write(s.entry, "43 é%21"); s.entry.Password = false; s.entry.Refresh() }),
		"pin-wrong":  plain(wrong, func(s *shot) { s.SetCapsLock(true) }),
		"new-pin":    plain(freshPIN, func(s *shot) { s.write(s.entry, "4321"); s.write(s.again, "43") }),
		"new-empty":  plain(fresh, nil),
		"new-unequal": plain(fresh, func(s *shot) {
			s.write(s.entry, "correct horse")
			s.write(s.again, "correct house")
		}),
		"new-same": plain(fresh, func(s *shot) {
			s.write(s.entry, "correct horse battery staple")
			s.write(s.again, "correct horse battery staple")
			s.c.Focus(s.again)
		}),
		"confirm-early": plain(confirm, nil),
		"confirm":       plain(confirm, func(s *shot) { s.Arm() }),
		"confirm-allow": plain(confirm, func(s *shot) { s.Arm(); s.c.Focus(s.ok) }),
		"confirm-term": plain(confirm, func(s *shot) {
			s.Arm()
			s.c.Focus(s.term)
			s.key(fyne.KeyRight)
			s.key(fyne.KeyRight)
		}),
		"confirm-forwarded": plain(forwarded, func(s *shot) { s.Arm() }),
		"confirm-delete":    plain(delete, func(s *shot) { s.Arm() }),
		"passphrase": plain(file, func(s *shot) {
			s.write(s.entry, "correct horse")
			test.Tap(s.automatic)
			test.Tap(s.remember)
		}),
		"new-automatic": plain(freshAutomatic, func(s *shot) { s.c.Focus(s.automatic) }),
		"notice":        plain(notice, func(s *shot) { s.Arm() }),
		"long":          plain(long, nil),
		"long-open": plain(long, func(s *shot) {
			for _, f := range expanders(s.Content()) {
				test.Tap(f)
			}
		}),
		"hostile": plain(evil, nil),
		"gpg":     plain(gpg, nil),
		"gpg-new": func(t *testing.T, v fyne.ThemeVariant) *shot {
			s := show(t, gpgNew, Options{Generate: func() {}, Rate: func(secret.Bytes) {}}, v)
			s.write(s.entry, "hunter2")
			s.SetQuality(45)
			return s
		},
		"gpg-confirm": plain(three, func(s *shot) { s.Arm() }),
		"gpg-wall":    plain(wall, nil),
		"ssh-host":    plain(host, func(s *shot) { s.write(s.entry, "yes") }),
		"german": func(t *testing.T, v fyne.ThemeVariant) *shot {
			speak(t, "de_DE.UTF-8")
			q := wrong
			q.Left = 1
			return show(t, q, Options{}, v)
		},
		"german-passphrase": func(t *testing.T, v fyne.ThemeVariant) *shot {
			speak(t, "de_DE.UTF-8")
			return show(t, file, Options{}, v)
		},
		"german-new": func(t *testing.T, v fyne.ThemeVariant) *shot {
			speak(t, "de_DE.UTF-8")
			return show(t, freshAutomatic, Options{}, v)
		},
		"german-confirm": func(t *testing.T, v fyne.ThemeVariant) *shot {
			speak(t, "de_DE.UTF-8")
			s := show(t, confirm, Options{}, v)
			s.Arm()
			return s
		},
	}
}

// expanders are the buttons that open a fact.
func expanders(o fyne.CanvasObject) []*button {
	var found []*button
	for _, o := range test.LaidOutObjects(o) {
		if b, ok := o.(*button); ok && b.Text == "" {
			found = append(found, b)
		}
	}
	return found
}

// TestLooks compares each kind of question, in light and in dark, with the
// image in testdata that a person looked at.
func TestLooks(t *testing.T) {
	speak(t, "C")
	for name, make := range gallery() {
		for suffix, v := range map[string]fyne.ThemeVariant{"light": theme.VariantLight, "dark": theme.VariantDark} {
			t.Run(name+"/"+suffix, func(t *testing.T) {
				s := make(t, v)
				s.fit()
				uitest.Compare(t, name+"-"+suffix, s.c.Capture())
			})
		}
	}
}
