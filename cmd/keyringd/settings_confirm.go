package main

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/keyringd/keyringd/keyring"
)

// minID is how many digits of a key's ID name it.
const minID = 8

// A confirmRule names keys whose every use wants the user's permission: by a
// pattern of their labels, by a pattern of the paths of their files, or by the
// beginning of their ID.
type confirmRule struct{ pattern, id string }

type confirmRules []confirmRule

func parseConfirmRule(s string) (confirmRule, error) {
	if id, ok := strings.CutPrefix(s, "id:"); ok {
		digits, err := strings.ToLower(id), error(nil)
		if len(digits) < minID || len(digits) > 2*len(keyring.KeyID{}) {
			err = fmt.Errorf("%q: want at least %d digits of the key's ID", s, minID)
		} else if _, bad := hex.DecodeString(digits[:len(digits)&^1]); bad != nil {
			err = fmt.Errorf("%q: an ID is in hex", s)
		}
		return confirmRule{id: digits}, err
	}
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return confirmRule{}, fmt.Errorf("%q: want a pattern of labels or paths, as \"work-*\", or id:DIGITS", s)
	}
	return confirmRule{pattern: s}, nil
}

// wants reports whether uses of the key are to be confirmed.
func (rules confirmRules) wants(info keyring.KeyInfo) bool {
	for _, r := range rules {
		if r.matches(info) {
			return true
		}
	}
	return false
}

func (r confirmRule) matches(info keyring.KeyInfo) bool {
	if r.id != "" {
		return strings.HasPrefix(info.ID.String(), r.id)
	}
	return matchAll(r.pattern, info.Label) ||
		slices.ContainsFunc(info.Paths, func(p string) bool { return matchAll(r.pattern, p) })
}

// matchAll is path.Match, but that * and ? take a slash, too, as in ssh_config(5):
// labels have slashes as addresses do, and who names a folder means all that is
// in it.
func matchAll(pattern, text string) bool {
	const noSlash = "\x00" // in no path, and in no label that is shown
	ok, _ := path.Match(strings.ReplaceAll(pattern, "/", noSlash), strings.ReplaceAll(text, "/", noSlash))
	return ok
}
