package agent

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/agent/knownhosts"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// maxShown is how many characters of a text from the wire are shown.
	maxShown = 64
	// maxHost is how many characters a host name has at most, in DNS.
	maxHost = 255
)

// unknownScope keeps an approval of something that was understood from
// covering something that was not; unknownHost one of a login from covering what
// other front ends ask for without a scope, such as any signature at all.
const (
	unknownScope = "unknown data"
	unknownHost  = "unknown host"
)

// A dataKind is what sort of thing is to be signed.
type dataKind int

const (
	unknownData dataKind = iota
	aLogin
	aFile // a file, a commit, a tag: SSHSIG
)

// A purpose is what a signature is for, as far as the data to be signed and the
// connection's bindings tell.
type purpose struct {
	kind   dataKind
	reason string // to be shown: "log in as mia to git.example.org"; sanitised
	// scope is what an approval is remembered for: the host, `namespace "git"`,
	// or unknownScope; unknownHost for a login that does not name its host. What is
	// proven and what is only said are never one scope.
	scope string
	keyring.Purpose
}

// purposeOf says what signing data with the key of this blob would do.
func (s *session) purposeOf(data, blob []byte) purpose {
	p := purpose{}
	if s.bound.attempted {
		p.Forwarded = s.bound.forwarded()
		p.Through = s.through()
	}
	if u, ok := parseUserauth(data); ok {
		if !bytes.Equal(u.blob, blob) {
			// No server accepts such a signature, and no client asks for one.
			p.reason, p.scope = "sign a login request made for another key", unknownScope
			return p
		}
		p.kind = aLogin
		s.describeLogin(&p, u)
		return p
	}
	if g, ok := parseSSHSig(data); ok {
		p.kind = aFile
		p.scope = "namespace " + strconv.QuoteToASCII(string(g.namespace))
		if p.reason = "sign for namespace " + quote(g.namespace); string(g.namespace) == "git" {
			p.reason = "sign a git commit or tag"
		}
		return p
	}
	p.reason, p.scope = "sign data of an unknown kind", unknownScope
	return p
}

// describeLogin says where a login leads.
func (s *session) describeLogin(p *purpose, u userauth) {
	p.reason = "log in as " + word(u.user)
	if n := len(s.bound.list); n > 0 {
		last := &s.bound.list[n-1]
		if !last.forwarding && bytes.Equal(last.sessionID, u.sessionID) &&
			(u.hostKey == nil || bytes.Equal(u.hostKey, last.key.blob)) {
			// The host has signed this very session.
			var name string
			name, p.HostWarning = s.nameOf(&last.key)
			print := fingerprint(last.key.blob)
			p.Host = cmp.Or(name, print)
			p.reason += " to " + cmp.Or(name, "host key "+print)
			p.scope = strings.TrimSpace(name + " " + print)
			return
		}
	}
	if u.hostKey == nil {
		p.Host, p.HostWarning = "an unknown host", "not verified: the program does not say which host"
		p.scope = unknownHost
		return
	}
	print := fingerprint(u.hostKey)
	p.Host, p.scope = print, "unproven "+print
	p.reason += " to host key " + print
	p.HostWarning = "not verified: the program has not shown that it is connected to this host"
	// The name is no better than the program's word, but more telling.
	if key, err := ssh.ParsePublicKey(u.hostKey); err == nil && s.server.KnownHosts != nil {
		if h := s.server.KnownHosts.Lookup(key, s.guesses); len(h.Names) > 0 {
			p.Host = shownNames(h)
		}
	}
}

// nameOf names a host that proved to have its key, and says what is wrong with
// the name; "" where there is none.
func (s *session) nameOf(key *hostKey) (name, warning string) {
	if s.server.KnownHosts == nil {
		return "", "not verified: known_hosts is not read"
	}
	public := key.key
	if key.cert != nil {
		public = key.cert
	}
	switch h := s.server.KnownHosts.Lookup(public, s.guesses); {
	case h.Revoked:
		return "", "this host key is marked as revoked in known_hosts"
	case len(h.Names) > 0:
		return shownNames(h), ""
	case h.Hashed:
		return "a host in known_hosts whose name is hashed", ""
	}
	return "", "not verified: this host key is in no known_hosts file"
}

// guesses are the names that the asker may be connected to.
func (s *session) guesses() []string {
	return s.server.KnownHosts.Guesses(caller.Arguments(s.caller().PID))
}

func shownNames(h knownhosts.Host) string {
	shown := make([]string, 0, len(h.Names))
	for _, name := range h.Names {
		shown = append(shown, caller.Sanitize(name, maxHost))
	}
	return strings.Join(shown, ", ")
}

// through names the hosts that the asker's connection is forwarded through.
func (s *session) through() string {
	var hosts []string
	for i := range s.bound.list {
		if one := &s.bound.list[i]; one.forwarding {
			name, _ := s.nameOf(&one.key)
			hosts = append(hosts, cmp.Or(name, fingerprint(one.key.blob)))
		}
	}
	if len(hosts) == 0 && s.bound.suspect {
		return "an unknown host"
	}
	return strings.Join(hosts, " → ")
}

// fingerprint names a host key as ssh shows it; of a certificate, the key in it.
func fingerprint(blob []byte) string {
	// Only a certificate needs parsing, which costs more than the rest of this.
	d := decoder{rest: blob}
	if bytes.HasSuffix(d.string(), []byte(certSuffix)) {
		if k, err := ssh.ParsePublicKey(blob); err == nil {
			if c, ok := k.(*ssh.Certificate); ok {
				return ssh.FingerprintSHA256(c.Key)
			}
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

// useID is what the Gate knows the key of an identity by that the core does not
// know.
func useID(blob []byte) string { return frontEnd + " " + fingerprint(blob) }

// use is the use of an identity that the core does not know, and that is called
// label; "": it has a fingerprint only. It is confirmed where the user wants that
// of a key so called.
func (s *session) use(id *identity, label string, p purpose) keyring.Use {
	print := fingerprint(id.blob)
	u := keyring.Use{
		ID: useID(id.blob), Subject: print, Fingerprint: print,
		Caller: s.caller(), Reason: p.reason, Scope: p.scope, Purpose: p.Purpose,
	}
	if label != "" {
		u.Subject = label
	}
	demand := s.server.Keys.Demand
	u.Confirm = id.added != nil && id.added.confirm ||
		demand != nil && demand(keyring.KeyInfo{Label: u.Subject, Kind: keyring.KindAdded})
	return u
}
