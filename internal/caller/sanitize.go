package caller

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxMarks is how many combining marks may follow one character. Real scripts
// need two or three; a name with hundreds paints over the lines around it.
const maxMarks = 3

// Sanitize returns s fit to be shown to a person on one line, of at most max
// characters: what a terminal or a window would obey instead of showing it
// (controls, escapes, changes of writing direction, invisible characters,
// invalid UTF-8) becomes U+FFFD, other spaces become a space, and a string that
// is too long ends in "…". It does not escape markup.
func Sanitize(s string, max int) string {
	if max <= 0 {
		return ""
	}
	// A character has at most utf8.UTFMax bytes: no more needs looking at,
	// however long the name is that somebody chose.
	cut := false
	if limit := (max + 1) * utf8.UTFMax; len(s) > limit {
		s, cut = s[:limit], true
	}
	out := make([]rune, 0, min(len(s), max+1))
	marks := 0
	for _, r := range s {
		if unicode.Is(unicode.M, r) {
			marks++
		} else {
			marks = 0
		}
		out = append(out, visible(r, marks))
		if len(out) > max {
			break
		}
	}
	if cut || len(out) > max {
		out = append(out[:min(len(out), max-1)], '…')
	}
	return strings.TrimSpace(string(out))
}

// visible returns what to show for r, which is the marks-th combining mark in
// a row.
func visible(r rune, marks int) rune {
	switch {
	case r == '\u2800': // braille blank: a space that is not called one
		return ' '
	case unicode.Is(unicode.Zs, r):
		return ' '
	case !unicode.IsPrint(r),
		unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r),
		unicode.Is(unicode.Variation_Selector, r),
		marks > maxMarks:
		return utf8.RuneError
	}
	return r
}
