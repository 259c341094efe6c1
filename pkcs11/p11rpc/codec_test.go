package p11rpc

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestEveryCallComesBack(t *testing.T) {
	for _, f := range []Framing{FramingOld, FramingNew} {
		for _, response := range []bool{false, true} {
			for call, message := range samples(f, response) {
				got, err := recode(message, f, response)
				if err != nil {
					t.Errorf("%v, framing %d, response %v: %v", call, f, response, err)
				} else if !bytes.Equal(got, message) {
					t.Errorf("%v, framing %d, response %v:\n%x becomes\n%x", call, f, response, message, got)
				}
				// Every shorter message is an error, and none crashes.
				for n := range message {
					if call == GetAttributeValue && !response && n == len(message)-12 {
						continue // without the nested room it is what older clients send
					}
					if _, err := recode(message[:n], f, response); err == nil {
						t.Errorf("%v: %d of %d bytes are accepted", call, n, len(message))
					}
				}
				if _, err := recode(append(bytes.Clone(message), 0), f, response); err == nil {
					t.Errorf("%v: a byte too many is accepted", call)
				}
			}
		}
	}
}

// The bytes that p11-kit's client writes, worked out by hand from its source.
func TestWire(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Framing
		make func(*Encoder)
		want string
	}{
		{"mechanism without parameters, old", FramingOld, func(e *Encoder) { e.Mechanism(Mechanism{Type: MechECDSA}) }, "00001041 ffffffff"},
		{"mechanism without parameters, new", FramingNew, func(e *Encoder) { e.Mechanism(Mechanism{Type: MechECDSA}) }, "00001041"},
		{"PSS, old", FramingOld, func(e *Encoder) {
			e.Mechanism(Mechanism{Type: MechRSAPKCSPSS, PSS: &PSSParams{Hash: MechSHA256, MGF: MGF1SHA256, Salt: 32}})
		}, "0000000d 0000000000000250 0000000000000002 0000000000000020"},
		{"PSS, new", FramingNew, func(e *Encoder) {
			e.Mechanism(Mechanism{Type: MechRSAPKCSPSS, PSS: &PSSParams{Hash: MechSHA256, MGF: MGF1SHA256, Salt: 32}})
		}, "0000000d 01 0000000000000250 0000000000000002 0000000000000020"},
		{"PSS without parameters, new", FramingNew, func(e *Encoder) { e.Mechanism(Mechanism{Type: MechRSAPKCSPSS}) }, "0000000d 00"},
		{"no mechanism, new", FramingNew, func(e *Encoder) { e.Mechanism(Mechanism{Type: MechNone}) }, "ffffffff"},
		{"OAEP, old", FramingOld, func(e *Encoder) {
			e.Mechanism(Mechanism{Type: MechRSAPKCSOAEP, OAEP: &OAEPParams{Hash: MechSHA1, MGF: MGF1SHA1, Source: 1}})
		}, "00000009 0000000000000220 0000000000000001 0000000000000001 ffffffff"},
		{"ECDH, new", FramingNew, func(e *Encoder) {
			e.Mechanism(Mechanism{Type: MechECDH1Derive, ECDH: &ECDHParams{KDF: 1, Public: []byte{4, 5}}})
		}, "00001050 01 0000000000000001 ffffffff 00000002 0405"},
		{"EDDSA, old", FramingOld, func(e *Encoder) { e.Mechanism(Mechanism{Type: MechEDDSA}) }, "00001057 ffffffff"},
		{"EDDSA, new", FramingNew, func(e *Encoder) { e.Mechanism(Mechanism{Type: MechEDDSA}) }, "00001057 00"},
		{"bool", FramingOld, func(e *Encoder) { e.Attributes([]Attribute{NewAttribute(AttrSign, BoolValue(true))}) }, "00000001 00000108 01 00000001 01"},
		{"number", FramingOld, func(e *Encoder) { e.Attributes([]Attribute{NewAttribute(AttrKeyType, UlongValue(3))}) }, "00000001 00000100 01 00000008 0000000000000003"},
		{"bytes", FramingOld, func(e *Encoder) { e.Attributes([]Attribute{NewAttribute(AttrLabel, []byte("ab"))}) }, "00000001 00000003 01 00000002 00000002 6162"},
		{"only the length of bytes", FramingOld, func(e *Encoder) { e.Attributes([]Attribute{LengthOf(AttrLabel, 2)}) }, "00000001 00000003 01 00000002 ffffffff"},
		{"only the length of a number", FramingOld, func(e *Encoder) { e.Attributes([]Attribute{LengthOf(AttrKeyType, 8)}) }, "00000001 00000100 01 00000008 0000000000000000"},
		{"not available", FramingOld, func(e *Encoder) { e.Attributes([]Attribute{{Type: AttrValue}}) }, "00000001 00000011 00"},
		{"mechanisms", FramingOld, func(e *Encoder) {
			e.Attributes([]Attribute{NewAttribute(AttrAllowedMechanisms, UlongValue(uint64(MechECDSA)))})
		}, "00000001 40000600 01 00000008 00000001 0000000000001041"},
		{"length of bytes", FramingOld, func(e *Encoder) { e.Length(71) }, "00 00000047"},
		{"bytes", FramingOld, func(e *Encoder) { e.Data([]byte{9}) }, "01 00000001 09"},
		{"numbers", FramingOld, func(e *Encoder) { e.Numbers([]uint64{7}) }, "01 00000001 0000000000000007"},
		{"padded", FramingOld, func(e *Encoder) { e.Padded("ab", 4) }, "00000004 61622020"},
		{"cut", FramingOld, func(e *Encoder) { e.Padded("abcdef", 4) }, "00000004 61626364"},
	} {
		e := &Encoder{framing: c.f}
		c.make(e)
		if want := strings.ReplaceAll(c.want, " ", ""); hex.EncodeToString(e.Message()) != want {
			t.Errorf("%s: %x, want %s", c.name, e.Message(), want)
		}
	}
	if got, want := hex.EncodeToString(ErrorResponse(PINLocked)), "000000000000000175"+"00000000000000a4"; got != want {
		t.Errorf("error response %s, want %s", got, want)
	}
	if got := hex.EncodeToString(ErrorResponse(OK)); !strings.HasSuffix(got, "05") {
		t.Errorf("a success is sent as an error: %s", got)
	}
}

