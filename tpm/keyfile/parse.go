package keyfile

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// The words in the PEM guards.
const (
	guardKey    = "TSS2 PRIVATE KEY"
	guardLegacy = "TSS2 KEY BLOB"
	guardTPM12  = "TSS KEY BLOB"
)

var (
	oidLoadable   = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	oidImportable = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 4}
	oidSealed     = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5}
	oidLegacy     = asn1.ObjectIdentifier{2, 23, 133, 10, 2}
)

// Parse reads one key file: DER, or PEM anywhere in a text (of several blocks
// the first that is a TPM key counts, as with OpenSSL). It does not keep data.
//
// The error is [ErrNotKeyFile] for data of another kind, an
// [*UnsupportedError] for a TPM key that cannot be used, and otherwise says
// what is malformed. What Parse accepts obeys every rule of the draft, except
// where widely used writers do not; those places carry a comment.
func Parse(data []byte) (*File, error) {
	guard, der, err := find(data)
	if errors.Is(err, ErrNotKeyFile) {
		return nil, err
	}
	if err == nil && guard == guardTPM12 {
		return nil, &UnsupportedError{What: "TPM 1.2 key", PublicKey: tpm12PublicKey(der)}
	}
	var f *File
	if err == nil {
		f, err = parseDER(guard, der)
	}
	if err == nil {
		f.decodeArea()
		err = f.validate()
	}
	var unsupported *UnsupportedError
	switch {
	case errors.As(err, &unsupported):
		return nil, unsupported
	case err != nil:
		return nil, fmt.Errorf("malformed TPM key file: %w", err)
	}
	return f, nil
}

// find returns the DER in data, as a copy, and the guard it was found under
// (none if data is DER itself).
func find(data []byte) (guard string, der []byte, err error) {
	if len(data) > MaxSize {
		// Said only of what looks like ours, so that a large known_hosts is
		// not called a malformed key.
		if claims(data) {
			return "", nil, fmt.Errorf("larger than %d bytes", MaxSize)
		}
		return "", nil, ErrNotKeyFile
	}
	if claimsDER(data) {
		return "", bytes.Clone(data), nil
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case guardKey, guardLegacy, guardTPM12:
			if len(block.Headers) != 0 {
				return "", nil, errors.New("PEM headers, which no TPM key file has")
			}
			return block.Type, block.Bytes, nil
		}
	}
	if claims(data) {
		return "", nil, errors.New("PEM block is cut short or garbled")
	}
	return "", nil, ErrNotKeyFile
}

// claims reports whether data begins like DER of ours or has one of our guards
// at the beginning of a line.
func claims(data []byte) bool {
	if claimsDER(data) {
		return true
	}
	for _, guard := range []string{guardKey, guardLegacy, guardTPM12} {
		line := []byte("-----BEGIN " + guard + "-----")
		if bytes.HasPrefix(data, line) || bytes.Contains(data, append([]byte("\n"), line...)) {
			return true
		}
	}
	return false
}

// claimsDER reports whether data begins with a SEQUENCE, however long it says
// it is, that begins with an OBJECT IDENTIFIER under 2.23.133.10 (id-tpmkey).
func claimsDER(data []byte) bool {
	if len(data) < 2 || data[0] != 0x30 {
		return false
	}
	rest := data[2:]
	if data[1]&0x80 != 0 {
		n := int(data[1] & 0x7f) // length octets; 0 is the indefinite form
		if n > 4 || n > len(rest) {
			return false
		}
		rest = rest[n:]
	}
	return len(rest) > 6 && rest[0] == 0x06 && bytes.HasPrefix(rest[2:], []byte{0x67, 0x81, 0x05, 0x0a})
}

// parseDER reads the outer SEQUENCE and chooses the layout.
func parseDER(guard string, der []byte) (*File, error) {
	s := cryptobyte.String(der)
	var body cryptobyte.String
	if !s.ReadASN1(&body, tag.SEQUENCE) {
		return nil, errors.New("not a DER SEQUENCE of the right length")
	}
	if !s.Empty() {
		return nil, fmt.Errorf("%d bytes after the end", len(s))
	}
	var oid asn1.ObjectIdentifier
	if !body.ReadASN1ObjectIdentifier(&oid) {
		return nil, errors.New("type: not an OBJECT IDENTIFIER")
	}
	if oid.Equal(oidLegacy) {
		// Only the old guard, or none, announces the old layout; under the new
		// guard the two would have to be told apart by guessing.
		if guard == guardKey {
			return nil, errors.New("type: old type " + oid.String() + " in a " + guardKey)
		}
		return parseLegacy(body)
	}
	f := &File{}
	switch {
	case oid.Equal(oidLoadable):
		f.Type = Loadable
	case oid.Equal(oidImportable):
		f.Type = Importable
	case oid.Equal(oidSealed):
		f.Type = Sealed
	case len(oid) > 4 && slices.Equal(oid[:4], oidLegacy[:4]):
		return nil, &UnsupportedError{What: "TPM key type " + oid.String()}
	default:
		return nil, errors.New("type: " + oid.String() + " is no TPM key")
	}
	if guard == guardLegacy {
		return nil, errors.New("type: new type " + oid.String() + " in a " + guardLegacy)
	}
	return f, f.parse(body)
}
