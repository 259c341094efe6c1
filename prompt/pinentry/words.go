package pinentry

import (
	"fmt"
	"strings"
	"time"
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
	b.WriteString(headline(q))
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
		line("", "Remembered for "+duration(q.Remember)+".")
	}
	return b.String()
}

func headline(q prompt.Question) string {
	switch q.Kind {
	case prompt.Confirm:
		return "Allow the use of this?"
	case prompt.Notice:
		return "Please note:"
	case prompt.NewPassphrase:
		return "Choose a new " + word(q) + " for:"
	default:
		return "Enter the " + word(q) + " for:"
	}
}

// word is what the user calls it.
func word(q prompt.Question) string {
	if q.PIN {
		return "PIN"
	}
	return "passphrase"
}

// label is what stands before the entry.
func label(q prompt.Question) string {
	if q.PIN {
		return "PIN:"
	}
	return "Passphrase:"
}

// wrong says that the previous answer was not right; "" if there was none.
func wrong(q prompt.Question) string {
	if !q.Retry {
		return ""
	}
	s := "Wrong " + word(q) + "."
	switch {
	case q.Left == 1:
		s += " One try left."
	case q.Left > 1:
		s += fmt.Sprintf(" %d tries left.", q.Left)
	}
	return s
}

// unequal says that a new passphrase was repeated wrongly.
func unequal(q prompt.Question) string { return "The two were not the same " + word(q) + "." }

// duration says d as people do, in its largest whole unit.
func duration(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d < u.d || d%u.d != 0 && u.d != time.Second {
			continue
		}
		n := int64(d / u.d)
		if n == 1 {
			return "1 " + u.name
		}
		return fmt.Sprintf("%d %ss", n, u.name)
	}
	return "a moment"
}

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
