package sshkeys

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/keyringd/keyringd/internal/caller"
)

// ErrNoKey says that the data are no private key of a kind that this package reads.
var ErrNoKey = errNoKey

// ErrPassphrase says that the passphrase is wrong.
var ErrPassphrase = errPassphrase

// A Software is what a file with a private key tells of it without a
// passphrase.
type Software struct {
	Public    crypto.PublicKey // nil where only the encrypted part has it
	Comment   string           // not sanitised; may be empty
	Encrypted bool             // Open wants a passphrase
}

// Sketch looks at the contents of a private key file, for somebody who wants to
// put the key elsewhere: all that a [Set] serves, and PKCS #12 and bare DER,
// which are not for serving. ErrNoKey means that there is none; other errors
// say to a person what is wrong with it.
func Sketch(data []byte) (Software, error) {
	if s, err := inspect(data); !errors.Is(err, errNoKey) {
		return Software{s.public, s.comment, s.encrypted}, err
	}
	switch form, ok := bare(data); {
	case !ok:
		return Software{}, errNoKey
	case form == formPFX:
		return Software{Encrypted: true}, nil
	case form == formPBES2:
		_, err := parsePBES2(data)
		return Software{Encrypted: true}, err
	default:
		pub, err := publicOf(form, data)
		if err == nil {
			err = suitable(pub)
		}
		return Software{Public: pub}, err
	}
}

// Open returns the private key in a file's contents: *ecdsa.PrivateKey,
// *rsa.PrivateKey or ed25519.PrivateKey. A wrong passphrase is ErrPassphrase;
// where none is needed it is not looked at, but for PKCS #12, whose password may
// be empty. Both slices are borrowed.
func Open(data, passphrase []byte) (crypto.Signer, error) {
	k, err := openAny(data, passphrase)
	if err != nil {
		return nil, err
	}
	return k, suitable(k.Public())
}

func openAny(data, passphrase []byte) (crypto.Signer, error) {
	if k, err := open(data, passphrase); !errors.Is(err, errNoKey) {
		return k, err
	}
	switch form, ok := bare(data); {
	case !ok:
		return nil, errNoKey
	case form == formPFX:
		return openPFX(data, passphrase)
	case form == formPBES2:
		// Its PEM form is what open reads.
		text := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: data})
		defer clear(text)
		return open(text, passphrase)
	default:
		return privateOf(form, data)
	}
}

// formPFX is PKCS #12, which only Sketch and Open read.
const formPFX form = -1

// bare says what DER it is, by how it begins.
func bare(data []byte) (form, bool) {
	in := cryptobyte.String(data)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cryptobyte_asn1.SEQUENCE) || !in.Empty() {
		return 0, false
	}
	var version int
	if !seq.PeekASN1Tag(cryptobyte_asn1.INTEGER) {
		// EncryptedPrivateKeyInfo: an algorithm and an octet string.
		var alg cryptobyte.String
		ok := seq.ReadASN1(&alg, cryptobyte_asn1.SEQUENCE) && seq.PeekASN1Tag(cryptobyte_asn1.OCTET_STRING)
		return formPBES2, ok
	}
	if !seq.ReadASN1Integer(&version) {
		return 0, false
	}
	switch {
	case version == 3 && seq.PeekASN1Tag(cryptobyte_asn1.SEQUENCE):
		return formPFX, true // RFC 7292 §4
	case version == 1 && seq.PeekASN1Tag(cryptobyte_asn1.OCTET_STRING):
		return formSEC1, true
	case version <= 1 && seq.PeekASN1Tag(cryptobyte_asn1.SEQUENCE):
		return formPKCS8, true
	case version == 0 && seq.PeekASN1Tag(cryptobyte_asn1.INTEGER):
		return formPKCS1, true
	}
	return 0, false
}

// openPFX reads the key of a PKCS #12 file, which has one.
func openPFX(data, passphrase []byte) (crypto.Signer, error) {
	if err := boundedWork(data); err != nil {
		return nil, err
	}
	// The package wants a string; it is not kept.
	k, _, _, err := pkcs12.DecodeChain(data, string(passphrase))
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return nil, errPassphrase
	case err != nil:
		return nil, fmt.Errorf("PKCS #12: %s", caller.Sanitize(err.Error(), 120))
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("PKCS #12: a key that cannot sign (%T)", k)
	}
	defer clear(der)
	return privateOf(formPKCS8, der)
}

// boundedWork refuses a PKCS #12 file that asks for more rounds of key
// derivation than any other file may. Wherever such a file has a number of
// rounds outside of what is encrypted, a salt stands before it: RFC 7292 §4
// (MacData) and appendix C, RFC 8018 §A.2.
func boundedWork(data []byte) error { return walk(data, 0) }

// maxDepth is more than PKCS #12 nests.
const maxDepth = 24

func walk(b []byte, depth int) error {
	salt := false
	for len(b) > 0 && depth <= maxDepth {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(b, &v)
		if err != nil {
			return nil // the decoder will say what is wrong
		}
		b = rest
		octets := v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOctetString
		if n := new(big.Int); salt && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagInteger &&
			n.SetBytes(v.Bytes).Cmp(big.NewInt(maxIterations)) > 0 {
			return fmt.Errorf("asks for %s rounds of key derivation; at most %d are done", caller.Sanitize(n.String(), 40), maxIterations)
		}
		salt = octets
		if v.IsCompound || octets && isSequence(v.Bytes) {
			if err := walk(v.Bytes, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// isSequence says whether the octets are a structure, and not just octets.
func isSequence(b []byte) bool {
	in := cryptobyte.String(b)
	return in.SkipASN1(cryptobyte_asn1.SEQUENCE) && in.Empty()
}
