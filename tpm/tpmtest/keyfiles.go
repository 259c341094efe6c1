package tpmtest

import (
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Parents that a key file may name.
const (
	OwnerHierarchy uint32 = 0x40000001 // its storage root key, made when it is needed
	PersistentSRK  uint32 = 0x81000001 // after PersistSRK
)

// The algorithms that key files are made for here.
const (
	EC256   = "EC:P-256"
	EC384   = "EC:P-384"
	RSA2048 = "RSA:2048"
)

// OpenSSLKey makes a key with the tpm2 provider of OpenSSL (tpm2-openssl) and
// returns its file as PEM: loadable, without noDA. An empty pin is none; parent
// 0 is OwnerHierarchy.
func (t *TPM) OpenSSLKey(tb testing.TB, alg, pin string, parent uint32) []byte {
	tb.Helper()
	Require(tb, "openssl", "socat")
	kind, param := splitAlg(tb, alg)
	option := "bits:" + param
	if kind == "EC" {
		option = "group:" + param
	}
	args := []string{"genpkey", "-provider", "tpm2", "-provider", "base", "-algorithm", kind, "-pkeyopt", option}
	if pin != "" {
		args = append(args, "-pkeyopt", "user-auth:"+pin)
	}
	if parent != 0 && parent != OwnerHierarchy {
		args = append(args, "-pkeyopt", fmt.Sprintf("parent:0x%08x", parent))
	}
	out, diagnosis, err := t.run(tb.TempDir(), "openssl", args...)
	if err != nil && strings.Contains(string(diagnosis), "unable to load provider") {
		missing(tb, "the tpm2 provider of OpenSSL (package tpm2-openssl) is not installed")
	}
	if err != nil {
		tb.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, diagnosis)
	}
	return out
}

func splitAlg(tb testing.TB, alg string) (kind, param string) {
	tb.Helper()
	kind, param, ok := strings.Cut(alg, ":")
	if !ok || kind != "EC" && kind != "RSA" {
		tb.Fatalf("algorithm %q: want EC:CURVE or RSA:BITS", alg)
	}
	return kind, param
}

// A PolicyStep is one step of a key file's policy: a command code and the
// command's parameters.
type PolicyStep struct {
	Code uint32
	Body []byte
}

// A ToolKey is a key to be made with tpm2_create.
type ToolKey struct {
	Alg        string // of tpm2_create -G; empty: ecc256
	Attributes string // of tpm2_create -a; empty: an unrestricted signing key with noDA
	PIN        string // empty: none

	PolicyDigest []byte       // the key's authPolicy, as tpm2_policy* write it; nil: none
	Policy       []PolicyStep // what the file says to do for it
	AuthPolicy   []AuthPolicy // alternatives for a policy that begins with PolicyAuthorize
}

// An AuthPolicy is one signed alternative of a key file.
type AuthPolicy struct {
	Name   string
	Policy []PolicyStep
}

const toolKeyAttributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"

// ToolKey makes a key with tpm2-tools under the storage root key and returns
// its file as PEM: loadable, parent OwnerHierarchy.
func (t *TPM) ToolKey(tb testing.TB, k ToolKey) []byte {
	tb.Helper()
	if k.Attributes == "" {
		k.Attributes = toolKeyAttributes
	}
	public, private := t.create(tb, k, srkAttributes)
	fields := derOID(2, 23, 133, 10, 1, 3)
	fields = append(fields, derEmptyAuth(k.PIN)...)
	if k.Policy != nil {
		fields = append(fields, der(0xA1, derPolicy(k.Policy))...)
	}
	if k.AuthPolicy != nil {
		var list []byte
		for _, a := range k.AuthPolicy {
			name := der(0xA0, der(0x0C, []byte(a.Name)))
			list = append(list, der(0x30, name, der(0xA1, derPolicy(a.Policy)))...)
		}
		fields = append(fields, der(0xA3, der(0x30, list))...)
	}
	return tss2PEM(fields, OwnerHierarchy, public, private)
}

// LegacyKey makes a file in the layout of before 2018, "TSS2 KEY BLOB", with
// tpm2-tools: an EC P-256 key under the storage root key of that time, which
// differs from today's.
func (t *TPM) LegacyKey(tb testing.TB, pin string) []byte {
	tb.Helper()
	public, private := t.create(tb, ToolKey{
		PIN:        pin,
		Attributes: "sensitivedataorigin|userwithauth|noda|decrypt|sign",
	}, legacyAttributes)
	fields := derOID(2, 23, 133, 10, 2)
	fields = append(fields, derEmptyAuth(pin)...)
	fields = append(fields, der(0xA1, derInteger(OwnerHierarchy))...)
	fields = append(fields, der(0xA2, der(0x04, public))...)
	fields = append(fields, der(0x04, private)...)
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 KEY BLOB", Bytes: der(0x30, fields)})
}

