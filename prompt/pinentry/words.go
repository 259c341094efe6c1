package pinentry

import (
	"strings"
	"unicode/utf8"

	"github.com/keyringd/keyringd/internal/assuan"
	"github.com/keyringd/keyringd/prompt"
)

// maxFields are how many bytes of a line each of a question's texts may take.
// The first with which all of them fit into a line of the protocol counts; with
// the last they always do.
var maxFields = [...]int{300, 210, 150, 100}

// describe returns what a program shows, several lines. The first is our own
// words alone: toolkits that guess whether a text is markup look at that one.
func describe(q prompt.Question) string {
	s := ""
	for _, limit := range maxFields {
		if s = describeWithin(q, limit); len("SETDESC ")+len(assuan.Escape(s)) <= assuan.MaxLine {
			break
		}
	}
	return s
}

func describeWithin(q prompt.Question, limit int) string {
	var b strings.Builder
	b.WriteString(q.Headline())
	line := func(label, text string) {
		if text != "" {
			b.WriteString("\n" + label + fit(text, limit))
		}
	}
	line("", q.Subject)
	line("", q.Fingerprint)
	if q.Warning+q.Host+q.Through+q.Reason+q.Caller != "" || q.Remember > 0 {
		b.WriteString("\n")
	}
	line("", q.Warning)
	line("Host: ", q.Host)
	if q.Host != "" {
		line("This host: ", q.HostWarning)
	}
	line("Through: ", q.Through)
	line("What for: ", q.Reason)
	line("Asked by: ", q.Caller)
	if q.Remember > 0 {
		line("", "Remembered for "+prompt.Duration(q.Remember)+".")
	}
	return b.String()
}

// label is what stands before the entry.
func label(q prompt.Question) string {
	if q.PIN {
		return "PIN:"
	}
	return "Passphrase:"
}

// unequal says that a new passphrase was repeated wrongly.
func unequal(q prompt.Question) string { return "The two were not the same " + q.Word() + "." }

// fit cuts s so that it takes at most limit bytes of a line, escaped.
func fit(s string, limit int) string {
	const more = "…"
	n, cut := 0, 0
	for i := 0; i < len(s); {
		_, size := utf8.DecodeRuneInString(s[i:])
		n += len(assuan.Escape(s[i : i+size]))
		if n > limit {
			return s[:cut] + more
		}
		i += size
		if n <= limit-len(more) {
			cut = i
		}
	}
	return s
}
