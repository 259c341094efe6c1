package wire

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	godbus "github.com/godbus/dbus/v5"
)

// Append appends the body of a message with these values to dst, which is
// empty or ends on a multiple of 8, in little-endian order. Where dst has no
// room for them it is overwritten with zeros, and what is returned is the only
// copy: the values may be secrets. Dictionaries are
// in the order of their keys, so that the same values are the same bytes.
// Texts lose what D-Bus cannot carry: zero bytes and invalid UTF-8.
//
// Errors are the program's own mistakes: a type that D-Bus does not have, or
// an object path that is none.
func Append(dst []byte, values ...any) ([]byte, error) {
	e := encoder{out: dst}
	for _, v := range values {
		if err := e.value(reflect.ValueOf(v)); err != nil {
			return nil, err
		}
	}
	return e.out, nil
}

// Signature returns the signature of a body with these values.
func Signature(values ...any) string {
	var b strings.Builder
	for _, v := range values {
		b.WriteString(signatureOf(reflect.TypeOf(v)))
	}
	return b.String()
}

type encoder struct{ out []byte }

// room makes room for n bytes more. Growing by append would leave copies of what
// was written before, which may be a secret, to the garbage collector.
func (e *encoder) room(n int) {
	if cap(e.out)-len(e.out) >= n {
		return
	}
	grown := make([]byte, len(e.out), max(2*cap(e.out), len(e.out)+n, 64))
	copy(grown, e.out)
	clear(e.out)
	e.out = grown
}

func (e *encoder) align(n int) {
	e.room(n)
	for len(e.out)&(n-1) != 0 {
		e.out = append(e.out, 0)
	}
}

// number writes an integer of n bytes: 1, 2, 4 or 8.
func (e *encoder) number(x uint64, n int) {
	e.align(n)
	e.room(n)
	switch n {
	case 1:
		e.out = append(e.out, byte(x))
	case 2:
		e.out = binary.LittleEndian.AppendUint16(e.out, uint16(x))
	case 4:
		e.out = binary.LittleEndian.AppendUint32(e.out, uint32(x))
	default:
		e.out = binary.LittleEndian.AppendUint64(e.out, x)
	}
}

func (e *encoder) uint32(n uint32) { e.number(uint64(n), 4) }

func (e *encoder) string(s string) {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	e.uint32(uint32(len(s)))
	e.room(len(s) + 1)
	e.out = append(append(e.out, s...), 0)
}

func (e *encoder) signature(s string) {
	e.room(len(s) + 2)
	e.out = append(e.out, byte(len(s)))
	e.out = append(append(e.out, s...), 0)
}

// array writes the length of what elements writes.
func (e *encoder) array(align int, elements func() error) error {
	e.uint32(0)
	at := len(e.out) - 4
	e.align(align)
	start := len(e.out)
	err := elements()
	binary.LittleEndian.PutUint32(e.out[at:], uint32(len(e.out)-start))
	return err
}

func (e *encoder) value(v reflect.Value) error {
	if !v.IsValid() {
		return fmt.Errorf("%w: no value", errors.ErrUnsupported)
	}
	switch x := v.Interface().(type) {
	case godbus.ObjectPath:
		if !x.IsValid() {
			return fmt.Errorf("%w: object path %q", errors.ErrUnsupported, x)
		}
		e.string(string(x))
		return nil
	case godbus.Signature:
		e.signature(x.String())
		return nil
	case godbus.Variant:
		e.signature(x.Signature().String())
		return e.value(reflect.ValueOf(x.Value()))
	case Opaque:
		return fmt.Errorf("%w: an Opaque, whose bytes are gone", errors.ErrUnsupported)
	case []godbus.ObjectPath: // there may be thousands, which reflection is slow with
		return e.array(4, func() error {
			for _, p := range x {
				if !p.IsValid() {
					return fmt.Errorf("%w: object path %q", errors.ErrUnsupported, p)
				}
				e.string(string(p))
			}
			return nil
		})
	case []byte:
		e.uint32(uint32(len(x)))
		e.room(len(x))
		e.out = append(e.out, x...)
		return nil
	}
	switch v.Kind() {
	case reflect.Bool:
		n := uint32(0)
		if v.Bool() {
			n = 1
		}
		e.uint32(n)
	case reflect.String:
		e.string(v.String())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		e.number(v.Uint(), int(v.Type().Size()))
	case reflect.Int16, reflect.Int32, reflect.Int64:
		e.number(uint64(v.Int()), int(v.Type().Size()))
	case reflect.Float64:
		e.number(math.Float64bits(v.Float()), 8)
	case reflect.Struct:
		e.align(8)
		for i := range v.NumField() {
			if err := e.value(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		return e.array(alignment(signatureOf(v.Type().Elem())), func() error {
			for i := range v.Len() {
				if err := e.value(v.Index(i)); err != nil {
					return err
				}
			}
			return nil
		})
	case reflect.Map:
		return e.array(8, func() error { return e.dict(v) })
	default:
		return fmt.Errorf("%w: no D-Bus type fits %s", errors.ErrUnsupported, v.Type())
	}
	return nil
}

func (e *encoder) dict(v reflect.Value) error {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		switch a.Kind() {
		case reflect.String:
			return cmp.Compare(a.String(), b.String())
		case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			return cmp.Compare(a.Uint(), b.Uint())
		default:
			return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
		}
	})
	for _, k := range keys {
		e.align(8)
		if err := e.value(k); err != nil {
			return err
		}
		if err := e.value(v.MapIndex(k)); err != nil {
			return err
		}
	}
	return nil
}
