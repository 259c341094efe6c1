package keyfile_test

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// tlv writes one DER element, with none of the package's code.
func tlv(tag byte, parts ...[]byte) []byte {
	v := bytes.Join(parts, nil)
	switch n := len(v); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, v...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, v...)
	case n < 0x10000:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, v...)
	default:
		return append([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, v...)
	}
}

func oid(v ...int) []byte {
	b, err := asn1.Marshal(asn1.ObjectIdentifier(v))
	if err != nil {
		panic(err)
	}
	return b
}

// tpm2b puts the size before b.
func tpm2b(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// Pieces of a file, each one DER element.
var (
	loadable   = oid(2, 23, 133, 10, 1, 3)
	importable = oid(2, 23, 133, 10, 1, 4)
	sealed     = oid(2, 23, 133, 10, 1, 5)
	legacy     = oid(2, 23, 133, 10, 2)

	yes       = tlv(0xa0, []byte{1, 1, 0xff})
	authValue = tlv(0x30, tlv(0xa0, []byte{2, 2, 1, 0x6b}), tlv(0xa1, []byte{4, 0}))
	authorize = tlv(0x30, tlv(0xa0, []byte{2, 2, 1, 0x6a}), tlv(0xa1, []byte{4, 1, 7}))
	secret    = tlv(0xa2, tlv(4, tpm2b([]byte("seed"))))
	text      = tlv(0xa4, tlv(0x0c, []byte("text")))
	rsaParent = tlv(0xa5, []byte{1, 1, 0xff})

	inOwner      = []byte{2, 4, 0x40, 0, 0, 1}
	inPersistent = []byte{2, 5, 0, 0x81, 0, 0, 1}

	private = tlv(4, tpm2b([]byte("private")))
)

// The three public areas that the rules tell apart.
var (
	plainArea  = pubkeyOf("openssl-p256.pem")         // no digest
	policyArea = pubkeyOf("gokf-p256-policy-pin.pem") // a digest, userWithAuth clear
	sealedArea = pubkeyOf("tools-sealed.pem")
)

func pubkeyOf(file string) []byte {
	f, err := keyfile.Parse(readCorpus(panicTB{}, file))
	if err != nil {
		panic(err)
	}
	return f.Public
}

// panicTB serves before any test runs.
type panicTB struct{ testing.TB }

func (panicTB) Helper()           {}
func (panicTB) Fatal(args ...any) { panic(args[0]) }

func file(parts ...[]byte) []byte { return tlv(0x30, parts...) }

// pubkey is the public area as the element it is in a file.
func pubkey(area []byte) []byte { return tlv(4, area) }

func armour(guard string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: guard, Bytes: der})
}

func steps(tag byte, steps ...[]byte) []byte { return tlv(tag, tlv(0x30, steps...)) }

var plain = file(loadable, yes, inOwner, pubkey(plainArea), private)

