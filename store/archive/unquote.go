package archive

import (
	"errors"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/keyringd/keyringd/internal/secret"
)

var errString = errors.New("a secret is no string")

// unquote reads a JSON string, whose syntax has been checked, without making a
// Go string of it.
func unquote(p []byte) (secret.Bytes, error) {
	if len(p) < 2 || p[0] != '"' || p[len(p)-1] != '"' {
		return secret.Bytes{}, errString
	}
	p = p[1 : len(p)-1]
	plain := secret.New(len(p)) // which is never less than what it stands for
	defer plain.Wipe()
	var whole secret.Bytes
	var err error
	plain.Use(func(out []byte) {
		var n int
		if n, err = unescape(out, p); err == nil {
			whole = secret.Copy(out[:n])
		}
	})
	return whole, err
}

// unescape puts into out what p stands for.
func unescape(out, p []byte) (int, error) {
	n := 0
	for i := 0; i < len(p); i++ {
		if p[i] != '\\' {
			out[n] = p[i]
			n++
			continue
		}
		if i++; i == len(p) {
			return 0, errString
		}
		switch c := p[i]; c {
		case '"', '\\', '/':
			out[n] = c
			n++
		case 'b', 'f', 'n', 'r', 't':
			out[n] = map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[c]
			n++
		case 'u':
			r, size, ok := codePoint(p[i-1:])
			if !ok {
				return 0, errString
			}
			n += utf8.EncodeRune(out[n:], r)
			i += size - 2
		default:
			return 0, errString
		}
	}
	return n, nil
}

// codePoint reads \uXXXX, or two of them that are one character, and returns how
// many bytes that took. Half of such a pair is no text, and is refused.
func codePoint(p []byte) (rune, int, bool) {
	r, ok := hex4(p)
	if !ok {
		return 0, 0, false
	}
	if !utf16.IsSurrogate(r) {
		return r, 6, true
	}
	low, ok := hex4(p[6:])
	if !ok {
		return 0, 0, false
	}
	r = utf16.DecodeRune(r, low)
	return r, 12, r != utf8.RuneError
}

func hex4(p []byte) (rune, bool) {
	if len(p) < 6 || p[0] != '\\' || p[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range p[2:6] {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			r |= rune(c-'a') + 10
		case c >= 'A' && c <= 'F':
			r |= rune(c-'A') + 10
		default:
			return 0, false
		}
	}
	return r, true
}
