package keyfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/google/go-tpm/tpm2"
)

// Kinds of handle: the most significant octet (TPM 2.0 part 2, 7.2).
const (
	msoPermanent  = 0x40
	msoTransient  = 0x80
	msoPersistent = 0x81

	rhOwner = 0x40000001
)

// validate says what is wrong with f as a file, by the draft's rules on what
// may stand beside what. Parse and DER share it, so that nothing is written
// that would not be read.
func (f *File) validate() error {
	if f.Type != Loadable && f.Type != Importable && f.Type != Sealed {
		return fmt.Errorf("type: unknown (%d)", int(f.Type))
	}
	if f.Legacy && (f.Type != Loadable || len(f.Secret) > 0 || len(f.AuthPolicy) > 0 || f.Description != "" || f.RSAParent) {
		return errors.New("type: the old layout cannot hold this key")
	}
	if err := f.validateParent(); err != nil {
		return err
	}
	pub, err := f.area()
	if err != nil {
		return fmt.Errorf("pubkey: %w", err)
	}
	if f.Type == Sealed && pub.Type != tpm2.TPMAlgKeyedHash {
		return errors.New("pubkey: not that of sealed data")
	}
	if err := sized(f.Private); err != nil {
		return fmt.Errorf("privkey: %w", err)
	}
	if err := f.validateSecret(); err != nil {
		return err
	}
	if !utf8.ValidString(f.Description) {
		return errors.New("description: not UTF-8")
	}
	return f.validatePolicy(pub)
}

func (f *File) validateParent() error {
	switch f.Parent >> 24 {
	case msoPersistent:
		if f.RSAParent {
			return errors.New("rsaParent: set, but the parent is a persistent key")
		}
	case msoPermanent:
	case msoTransient:
		// The draft's SHOULD NOT is our no: such a handle means whatever key
		// happens to be loaded there.
		return fmt.Errorf("parent: 0x%08x is a transient handle", f.Parent)
	default:
		return fmt.Errorf("parent: 0x%08x is neither a persistent nor a permanent handle", f.Parent)
	}
	return nil
}

func (f *File) validateSecret() error {
	switch {
	case f.Secret == nil && f.Type == Importable:
		return errors.New("secret: missing, an importable key needs it")
	case f.Secret == nil:
		return nil
	case f.Type == Loadable:
		return errors.New("secret: a loadable key has none")
	}
	if err := sized(f.Secret); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	return nil
}

func (f *File) validatePolicy(pub *tpm2.TPMTPublic) error {
	digest := len(pub.AuthPolicy.Buffer) > 0
	switch {
	case len(f.Policy) > 0 && !digest:
		return errors.New("policy: there, but the key has no authPolicy digest that it could satisfy")
	case len(f.Policy) == 0 && digest && !pub.ObjectAttributes.UserWithAuth:
		// The draft wants a policy beside every digest. With userWithAuth the
		// key can be used without, and such files are real: a key that may be
		// duplicated must have a digest, for TPM2_Duplicate alone, and keeps
		// it when tpm2-tools or anything else made it importable.
		return errors.New("policy: missing, and the key can be used through its policy only")
	}
	for i, entry := range f.AuthPolicy {
		if !utf8.ValidString(entry.Name) {
			return fmt.Errorf("authPolicy: entry %d: name: not UTF-8", i+1)
		}
		if len(entry.Policy) == 0 || entry.Policy[len(entry.Policy)-1].Code != uint32(tpm2.TPMCCPolicyAuthorize) {
			return fmt.Errorf("authPolicy: entry %d: does not end with PolicyAuthorize", i+1)
		}
	}
	if len(f.AuthPolicy) > 0 && (len(f.Policy) == 0 || f.Policy[0].Code != uint32(tpm2.TPMCCPolicyAuthorize)) {
		return errors.New("authPolicy: there, but policy does not begin with PolicyAuthorize")
	}
	return nil
}

// sized checks that b is a TPM2B: a size of 16 bits and that many bytes, at
// least one.
func sized(b []byte) error {
	if len(b) < 2 {
		return errors.New("no size prefix")
	}
	if n := int(binary.BigEndian.Uint16(b)); n != len(b)-2 {
		return fmt.Errorf("size prefix says %d bytes, there are %d", n, len(b)-2)
	}
	if len(b) == 2 {
		return errors.New("empty")
	}
	return nil
}