func TestMalformed(t *testing.T) {
	pub := pubkey(plainArea)
	for _, tc := range []struct {
		name string
		data []byte
		want string // the error, after "malformed TPM key file: "
	}{
		// the text around it
		{"cut short", armour("TSS2 PRIVATE KEY", plain)[:200], "PEM block is cut short or garbled"},
		{"garbled", []byte("x\n-----BEGIN TSS2 KEY BLOB-----\n!!!!\n-----END TSS2 KEY BLOB-----\n"), "PEM block is cut short or garbled"},
		{"headers", pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: plain}),
			"PEM headers, which no TPM key file has"},
		{"large PEM", append(bytes.Repeat([]byte("text\n"), 14000), armour("TSS2 PRIVATE KEY", plain)...), "larger than 65536 bytes"},
		{"large DER", file(loadable, tlv(0xa6, make([]byte, 1<<16))), "larger than 65536 bytes"},

		// the SEQUENCE and the type
		{"not DER", armour("TSS2 PRIVATE KEY", []byte("not DER")), "not a DER SEQUENCE of the right length"},
		{"short DER", plain[:len(plain)-1], "not a DER SEQUENCE of the right length"},
		{"trailing bytes", append(slices.Clone(plain), 0, 0), "2 bytes after the end"},
		{"indefinite length", append([]byte{0x30, 0x80}, append(bytes.Join([][]byte{loadable, inOwner, pub, private}, nil), 0, 0)...), "not a DER SEQUENCE of the right length"},
		{"length not minimal", append([]byte{0x30, 0x81}, plain[1:]...), "not a DER SEQUENCE of the right length"},
		{"no type", armour("TSS2 PRIVATE KEY", file(inOwner, pub, private)), "type: not an OBJECT IDENTIFIER"},
		{"foreign type", armour("TSS2 PRIVATE KEY", file(oid(1, 2, 3), inOwner, pub, private)), "type: 1.2.3 is no TPM key"},
		{"old type, new guard", armour("TSS2 PRIVATE KEY", file(legacy, tlv(0xa2, pub), private)), "type: old type 2.23.133.10.2 in a TSS2 PRIVATE KEY"},
		{"new type, old guard", armour("TSS2 KEY BLOB", plain), "type: new type 2.23.133.10.1.3 in a TSS2 KEY BLOB"},

		// the fields before parent
		{"repeated field", file(loadable, yes, yes, inOwner, pub, private), "field [0] is repeated or out of order"},
		{"wrong order", file(importable, secret, yes, inOwner, pub, private), "field [0] is repeated or out of order"},
		{"unknown field too early", file(importable, tlv(0xa6), secret, inOwner, pub, private), "field [2] is repeated or out of order"},
		{"field number 31", file(loadable, []byte{0xbf, 0x1f, 0}, inOwner, pub, private), "field with a number above 30"},
		{"field longer than the file", file(loadable, []byte{0xa0, 0x7f}), "field [0]: bad DER"},
		{"IMPLICIT field", file(loadable, []byte{0x80, 1, 0xff}, inOwner, pub, private), "field [0]: not EXPLICIT"},
		{"emptyAuth not a BOOLEAN", file(loadable, tlv(0xa0, []byte{2, 1, 1}), inOwner, pub, private), "emptyAuth: no BOOLEAN"},
		{"emptyAuth twice", file(loadable, tlv(0xa0, []byte{1, 1, 1, 1, 1, 1}), inOwner, pub, private), "emptyAuth: more than one BOOLEAN"},
		{"emptyAuth of two bytes", file(loadable, tlv(0xa0, []byte{1, 2, 1, 1}), inOwner, pub, private), "emptyAuth: BOOLEAN of 2 bytes"},
		{"description not UTF-8", file(loadable, tlv(0xa4, tlv(0x0c, []byte{0xff})), inOwner, pub, private), "description: not UTF-8"},
		{"description of another type", file(loadable, tlv(0xa4, tlv(4, []byte("x"))), inOwner, pub, private), "description: no UTF8String"},

		// parent
		{"no parent", file(loadable, pub, private), "parent: no INTEGER"},
		{"parent of 33 bits", file(loadable, []byte{2, 5, 1, 0x40, 0, 0, 1}, pub, private), "parent: more than 32 bits"},
		{"parent negative beyond 32 bits", file(loadable, []byte{2, 5, 0xfe, 0x81, 0, 0, 1}, pub, private), "parent: more than 32 bits"},
		{"parent not minimal", file(loadable, []byte{2, 5, 0, 0x40, 0, 0, 1}, pub, private), "parent: INTEGER too long or not minimal"},
		{"parent empty", file(loadable, []byte{2, 0}, pub, private), "parent: INTEGER too long or not minimal"},
		{"parent transient", file(loadable, []byte{2, 5, 0, 0x80, 0, 0, 0}, pub, private), "parent: 0x80000000 is a transient handle"},
		{"parent a PCR", file(loadable, []byte{2, 1, 7}, pub, private), "parent: 0x00000007 is neither a persistent nor a permanent handle"},
		{"rsaParent, persistent parent", file(loadable, rsaParent, inPersistent, pub, private), "rsaParent: set, but the parent is a persistent key"},
		{"rsaParent false", file(loadable, tlv(0xa5, []byte{1, 1, 0}), inOwner, pub, private), "rsaParent: false, which is said by leaving it out"},

		// pubkey and privkey
		{"no pubkey", file(loadable, inOwner), "pubkey: no OCTET STRING"},
		{"no privkey", file(loadable, inOwner, pub), "privkey: no OCTET STRING"},
		{"more after privkey", file(loadable, inOwner, pub, private, []byte{5, 0}), "2 bytes after privkey"},
		{"TPMT_PUBLIC", file(loadable, inOwner, pubkey(plainArea[2:]), private), "pubkey: a TPMT_PUBLIC without the size prefix of a TPM2B_PUBLIC"},
		{"pubkey empty", file(loadable, inOwner, pubkey(nil), private), "pubkey: no size prefix"},
		{"pubkey of size 0", file(loadable, inOwner, pubkey([]byte{0, 0}), private), "pubkey: empty"},
		{"pubkey size too large", file(loadable, inOwner, pubkey(append([]byte{0, 0x57}, plainArea[2:]...)), private), "pubkey: size prefix says 87 bytes, there are 86"},
		{"pubkey with bytes after it", file(loadable, inOwner, pubkey(tpm2b(append(slices.Clone(plainArea[2:]), 0))), private),
			"pubkey: not a public area: bytes after its end"},
		{"pubkey cut short", file(loadable, inOwner, pubkey(tpm2b(plainArea[2:40])), private), "pubkey: not a public area: "},
		{"privkey of size 0", file(loadable, inOwner, pub, tlv(4, []byte{0, 0})), "privkey: empty"},
		{"privkey size too small", file(loadable, inOwner, pub, tlv(4, []byte{0, 1, 2, 3})), "privkey: size prefix says 1 bytes, there are 2"},
		{"privkey of one byte", file(loadable, inOwner, pub, tlv(4, []byte{0})), "privkey: no size prefix"},
		{"sealed, but a key", file(sealed, inOwner, pub, private), "pubkey: not that of sealed data"},

		// secret
		{"importable without secret", file(importable, inOwner, pub, private), "secret: missing, an importable key needs it"},
		{"loadable with secret", file(loadable, secret, inOwner, pub, private), "secret: a loadable key has none"},
		{"loadable with empty secret", file(loadable, tlv(0xa2, tlv(4)), inOwner, pub, private), "secret: a loadable key has none"},
		{"secret of the wrong size", file(importable, tlv(0xa2, tlv(4, []byte{0, 9, 1})), inOwner, pub, private), "secret: size prefix says 9 bytes, there are 1"},
		{"sealed with empty secret", file(sealed, tlv(0xa2, tlv(4)), inOwner, pubkey(sealedArea), private), "secret: no size prefix"},

		// policy
		{"policy empty", file(loadable, steps(0xa1), inOwner, pubkey(policyArea), private), "policy: empty"},
		{"policy missing", file(loadable, inOwner, pubkey(policyArea), private), "policy: missing, and the key can be used through its policy only"},
		{"policy without digest", file(loadable, steps(0xa1, authValue), inOwner, pub, private), "policy: there, but the key has no authPolicy digest that it could satisfy"},
		{"step without body", file(loadable, steps(0xa1, authValue, tlv(0x30, tlv(0xa0, []byte{2, 2, 1, 0x6b}))), inOwner, pubkey(policyArea), private), "policy: step 2: not a TPMPolicy"},
		{"step with a third element", file(loadable, steps(0xa1, tlv(0x30, authValue[2:], []byte{5, 0})), inOwner, pubkey(policyArea), private), "policy: step 1: not a TPMPolicy"},
		{"step with negative code", file(loadable, steps(0xa1, tlv(0x30, tlv(0xa0, []byte{2, 1, 0xff}), tlv(0xa1, []byte{4, 0}))), inOwner, pubkey(policyArea), private), "policy: step 1: no 32-bit commandCode"},
		{"step with large code", file(loadable, steps(0xa1, tlv(0x30, tlv(0xa0, []byte{2, 5, 1, 0, 0, 0, 0}), tlv(0xa1, []byte{4, 0}))), inOwner, pubkey(policyArea), private), "policy: step 1: no 32-bit commandCode"},
		{"step with a NULL body", file(loadable, steps(0xa1, tlv(0x30, tlv(0xa0, []byte{2, 2, 1, 0x6b}), tlv(0xa1, []byte{5, 0}))), inOwner, pubkey(policyArea), private), "policy: step 1: no commandPolicy"},

		// authPolicy
		{"authPolicy alone", file(loadable, steps(0xa3, tlv(0x30, steps(0xa1, authorize))), inOwner, pub, private),
			"authPolicy: there, but policy does not begin with PolicyAuthorize"},
		{"authPolicy beside another policy", file(loadable, steps(0xa1, authValue, authorize), steps(0xa3, tlv(0x30, steps(0xa1, authorize))), inOwner, pubkey(policyArea), private),
			"authPolicy: there, but policy does not begin with PolicyAuthorize"},
		{"unsigned alternative", file(loadable, steps(0xa1, authorize), steps(0xa3, tlv(0x30, steps(0xa1, authorize)), tlv(0x30, steps(0xa1, authorize, authValue))), inOwner, pubkey(policyArea), private),
			"authPolicy: entry 2: does not end with PolicyAuthorize"},
		{"empty alternative", file(loadable, steps(0xa1, authorize), steps(0xa3, tlv(0x30, steps(0xa1))), inOwner, pubkey(policyArea), private), "authPolicy: entry 1: empty"},
		{"alternative without policy", file(loadable, steps(0xa1, authorize), steps(0xa3, tlv(0x30, tlv(0xa0, tlv(0x0c)))), inOwner, pubkey(policyArea), private), "authPolicy: entry 1: not a TPMAuthPolicy"},
		{"name not UTF-8", file(loadable, steps(0xa1, authorize), steps(0xa3, tlv(0x30, tlv(0xa0, tlv(0x0c, []byte{0x80})), steps(0xa1, authorize))), inOwner, pubkey(policyArea), private), "authPolicy: entry 1: name: not UTF-8"},

		// the old layout
		{"old: field of the new one", file(legacy, tlv(0xa2, pub), text, private), "field [4], which the old layout does not have"},
		{"old: no pubkey", file(legacy, yes, private), "pubkey: missing"},
		{"old: no privkey", file(legacy, tlv(0xa2, pub)), "privkey: no OCTET STRING"},
		{"old: more after privkey", file(legacy, tlv(0xa2, pub), private, private), "11 bytes after privkey"},
		{"old: two parents", file(legacy, tlv(0xa1, inOwner, inOwner), tlv(0xa2, pub), private), "parent: more than an INTEGER"},
		{"old: parent of 33 bits", file(legacy, tlv(0xa1, []byte{2, 5, 1, 0x40, 0, 0, 1}), tlv(0xa2, pub), private), "parent: more than 32 bits"},
		{"old: policy before pubkey", file(legacy, steps(0xa3, authValue), tlv(0xa2, pub), private), "field [2] is repeated or out of order"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := keyfile.Parse(tc.data)
			if err == nil {
				t.Fatalf("accepted: %+v", f)
			}
			got, ok := strings.CutPrefix(err.Error(), "malformed TPM key file: ")
			// What go-tpm says about a public area is its own affair.
			if open := strings.HasSuffix(tc.want, ": "); !ok || got != tc.want && !(open && strings.HasPrefix(got, tc.want)) {
				t.Errorf("got error %q, want %q", err, tc.want)
			}
			if errors.Is(err, keyfile.ErrNotKeyFile) {
				t.Error("a malformed key file is called something else")
			}
		})
	}
}

