package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/caller"
)

// maxCell is how many characters of one value a table shows.
const maxCell = 120

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// colour reports whether the output may have some: https://no-color.org
func (s *session) colour() bool {
	return s.Terminal && s.Getenv("NO_COLOR") == "" && s.Getenv("TERM") != "dumb"
}

// printJSON prints v with the same indentation for every command.
func (s *session) printJSON(v any) error {
	e := json.NewEncoder(s.Out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printable is text that a terminal shows and does not obey, line by line.
func printable(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = caller.Sanitize(l, 2000)
	}
	return strings.Join(lines, "\n")
}

// A table is rows of columns under a head.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) {
	for i, c := range cells {
		if cells[i] = cell(c); cells[i] == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// cell makes a value fit to be shown. Most are plain and short, and need no
// closer look.
func cell(s string) string {
	if len(s) > maxCell || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return caller.Sanitize(s, maxCell)
	}
	return strings.TrimSpace(s)
}

// string aligns the columns; the last is as long as it is.
func (t *table) string(bold bool) string {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		for i, c := range cells {
			b.WriteString(c)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
			}
		}
	}
	if bold {
		b.WriteString("\x1b[1m")
	}
	line(t.head)
	if bold {
		b.WriteString("\x1b[0m")
	}
	b.WriteByte('\n')
	for _, row := range t.rows {
		line(row)
		b.WriteByte('\n')
	}
	return b.String()
}

func (s *session) printTable(t *table) error {
	_, err := fmt.Fprint(s.Out, t.string(s.colour()))
	return err
}

// printFacts prints names and values, one pair a line.
func (s *session) printFacts(pairs ...string) error {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		width = max(width, utf8.RuneCountInString(pairs[i]))
	}
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		name := pairs[i] + ":" + strings.Repeat(" ", width-utf8.RuneCountInString(pairs[i])+1)
		if s.colour() {
			name = "\x1b[1m" + name + "\x1b[0m"
		}
		fmt.Fprintln(&b, name+caller.Sanitize(pairs[i+1], 1000))
	}
	_, err := fmt.Fprint(s.Out, b.String())
	return err
}
