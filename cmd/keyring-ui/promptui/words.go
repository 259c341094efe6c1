package promptui

import (
	"embed"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fyne.io/fyne/v2/lang"

	"github.com/keyringd/keyringd/cmd/keyring-ui/ask"
	"github.com/keyringd/keyringd/prompt"
)

//go:embed translations
var translations embed.FS

// Translate loads the words of this package in the language of the
// environment, as it is now (LC_ALL, LC_MESSAGES, LANG, LANGUAGE). Without it
// they are English.
func Translate() error {
	if err := lang.AddTranslationsFS(translations, "translations"); err != nil {
		return fmt.Errorf("translations: %w", err)
	}
	return nil
}

// pick chooses by what the user calls it.
func pick(pin bool, ifPIN, otherwise string) string {
	if pin {
		return ifPIN
	}
	return otherwise
}

// heading says what is wanted, in our own words, whoever asks.
func heading(q ask.Question) string {
	switch {
	case q.Kind == prompt.Confirm && q.Known:
		if q.Fingerprint == "" {
			return lang.L("Allow this?")
		}
		return lang.L("Allow the use of this key?")
	case q.Kind == prompt.Confirm:
		return lang.L("Please confirm")
	case q.Kind == prompt.Notice:
		return lang.L("Please note")
	case q.Kind == prompt.NewPassphrase:
		return pick(isPIN(q), lang.L("Choose a new PIN"), lang.L("Choose a new passphrase"))
	case q.Visible:
		return lang.L("Please answer")
	}
	return pick(isPIN(q), lang.L("Enter the PIN"), lang.L("Enter the passphrase"))
}

// fault says what was wrong with the last answer, "" for nothing.
func fault(q ask.Question) string {
	if !q.Known || !q.Retry {
		return clean(q.Error)
	}
	s := pick(q.PIN, lang.L("Wrong PIN."), lang.L("Wrong passphrase."))
	if q.Left > 0 {
		s += " " + lang.N("{{.Count}} tries left.", q.Left, map[string]any{"Count": q.Left})
	}
	return s
}

// remembered says for how long the answer will do, where that is not the
// user's to choose.
func remembered(q ask.Question) string {
	if q.Remember <= 0 || q.Terms {
		return ""
	}
	return lang.L("Remembered for {{.Time}}.", map[string]any{"Time": period(q.Remember)})
}

// capital begins s with a capital letter.
func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// period says d as people do, in its largest whole unit.
func period(d time.Duration) string {
	unit, key := time.Second, "{{.Count}} seconds"
	switch {
	case d%time.Hour == 0:
		unit, key = time.Hour, "{{.Count}} hours"
	case d%time.Minute == 0:
		unit, key = time.Minute, "{{.Count}} minutes"
	}
	n := int(d / unit)
	return lang.N(key, n, map[string]any{"Count": n})
}

// strength names what a quality from -100 to 100 means.
func strength(percent int) string {
	switch {
	case percent < 30:
		return lang.L("Weak")
	case percent < 60:
		return lang.L("Fair")
	case percent < 85:
		return lang.L("Good")
	}
	return lang.L("Strong")
}

// A labelled is a row: what it is, what it says, and what is to be said of that
// in a line below.
type labelled struct {
	label, value, under string
	face                face // of under
}

// facts are the rows of a question, those that are known.
func facts(q ask.Question) []labelled {
	if !q.Known {
		return nil
	}
	var rows []labelled
	// The font with the arrows has no space to stand beside them.
	arrows := strings.NewReplacer("←", "‹", "→", "›")
	subject := lang.L("Key")
	if q.Fingerprint == "" && !q.PIN { // a PIN is a key's, which need not exist yet
		subject = lang.L("Name")
	}
	for _, r := range []labelled{
		{subject, q.Subject, clean(q.Fingerprint), faceCaption},
		{lang.L("Host"), q.Host, clean(q.HostWarning), faceCautionSmall},
		{label: lang.L("Through"), value: arrows.Replace(q.Through)},
		{label: lang.L("For"), value: q.Reason},
		{label: lang.L("Program"), value: arrows.Replace(q.Caller)},
	} {
		if r.value = clean(r.value); r.value != "" {
			rows = append(rows, r)
		}
	}
	return rows
}
