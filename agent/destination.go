package agent

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/agent/knownhosts"
)

// A destination is one step that a key may be used for: from one host, or from
// here, to another (OpenSSH, PROTOCOL.agent §2).
type destination struct{ from, to hop }

// A hop is one end of a step. The zero hop is this machine.
type hop struct {
	user string // pattern; "": any user
	host string
	keys []hopKey
}

// A hopKey is a key by which a hop is known.
type hopKey struct {
	blob []byte
	ca   bool // hosts have certificates that it signed, for the hop's name
}

// later are the types of host keys that OpenSSH knows and that cannot be
// verified here. Nobody can bind a connection to one, so that they match
// nothing; but ssh-add names all keys that a host has.
var later = []string{"ssh-mldsa44-ed25519@openssh.com", "ssh-mldsa44-ed25519-cert-v01@openssh.com"}

// parseDestinations parses the whole constraint. That it names no destination
// is an error: it could as well mean all of them.
func parseDestinations(list []byte) ([]destination, error) {
	var all []destination
	for outer := (decoder{rest: list}); len(outer.rest) > 0; {
		if len(all) == maxDestinations {
			return nil, fmt.Errorf("more than %d destinations: %w", maxDestinations, errMalformed)
		}
		d := decoder{rest: outer.string()}
		from, to, reserved := d.string(), d.string(), d.string()
		if !d.done() || len(reserved) > 0 {
			return nil, fmt.Errorf("destination: %w", errMalformed)
		}
		var one destination
		var err error
		if one.from, err = parseHop(from); err != nil {
			return nil, err
		}
		if one.to, err = parseHop(to); err != nil {
			return nil, err
		}
		if (one.from.host == "") != (len(one.from.keys) == 0) || one.from.user != "" ||
			one.to.host == "" || len(one.to.keys) == 0 {
			return nil, fmt.Errorf("destination without a host, or without its keys: %w", errMalformed)
		}
		all = append(all, one)
	}
	if all == nil {
		return nil, fmt.Errorf("no destination: %w", errMalformed)
	}
	return all, nil
}

func parseHop(b []byte) (hop, error) {
	d := decoder{rest: b}
	h := hop{user: d.text(), host: d.text()}
	if reserved := d.string(); d.bad || len(reserved) > 0 || len(h.user) > maxUserPattern {
		return hop{}, fmt.Errorf("destination: %w", errMalformed)
	}
	for len(d.rest) > 0 {
		k := hopKey{blob: d.string(), ca: d.byte() != 0}
		if d.bad {
			return hop{}, fmt.Errorf("destination: %w", errMalformed)
		}
		k.blob = bytes.Clone(k.blob) // the request is wiped
		if _, err := ssh.ParsePublicKey(k.blob); err != nil {
			kind := decoder{rest: k.blob}
			if !slices.Contains(later, string(kind.string())) {
				return hop{}, fmt.Errorf("host key of a destination: %w", errMalformed)
			}
		}
		h.keys = append(h.keys, k)
	}
	return h, nil
}

// knows reports whether a host key is one of the hop's.
func (h *hop) knows(key *hostKey) bool {
	return slices.ContainsFunc(h.keys, func(k hopKey) bool {
		if key.cert == nil {
			return !k.ca && bytes.Equal(k.blob, key.blob)
		}
		return k.ca && bytes.Equal(k.blob, key.cert.SignatureKey.Marshal()) && checkHostCertificate(key.cert, h.host) == nil
	})
}

// checkHostCertificate says why a certificate is none for the host, now.
func checkHostCertificate(cert *ssh.Certificate, host string) error {
	if cert.CertType != ssh.HostCert {
		return errors.New("not a host's certificate")
	}
	if len(cert.ValidPrincipals) == 0 {
		return errors.New("names no host") // which to package ssh is every host
	}
	if cert.Signature.Format == ssh.KeyAlgoRSA {
		return errors.New("signed with SHA-1")
	}
	checker := ssh.CertChecker{Clock: time.Now}
	return checker.CheckCert(host, cert)
}

// mayPass reports whether one of the destinations leads from one host to
// another. from is nil on this machine. to is nil for any host; user is nil
// where it is not known yet.
func mayPass(all []destination, from, to *hostKey, user *string) bool {
	return slices.ContainsFunc(all, func(d destination) bool {
		if from == nil {
			if d.from.host != "" {
				return false
			}
		} else if !d.from.knows(from) {
			return false
		}
		if to != nil && !d.to.knows(to) {
			return false
		}
		return d.to.user == "" || user == nil || knownhosts.Match(*user, d.to.user)
	})
}

// permitted reports whether the hosts that the connection was bound to may use
// a key with these destinations, hop by hop: user is who logs in at the last
// one, nil where the key is only looked at. A connection that is not bound is
// local, unless it tried to be bound.
func (b *bindings) permitted(all []destination, user *string) bool {
	if all == nil {
		return true
	}
	if len(b.list) == 0 {
		return !b.attempted
	}
	var from *hostKey
	for i := range b.list {
		one := &b.list[i]
		last := i == len(b.list)-1
		switch {
		case !last && !one.forwarding:
			return false // somebody tries to forward a login
		case last && one.forwarding && user != nil:
			return false // a forwarded agent logs in elsewhere, and says so first
		}
		who := user
		if !last {
			who = nil // users are known at the last hop only
		}
		if !mayPass(all, from, &one.key, who) {
			return false
		}
		from = &one.key
	}
	// A key that may be used at a host is not to be seen there, unless it may be
	// used from there on.
	if b.list[len(b.list)-1].forwarding && user == nil {
		return mayPass(all, from, nil, nil)
	}
	return true
}

// errDestination is what a key may not be used for.
var errDestination = errors.New("the key may not be used for this")

// checkDestination says why a key with these destinations may not sign data on
// this connection, nil if it may.
func (b *bindings) checkDestination(id *identity, data []byte) error {
	if id.destinations == nil {
		return nil
	}
	if len(b.list) == 0 {
		return fmt.Errorf("%w: it is for certain hosts, and the connection is not bound to one", errDestination)
	}
	u, ok := parseUserauth(data)
	if !ok || !bytes.Equal(u.blob, id.blob) || !id.signsAs(string(u.algorithm)) || bytes.IndexByte(u.user, 0) >= 0 {
		return fmt.Errorf("%w: it is for certain hosts, and this is no login", errDestination)
	}
	user := string(u.user)
	last := &b.list[len(b.list)-1]
	switch {
	case !b.permitted(id.destinations, &user):
		return fmt.Errorf("%w: another host or user", errDestination)
	case !bytes.Equal(u.sessionID, last.sessionID):
		return fmt.Errorf("%w: a login on another connection than the one that was bound last", errDestination)
	case u.hostKey == nil && len(b.list) > 1:
		return fmt.Errorf("%w: a login from another host that does not name its own", errDestination)
	case u.hostKey != nil && !bytes.Equal(u.hostKey, last.key.blob):
		return fmt.Errorf("%w: a login at another host than the one that was bound last", errDestination)
	}
	return nil
}
