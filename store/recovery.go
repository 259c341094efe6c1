package store

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"

	"github.com/keyringd/keyringd/internal/secret"
)

// A recovery code is 20 random bytes and 5 of a checksum, in base 32, as eight
// groups of five letters and digits. With 160 bits nobody can guess it, so that
// it needs no slow hash. The alphabet is Crockford's, without the letters that
// are taken for digits.
const (
	codeBytes    = 20
	codeChecksum = 5
	codeLetters  = (codeBytes + codeChecksum) * 8 / 5
	codeGroup    = 5
	codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

func codeEncoding() *base32.Encoding {
	return base32.NewEncoding(codeAlphabet).WithPadding(base32.NoPadding)
}

// newCode returns a code as the user keeps it, and what it stands for; both are
// the caller's to Wipe.
func newCode() (code, value secret.Bytes) {
	raw := make([]byte, codeBytes, codeBytes+codeChecksum)
	_, _ = rand.Read(raw)
	return showCode(raw), secret.From(raw)
}

func showCode(raw []byte) secret.Bytes {
	check := sha256.Sum256(raw)
	whole := append(bytes.Clone(raw), check[:codeChecksum]...)
	letters := make([]byte, codeLetters)
	codeEncoding().Encode(letters, whole)
	shown := make([]byte, 0, codeLetters+codeLetters/codeGroup)
	for i, c := range letters {
		if i > 0 && i%codeGroup == 0 {
			shown = append(shown, '-')
		}
		shown = append(shown, c)
	}
	clear(whole)
	clear(letters)
	return secret.From(shown)
}

// readCode returns what a code stands for, however it was typed: in capitals or
// not, in any groups, with O for 0 and I or L for 1. ok is false for what cannot
// be a code, mostly because a letter is wrong.
func readCode(typed secret.Bytes) (value secret.Bytes, ok bool) {
	letters := make([]byte, 0, codeLetters+1)
	typed.Use(func(b []byte) {
		for _, c := range b {
			switch {
			case c == ' ' || c == '-' || c == '\t' || c == '\n' || c == '\r':
				continue
			case c >= 'a' && c <= 'z':
				c -= 'a' - 'A'
			}
			switch c {
			case 'O':
				c = '0'
			case 'I', 'L':
				c = '1'
			}
			if len(letters) > codeLetters {
				return
			}
			letters = append(letters, c)
		}
	})
	defer clear(letters)
	if len(letters) != codeLetters {
		return secret.Bytes{}, false
	}
	whole := make([]byte, codeBytes+codeChecksum)
	defer clear(whole)
	if n, err := codeEncoding().Decode(whole, letters); err != nil || n != len(whole) {
		return secret.Bytes{}, false
	}
	check := sha256.Sum256(whole[:codeBytes])
	if !bytes.Equal(check[:codeChecksum], whole[codeBytes:]) {
		return secret.Bytes{}, false
	}
	return secret.Copy(whole[:codeBytes]), true
}