// create makes a key and returns its marshalled TPM2B_PUBLIC and TPM2B_PRIVATE.
func (t *TPM) create(tb testing.TB, k ToolKey, parentAttributes string) (public, private []byte) {
	tb.Helper()
	dir := tb.TempDir()
	t.createSRK(tb, dir, parentAttributes)
	if k.Alg == "" {
		k.Alg = "ecc256"
	}
	args := []string{"-Q", "-C", "srk.ctx", "-G", k.Alg, "-a", k.Attributes, "-u", "key.pub", "-r", "key.priv"}
	if k.PIN != "" {
		args = append(args, "-p", k.PIN)
	}
	if k.PolicyDigest != nil {
		writeFile(tb, dir, "policy", k.PolicyDigest)
		args = append(args, "-L", "policy")
	}
	t.Tool(tb, dir, "tpm2_create", args...)
	return readFile(tb, dir, "key.pub"), readFile(tb, dir, "key.priv")
}

// ImportableKey makes a key with OpenSSL, wraps it for this TPM's storage root
// key with tpm2_duplicate, and returns the importable file as PEM, and the key
// itself as PKCS#8 PEM to compare with. An empty pin is none; parent 0 is
// OwnerHierarchy. The key has no noDA, and both sign and decrypt.
func (t *TPM) ImportableKey(tb testing.TB, alg, pin string, parent uint32) (file, plain []byte) {
	tb.Helper()
	kind, param := splitAlg(tb, alg)
	option, wrapped := "rsa_keygen_bits:"+param, "rsa"
	if kind == "EC" {
		option, wrapped = "ec_paramgen_curve:"+param, "ecc"
	}
	dir := tb.TempDir()
	t.Tool(tb, dir, "openssl", "genpkey", "-algorithm", kind, "-pkeyopt", option, "-out", "plain.pem")
	t.createSRK(tb, dir, srkAttributes)
	t.Tool(tb, dir, "tpm2_readpublic", "-Q", "-c", "srk.ctx", "-o", "srk.pub")
	args := []string{"-Q", "-U", "srk.pub", "-G", wrapped, "-k", "plain.pem", "-u", "key.pub", "-r", "key.priv", "-s", "key.seed"}
	if pin != "" {
		args = append(args, "-p", pin)
	}
	t.Tool(tb, dir, "tpm2_duplicate", args...)

	if parent == 0 {
		parent = OwnerHierarchy
	}
	fields := derOID(2, 23, 133, 10, 1, 4)
	fields = append(fields, derEmptyAuth(pin)...)
	fields = append(fields, der(0xA2, der(0x04, readFile(tb, dir, "key.seed")))...)
	file = tss2PEM(fields, parent, readFile(tb, dir, "key.pub"), readFile(tb, dir, "key.priv"))
	return file, readFile(tb, dir, "plain.pem")
}

// tss2PEM ends a file that begins with the given fields.
func tss2PEM(fields []byte, parent uint32, public, private []byte) []byte {
	fields = append(fields, derInteger(parent)...)
	fields = append(fields, der(0x04, public)...)
	fields = append(fields, der(0x04, private)...)
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der(0x30, fields)})
}

// der makes one element of DER. It is written by hand, as the codec under test
// must not be its own judge.
func der(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := []byte{tag}
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// derEmptyAuth makes the field that says whether there is no PIN. The draft
// would have false left out, but tpm2-openssl 1.1.1 takes a file without the
// field for one without a PIN.
func derEmptyAuth(pin string) []byte {
	if pin != "" {
		return der(0xA0, der(0x01, []byte{0}))
	}
	return der(0xA0, der(0x01, []byte{0xFF}))
}

func derPolicy(steps []PolicyStep) []byte {
	var list []byte
	for _, s := range steps {
		list = append(list, der(0x30,
			der(0xA0, derInteger(s.Code)),
			der(0xA1, der(0x04, s.Body)))...)
	}
	return der(0x30, list)
}

func derInteger(v uint32) []byte { return mustMarshal(int64(v)) }

func derOID(arcs ...int) []byte { return mustMarshal(asn1.ObjectIdentifier(arcs)) }

// mustMarshal marshals what cannot fail to be.
func mustMarshal(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func writeFile(tb testing.TB, dir, name string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		tb.Fatal(err)
	}
}
