package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/caller"
)

// maxShown is how many characters of a text from the wire are shown.
const maxShown = 64

// unknownScope keeps an approval of something that was understood from
// covering something that was not.
const unknownScope = "unknown data"

// A purpose is what a signature is for, as far as the data to be signed tells.
// It is the client's word: nobody has proven yet that it is connected to the
// host whose key it names.
type purpose struct {
	reason string // to be shown: "log in as mia"; sanitised
	// scope is what an approval is remembered for: the fingerprint of the host
	// key, `namespace "git"`, or unknownScope; "" for a login that does not
	// name its host.
	scope string
}

// purposeOf says what signing data with the key of this blob would do.
func purposeOf(data, blob []byte) purpose {
	if u, ok := parseUserauth(data); ok {
		if !bytes.Equal(u.blob, blob) {
			// No server accepts such a signature, and no client asks for one.
			return purpose{reason: "sign a login request made for another key", scope: unknownScope}
		}
		reason := "log in as " + word(u.user)
		if u.hostKey == nil {
			return purpose{reason: reason}
		}
		host := fingerprint(u.hostKey)
		return purpose{reason: reason + " to host key " + host, scope: host}
	}
	if s, ok := parseSSHSig(data); ok {
		return purpose{
			reason: fmt.Sprintf("sign for namespace %s", quote(s.namespace)),
			scope:  "namespace " + strconv.QuoteToASCII(string(s.namespace)),
		}
	}
	return purpose{reason: "sign data of an unknown kind", scope: unknownScope}
}

// fingerprint names a host key as ssh shows it; of a certificate, the key in it.
func fingerprint(blob []byte) string {
	if k, err := ssh.ParsePublicKey(blob); err == nil {
		if c, ok := k.(*ssh.Certificate); ok {
			return ssh.FingerprintSHA256(c.Key)
		}
	}
	// Of a type that we cannot read too, it is the hash of the blob.
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// word returns a user name to be shown, in quotes unless it looks like one:
// `mia to host key SHA256:…` must not read as a sentence of ours.
func word(name []byte) string {
	plain := len(name) > 0 && len(name) <= maxShown
	for _, c := range name {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		plain = plain && (letter || strings.IndexByte("._-+@$", c) >= 0)
	}
	if plain {
		return string(name)
	}
	return quote(name)
}

func quote(text []byte) string { return strconv.Quote(caller.Sanitize(string(text), maxShown)) }
