package keyfile_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// A corpusFile is what one file of testdata/corpus holds, as other tools say
// (testdata/README.md): digests are the first 8 bytes of a SHA-256 in hex.
type corpusFile struct {
	file        string
	typ         keyfile.Type
	legacy      bool
	emptyAuth   string // "", "false", "true"
	policy      []keyfile.PolicyStep
	secret      string // digest of the OCTET STRING
	authPolicy  []keyfile.AuthPolicy
	description string
	rsaParent   bool
	parent      uint32
	public      string // digest of the OCTET STRING
	private     string // digest of the OCTET STRING
	key         string // digest of the SubjectPublicKeyInfo; "" if there is none
	da          bool
}

const (
	owner      = 0x40000001
	persistent = 0x81000001
)

var corpus = []corpusFile{
	{file: "openssl-p256.pem", emptyAuth: "true", parent: owner, da: true,
		public: "1996139c97fd3c0b", private: "81542f3e86c42a15", key: "8d3b043a1b4cab8d"},
	{file: "openssl-p256.der", emptyAuth: "true", parent: owner, da: true,
		public: "f665f5587d0f9e6c", private: "239f8f5df9d52a6a", key: "87159b0d2153a7c5"},
	{file: "openssl-p256-pin.pem", emptyAuth: "false", parent: owner, da: true,
		public: "982ab8fe2d42baf3", private: "b89ab523405fbe43", key: "9802b9ee67eea614"},
	{file: "openssl-p256-persistent.pem", emptyAuth: "true", parent: persistent, da: true,
		public: "524a9d4319166c2d", private: "ae5023b112ef2ca5", key: "3f962f297b9cd210"},
	{file: "openssl-p256-negative-parent.pem", emptyAuth: "true", parent: persistent, da: true,
		public: "524a9d4319166c2d", private: "ae5023b112ef2ca5", key: "3f962f297b9cd210"},
	{file: "openssl-p384.pem", emptyAuth: "true", parent: owner, da: true,
		public: "0f72995412699224", private: "55862a44805c88f6", key: "bcaca77fecb9fa1d"},
	{file: "openssl-rsa2048.pem", emptyAuth: "true", parent: owner, da: true,
		public: "3437aa1bf929c4c3", private: "d95d1500546a45fa", key: "016753a07f56b8f1"},
	{file: "openssl-rsa2048-pin.pem", emptyAuth: "false", parent: owner, da: true,
		public: "8800d6589a2caa68", private: "d47d0763f4068d2b", key: "ed30a4eae8cdd8d8"},

	// tpm2_encodeobject of tpm2-tools 5.4 writes emptyAuth the wrong way round.
	{file: "tools-encoded-p256-pin.pem", emptyAuth: "true", parent: persistent,
		public: "123d05426445a615", private: "ce2a52326697f7d8", key: "d604101e314df40a"},
	{file: "tools-encoded-rsa-ctx.pem", emptyAuth: "false", parent: owner, da: true,
		public: "d6623497d9e2244d", private: "2cda0105a9fd04e9", key: "1e4f44a2dbfb9b7d"},
	{file: "tools-importable-p256.pem", typ: keyfile.Importable, emptyAuth: "true", parent: owner, da: true,
		secret: "3deed47d4e54c094", public: "2f07b962a6c21dc9", private: "93a5f8ab0a9d11b0", key: "38605ea984d27c2d"},
	{file: "tools-importable-p256-pin.pem", typ: keyfile.Importable, emptyAuth: "false", parent: owner, da: true,
		secret: "cfbc18605f936aca", public: "d7b20fc13ec1200a", private: "c1456c7dee43bc69", key: "8716e495259c887a"},
	{file: "tools-sealed.pem", typ: keyfile.Sealed, emptyAuth: "true", parent: owner,
		public: "2189cf2aeb43a903", private: "9237fa8028f70247"},
	{file: "tools-p256-rsaparent.pem", emptyAuth: "true", parent: owner, rsaParent: true,
		public: "095950853fcfae8a", private: "fadc45eb6cb9a048", key: "a7de4dfdb858c546"},
	{file: "tools-p256-unknown-fields.pem", emptyAuth: "true", parent: owner, description: "spare",
		public: "123d05426445a615", private: "ce2a52326697f7d8", key: "d604101e314df40a"},

	{file: "pytss-p384-pin.pem", emptyAuth: "false", parent: owner,
		public: "499d79a18642daa4", private: "e0ddcd75526e913d", key: "151993cdf67faba6"},
	{file: "pytss-p521.pem", emptyAuth: "true", parent: persistent,
		public: "7ff3811a0d080fab", private: "6768e2e0a958d1a8", key: "ddc7637475c89c79"},

	{file: "gokf-p256-description-pin.pem", parent: owner, description: "mia@büro", da: true,
		public: "6ee91f226353f1b0", private: "04b0a05ba3b93eaa", key: "338d2a356497a1d5"},
	{file: "gokf-p521.pem", emptyAuth: "true", parent: owner, da: true,
		public: "e0afbe941c522a1f", private: "03911f37add4ab00", key: "ea009a9f5880aad5"},
	{file: "gokf-sealed.pem", typ: keyfile.Sealed, emptyAuth: "true", parent: owner,
		public: "a657c4639d927d66", private: "52d215572ff453c8"},
	{file: "gokf-importable-p384.pem", typ: keyfile.Importable, emptyAuth: "true", parent: owner, da: true,
		secret: "a7599d5382138a21", public: "6477f6a2b3ab50cc", private: "58172daef103d6c3", key: "0222c91ea302cbd5"},
	{file: "gokf-p256-policy-pin.pem", parent: owner,
		policy: []keyfile.PolicyStep{{Code: 0x16f, Body: []byte{1}}, {Code: 0x16b}},
		public: "1c260a67197b1110", private: "94a1e85724c9f3e2", key: "938e15d0a0abe094"},
	{file: "gokf-p256-signed-policy-pin.pem", parent: owner,
		policy: []keyfile.PolicyStep{{Code: 0x16a, Body: body("signed-policy-0")}},
		authPolicy: []keyfile.AuthPolicy{
			{Name: "at locality 0", Policy: []keyfile.PolicyStep{{Code: 0x16f, Body: []byte{1}}, {Code: 0x16a, Body: body("signed-policy-1")}}},
			{Policy: []keyfile.PolicyStep{{Code: 0x16b}, {Code: 0x16a, Body: body("signed-policy-2")}}},
		},
		public: "29bb6ed98399ddd8", private: "5a65cdfa026f4c1f", key: "600401a6fa4133d0"},

	{file: "legacy-p256.pem", legacy: true, emptyAuth: "true", parent: owner,
		public: "8b09cf511b164e80", private: "c82a557dc94b06eb", key: "5a8b57769a6408ae"},
	{file: "legacy-rsa2048-policy-pin.pem", legacy: true, emptyAuth: "false", parent: persistent,
		policy: []keyfile.PolicyStep{{Code: 0x16b}},
		public: "7f55a9e79f0db504", private: "bce4c5e41d973239", key: "3a20873417452368"},
}

