package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"unicode/utf8"

	godbus "github.com/godbus/dbus/v5"
)

// maxDepth is how deep containers may lie in each other; the specification
// allows 32 arrays in 32 structs.
const maxDepth = 64

// ErrMalformed is wrapped by the errors of values and headers that break the
// D-Bus Specification.
var ErrMalformed = errors.New("malformed D-Bus message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Unmarshal decodes a message's body into the variables that into points to,
// which must be of the types of its signature: the caller has compared them.
// Strings and byte slices are copies. A variant of a type that is not among the
// known ones holds an [Opaque]. Memory is bounded by len(body).
//
// Errors wrap ErrMalformed; what into holds then is not defined.
func Unmarshal(order binary.ByteOrder, body []byte, into ...any) error {
	d := decoder{order: order, data: body}
	for _, p := range into {
		if err := d.value(reflect.ValueOf(p).Elem(), 0); err != nil {
			return err
		}
	}
	if d.pos != len(body) {
		return malformed("%d bytes after the last value", len(body)-d.pos)
	}
	return nil
}

type decoder struct {
	order binary.ByteOrder
	data  []byte
	pos   int
}

// take returns the next n bytes.
func (d *decoder) take(n int) ([]byte, error) {
	if n < 0 || n > len(d.data)-d.pos {
		return nil, malformed("a value of %d bytes where %d are left", n, len(d.data)-d.pos)
	}
	b := d.data[d.pos : d.pos+n]
	d.pos += n
	return b, nil
}

// align skips padding, which is zero.
func (d *decoder) align(n int) error {
	b, err := d.take(-d.pos & (n - 1))
	for _, c := range b {
		if c != 0 {
			return malformed("padding that is not zero")
		}
	}
	return err
}

// number reads an integer of n bytes.
func (d *decoder) number(n int) (uint64, error) {
	if err := d.align(n); err != nil {
		return 0, err
	}
	b, err := d.take(n)
	if err != nil {
		return 0, err
	}
	switch n {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(d.order.Uint16(b)), nil
	case 4:
		return uint64(d.order.Uint32(b)), nil
	default:
		return d.order.Uint64(b), nil
	}
}

func (d *decoder) bool() (bool, error) {
	n, err := d.number(4)
	if err == nil && n > 1 {
		err = malformed("boolean %d", n)
	}
	return n == 1, err
}

// terminated reads n bytes and a zero after them.
func (d *decoder) terminated(n uint64) (string, error) {
	if n >= uint64(len(d.data)) {
		return "", malformed("a text of %d bytes", n)
	}
	b, err := d.take(int(n) + 1)
	if err != nil {
		return "", err
	}
	s := string(b[:n])
	if b[n] != 0 || strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return "", malformed("a text that is not one")
	}
	return s, nil
}

func (d *decoder) string() (string, error) {
	n, err := d.number(4)
	if err != nil {
		return "", err
	}
	return d.terminated(n)
}

func (d *decoder) path() (godbus.ObjectPath, error) {
	s, err := d.string()
	if err == nil && !godbus.ObjectPath(s).IsValid() {
		err = malformed("object path %.64q", s)
	}
	return godbus.ObjectPath(s), err
}

func (d *decoder) signature() (godbus.Signature, error) {
	n, err := d.number(1)
	if err != nil {
		return godbus.Signature{}, err
	}
	s, err := d.terminated(n)
	if err != nil {
		return godbus.Signature{}, err
	}
	sig, err := godbus.ParseSignature(s)
	if err != nil {
		return sig, malformed("signature %.64q", s)
	}
	return sig, nil
}

// array reads an array's length, and returns where it ends.
func (d *decoder) array(align int) (end int, err error) {
	n, err := d.number(4)
	if err != nil {
		return 0, err
	}
	if err := d.align(align); err != nil {
		return 0, err
	}
	if n > uint64(len(d.data)-d.pos) {
		return 0, malformed("an array of %d bytes where %d are left", n, len(d.data)-d.pos)
	}
	return d.pos + int(n), nil
}

