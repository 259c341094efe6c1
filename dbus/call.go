package dbus

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/internal/panicsite"
	"github.com/keyringd/keyringd/keyring"
)

// A call is one method call, on a goroutine of its own.
type call struct {
	bus      *bus
	sender   *sender
	ctx      context.Context // ends when the sender leaves or the bus is lost
	header   wire.Header
	body     []byte
	attached []*os.File // that came along
	held     int        // bytes of secrets on their way out, of those that senders counts

	node   node           // once looked up
	caller keyring.Caller // once known

	// after, if set, is called once the reply is sent; confidential, if set, wipes
	// what the method returned, once that is encoded.
	after, confidential func()
}

// serve answers the call.
func (c *call) serve() {
	defer c.end()
	body, signature, err := c.answer()
	if err != nil {
		c.fail(err)
		return
	}
	c.bus.reply(c.header, body, signature)
	if c.confidential != nil {
		clear(body)
	}
	if c.after != nil {
		c.after()
	}
}

// end leaves nothing of what the call brought.
func (c *call) end() {
	clear(c.body)
	for _, f := range c.attached {
		_ = f.Close()
	}
}

// answer runs the method. A panic costs the call and nothing else.
func (c *call) answer() (body []byte, signature string, err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value and a whole traceback could show what is secret.
			err = fmt.Errorf("%w of type %T at %s", errPanic, r, panicsite.Of())
		}
	}()
	defer func() {
		if c.confidential != nil {
			c.confidential()
		}
	}()
	server := c.bus.server
	if c.node, err = c.bus.lookup(c.sender, c.header.Path); err != nil {
		return nil, "", err
	}
	m, err := server.method(c.node, c.header.Interface, c.header.Member)
	if err != nil {
		return nil, "", err
	}
	if len(c.body) > m.most {
		return nil, "", fmt.Errorf("%w: %d bytes of arguments", errLimit, len(c.body))
	}
	if c.caller, err = c.sender.identity(); err != nil {
		return nil, "", err
	}
	body, err = m.call(c)
	return body, m.out, err
}

func (c *call) fail(err error) {
	name, level := outcome(err)
	if log := c.bus.server.log; log.Enabled(c.ctx, level) {
		log.LogAttrs(c.ctx, level, "call failed", slog.String("caller", c.caller.String()),
			slog.String("method", c.header.Interface+"."+c.header.Member), slog.Any("err", err))
	}
	c.bus.refuse(c.header, name, err.Error())
}

// reply sends what a method returned. A bus that is gone needs none.
func (b *bus) reply(to wire.Header, body []byte, signature string) {
	if to.Flags&godbus.FlagNoReplyExpected != 0 {
		return
	}
	_, _ = b.tap.Send(wire.Header{
		Type: godbus.TypeMethodReply, Flags: godbus.FlagNoReplyExpected,
		ReplySerial: to.Serial, Destination: to.Sender, Signature: signature,
	}, body)
}

// refuse sends an error.
func (b *bus) refuse(to wire.Header, name, text string) {
	if to.Flags&godbus.FlagNoReplyExpected != 0 {
		return
	}
	body, _ := wire.Append(nil, text) // a string always fits
	_, _ = b.tap.Send(wire.Header{
		Type: godbus.TypeError, Flags: godbus.FlagNoReplyExpected, ErrorName: name,
		ReplySerial: to.Serial, Destination: to.Sender, Signature: "s",
	}, body)
}