func TestNotAKeyFile(t *testing.T) {
	mention := "# it begins with -----BEGIN TSS2 PRIVATE KEY-----\n"
	for name, data := range map[string][]byte{
		"nothing":               nil,
		"one byte":              {0x30},
		"text":                  []byte("ssh-ed25519 AAAA mia\n"),
		"a mention":             []byte(mention),
		"a large mention":       []byte(strings.Repeat(mention, 2000)),
		"another PEM":           armour("EC PRIVATE KEY", plain),
		"another DER":           file(oid(1, 2, 840, 113549, 1, 7, 1), []byte{5, 0}),
		"a DER of SEQUENCEs":    file(file([]byte{2, 1, 0})),
		"an absurd DER length":  {0x30, 0x85, 0, 0, 0, 0, 1, 6, 6, 0x67},
		"a DER that just ends":  {0x30, 0x82, 1},
		"another OID by a byte": file(oid(2, 23, 133, 11, 1, 3)),
	} {
		if _, err := keyfile.Parse(data); !errors.Is(err, keyfile.ErrNotKeyFile) {
			t.Errorf("%s: got %v, want ErrNotKeyFile", name, err)
		}
	}
}

func TestUnknownTypeIsUnsupported(t *testing.T) {
	_, err := keyfile.Parse(file(oid(2, 23, 133, 10, 1, 6), inOwner, pubkey(plainArea), private))
	var unsupported *keyfile.UnsupportedError
	if !errors.As(err, &unsupported) || unsupported.PublicKey != nil {
		t.Fatalf("got %v, want an UnsupportedError without a key", err)
	}
	if got, want := err.Error(), "unsupported: TPM key type 2.23.133.10.1.6"; got != want {
		t.Errorf("error is %q, want %q", got, want)
	}
}
