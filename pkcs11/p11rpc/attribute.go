package p11rpc

import "encoding/binary"

// An Attribute is a CK_ATTRIBUTE.
type Attribute struct {
	Type  AttributeType
	Valid bool // false: the value is not available, and nothing else is said
	// Length is ulValueLen: how long the value is on the sender's machine, where
	// a number may have 4 bytes and an attribute 24.
	Length uint32
	// Value is the value as it travels: a bool has 1 byte, a number 8, a list of
	// mechanisms 8 for each, all big-endian. nil: it was not given.
	Value    []byte
	Template []Attribute // the value of the types that hold attributes
}

// A Room is how many bytes the caller of C_GetAttributeValue has for an
// attribute. 0 is a question for the length.
type Room struct {
	Type   AttributeType
	Length uint32
	Nested []Room // of the types that hold attributes
}

// A Form is how an attribute's value travels.
type Form int

// The forms.
const (
	FormBytes      Form = iota // bytes, or a NULL array
	FormBool                   // one byte
	FormUlong                  // 8 bytes
	FormDate                   // bytes, eight or none
	FormMechanisms             // u32 number, 8 bytes for each
	FormTemplate               // u32 number, attributes
)

// Form returns how values of this type travel. Types that are not known travel
// as bytes.
func (t AttributeType) Form() Form {
	switch t {
	case AttrToken, AttrPrivate, AttrTrusted, AttrSensitive, AttrEncrypt, AttrDecrypt, AttrWrap, AttrUnwrap,
		AttrSign, AttrSignRecover, AttrVerify, AttrVerifyRecover, AttrDerive, AttrExtractable, AttrLocal,
		AttrNeverExtractable, AttrAlwaysSensitive, AttrModifiable, AttrCopyable, AttrSecondaryAuth,
		AttrAlwaysAuthenticate, AttrWrapWithTrusted, AttrResetOnInit, AttrHasReset, AttrColor:
		return FormBool
	case AttrClass, AttrCertificateType, AttrCertificateCategory, AttrJavaMIDPDomain, AttrKeyType,
		AttrModulusBits, AttrPrimeBits, AttrSubPrimeBits, AttrValueBits, AttrValueLen, AttrKeyGenMechanism,
		AttrAuthPINFlags, AttrHWFeatureType, AttrPixelX, AttrPixelY, AttrResolution, AttrCharRows,
		AttrCharColumns, AttrBitsPerPixel, AttrMechanismType:
		return FormUlong
	case AttrWrapTemplate, AttrUnwrapTemplate, AttrDeriveTemplate:
		return FormTemplate
	case AttrAllowedMechanisms:
		return FormMechanisms
	case AttrStartDate, AttrEndDate:
		return FormDate
	}
	return FormBytes
}

// NewAttribute returns an attribute with a value in the form of its type.
func NewAttribute(t AttributeType, value []byte) Attribute {
	if value == nil {
		value = []byte{}
	}
	return Attribute{Type: t, Valid: true, Length: uint32(len(value)), Value: value}
}

// LengthOf returns an attribute that says how long its value is, and not what it
// is.
func LengthOf(t AttributeType, n int) Attribute {
	a := Attribute{Type: t, Valid: true, Length: uint32(n)}
	switch t.Form() {
	case FormBool:
		a.Value = make([]byte, 1)
	case FormUlong:
		a.Value = make([]byte, 8)
	}
	return a
}

// BoolValue returns the value of a bool.
func BoolValue(b bool) []byte { return []byte{byte(btoi(b))} }

