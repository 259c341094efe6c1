package agent

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// OpenSSH's limits on what one connection may be bound to.
const (
	maxBindings  = 16
	maxSessionID = 128
)

// A hostKey is the key of a host that proved to have it.
type hostKey struct {
	blob []byte
	key  ssh.PublicKey    // without its certificate
	cert *ssh.Certificate // nil: a plain key
}

// A binding is one SSH connection that an agent connection serves.
type binding struct {
	key        hostKey
	sessionID  []byte
	forwarding bool // the agent is forwarded to the host; else somebody logs in there
}

// bindings are what one connection of ours is bound to, in order: first the
// host that it is forwarded to from here.
type bindings struct {
	list []binding
	// attempted and suspect stay true when a binding was refused: of what
	// follows nothing is known, except that somebody had reason to bind.
	attempted bool
	suspect   bool // a forwarding was refused
}

// remote reports whether the asker may be on another machine.
func (b *bindings) remote() bool { return b.attempted }

// forwarded reports whether the asker is on another machine.
func (b *bindings) forwarded() bool {
	for i := range b.list {
		if b.list[i].forwarding {
			return true
		}
	}
	return b.suspect
}

var errBinding = errors.New("session-bind refused")

// bind answers session-bind@openssh.com (OpenSSH, PROTOCOL.agent §1): the
// signature is by the host's key, so that the host has taken part in the session.
func (b *bindings) bind(contents []byte) error {
	d := decoder{rest: contents}
	blob, id, sig, forwarding := d.string(), d.string(), d.string(), d.byte() != 0
	b.attempted = true
	err := b.add(blob, id, sig, forwarding, d.bad)
	if err != nil && (forwarding || d.bad) {
		b.suspect = true
	}
	return err
}

func (b *bindings) add(blob, id, sig []byte, forwarding, bad bool) error {
	if bad || len(id) == 0 || len(id) > maxSessionID {
		return fmt.Errorf("session-bind: %w", errMalformed)
	}
	key, err := parseHostKey(blob)
	if err != nil {
		return err
	}
	var s ssh.Signature
	if err := ssh.Unmarshal(sig, &s); err != nil || len(s.Rest) > 0 || key.key.Verify(id, &s) != nil {
		return fmt.Errorf("%w: the host key's signature is not valid", errBinding)
	}
	for i := range b.list {
		one := &b.list[i]
		if !one.forwarding {
			return fmt.Errorf("%w: the connection is bound to a login already", errBinding)
		}
		if !bytes.Equal(one.sessionID, id) {
			continue
		}
		if !bytes.Equal(one.key.blob, key.blob) {
			return fmt.Errorf("%w: the session belongs to another host key", errBinding)
		}
		return nil
	}
	if len(b.list) >= maxBindings {
		return fmt.Errorf("%w: more than %d", errBinding, maxBindings)
	}
	b.list = append(b.list, binding{key: key, sessionID: bytes.Clone(id), forwarding: forwarding})
	return nil
}

func parseHostKey(blob []byte) (hostKey, error) {
	k := hostKey{blob: bytes.Clone(blob)}
	key, err := ssh.ParsePublicKey(k.blob)
	if err != nil {
		return k, fmt.Errorf("%w: host key: %w", errBinding, errMalformed)
	}
	k.key = key
	if cert, ok := key.(*ssh.Certificate); ok {
		if err := verifyCertificate(cert); err != nil {
			return k, fmt.Errorf("%w: host certificate: %w", errBinding, errMalformed)
		}
		k.key, k.cert = cert.Key, cert
	}
	return k, nil
}
