package promptui

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxMarks is how many combining marks may follow one character: a text
	// with hundreds paints over the lines around it.
	maxMarks = 3
	// maxText is how many characters of a text are shown. The protocol has
	// lines of 1,000 bytes; an askpass's argument has no limit.
	maxText = 4000
	// maxLines is how many line breaks a text may have.
	maxLines = 60
)

// clean returns a text of other people's fit to be shown on one line: what a
// window would obey instead of showing it (controls, changes of writing
// direction, invisible characters, invalid UTF-8) becomes U+FFFD, and all
// space is one space.
func clean(s string) string {
	return strings.Join(strings.Fields(shown(s, false)), " ")
}

// cleanLines is clean for a text of several lines, of which it keeps the ends.
// Space at the text's end, and more than one empty line, go.
func cleanLines(s string) string {
	var lines []string
	for line := range strings.Lines(shown(s, true)) {
		line = strings.TrimRightFunc(line, unicode.IsSpace)
		if line == "" && (len(lines) == 0 || lines[len(lines)-1] == "") {
			continue
		}
		if len(lines) == maxLines {
			lines = append(lines, "…")
			break
		}
		lines = append(lines, line)
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

func shown(s string, breaks bool) string {
	var b strings.Builder
	marks, n := 0, 0
	for _, r := range s {
		if n++; n > maxText {
			b.WriteRune('…')
			break
		}
		if unicode.Is(unicode.M, r) {
			marks++
		} else {
			marks = 0
		}
		switch {
		case r == '\n' && breaks:
			b.WriteRune('\n')
		case r == '\n', r == '\t', r == '\r', r == '\u2800', unicode.Is(unicode.Zs, r):
			b.WriteRune(' ')
		case !unicode.IsPrint(r), marks > maxMarks,
			unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r),
			unicode.Is(unicode.Variation_Selector, r):
			b.WriteRune(utf8.RuneError)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// plain returns a button's label or an entry's without the underscore that
// marks an access key; two stand for one.
func plain(s string) string {
	const two = "\x00"
	s = strings.ReplaceAll(s, "__", two)
	s = strings.ReplaceAll(s, "_", "")
	return clean(strings.ReplaceAll(s, two, "_"))
}
