package agent

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/agent/knownhosts"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// sshApplication is how the application of a key begins that was made for SSH.
// Others are for web sites: they sign nothing but what SSH signs.
const sshApplication = "ssh:"

// internalProvider is OpenSSH's own way to reach a security key.
const internalProvider = "internal"

// Flags of a security key's signature (OpenSSH, PROTOCOL.u2f).
const (
	flagPresence     = 0x01 // the user has to touch it
	flagVerification = 0x04 // the user has to give a PIN or a finger
)

// A securityKey is a key in a FIDO token: the public half, and the handle with
// which the token finds the private one. It does not change.
type securityKey struct {
	kind        string        // plain type, such as "sk-ssh-ed25519@openssh.com"
	blob        []byte        // of the identity
	plain       []byte        // of the key
	public      ssh.PublicKey // without its certificate
	application string
	flags       byte
	handle      []byte // of no use without the token
	provider    string // "internal", or the path of a library
}

// decodeSecurityKey decodes what follows the type, up to the comment.
func decodeSecurityKey(d *decoder, kind string) (*securityKey, error) {
	plain, isCert := strings.CutSuffix(kind, certSuffix)
	if isCert {
		plain += "@openssh.com" // which the certificate's name has once
	}
	k := &securityKey{kind: plain}
	var cert *ssh.Certificate
	var err error
	if isCert {
		if cert, err = parseCertificate(d.string()); err != nil {
			return nil, err
		}
		if cert.Type() != kind {
			return nil, fmt.Errorf("certificate of another type: %w", errMalformed)
		}
	}
	blob := appendString(nil, plain)
	switch plain {
	case ssh.KeyAlgoSKED25519:
		blob = appendString(blob, d.string())
	case ssh.KeyAlgoSKECDSA256:
		if !isCert { // the certificate tells the point
			blob = appendString(blob, d.string())
			blob = appendString(blob, d.string())
		}
	default:
		return nil, fmt.Errorf("%w: security key of type %s", errNotServed, quote([]byte(kind)))
	}
	k.application = d.text()
	k.flags = d.byte()
	k.handle = bytes.Clone(d.string())
	d.string() // reserved
	if d.bad {
		return nil, errMalformed
	}
	k.plain = appendString(blob, k.application)
	if isCert && plain == ssh.KeyAlgoSKECDSA256 {
		k.plain = cert.Key.Marshal()
	}
	if k.public, err = ssh.ParsePublicKey(k.plain); err != nil {
		return nil, fmt.Errorf("security key: %w", errMalformed)
	}
	k.blob = k.plain
	if isCert {
		if !bytes.Equal(cert.Key.Marshal(), k.plain) || !bytes.HasSuffix(k.plain, appendString(nil, k.application)) {
			return nil, fmt.Errorf("certificate of another key: %w", errMalformed)
		}
		k.blob = cert.Marshal()
	}
	return k, nil
}

// skProvider says which provider reaches a security key.
func (s *session) skProvider(wish string) (string, error) {
	if wish == "" || strings.EqualFold(wish, internalProvider) {
		return internalProvider, nil
	}
	return s.allowed(wish)
}

// defaultProviders are the libraries that a client may name where the user has
// not said otherwise: what only root can put there.
const defaultProviders = "/usr/lib/*,/usr/local/lib/*"

// allowed returns the real path of a library that a client may name. A remote
// asker may name none: whoever runs there would choose code to be run here.
func (s *session) allowed(path string) (string, error) {
	if s.bound.remote() {
		return "", fmt.Errorf("%w: a library named from another machine", errRemote)
	}
	return AllowedProvider(path, s.server.AllowProviders)
}

// AllowedProvider returns the real path of a library if list, which is an
// AllowProviders, lets clients name it.
func AllowedProvider(path, list string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil && !filepath.IsAbs(real) {
		err = errors.New("not an absolute path")
	}
	if err != nil {
		return "", fmt.Errorf("provider %s: %w: %w", quote([]byte(path)), errNotServed, err)
	}
	if list == "" {
		list = defaultProviders
	}
	if !matchList(real, list) {
		return "", fmt.Errorf("%w: provider %s is not one of %s", keyring.ErrDenied, quote([]byte(real)), list)
	}
	return real, nil
}

// matchList matches a list of patterns, separated by commas; one that begins
// with ! and matches weighs more than all others.
func matchList(s, list string) bool {
	found := false
	for pattern := range strings.SplitSeq(list, ",") {
		pattern, not := strings.CutPrefix(strings.TrimSpace(pattern), "!")
		if knownhosts.Match(s, pattern) {
			if not {
				return false
			}
			found = true
		}
	}
	return found
}

// signSecurityKey has a token sign, once the Gate lets it.
func (s *session) signSecurityKey(id *identity, data []byte, p purpose) ([]byte, error) {
	k := id.added.sk
	if !strings.HasPrefix(k.application, sshApplication) && p.kind == unknownData {
		return nil, fmt.Errorf("%w: a key for web sites signs nothing but what SSH signs", keyring.ErrDenied)
	}
	providers := s.server.Providers
	if providers == nil {
		return nil, fmt.Errorf("%w: security keys", keyring.ErrUnsupported)
	}
	use := s.use(id, id.added.label(), p)
	use.NeedsAuth, use.PIN = k.flags&flagVerification != 0, true
	var sig []byte
	err := s.watched(func() error {
		return s.server.Keys.Gate().Use(s.ctx, use, func(auth secret.Bytes) (err error) {
			sig, err = providers.SignSK(s.ctx, SKRequest{
				Provider: k.provider, Type: k.kind, Application: k.application, Handle: k.handle,
				PublicKey: k.plain, Flags: k.flags, Data: data, PIN: auth,
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	var parsed ssh.Signature
	if err := ssh.Unmarshal(sig, &parsed); err != nil {
		return nil, errSignature
	}
	// A key that wants no touch signs what the package takes for incomplete.
	if k.flags&flagPresence != 0 && k.public.Verify(data, &parsed) != nil {
		return nil, errSignature
	}
	return endFrame(appendString(newFrame(msgSignResponse, 5+4+len(sig)), sig)), nil
}
