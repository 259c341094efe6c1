package manager

import (
	"context"
	"embed"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fyne.io/fyne/v2/lang"

	"github.com/keyringd/keyringd/cmd/keyring-ui/manager/config"
	"github.com/keyringd/keyringd/cmd/keyring-ui/promptui"
	"github.com/keyringd/keyringd/dbus/client"
)

//go:embed translations
var translations embed.FS

// Translate loads the words of this package in the language of the environment,
// as it is now (LC_ALL, LC_MESSAGES, LANG, LANGUAGE). Without it they are
// English.
func Translate() error {
	if err := lang.AddTranslationsFS(translations, "translations"); err != nil {
		return fmt.Errorf("translations: %w", err)
	}
	return nil
}

// clean makes a text of other people's fit to be shown on one line.
func clean(s string) string { return promptui.Clean(s) }

// sentence says what went wrong, in a person's words, and what to do about it or
// what exactly it was. Both are empty for what is no news: that the user, or the
// end of this program, took it back.
func sentence(err error) (said, hint string) {
	var answered *client.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, client.ErrDismissed):
		return "", ""
	case errors.Is(err, client.ErrNoDaemon):
		return lang.L("keyringd is not running."), lang.L("In a terminal: {{.Command}}", map[string]any{"Command": "systemctl --user start keyringd"})
	case errors.Is(err, client.ErrNoBus):
		return lang.L("There is no message bus to reach keyringd on."), capital(clean(err.Error()))
	case errors.Is(err, ErrNoChooser):
		return lang.L("This desktop has no window to choose files with."), lang.L("Type the file's path, or copy the text.")
	case errors.Is(err, config.ErrByHand):
		return lang.L("The settings file has to be changed by hand."), capital(clean(strings.TrimPrefix(err.Error(), config.ErrByHand.Error()+": ")))
	case !errors.As(err, &answered):
		return capital(clean(err.Error())), ""
	}
	text := capital(clean(answered.Text))
	switch kind := answered.Name[strings.LastIndexByte(answered.Name, '.')+1:]; kind {
	case "AccessDenied":
		return lang.L("It was not allowed."), text
	case "AuthFailed":
		return lang.L("The PIN or passphrase was wrong."), text
	case "IsLocked":
		return lang.L("The keyring is locked."), lang.L("Unlock it first.")
	case "NoSuchObject", "UnknownObject":
		return lang.L("It is not there any more."), text
	case "NotSupported":
		return lang.L("That is not possible."), text
	}
	return text, ""
}

// capital begins s with a capital letter, if it begins with a word: names stay
// as they are.
func capital(s string) string {
	if word, _, _ := strings.Cut(s, " "); strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsLetter(r) }) {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

// moment says when something was; "": it is not known.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(lang.X("time-format", "2 Jan 2006, 15:04"))
}

// recently says when something was, by the clock if that was today.
func recently(t, now time.Time) string {
	if y, d := t.Year(), t.YearDay(); y == now.Year() && d == now.YearDay() {
		return t.Format("15:04:05")
	}
	return moment(t)
}

// left says how long something still is.
func left(until, now time.Time) string {
	d := until.Sub(now)
	switch {
	case d <= 0:
		return lang.L("over")
	case d < time.Minute:
		return plural("{{.Count}} seconds left", max(1, int(d/time.Second)))
	case d < time.Hour:
		return plural("{{.Count}} minutes left", int((d+time.Minute-1)/time.Minute))
	}
	return plural("{{.Count}} hours left", int((d+time.Hour-1)/time.Hour))
}

// plural counts.
func plural(key string, n int) string {
	return lang.N(key, n, map[string]any{"Count": n})
}

// period says d as people do.
func period(d time.Duration) string {
	switch {
	case d == 0:
		return lang.L("Never")
	case d%time.Hour == 0:
		return plural("{{.Count}} hours", int(d/time.Hour))
	case d%time.Minute == 0:
		return plural("{{.Count}} minutes", int(d/time.Minute))
	}
	return config.Duration(d)
}

// publicLine is a key as OpenSSH writes it; "": SSH has none such.
func publicLine(k client.Key) string {
	if len(k.PublicKey) < 4 {
		return ""
	}
	n := binary.BigEndian.Uint32(k.PublicKey)
	if uint64(n)+4 > uint64(len(k.PublicKey)) {
		return ""
	}
	line := string(k.PublicKey[4:4+n]) + " " + base64.StdEncoding.EncodeToString(k.PublicKey)
	// What follows is read by programs that take lines.
	if comment := clean(k.Label); comment != "" {
		line += " " + comment
	}
	return line
}

// algorithm names one as people do.
func algorithm(s string) string {
	if n, ok := strings.CutPrefix(s, "ecdsa-p"); ok {
		return "ECDSA P-" + clean(n)
	}
	if n, ok := strings.CutPrefix(s, "rsa-"); ok {
		return "RSA " + clean(n)
	}
	if s == "ed25519" {
		return "Ed25519"
	}
	return clean(s)
}

// kind says where a key's private half is.
func kindOf(k client.Key) string {
	switch k.Kind {
	case "tpm":
		return lang.L("In this machine's TPM")
	case "file":
		return lang.L("In a file")
	case "added":
		return lang.L("Added for this session")
	}
	return clean(k.Kind)
}

// asks says what a key's use asks for.
func asks(k client.Key) string {
	switch {
	case k.NeedsAuth && k.Confirm:
		return lang.L("A PIN or passphrase, and permission")
	case k.NeedsAuth && k.Kind == "tpm":
		return lang.L("A PIN")
	case k.NeedsAuth:
		return lang.L("A passphrase")
	case k.Confirm:
		return lang.L("Permission")
	}
	return lang.L("Nothing")
}

// named is what to call something.
func named(label string) string {
	if label = clean(label); label != "" {
		return label
	}
	return lang.L("(no name)")
}

// schemas are what programs call sorts of items, and what people do.
func schema(item client.Item) string {
	switch s := item.Attributes["xdg:schema"]; s {
	case "", "org.freedesktop.Secret.Generic":
		return lang.L("Password or secret")
	case "org.gnome.keyring.NetworkPassword":
		return lang.L("Network password")
	case "org.gnome.keyring.Note":
		return lang.L("Note")
	case "org.gnome.keyring.EncryptionKey":
		return lang.L("Encryption key")
	case "org.freedesktop.NetworkManager.Connection":
		return lang.L("Network connection's password")
	case "chrome_libsecret_os_crypt_password_v2", "chrome_libsecret_os_crypt_password_v1":
		return lang.L("Browser's encryption key")
	default:
		return clean(s)
	}
}

// sprint writes values one after the other.
func sprint(values ...any) string {
	var parts []string
	for _, v := range values {
		parts = append(parts, fmt.Sprint(v))
	}
	return strings.Join(parts, " ")
}

// arrows takes the arrows out that the font has no space beside.
func arrows(s string) string { return strings.NewReplacer("←", "‹", "→", "›").Replace(s) }
