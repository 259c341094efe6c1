package p11rpc

import (
	"bytes"
	"strings"
)

// copyFields takes the fields of a signature apart and puts them together again.
func copyFields(d *Decoder, e *Encoder, signature string) {
	for signature != "" {
		kind := signature[:1]
		if strings.ContainsAny(kind, "af") {
			kind = signature[:2]
		}
		signature = signature[len(kind):]
		switch kind {
		case "y":
			e.Byte(d.Byte())
		case "u":
			e.Ulong(d.Ulong())
		case "v":
			major, minor := d.Version()
			e.Version(major, minor)
		case "s", "z":
			e.Text(d.Text())
		case "ay":
			e.Bytes(d.Bytes())
		case "au":
			e.Ulongs(d.Ulongs())
		case "aA":
			e.Attributes(d.Attributes())
		case "fA":
			e.Rooms(d.Rooms())
		case "fy", "fu":
			e.Room(d.Room())
		case "M":
			e.Mechanism(d.Mechanism())
		default:
			panic("unknown kind " + kind)
		}
	}
}

// recode decodes a message and encodes what it held.
func recode(body []byte, f Framing, response bool) ([]byte, error) {
	parse, begin, signature := ParseRequest, NewRequest, Call.Request
	if response {
		parse, begin, signature = ParseResponse, NewResponse, Call.Response
	}
	call, d, err := parse(body, f)
	if err != nil {
		return nil, err
	}
	e := begin(call, f)
	copyFields(d, e, signature(call))
	if err := d.End(); err != nil {
		return nil, err
	}
	return e.Message(), nil
}

// samples is one message of every call, with every kind of field filled.
func samples(f Framing, response bool) map[Call][]byte {
	begin, signature := NewRequest, Call.Request
	if response {
		begin, signature = NewResponse, Call.Response
	}
	all := map[Call][]byte{}
	for c := CallError; c.Known(); c++ {
		if c == CallError && !response {
			continue
		}
		e := begin(c, f)
		fill(e, signature(c))
		all[c] = e.Message()
	}
	return all
}

var sampleTemplate = []Attribute{
	NewAttribute(AttrClass, UlongValue(uint64(ClassPrivateKey))),
	NewAttribute(AttrToken, BoolValue(true)),
	NewAttribute(AttrID, []byte{1, 2, 3}),
	NewAttribute(AttrLabel, nil),
	{Type: AttrSubject, Valid: true, Length: 300},
	{Type: AttrValue},
	NewAttribute(AttrStartDate, []byte("20260131")),
	LengthOf(AttrModulusBits, 8),
	NewAttribute(AttrAllowedMechanisms, append(UlongValue(uint64(MechECDSA)), UlongValue(uint64(MechEDDSA))...)),
	{Type: AttrUnwrapTemplate, Valid: true, Length: 24, Template: []Attribute{
		NewAttribute(AttrExtractable, BoolValue(false)),
		{Type: AttrWrapTemplate, Valid: true, Length: 0, Template: []Attribute{}},
	}},
}

func fill(e *Encoder, signature string) {
	for signature != "" {
		kind := signature[:1]
		if strings.ContainsAny(kind, "af") {
			kind = signature[:2]
		}
		signature = signature[len(kind):]
		switch kind {
		case "y":
			e.Byte(1)
		case "u":
			e.Ulong(0x0102030405060708)
		case "v":
			e.Version(2, 40)
		case "s", "z":
			e.Padded("keyringd", 32)
		case "ay":
			e.Data([]byte("some bytes"))
		case "au":
			e.Numbers([]uint64{1, Unavailable})
		case "aA":
			e.Attributes(sampleTemplate)
		case "fA":
			e.Rooms([]Room{{Type: AttrID, Length: 32}, {Type: AttrUnwrapTemplate, Length: 24, Nested: []Room{{Type: AttrSign, Length: 1}}}})
		case "fy", "fu":
			e.Room(256)
		case "M":
			e.Mechanism(Mechanism{Type: MechRSAPKCSPSS, PSS: &PSSParams{Hash: MechSHA256, MGF: MGF1SHA256, Salt: 32}})
		}
	}
}

// nested is a template in a template, depth times.
func nested(depth int) []byte {
	e := NewRequest(FindObjectsInit, FramingOld)
	e.Ulong(1)
	for range depth {
		e.uint32(1)
		e.uint32(uint32(AttrWrapTemplate))
		e.flag(true)
		e.uint32(24)
	}
	e.uint32(0)
	return bytes.Clone(e.Message())
}
