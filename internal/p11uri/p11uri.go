// Package p11uri names what PKCS#11 shows in URIs, as RFC 7512 writes them, for
// those who do not speak PKCS#11 but tell people what to type.
//
// A [Token] is one of the two that keyringd has. It deliberately only writes:
// what a user pastes is read by the program that it is pasted into.
package p11uri

import (
	"fmt"
	"strings"
)

// Manufacturer is what every token and slot says of its maker.
const Manufacturer = "keyringd"

// A Token is what a token says of itself. It stays, as configuration files of
// other programs have it in them.
type Token struct{ Label, Model, Serial string }

// TPM returns the token of keys in the machine's TPM.
func TPM() Token { return Token{"keyringd TPM", "TPM 2.0 keys", "1"} }

// Files returns the token of ordinary keys.
func Files() Token { return Token{"keyringd keys", "Private keys", "2"} }

// URI returns the URI of the token:
// "pkcs11:model=…;manufacturer=keyringd;serial=1;token=…".
func (t Token) URI() string {
	return "pkcs11:model=" + escape(t.Model) + ";manufacturer=" + escape(Manufacturer) +
		";serial=" + escape(t.Serial) + ";token=" + escape(t.Label)
}

// Private returns the URI of a private key on the token, by its CKA_ID alone:
// that stays when the label changes.
func (t Token) Private(id []byte) string {
	var b strings.Builder
	b.WriteString("pkcs11:token=" + escape(t.Label) + ";id=")
	for _, v := range id {
		fmt.Fprintf(&b, "%%%02X", v)
	}
	b.WriteString(";type=private")
	return b.String()
}

// escape percent-encodes all but what means nothing to URIs and shells.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
