package systemprompter

import (
	"fmt"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/prompt"
)

// properties are what the prompter shows (gcr, "GcrPrompt"). It shows texts as
// they are, without markup.
func properties(q prompt.Question) map[string]godbus.Variant {
	p := map[string]godbus.Variant{}
	set := func(name string, value any) { p[name] = godbus.MakeVariant(value) }
	set("title", "keyringd")
	set("message", q.Headline())
	set("description", description(q))
	set("warning", warning(q))
	set("continue-label", [...]string{prompt.Confirm: "Allow", prompt.Notice: "OK", prompt.Passphrase: "Unlock", prompt.NewPassphrase: "Set"}[q.Kind])
	set("cancel-label", map[bool]string{true: "Deny", false: "Cancel"}[q.Kind == prompt.Confirm])
	if q.Kind == prompt.NewPassphrase {
		set("password-new", true)
	}
	if q.Automatic && (q.Kind == prompt.Passphrase || q.Kind == prompt.NewPassphrase) {
		set("choice-label", "Unlock automatically from now on")
		set("choice-chosen", false)
	}
	return p
}

// description are the facts of a question, a line each.
func description(q prompt.Question) string {
	var lines []string
	line := func(label, text string) {
		if text != "" {
			lines = append(lines, label+text)
		}
	}
	line("", q.Subject)
	line("", q.Fingerprint)
	line("Host: ", q.Host)
	if q.Host != "" {
		line("This host: ", q.HostWarning)
	}
	line("Through: ", q.Through)
	line("What for: ", q.Reason)
	line("Asked by: ", q.Caller)
	if q.Remember > 0 {
		lines = append(lines, fmt.Sprintf("Remembered for %s.", prompt.Duration(q.Remember)))
	}
	return strings.Join(lines, "\n")
}

// warning is what must be known first.
func warning(q prompt.Question) string {
	return strings.TrimSpace(strings.TrimSpace(q.Wrong()+" ") + " " + q.Warning)
}
