package outside

import (
	"slices"
	"unicode/utf8"

	"github.com/keyringd/keyringd/internal/caller"
)

// Paths, arguments and variables are bytes, and need not be UTF-8, of which JSON
// is made: each byte goes as the character of its number.

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// wide makes characters of bytes.
func wide(s string) string {
	if ascii(s) {
		return s
	}
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// narrow makes bytes of characters that wide has made.
func narrow(s string) string {
	if ascii(s) {
		return s
	}
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

func each(all []string, turn func(string) string) []string {
	all = slices.Clone(all)
	for i, s := range all {
		all[i] = turn(s)
	}
	return all
}

// with returns m with all that may be bytes turned.
func (m message) with(turn func(string) string) message {
	m.Path, m.Err = turn(m.Path), turn(m.Err)
	m.Args, m.Extra = each(m.Args, turn), each(m.Extra, turn)
	m.Seen = caller.Seen{Program: turn(m.Seen.Program), Process: turn(m.Seen.Process), App: turn(m.Seen.App)}
	m.Put = slices.Clone(m.Put)
	for i := range m.Put {
		m.Put[i].Path = turn(m.Put[i].Path)
	}
	return m
}

// with returns o with all that may be bytes turned.
func (o Orders) with(turn func(string) string) Orders {
	o.Folders, o.Home = each(o.Folders, turn), turn(o.Home)
	o.Rules = slices.Clone(o.Rules)
	for i, r := range o.Rules {
		r.Paths, r.Env, r.Extra, r.Allow = each(r.Paths, turn), each(r.Env, turn), each(r.Extra, turn), turn(r.Allow)
		r.Args = slices.Clone(r.Args)
		for j, args := range r.Args {
			r.Args[j] = each(args, turn)
		}
		o.Rules[i] = r
	}
	return o
}