// UlongValue returns the value of a number.
func UlongValue(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Attributes reads aA.
func (d *Decoder) Attributes() []Attribute { return d.template(0) }

// minAttribute is how many bytes an attribute has at least: type and validity.
const minAttribute = 5

// template reads as many attributes as it says. Its depth and their number are
// checked before anything is made for them.
func (d *Decoder) template(depth int) []Attribute {
	n := d.count(minAttribute)
	if depth > maxDepth {
		d.fail("templates are %d deep", depth)
	}
	if d.err != nil {
		return nil
	}
	list := make([]Attribute, n)
	for i := range list {
		list[i] = d.attribute(depth)
	}
	if d.err != nil {
		return nil
	}
	return list
}

// count reads how many attributes or rooms follow, of at least size bytes each.
func (d *Decoder) count(size int) int {
	n := d.uint32()
	switch {
	case uint64(n)*uint64(size) > uint64(len(d.rest)):
		d.fail("%d attributes in %d bytes", n, len(d.rest))
	case int(n) > maxAttributes-d.attributes:
		d.fail("more than %d attributes", maxAttributes)
	}
	if d.err != nil {
		return 0
	}
	d.attributes += int(n)
	return int(n)
}

func (d *Decoder) attribute(depth int) Attribute {
	a := Attribute{Type: AttributeType(d.uint32()), Valid: d.flag()}
	if !a.Valid {
		return a
	}
	a.Length = d.uint32()
	switch a.Type.Form() {
	case FormBool:
		a.Value = d.take(1)
		d.length(a, 0, 1)
	case FormUlong:
		a.Value = d.take(8)
		d.length(a, 0, 4, 8)
	case FormTemplate:
		a.Template = d.template(depth + 1)
	case FormMechanisms:
		n := d.uint32()
		a.Value = d.take(8 * uint64(n))
	case FormDate:
		a.Value, _ = d.array()
		d.length(a, 0, 8)
		if n := len(a.Value); n != 0 && n != 8 {
			d.fail("a date of %d bytes", n)
		}
	case FormBytes:
		var there bool
		if a.Value, there = d.array(); there {
			d.length(a, uint32(len(a.Value)))
		}
	}
	return a
}

// length refuses an attribute whose length is not one of these.
func (d *Decoder) length(a Attribute, allowed ...uint32) {
	for _, n := range allowed {
		if a.Length == n {
			return
		}
	}
	d.fail("attribute %#x of %d bytes", uint32(a.Type), a.Length)
}

// Attributes writes aA.
func (e *Encoder) Attributes(list []Attribute) {
	e.uint32(uint32(len(list)))
	for _, a := range list {
		e.attribute(a)
	}
}

func (e *Encoder) attribute(a Attribute) {
	e.uint32(uint32(a.Type))
	e.flag(a.Valid)
	if !a.Valid {
		return
	}
	e.uint32(a.Length)
	switch a.Type.Form() {
	case FormBool, FormUlong:
		e.buf = append(e.buf, a.Value...)
	case FormTemplate:
		e.Attributes(a.Template)
	case FormMechanisms:
		e.uint32(uint32(len(a.Value) / 8))
		e.buf = append(e.buf, a.Value...)
	default:
		e.array(a.Value)
	}
}

// roomSize is how many bytes a room has: type and length.
const roomSize = 8

// Rooms reads fA, which is the last field of the only call that has it. Rooms
// for templates are followed by those of their attributes, but only from clients
// since p11-kit 0.25.5; the size tells.
func (d *Decoder) Rooms() []Room {
	flat := len(d.rest) >= 4 && uint64(len(d.rest)-4) == roomSize*uint64(binary.BigEndian.Uint32(d.rest))
	return d.rooms(0, flat)
}

func (d *Decoder) rooms(depth int, flat bool) []Room {
	n := d.count(roomSize)
	if depth > maxDepth {
		d.fail("templates are %d deep", depth)
	}
	if d.err != nil {
		return nil
	}
	list := make([]Room, n)
	for i := range list {
		list[i] = Room{Type: AttributeType(d.uint32()), Length: d.uint32()}
		if !flat && list[i].Length > 0 && list[i].Type.Form() == FormTemplate {
			list[i].Nested = d.rooms(depth+1, false)
		}
	}
	if d.err != nil {
		return nil
	}
	return list
}

// Rooms writes fA.
func (e *Encoder) Rooms(list []Room) {
	e.uint32(uint32(len(list)))
	for _, r := range list {
		e.uint32(uint32(r.Type))
		e.uint32(r.Length)
		if r.Nested != nil {
			e.Rooms(r.Nested)
		}
	}
}