// body reads a command's parameters that are too long for the table.
func body(name string) []byte {
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		panic(err)
	}
	return unhex(strings.Join(strings.Fields(string(text)), ""))
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func readCorpus(tb testing.TB, file string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "corpus", file))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// derOf takes the DER out of a file by means other than the package's own.
func derOf(tb testing.TB, data []byte) []byte {
	tb.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		return data
	}
	return block.Bytes
}

// describe is the way from a File to its row of the table.
func describe(tb testing.TB, name string, f *keyfile.File) corpusFile {
	tb.Helper()
	got := corpusFile{
		file: name, typ: f.Type, legacy: f.Legacy, policy: f.Policy, authPolicy: f.AuthPolicy,
		description: f.Description, rsaParent: f.RSAParent, parent: f.Parent,
		public: digest(f.Public), private: digest(f.Private), da: f.DAProtected(),
	}
	if f.EmptyAuth != nil {
		got.emptyAuth = "false"
		if *f.EmptyAuth {
			got.emptyAuth = "true"
		}
	}
	if f.Secret != nil {
		got.secret = digest(f.Secret)
	}
	if f.Type != keyfile.Sealed {
		key, err := f.PublicKey()
		if err != nil {
			tb.Fatalf("PublicKey: %v", err)
		}
		spki, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			tb.Fatal(err)
		}
		got.key = digest(spki)
	}
	return got
}