// Rooms for templates are followed by rooms of their own only from newer
// clients.
func TestRoomsOfBothAges(t *testing.T) {
	old, newer := &Encoder{}, &Encoder{}
	old.Rooms([]Room{{Type: AttrWrapTemplate, Length: 48}, {Type: AttrID, Length: 1}})
	newer.Rooms([]Room{{Type: AttrWrapTemplate, Length: 48, Nested: []Room{{Type: AttrSign, Length: 1}}}, {Type: AttrID, Length: 1}})
	for name, c := range map[string]struct {
		e      *Encoder
		nested int
	}{"old": {old, 0}, "newer": {newer, 1}} {
		d := NewDecoder(c.e.Message(), FramingOld)
		rooms := d.Rooms()
		if err := d.End(); err != nil || len(rooms) != 2 || len(rooms[0].Nested) != c.nested || rooms[1].Type != AttrID {
			t.Errorf("%s: %+v, %v", name, rooms, err)
		}
	}
}

func TestHostileMessages(t *testing.T) {
	request := func(c Call, rest ...byte) []byte {
		return append(NewRequest(c, FramingOld).Message(), rest...)
	}
	session := make([]byte, 8)
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	many := []byte{0xff, 0xff, 0xff, 0xfe}
	big := NewRequest(FindObjectsInit, FramingOld)
	big.Ulong(1)
	big.Attributes(make([]Attribute, maxAttributes+1))
	for name, message := range map[string][]byte{
		"empty":                   {},
		"a call alone":            {0, 0, 0, 1},
		"templates 50,000 deep":   nested(50_000),
		"templates 9 deep":        nested(maxDepth + 1),
		"too many attributes":     big.Message(),
		"4 G attributes":          request(FindObjectsInit, cat(session, many)...),
		"4 G rooms":               request(GetAttributeValue, cat(session, session, many)...),
		"2 G bytes":               request(SignUpdate, cat(session, []byte{1, 0x7f, 0xff, 0xff, 0xff})...),
		"a flag that is neither":  request(SignUpdate, cat(session, []byte{2, 0, 0, 0, 0})...),
		"signature of 4 G bytes":  {0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe},
		"signature that is NULL":  {0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff},
		"signature of another":    {0, 0, 0, 2, 0, 0, 0, 1, 'u'},
		"4 G mechanisms":          request(FindObjectsInit, cat(session, []byte{0, 0, 0, 1, 0x40, 0, 6, 0, 1, 0, 0, 0, 8}, many)...),
		"a bool of nine bytes":    request(FindObjectsInit, cat(session, []byte{0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 9, 1})...),
		"a date of three bytes":   request(FindObjectsInit, cat(session, []byte{0, 0, 0, 1, 0, 0, 1, 0x10, 1, 0, 0, 0, 8, 0, 0, 0, 3, 1, 2, 3})...),
		"bytes of another length": request(FindObjectsInit, cat(session, []byte{0, 0, 0, 1, 0, 0, 0, 3, 1, 0, 0, 0, 9, 0, 0, 0, 1, 1})...),
	} {
		var err error
		// The least of three: the runtime allocates for itself now and then.
		spent := uint64(math.MaxUint64)
		for range 3 {
			spent = min(spent, allocated(func() { _, err = recode(message, FramingOld, false) }))
		}
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if limit := uint64(4<<10 + 40*len(message)); spent > limit {
			t.Errorf("%s: %d bytes allocated for a message of %d", name, spent, len(message))
		}
	}
	if _, err := recode(nested(maxDepth), FramingOld, false); err != nil {
		t.Errorf("templates %d deep: %v", maxDepth, err)
	}
	if _, err := recode([]byte{0, 0, 0x10, 0, 0, 0, 0, 0}, FramingOld, false); !errors.Is(err, ErrCall) {
		t.Errorf("unknown call: %v", err)
	}
	for _, f := range []Framing{FramingOld, FramingNew} {
		d := NewDecoder([]byte{0, 0, 0x12, 0x34, 0, 0}, f)
		if m := d.Mechanism(); m.Type != 0x1234 || !errors.Is(d.End(), ErrMechanism) {
			t.Errorf("unknown mechanism: %+v, %v", m, d.End())
		}
	}
}

func TestNegotiate(t *testing.T) {
	for offer, want := range map[byte]byte{0: 0, 1: 1, 2: 2, 3: 2, 255: 2} {
		if got := Negotiate(offer); got != want {
			t.Errorf("offered %d: answer %d, want %d", offer, got, want)
		}
	}
	if FramingOf(1) != FramingOld || FramingOf(2) != FramingNew || FramingOf(200) != FramingNew {
		t.Error("framing does not follow the offer")
	}
}

func TestNames(t *testing.T) {
	if Sign.String() != "C_Sign" || Call(4000).String() != "call 4000" {
		t.Errorf("%v, %v", Sign, Call(4000))
	}
	if WaitForSlotEvent != 65 {
		t.Errorf("C_WaitForSlotEvent is %d, and 65 in the protocol", WaitForSlotEvent)
	}
	if PINLocked.Error() != "the PIN is locked" || RV(0x80000001).Error() != "return value 0x80000001" {
		t.Errorf("%v, %v", PINLocked, RV(0x80000001))
	}
}
