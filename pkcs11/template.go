package pkcs11

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// A template is what a program wants of an object that it makes, by type.
// Values travel as p11rpc.Attribute says.
type template map[p11rpc.AttributeType][]byte

// newTemplate reads a template. It copies what it keeps.
func newTemplate(list []p11rpc.Attribute) (template, error) {
	t := template{}
	for _, a := range list {
		before, twice := t[a.Type]
		switch {
		case !a.Valid || a.Length > 0 && a.Value == nil:
			return nil, fmt.Errorf("attribute %#x: %w", uint32(a.Type), p11rpc.AttributeValueInvalid)
		case a.Type.Form() == p11rpc.FormTemplate:
			return nil, fmt.Errorf("attribute %#x: %w", uint32(a.Type), p11rpc.AttributeTypeInvalid)
		case twice && !bytes.Equal(before, a.Value):
			return nil, fmt.Errorf("attribute %#x twice: %w", uint32(a.Type), p11rpc.TemplateInconsistent)
		}
		t[a.Type] = append([]byte{}, a.Value...)
	}
	return t, nil
}

// flag returns a bool, or otherwise where the template has none.
func (t template) flag(a p11rpc.AttributeType, otherwise bool) bool {
	if v, ok := t[a]; ok && len(v) == 1 {
		return v[0] != 0
	}
	return otherwise
}

// number returns a number, or otherwise where the template has none.
func (t template) number(a p11rpc.AttributeType, otherwise uint64) uint64 {
	if v, ok := t[a]; ok && len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return otherwise
}

// want refuses a template in which one of these is other than wanted. An
// attribute that is not there is as it has to be.
func (t template) want(wanted map[p11rpc.AttributeType]bool) error {
	for a, value := range wanted {
		if t.flag(a, value) != value {
			return fmt.Errorf("attribute %#x cannot be %v: %w", uint32(a), !value, p11rpc.TemplateInconsistent)
		}
	}
	return nil
}