func TestCorpus(t *testing.T) {
	for _, want := range corpus {
		t.Run(want.file, func(t *testing.T) {
			data := readCorpus(t, want.file)
			f, err := keyfile.Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			got := describe(t, want.file, f)
			opts := []cmp.Option{cmp.AllowUnexported(corpusFile{}), cmp.Comparer(func(a, b keyfile.PolicyStep) bool {
				return a.Code == b.Code && bytes.Equal(a.Body, b.Body)
			})}
			if diff := cmp.Diff(want, got, opts...); diff != "" {
				t.Errorf("parsed otherwise (-want +got):\n%s", diff)
			}
			if got, want := f.NeedsAuth(), want.emptyAuth != "true"; got != want {
				t.Errorf("NeedsAuth() = %v, want %v", got, want)
			}
			if f.Type == keyfile.Sealed {
				if key, err := f.PublicKey(); err == nil {
					t.Errorf("sealed data has the public key %v", key)
				}
			}
			if _, err := f.PublicArea(); err != nil {
				t.Errorf("PublicArea: %v", err)
			}
			checkLossless(t, f, derOf(t, data))
		})
	}
}

// checkLossless sees that f is written as the bytes it was read from, through
// DER and through PEM.
func checkLossless(t *testing.T, f *keyfile.File, want []byte) {
	t.Helper()
	der, err := f.DER()
	if err != nil {
		t.Fatalf("DER: %v", err)
	}
	if !bytes.Equal(der, want) {
		t.Errorf("written otherwise than read:\n got %x\nwant %x", der, want)
	}
	text, err := f.PEM()
	if err != nil {
		t.Fatalf("PEM: %v", err)
	}
	again, err := keyfile.Parse(text)
	if err != nil {
		t.Fatalf("PEM written by us: %v", err)
	}
	if der, err := again.DER(); err != nil || !bytes.Equal(der, want) {
		t.Errorf("lost on the way through PEM: %x, %v", der, err)
	}
}

// TestCorpusIsWhole: a file without a row would be tested by nothing.
func TestCorpusIsWhole(t *testing.T) {
	rows := map[string]bool{"tpm12.pem": true}
	for _, row := range corpus {
		rows[row.file] = true
	}
	entries, err := os.ReadDir("testdata/corpus")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("testdata/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !rows[e.Name()] {
			t.Errorf("%s has no row in the table", e.Name())
		}
		if !bytes.Contains(readme, []byte("`"+e.Name()+"`")) {
			t.Errorf("testdata/README.md does not say how %s was made", e.Name())
		}
		delete(rows, e.Name())
	}
	for name := range rows {
		t.Errorf("%s is missing", name)
	}
}

func TestTPM12IsNamed(t *testing.T) {
	data := readCorpus(t, "tpm12.pem")
	_, err := keyfile.Parse(data)
	var unsupported *keyfile.UnsupportedError
	if !errors.As(err, &unsupported) {
		t.Fatalf("got %v, want an UnsupportedError", err)
	}
	if got, want := err.Error(), "unsupported: TPM 1.2 key"; got != want {
		t.Errorf("error is %q, want %q", got, want)
	}
	spki, err := x509.MarshalPKIXPublicKey(unsupported.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := digest(spki), "490dae457a70287e"; got != want {
		t.Errorf("public key %s, want %s", got, want)
	}

	// The other structure differs in its first four bytes.
	blob := derOf(t, data)
	key12 := bytes.Replace(blob, []byte{1, 1, 0, 0}, []byte{0, 0x28, 0, 0}, 1)
	_, err = keyfile.Parse(pem.EncodeToMemory(&pem.Block{Type: "TSS KEY BLOB", Bytes: key12}))
	if !errors.As(err, &unsupported) || unsupported.PublicKey == nil {
		t.Errorf("TPM_KEY12: got %v, want an UnsupportedError with a key", err)
	}

	// However little of it can be read, it is still known for what it is.
	for n := range blob {
		_, err := keyfile.Parse(pem.EncodeToMemory(&pem.Block{Type: "TSS KEY BLOB", Bytes: blob[:n]}))
		if unsupported = nil; !errors.As(err, &unsupported) || unsupported.PublicKey != nil {
			t.Fatalf("cut to %d bytes: got %v, want an UnsupportedError without a key", n, err)
		}
	}
}
