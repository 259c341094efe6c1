package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// A form remembers how the fields that can be written in more than one way
// were written, with the values they stood for: a field is written in its old
// form for as long as it has its old value.
type form struct {
	legacy bool
	was    File              // the values; only the fields of the map, and deeply copied
	raw    map[string][]byte // whole TLVs; a field that was absent is not there
	// unknown holds the fields this package does not know, which all stand
	// between rsaParent and parent.
	unknown []byte

	// area is what areaOf, the public area in the file, decodes to. Decoding
	// takes a tenth of a millisecond, and a folder may have a thousand files
	// that are each looked at several times.
	area   *tpm2.TPMTPublic
	areaOf []byte
}

// The fields that a form remembers.
const (
	fieldEmptyAuth   = "emptyAuth"
	fieldPolicy      = "policy"
	fieldAuthPolicy  = "authPolicy"
	fieldDescription = "description"
	fieldRSAParent   = "rsaParent"
	fieldParent      = "parent"
)

// remember fills f.read from f's present values.
func (f *File) remember(raw map[string][]byte, unknown []byte) {
	was := *f
	if f.EmptyAuth != nil {
		was.EmptyAuth = new(*f.EmptyAuth)
	}
	was.Policy = cloneSteps(f.Policy)
	was.AuthPolicy = slices.Clone(f.AuthPolicy)
	for i := range was.AuthPolicy {
		was.AuthPolicy[i].Policy = cloneSteps(was.AuthPolicy[i].Policy)
	}
	was.Secret, was.Public, was.Private = nil, nil, nil
	f.read = &form{legacy: f.Legacy, was: was, raw: raw, unknown: unknown}
}

func cloneSteps(steps []PolicyStep) []PolicyStep {
	steps = slices.Clone(steps)
	for i := range steps {
		steps[i].Body = slices.Clone(steps[i].Body)
	}
	return steps
}

// parse reads what follows the type in the layout of the draft.
func (f *File) parse(s cryptobyte.String) error {
	raw := map[string][]byte{}
	var unknown []byte
	err := eachOptional(&s, func(n int, whole, body cryptobyte.String) (err error) {
		switch n {
		case 0:
			raw[fieldEmptyAuth] = whole
			f.EmptyAuth, err = readBool(fieldEmptyAuth, body)
		case 1:
			raw[fieldPolicy] = whole
			f.Policy, err = readPolicy(fieldPolicy, body)
		case 2:
			f.Secret, err = readOctets("secret", body)
		case 3:
			raw[fieldAuthPolicy] = whole
			f.AuthPolicy, err = readAuthPolicy(body)
		case 4:
			raw[fieldDescription] = whole
			f.Description, err = readText(fieldDescription, body)
		case 5:
			raw[fieldRSAParent] = whole
			var v *bool
			if v, err = readBool(fieldRSAParent, body); err == nil && !*v {
				err = errors.New("rsaParent: false, which is said by leaving it out")
			}
			f.RSAParent = err == nil
		default:
			// A later draft's field. Every tool so far skips such fields;
			// dropping them would damage the file for those that do not.
			unknown = append(unknown, whole...)
		}
		return err
	})
	if err != nil {
		return err
	}
	if f.Parent, raw[fieldParent], err = readParent(&s); err != nil {
		return err
	}
	var pub, priv cryptobyte.String
	if !s.ReadASN1(&pub, tag.OCTET_STRING) {
		return errors.New("pubkey: no OCTET STRING")
	}
	if !s.ReadASN1(&priv, tag.OCTET_STRING) {
		return errors.New("privkey: no OCTET STRING")
	}
	if !s.Empty() {
		return fmt.Errorf("%d bytes after privkey", len(s))
	}
	f.Public, f.Private = bytes.Clone(pub), bytes.Clone(priv)
	f.remember(raw, unknown)
	return nil
}

