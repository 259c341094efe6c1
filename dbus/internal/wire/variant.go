package wire

import (
	"reflect"

	godbus "github.com/godbus/dbus/v5"
)

// An Opaque is what a variant holds when it is of a type that nothing here has
// a use for. Its bytes were checked and are gone.
type Opaque struct{}

// A shape is a type that a variant is decoded to.
type shape struct {
	goType    reflect.Type
	signature godbus.Signature
}

func shapeOf[T any]() shape {
	return shape{reflect.TypeFor[T](), godbus.SignatureOfType(reflect.TypeFor[T]())}
}

// known are the types that a variant is decoded to, by their signatures.
var known = map[string]shape{
	"y":     shapeOf[byte](),
	"b":     shapeOf[bool](),
	"n":     shapeOf[int16](),
	"q":     shapeOf[uint16](),
	"i":     shapeOf[int32](),
	"u":     shapeOf[uint32](),
	"x":     shapeOf[int64](),
	"t":     shapeOf[uint64](),
	"d":     shapeOf[float64](),
	"s":     shapeOf[string](),
	"o":     shapeOf[godbus.ObjectPath](),
	"g":     shapeOf[godbus.Signature](),
	"v":     shapeOf[godbus.Variant](),
	"ay":    shapeOf[[]byte](),
	"aay":   shapeOf[[][]byte](),
	"as":    shapeOf[[]string](),
	"ao":    shapeOf[[]godbus.ObjectPath](),
	"a{ss}": shapeOf[map[string]string](),
	"a{sv}": shapeOf[map[string]godbus.Variant](),
}

func (d *decoder) variant(depth int) (godbus.Variant, error) {
	if depth > maxDepth {
		return godbus.Variant{}, malformed("containers nested too deeply")
	}
	if k, ok := d.knownSignature(); ok {
		return d.shaped(k, depth)
	}
	sig, err := d.signature()
	if err != nil {
		return godbus.Variant{}, err
	}
	s := sig.String()
	if rest, err := skipType(s); s == "" || err != nil || rest != "" {
		return godbus.Variant{}, malformed("variant of signature %.64q", s)
	}
	return godbus.MakeVariantWithSignature(Opaque{}, sig), d.skip(s, depth+1)
}

// knownSignature reads a signature if it is a known one, and nothing otherwise.
func (d *decoder) knownSignature() (shape, bool) {
	rest := d.data[d.pos:]
	if len(rest) == 0 || len(rest) < int(rest[0])+2 || rest[rest[0]+1] != 0 {
		return shape{}, false
	}
	k, ok := known[string(rest[1:1+rest[0]])]
	if ok {
		d.pos += int(rest[0]) + 2
	}
	return k, ok
}

// shaped decodes a variant's value. The types that a thousand keys are made of
// go without reflection.
func (d *decoder) shaped(k shape, depth int) (godbus.Variant, error) {
	var value any
	var err error
	switch k.signature.String() {
	case "s":
		value, err = d.string()
	case "b":
		value, err = d.bool()
	case "ay":
		value, err = d.bytes()
	default:
		v := reflect.New(k.goType).Elem()
		err = d.value(v, depth+1)
		value = v.Interface()
	}
	return godbus.MakeVariantWithSignature(value, k.signature), err
}

// skip checks and passes over one value of a complete type.
func (d *decoder) skip(sig string, depth int) error {
	if depth > maxDepth {
		return malformed("containers nested too deeply")
	}
	var err error
	switch sig[0] {
	case 'b':
		_, err = d.bool()
	case 's':
		_, err = d.string()
	case 'o':
		_, err = d.path()
	case 'g':
		_, err = d.signature()
	case 'v':
		_, err = d.variant(depth)
	case 'a':
		element := sig[1:]
		end, err := d.array(alignment(element))
		if err != nil {
			return err
		}
		for d.pos < end {
			if err := d.skip(element, depth+1); err != nil {
				return err
			}
		}
		return d.ends(end)
	case '(', '{':
		if err := d.align(8); err != nil {
			return err
		}
		for members := sig[1 : len(sig)-1]; members != ""; {
			rest, err := skipType(members)
			if err != nil {
				return err
			}
			if err := d.skip(members[:len(members)-len(rest)], depth+1); err != nil {
				return err
			}
			members = rest
		}
	default:
		_, err = d.number(alignment(sig)) // a number is as long as its alignment
	}
	return err
}
