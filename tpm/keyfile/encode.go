package keyfile

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// DER returns the file's ASN.1. Of a File that came from [Parse] and was not
// changed these are the bytes that Parse read; of one made in code, strict DER
// with every optional field left out that says nothing. It is an error if the
// fields do not make a valid file (one that Parse accepts).
func (f *File) DER() ([]byte, error) {
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("malformed TPM key: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		if f.Legacy {
			f.addLegacy(b)
		} else {
			f.add(b)
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("malformed TPM key: %w", err)
	}
	if len(der) > MaxSize {
		return nil, fmt.Errorf("TPM key file of %d bytes, more than %d", len(der), MaxSize)
	}
	return der, nil
}

// PEM returns [File.DER] in PEM, under the guard that goes with its layout,
// without headers and without any text that stood around it.
func (f *File) PEM() ([]byte, error) {
	der, err := f.DER()
	if err != nil {
		return nil, err
	}
	guard := guardKey
	if f.Legacy {
		guard = guardLegacy
	}
	out := pem.EncodeToMemory(&pem.Block{Type: guard, Bytes: der})
	if len(out) > MaxSize {
		return nil, fmt.Errorf("TPM key file of %d bytes, more than %d", len(out), MaxSize)
	}
	return out, nil
}

// add writes the fields of the draft, in its order.
func (f *File) add(b *cryptobyte.Builder) {
	switch f.Type {
	case Loadable:
		b.AddASN1ObjectIdentifier(oidLoadable)
	case Importable:
		b.AddASN1ObjectIdentifier(oidImportable)
	case Sealed:
		b.AddASN1ObjectIdentifier(oidSealed)
	}
	f.addEmptyAuth(b)
	f.addPolicy(b, 1)
	if len(f.Secret) > 0 {
		b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(f.Secret) })
	}
	if old, ok := f.old(fieldAuthPolicy); ok && slices.EqualFunc(f.AuthPolicy, f.read.was.AuthPolicy, equalAuthPolicy) {
		b.AddBytes(old)
	} else if len(f.AuthPolicy) > 0 {
		b.AddASN1(explicit(3), func(b *cryptobyte.Builder) {
			b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, entry := range f.AuthPolicy {
					addAuthPolicy(b, entry)
				}
			})
		})
	}
	if old, ok := f.old(fieldDescription); ok && f.Description == f.read.was.Description {
		b.AddBytes(old)
	} else if f.Description != "" {
		b.AddASN1(explicit(4), func(b *cryptobyte.Builder) { addText(b, f.Description) })
	}
	if old, ok := f.old(fieldRSAParent); ok && f.RSAParent == f.read.was.RSAParent {
		b.AddBytes(old)
	} else if f.RSAParent {
		b.AddASN1(explicit(5), func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) })
	}
	if f.read != nil && !f.read.legacy {
		b.AddBytes(f.read.unknown)
	}
	if old, ok := f.old(fieldParent); ok && f.Parent == f.read.was.Parent {
		b.AddBytes(old)
	} else {
		b.AddASN1Int64(int64(f.Parent))
	}
	b.AddASN1OctetString(f.Public)
	b.AddASN1OctetString(f.Private)
}

// addLegacy writes the fields of the old layout; see parseLegacy.
func (f *File) addLegacy(b *cryptobyte.Builder) {
	b.AddASN1ObjectIdentifier(oidLegacy)
	f.addEmptyAuth(b)
	switch old, ok := f.old(fieldParent); {
	case ok && f.Parent == f.read.was.Parent:
		b.AddBytes(old)
	case !ok && f.read != nil && f.read.legacy && f.Parent == f.read.was.Parent:
		// it was left out
	default:
		b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(f.Parent)) })
	}
	b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(f.Public) })
	f.addPolicy(b, 3)
	b.AddASN1OctetString(f.Private)
}

// addEmptyAuth leaves out a false that was not read, as the draft asks.
func (f *File) addEmptyAuth(b *cryptobyte.Builder) {
	if old, ok := f.old(fieldEmptyAuth); ok && equalBool(f.EmptyAuth, f.read.was.EmptyAuth) {
		b.AddBytes(old)
	} else if f.EmptyAuth != nil && *f.EmptyAuth {
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) })
	}
}

func (f *File) addPolicy(b *cryptobyte.Builder, n uint8) {
	if old, ok := f.old(fieldPolicy); ok && slices.EqualFunc(f.Policy, f.read.was.Policy, equalStep) {
		b.AddBytes(old)
	} else if len(f.Policy) > 0 {
		addSteps(b, n, f.Policy)
	}
}

// old returns the bytes that a field had in the file that was read, if it was
// there and the layout is still the same.
func (f *File) old(field string) ([]byte, bool) {
	if f.read == nil || f.read.legacy != f.Legacy {
		return nil, false
	}
	raw, ok := f.read.raw[field]
	return raw, ok
}

// addSteps writes field [n] EXPLICIT SEQUENCE OF TPMPolicy.
func addSteps(b *cryptobyte.Builder, n uint8, steps []PolicyStep) {
	b.AddASN1(explicit(n), func(b *cryptobyte.Builder) {
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, step := range steps {
				b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(step.Code)) })
					b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { b.AddASN1OctetString(step.Body) })
				})
			}
		})
	})
}

func addAuthPolicy(b *cryptobyte.Builder, entry AuthPolicy) {
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		if entry.Name != "" {
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { addText(b, entry.Name) })
		}
		addSteps(b, 1, entry.Policy)
	})
}

func addText(b *cryptobyte.Builder, s string) {
	b.AddASN1(tag.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

func equalBool(a, b *bool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func equalStep(a, b PolicyStep) bool { return a.Code == b.Code && bytes.Equal(a.Body, b.Body) }

func equalAuthPolicy(a, b AuthPolicy) bool {
	return a.Name == b.Name && slices.EqualFunc(a.Policy, b.Policy, equalStep)
}
