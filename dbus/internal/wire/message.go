package wire

import (
	"encoding/binary"
	"fmt"

	godbus "github.com/godbus/dbus/v5"
)

// The fixed part of a message, up to the array of header fields.
const fixedSize = 16

// A Header is all of a message but its body. Fields that are not there are
// empty.
type Header struct {
	Order       binary.ByteOrder
	Type        godbus.Type
	Flags       godbus.Flags
	Serial      uint32
	ReplySerial uint32
	Path        godbus.ObjectPath
	Interface   string
	Member      string
	ErrorName   string
	Destination string
	Sender      string
	Signature   string
	Files       uint32 // how many files come with it
	BodySize    int
}

// parseFixed reads the first 16 bytes, and returns how many bytes of fields
// and padding follow.
func parseFixed(b []byte) (h Header, fields int, err error) {
	switch b[0] {
	case 'l':
		h.Order = binary.LittleEndian
	case 'B':
		h.Order = binary.BigEndian
	default:
		return h, 0, malformed("byte order %#x", b[0])
	}
	if b[3] != 1 {
		return h, 0, malformed("protocol version %d", b[3])
	}
	h.Type, h.Flags = godbus.Type(b[1]), godbus.Flags(b[2])
	body, size := h.Order.Uint32(b[4:]), h.Order.Uint32(b[12:])
	h.Serial = h.Order.Uint32(b[8:])
	// D-Bus Specification, "Message Format": the whole is at most 128 MiB.
	if uint64(body)+uint64(size)+fixedSize+8 > 1<<27 {
		return h, 0, malformed("a message of %d bytes", uint64(body)+uint64(size))
	}
	h.BodySize = int(body)
	return h, int(size+7) &^ 7, nil
}

// parseFields reads the header fields, which begin at byte 16 of a message. b
// is the fixed part and the fields with their padding.
func (h *Header) parseFields(b []byte) error {
	end := fixedSize + int(h.Order.Uint32(b[12:]))
	d := decoder{order: h.Order, data: b[:end], pos: fixedSize}
	for d.pos < end {
		if err := d.align(8); err != nil {
			return err
		}
		code, err := d.number(1)
		if err != nil {
			return err
		}
		v, err := d.variant(0)
		if err != nil {
			return err
		}
		if err := h.set(godbus.HeaderField(code), v.Value()); err != nil {
			return err
		}
	}
	return nil
}

// set sets a field. Those that we do not know are ignored, as the specification
// asks.
func (h *Header) set(field godbus.HeaderField, value any) error {
	ok := true
	switch field {
	case godbus.FieldPath:
		h.Path, ok = value.(godbus.ObjectPath)
	case godbus.FieldInterface:
		h.Interface, ok = value.(string)
	case godbus.FieldMember:
		h.Member, ok = value.(string)
	case godbus.FieldErrorName:
		h.ErrorName, ok = value.(string)
	case godbus.FieldReplySerial:
		h.ReplySerial, ok = value.(uint32)
	case godbus.FieldDestination:
		h.Destination, ok = value.(string)
	case godbus.FieldSender:
		h.Sender, ok = value.(string)
	case godbus.FieldSignature:
		var s godbus.Signature
		s, ok = value.(godbus.Signature)
		h.Signature = s.String()
	case godbus.FieldUnixFDs:
		h.Files, ok = value.(uint32)
	}
	if !ok {
		return malformed("header field %d of the wrong type", field)
	}
	return nil
}

// AppendMessage appends a whole message with that header and body to dst,
// which is empty. The body is little-endian, as [Append] makes it; h.Order and
// h.BodySize are not looked at.
func AppendMessage(dst []byte, h Header, body []byte) []byte {
	dst = append(dst, 'l', byte(h.Type), byte(h.Flags), 1)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	dst = binary.LittleEndian.AppendUint32(dst, h.Serial)
	e := encoder{out: dst}
	// No element of this array can fail.
	_ = e.array(8, func() error {
		field := func(code godbus.HeaderField, sig string, write func()) {
			e.align(8)
			e.number(uint64(code), 1)
			e.signature(sig)
			write()
		}
		text := func(code godbus.HeaderField, sig, s string) {
			if s != "" {
				field(code, sig, func() { e.string(s) })
			}
		}
		text(godbus.FieldPath, "o", string(h.Path))
		text(godbus.FieldInterface, "s", h.Interface)
		text(godbus.FieldMember, "s", h.Member)
		text(godbus.FieldErrorName, "s", h.ErrorName)
		if h.ReplySerial != 0 {
			field(godbus.FieldReplySerial, "u", func() { e.uint32(h.ReplySerial) })
		}
		text(godbus.FieldDestination, "s", h.Destination)
		if h.Signature != "" {
			field(godbus.FieldSignature, "g", func() { e.signature(h.Signature) })
		}
		if h.Files != 0 {
			field(godbus.FieldUnixFDs, "u", func() { e.uint32(h.Files) })
		}
		return nil
	})
	e.align(8)
	e.room(len(body))
	return append(e.out, body...)
}

// String is the header as an error names it.
func (h Header) String() string {
	return fmt.Sprintf("%s from %s to %s %s.%s", h.Type, h.Sender, h.Path, h.Interface, h.Member)
}