// parseLegacy reads what follows the type in the layout that
// openssl_tpm2_engine used before there was a draft:
//
//	emptyAuth [0] EXPLICIT BOOLEAN OPTIONAL,
//	parent    [1] EXPLICIT INTEGER OPTIONAL,
//	pubkey    [2] EXPLICIT OCTET STRING OPTIONAL,
//	policy    [3] EXPLICIT SEQUENCE OF TPMPolicy OPTIONAL,
//	privkey   OCTET STRING
func parseLegacy(s cryptobyte.String) (*File, error) {
	f := &File{Legacy: true, Parent: rhOwner} // the oldest files leave out the owner's primary
	raw := map[string][]byte{}
	err := eachOptional(&s, func(n int, whole, body cryptobyte.String) (err error) {
		switch n {
		case 0:
			raw[fieldEmptyAuth] = whole
			f.EmptyAuth, err = readBool(fieldEmptyAuth, body)
		case 1:
			raw[fieldParent] = whole
			if f.Parent, _, err = readParent(&body); err == nil && !body.Empty() {
				err = errors.New("parent: more than an INTEGER")
			}
		case 2:
			f.Public, err = readOctets("pubkey", body)
		case 3:
			raw[fieldPolicy] = whole
			f.Policy, err = readPolicy(fieldPolicy, body)
		default:
			err = fmt.Errorf("field [%d], which the old layout does not have", n)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var priv cryptobyte.String
	if !s.ReadASN1(&priv, tag.OCTET_STRING) {
		return nil, errors.New("privkey: no OCTET STRING")
	}
	if !s.Empty() {
		return nil, fmt.Errorf("%d bytes after privkey", len(s))
	}
	// Optional in the grammar for the sake of TPM 1.2 keys, which were never
	// written this way; no TPM 2.0 can load a key without it.
	if f.Public == nil {
		return nil, errors.New("pubkey: missing")
	}
	f.Private = bytes.Clone(priv)
	f.remember(raw, nil)
	return f, nil
}

// eachOptional reads the context-specific fields that s begins with. Their
// numbers must rise, so none is repeated or out of its place.
func eachOptional(s *cryptobyte.String, field func(n int, whole, body cryptobyte.String) error) error {
	last := -1
	for !s.Empty() && (*s)[0]&0xc0 == 0x80 {
		n := int((*s)[0] & 0x1f)
		if n == 0x1f {
			return errors.New("field with a number above 30")
		}
		var body cryptobyte.String
		var t tag.Tag
		whole := *s
		if !s.ReadAnyASN1(&body, &t) {
			return fmt.Errorf("field [%d]: bad DER", n)
		}
		whole = whole[:len(whole)-len(*s)]
		if n <= last {
			return fmt.Errorf("field [%d] is repeated or out of order", n)
		}
		last = n
		if t&0x20 == 0 && n <= 5 {
			return fmt.Errorf("field [%d]: not EXPLICIT", n)
		}
		if err := field(n, whole, body); err != nil {
			return err
		}
	}
	return nil
}

// readOnly reads the one value of type t that body consists of.
func readOnly(name string, body cryptobyte.String, t tag.Tag, what string) (cryptobyte.String, error) {
	var v cryptobyte.String
	if !body.ReadASN1(&v, t) {
		return nil, fmt.Errorf("%s: no %s", name, what)
	}
	if !body.Empty() {
		return nil, fmt.Errorf("%s: more than one %s", name, what)
	}
	return v, nil
}

// readBool takes any non-zero byte for true. DER has 0xFF alone, but OpenSSL's
// ASN.1 templates, and so tpm2-openssl and most others, write 0x01.
func readBool(name string, body cryptobyte.String) (*bool, error) {
	v, err := readOnly(name, body, tag.BOOLEAN, "BOOLEAN")
	if err != nil {
		return nil, err
	}
	if len(v) != 1 {
		return nil, fmt.Errorf("%s: BOOLEAN of %d bytes", name, len(v))
	}
	return new(v[0] != 0), nil
}

// readOctets returns a copy, so that the caller of Parse may append to it.
func readOctets(name string, body cryptobyte.String) ([]byte, error) {
	v, err := readOnly(name, body, tag.OCTET_STRING, "OCTET STRING")
	return bytes.Clone(v), err
}

func readText(name string, body cryptobyte.String) (string, error) {
	v, err := readOnly(name, body, tag.UTF8String, "UTF8String")
	if err != nil {
		return "", err
	}
	if !utf8.Valid(v) {
		return "", fmt.Errorf("%s: not UTF-8", name)
	}
	return string(v), nil
}

// readParent takes the INTEGER off s and masks it to 32 bits: 32-bit builds of
// older tpm2-openssl and tpm2-tss-engine wrote 0x81000001 as a negative number.
func readParent(s *cryptobyte.String) (uint32, []byte, error) {
	var whole cryptobyte.String
	if !s.ReadASN1Element(&whole, tag.INTEGER) {
		return 0, nil, errors.New("parent: no INTEGER")
	}
	v := whole
	var n int64
	if !v.ReadASN1Integer(&n) {
		return 0, nil, errors.New("parent: INTEGER too long or not minimal")
	}
	if n < -1<<31 || n > 1<<32-1 {
		return 0, nil, errors.New("parent: more than 32 bits")
	}
	return uint32(n), whole, nil
}

// readPolicy reads a SEQUENCE OF TPMPolicy. An empty one is refused: where
// nothing is to be executed the field is left out.
func readPolicy(name string, body cryptobyte.String) ([]PolicyStep, error) {
	list, err := readOnly(name, body, tag.SEQUENCE, "SEQUENCE")
	if err != nil {
		return nil, err
	}
	if list.Empty() {
		return nil, fmt.Errorf("%s: empty", name)
	}
	var steps []PolicyStep
	for !list.Empty() {
		var step PolicyStep
		var s, code, content, octets cryptobyte.String
		at := fmt.Sprintf("%s: step %d", name, len(steps)+1)
		if !list.ReadASN1(&s, tag.SEQUENCE) ||
			!s.ReadASN1(&code, explicit(0)) || !s.ReadASN1(&content, explicit(1)) || !s.Empty() {
			return nil, fmt.Errorf("%s: not a TPMPolicy", at)
		}
		if !code.ReadASN1Integer(&step.Code) || !code.Empty() {
			return nil, fmt.Errorf("%s: no 32-bit commandCode", at)
		}
		if !content.ReadASN1(&octets, tag.OCTET_STRING) || !content.Empty() {
			return nil, fmt.Errorf("%s: no commandPolicy", at)
		}
		step.Body = bytes.Clone(octets)
		steps = append(steps, step)
	}
	return steps, nil
}

// readAuthPolicy reads a SEQUENCE OF TPMAuthPolicy. Unlike a policy it may be
// empty: OpenSSL writes a list whose last entry was removed that way.
func readAuthPolicy(body cryptobyte.String) ([]AuthPolicy, error) {
	list, err := readOnly(fieldAuthPolicy, body, tag.SEQUENCE, "SEQUENCE")
	if err != nil {
		return nil, err
	}
	var out []AuthPolicy
	for !list.Empty() {
		var s, name, policy cryptobyte.String
		var named bool
		at := fmt.Sprintf("%s: entry %d", fieldAuthPolicy, len(out)+1)
		if !list.ReadASN1(&s, tag.SEQUENCE) || !s.ReadOptionalASN1(&name, &named, explicit(0)) ||
			!s.ReadASN1(&policy, explicit(1)) || !s.Empty() {
			return nil, fmt.Errorf("%s: not a TPMAuthPolicy", at)
		}
		var entry AuthPolicy
		if named {
			if entry.Name, err = readText(at+": name", name); err != nil {
				return nil, err
			}
		}
		if entry.Policy, err = readPolicy(at, policy); err != nil {
			return nil, err
		}
		out = append(out, entry)
	}
	return out, nil
}

// explicit returns the tag of field [n] EXPLICIT.
func explicit(n uint8) tag.Tag { return tag.Tag(n).ContextSpecific().Constructed() }
