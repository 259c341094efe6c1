package dbus

import (
	"fmt"

	godbus "github.com/godbus/dbus/v5"
)

const (
	// maxData bounds what one Sign signs. More is hashed by the program itself.
	maxData = 1 << 20
	// maxArguments bounds everything else in a call.
	maxArguments = 64 << 10
)

// sign is Key1.Sign.
func (c *call) sign(data []byte, name string, options map[string]godbus.Variant) ([]byte, error) {
	if len(data) > maxData {
		return nil, fmt.Errorf("%w: %d bytes of data, and %d are the most: sign a digest", errLimit, len(data), maxData)
	}
	if len(c.body)-len(data) > maxArguments {
		return nil, fmt.Errorf("%w: %d bytes of options", errLimit, len(c.body)-len(data))
	}
	public := c.node.key.info.Public
	s, err := schemeFor(name, public)
	if err != nil {
		return nil, err
	}
	w, err := wishOf(s, options)
	if err != nil {
		return nil, err
	}
	if err := s.check(w.form, public); err != nil {
		return nil, err
	}
	r, err := s.request(data, w)
	if err != nil {
		return nil, err
	}
	r.Caller, r.Key = c.caller, c.node.key.info.ID
	sig, err := c.bus.server.keys.Sign(c.ctx, r)
	if err != nil {
		return nil, err
	}
	return s.encode(sig, w.form, public)
}