func (d *decoder) bytes() ([]byte, error) {
	end, err := d.array(1)
	if err != nil {
		return nil, err
	}
	b, err := d.take(end - d.pos)
	return append([]byte{}, b...), err
}

// properties is dict for the one type that most of a long message is made of.
func (d *decoder) properties(depth int) (map[string]godbus.Variant, error) {
	end, err := d.array(8)
	if err != nil {
		return nil, err
	}
	out := map[string]godbus.Variant{}
	for d.pos < end {
		if err := d.align(8); err != nil {
			return nil, err
		}
		key, err := d.string()
		if err != nil {
			return nil, err
		}
		if _, twice := out[key]; twice {
			return nil, malformed("a key twice")
		}
		if out[key], err = d.variant(depth + 2); err != nil {
			return nil, err
		}
	}
	return out, d.ends(end)
}

// value decodes into v what v's type says.
func (d *decoder) value(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return malformed("containers nested too deeply")
	}
	switch v.Type() {
	case reflect.TypeFor[godbus.ObjectPath]():
		p, err := d.path()
		v.SetString(string(p))
		return err
	case reflect.TypeFor[godbus.Signature]():
		s, err := d.signature()
		v.Set(reflect.ValueOf(s))
		return err
	case reflect.TypeFor[godbus.Variant]():
		x, err := d.variant(depth)
		v.Set(reflect.ValueOf(x))
		return err
	case reflect.TypeFor[[]byte]():
		b, err := d.bytes()
		v.SetBytes(b)
		return err
	case reflect.TypeFor[map[string]godbus.Variant]():
		m, err := d.properties(depth)
		v.Set(reflect.ValueOf(m))
		return err
	}
	switch v.Kind() {
	case reflect.Bool:
		b, err := d.bool()
		v.SetBool(b)
		return err
	case reflect.String:
		s, err := d.string()
		v.SetString(s)
		return err
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := d.number(int(v.Type().Size()))
		v.SetUint(n)
		return err
	case reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := d.number(int(v.Type().Size()))
		shift := 64 - 8*v.Type().Size()
		v.SetInt(int64(n<<shift) >> shift)
		return err
	case reflect.Float64:
		n, err := d.number(8)
		v.SetFloat(math.Float64frombits(n))
		return err
	case reflect.Struct:
		return d.fields(v, depth)
	case reflect.Slice:
		return d.slice(v, depth)
	case reflect.Map:
		return d.dict(v, depth)
	}
	return fmt.Errorf("%w: no D-Bus type fits %s", errors.ErrUnsupported, v.Type())
}

func (d *decoder) fields(v reflect.Value, depth int) error {
	if err := d.align(8); err != nil {
		return err
	}
	for i := range v.NumField() {
		if err := d.value(v.Field(i), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) slice(v reflect.Value, depth int) error {
	t := v.Type().Elem()
	end, err := d.array(alignment(signatureOf(t)))
	if err != nil {
		return err
	}
	out := reflect.MakeSlice(v.Type(), 0, 0)
	for d.pos < end {
		// Each element takes at least a byte, but may be larger in memory than
		// on the wire; growing as they come keeps the two in proportion.
		e := reflect.New(t).Elem()
		if err := d.value(e, depth+1); err != nil {
			return err
		}
		out = reflect.Append(out, e)
	}
	v.Set(out)
	return d.ends(end)
}

func (d *decoder) dict(v reflect.Value, depth int) error {
	end, err := d.array(8)
	if err != nil {
		return err
	}
	out := reflect.MakeMap(v.Type())
	for d.pos < end {
		if err := d.align(8); err != nil {
			return err
		}
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if err := d.value(key, depth+2); err != nil {
			return err
		}
		if err := d.value(value, depth+2); err != nil {
			return err
		}
		// Which of two values counts must not depend on who reads.
		if out.MapIndex(key).IsValid() {
			return malformed("a key twice")
		}
		out.SetMapIndex(key, value)
	}
	v.Set(out)
	return d.ends(end)
}

func (d *decoder) ends(end int) error {
	if d.pos != end {
		return malformed("an array whose length lies")
	}
	return nil
}
