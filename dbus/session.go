package dbus

import (
	"fmt"
	"strconv"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/transfer"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// maxSessions is how many sessions one program has. Some open one for each
	// secret and close none: the one not used for longest makes room.
	maxSessions = 256
	// maxContentType is how many characters a MIME type has; RFC 6838 §4.2 allows
	// 127 for each half of the name, and parameters follow.
	maxContentType = 1024
	// maxSecretSize bounds a secret that is stored.
	maxSecretSize = 8 << 20
)

// A session is what one program agreed on for the transfer of secrets, until
// it closes it, leaves the bus, or we lose our name.
type session struct {
	channel *transfer.Channel
	used    uint64 // guarded by bus.mu: greater is later
}

// A passed is a secret on its way: Secret Service API 0.2, "Secret".
type passed struct {
	Session     godbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

// openSession is Service.OpenSession.
func (c *call) openSession(algorithm string, input godbus.Variant) (output godbus.Variant, at godbus.ObjectPath, err error) {
	s := &session{}
	switch algorithm {
	case transfer.Plain:
		if _, ok := input.Value().(string); !ok {
			return output, "", badArgument("the input of %s is a string, not a %s", algorithm, input.Signature())
		}
		s.channel, output = transfer.NewPlain(), godbus.MakeVariant("")
	case transfer.DH:
		peer, ok := input.Value().([]byte)
		if !ok {
			return output, "", badArgument("the input of %s is bytes, not a %s", algorithm, input.Signature())
		}
		var public []byte
		if s.channel, public, err = transfer.Agree(peer); err != nil {
			return output, "", err
		}
		output = godbus.MakeVariant(public)
	default:
		return output, "", fmt.Errorf("%w: %.64q", transfer.ErrAlgorithm, algorithm)
	}
	return output, c.bus.keep(c.sender, s), nil
}

// keep gives a session its path.
func (b *bus) keep(to *sender, s *session) godbus.ObjectPath {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(to.sessions) >= maxSessions {
		var oldest godbus.ObjectPath
		for at, other := range to.sessions {
			if oldest == "" || other.used < to.sessions[oldest].used {
				oldest = at
			}
		}
		delete(to.sessions, oldest)
	}
	b.count++
	s.used = b.count
	at := sessionsPath + "/s" + godbus.ObjectPath(strconv.FormatUint(b.count, 10))
	to.sessions[at] = s
	return at
}

// channel returns the channel of one of the caller's own sessions.
func (c *call) channel(at godbus.ObjectPath) (*transfer.Channel, error) {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	s := c.sender.sessions[at]
	if s == nil {
		return nil, fmt.Errorf("%w: %.200s", errNoSession, at)
	}
	c.bus.count++
	s.used = c.bus.count
	return s.channel, nil
}

// closeSession is Session.Close.
func (c *call) closeSession() error {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	delete(c.sender.sessions, c.node.path)
	return nil
}

// received returns the secret that came in a call, the caller's to Wipe.
func (c *call) received(p passed) (secret.Bytes, error) {
	defer clear(p.Value)
	channel, err := c.channel(p.Session)
	if err != nil {
		return secret.Bytes{}, err
	}
	value, err := channel.Unseal(p.Parameters, p.Value)
	if err != nil {
		return secret.Bytes{}, err
	}
	if value.Len() > maxSecretSize {
		value.Wipe()
		return secret.Bytes{}, fmt.Errorf("%w: a secret of more than %d MiB", errLimit, maxSecretSize>>20)
	}
	return value, nil
}

// secret returns an item's secret as it goes over the bus.
func (c *call) secret(r keyring.ItemRef, session godbus.ObjectPath, channel *transfer.Channel) (p passed, err error) {
	s := c.bus.server
	err = s.unlocking(c.ctx, r.Collection, func() error {
		value, contentType, err := s.Secrets.Secret(c.ctx, c.caller, r)
		if err != nil {
			return err
		}
		defer value.Wipe()
		if err := c.hold(value.Len()); err != nil {
			return err
		}
		p = passed{Session: session, ContentType: contentType}
		p.Parameters, p.Value = channel.Seal(value)
		return nil
	})
	return p, err
}

// contentType checks a MIME type, parameters included. None: text, as most
// secrets are.
func contentType(p passed) (string, error) {
	switch {
	case p.ContentType == "":
		return "text/plain", nil
	case len(p.ContentType) > maxContentType:
		return "", badArgument("a content type of %d bytes", len(p.ContentType))
	}
	return p.ContentType, nil
}
