package pkcs11

import (
	"github.com/keyringd/keyringd/internal/p11uri"
	"github.com/keyringd/keyringd/keyring"
)

// TokenURI returns the RFC 7512 URI of the token that holds keys of a kind.
func TokenURI(kind keyring.Kind) string { return tokenOf(kind).URI() }

// URI returns the RFC 7512 URI of a private key, for a user to paste into other
// programs' configuration. It stays as long as the key is of its kind.
func URI(info keyring.KeyInfo) string { return tokenOf(info.Kind).Private(info.ID[:]) }

func tokenOf(kind keyring.Kind) p11uri.Token {
	if kind == keyring.KindTPM {
		return p11uri.TPM()
	}
	return p11uri.Files()
}
