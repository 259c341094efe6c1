package keyfile_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// withArea returns the public key of the file after edit has changed its area.
func withArea(t *testing.T, file string, edit func(pub *tpm2.TPMTPublic)) (any, error) {
	t.Helper()
	f, err := keyfile.Parse(readCorpus(t, file))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := f.PublicArea()
	if err != nil {
		t.Fatal(err)
	}
	edit(pub)
	f.Public = tpm2.Marshal(tpm2.New2B(*pub))
	return f.PublicKey()
}

func rsaParms(pub *tpm2.TPMTPublic) *tpm2.TPMSRSAParms {
	p, err := pub.Parameters.RSADetail()
	if err != nil {
		panic(err)
	}
	return p
}

func setModulus(pub *tpm2.TPMTPublic, n *big.Int) {
	pub.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n.Bytes()})
	rsaParms(pub).KeyBits = tpm2.TPMKeyBits(n.BitLen())
}

// odd returns an odd number of so many bits.
func odd(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.SetBit(n, 0, 1)
}

func TestRSAPublicKey(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(pub *tpm2.TPMTPublic)
		want string // error, "" for none
		e    int
	}{
		{"as made", func(pub *tpm2.TPMTPublic) {}, "", 65537},
		{"exponent written out", func(pub *tpm2.TPMTPublic) { rsaParms(pub).Exponent = 65537 }, "", 65537},
		{"exponent 3", func(pub *tpm2.TPMTPublic) { rsaParms(pub).Exponent = 3 }, "", 3},
		{"exponent 1", func(pub *tpm2.TPMTPublic) { rsaParms(pub).Exponent = 1 }, "pubkey: RSA exponent 1", 0},
		{"exponent even", func(pub *tpm2.TPMTPublic) { rsaParms(pub).Exponent = 65536 }, "pubkey: RSA exponent 65536", 0},
		{"exponent of 32 bits", func(pub *tpm2.TPMTPublic) { rsaParms(pub).Exponent = 1<<32 - 1 }, "pubkey: RSA exponent 4294967295", 0},
		{"1024 bits", func(pub *tpm2.TPMTPublic) { setModulus(pub, odd(1024)) }, "", 65537},
		{"4096 bits", func(pub *tpm2.TPMTPublic) { setModulus(pub, odd(4096)) }, "", 65537},
		{"1023 bits", func(pub *tpm2.TPMTPublic) { setModulus(pub, odd(1023)) }, "pubkey: RSA modulus of 1023 bits", 0},
		{"4097 bits", func(pub *tpm2.TPMTPublic) { setModulus(pub, odd(4097)) }, "pubkey: RSA modulus of 4097 bits", 0},
		{"no modulus, as in a template", func(pub *tpm2.TPMTPublic) { setModulus(pub, new(big.Int)) }, "pubkey: RSA modulus of 0 bits", 0},
		{"even modulus", func(pub *tpm2.TPMTPublic) { setModulus(pub, new(big.Int).Lsh(big.NewInt(1), 2047)) }, "pubkey: RSA modulus is even", 0},
		{"other keyBits", func(pub *tpm2.TPMTPublic) { rsaParms(pub).KeyBits = 3072 }, "pubkey: RSA modulus of 2048 bits in a key of 3072", 0},
	} {
		key, err := withArea(t, "openssl-rsa2048.pem", tc.edit)
		if tc.want != "" {
			if err == nil || err.Error() != tc.want {
				t.Errorf("%s: got error %v, want %q", tc.name, err, tc.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if got := key.(*rsa.PublicKey).E; got != tc.e {
			t.Errorf("%s: exponent %d, want %d", tc.name, got, tc.e)
		}
	}
}

func TestECDSAPublicKey(t *testing.T) {
	point := func(pub *tpm2.TPMTPublic) (x, y []byte) {
		p, err := pub.Unique.ECC()
		if err != nil {
			panic(err)
		}
		return p.X.Buffer, p.Y.Buffer
	}
	set := func(pub *tpm2.TPMTPublic, x, y []byte) {
		pub.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}})
	}
	curve := func(pub *tpm2.TPMTPublic, id tpm2.TPMECCCurve) {
		p, err := pub.Parameters.ECCDetail()
		if err != nil {
			panic(err)
		}
		p.CurveID = id
	}
	want, err := withArea(t, "openssl-p256.pem", func(*tpm2.TPMTPublic) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		edit func(pub *tpm2.TPMTPublic)
		want string
	}{
		{"padded", func(pub *tpm2.TPMTPublic) { x, y := point(pub); set(pub, append([]byte{0, 0}, x...), y) }, ""},
		{"too long", func(pub *tpm2.TPMTPublic) { x, y := point(pub); set(pub, append([]byte{1}, x...), y) }, "pubkey: coordinate is too long for the curve"},
		{"off the curve", func(pub *tpm2.TPMTPublic) { x, y := point(pub); set(pub, y, x) }, "pubkey: point is not on P-256"},
		{"infinity", func(pub *tpm2.TPMTPublic) { set(pub, []byte{0}, []byte{0}) }, "pubkey: point is not on P-256"},
		{"no point, as in a template", func(pub *tpm2.TPMTPublic) { set(pub, nil, nil) }, "pubkey: point is not on P-256"},
		{"of another curve", func(pub *tpm2.TPMTPublic) { curve(pub, tpm2.TPMECCNistP384) }, "pubkey: point is not on P-384"},
		{"Barreto-Naehrig", func(pub *tpm2.TPMTPublic) { curve(pub, tpm2.TPMECCBNP256) }, "pubkey: curve 0x0010 is not supported"},
	} {
		key, err := withArea(t, "openssl-p256.pem", tc.edit)
		switch {
		case tc.want != "":
			if err == nil || err.Error() != tc.want {
				t.Errorf("%s: got error %v, want %q", tc.name, err, tc.want)
			}
		case err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case !want.(*ecdsa.PublicKey).Equal(key):
			t.Errorf("%s: another key", tc.name)
		}
	}
}

// TestShortCoordinate: a TPM that drops a leading zero means the same point.
func TestShortCoordinate(t *testing.T) {
	// 379 times P-256's generator, the first multiple with such an x.
	const (
		shortX = "005543894af3d00ed7d740abdbd75c96b06877b787db5f70eea78b90a8d7c00a"
		shortY = "bb4c85a3d8ea29efaafa24406912dd84d5b14dc32bf656ef6c6bd58a5d943f92"
	)
	setPoint := func(x, y string) func(pub *tpm2.TPMTPublic) {
		return func(pub *tpm2.TPMTPublic) {
			pub.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: unhex(x)}, Y: tpm2.TPM2BECCParameter{Buffer: unhex(y)}})
		}
	}
	padded, err := withArea(t, "openssl-p256.pem", setPoint(shortX, shortY))
	if err != nil {
		t.Fatal(err)
	}
	short, err := withArea(t, "openssl-p256.pem", setPoint(strings.TrimPrefix(shortX, "00"), shortY))
	if err != nil {
		t.Fatal(err)
	}
	if !padded.(*ecdsa.PublicKey).Equal(short) {
		t.Error("the same point gives two keys")
	}
}

func TestTypeString(t *testing.T) {
	for typ, want := range map[keyfile.Type]string{keyfile.Loadable: "loadable", keyfile.Importable: "importable", keyfile.Sealed: "sealed", 7: "keyfile.Type(7)"} {
		if got := typ.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestNoPublicKey: an area that cannot be read gives careful answers.
func TestNoPublicKey(t *testing.T) {
	var f keyfile.File
	if _, err := f.PublicKey(); err == nil {
		t.Error("PublicKey of nothing")
	}
	if _, err := f.PublicArea(); err == nil {
		t.Error("PublicArea of nothing")
	}
	if !f.DAProtected() {
		t.Error("an unknown key is not called DA protected")
	}
	if !f.NeedsAuth() {
		t.Error("a File that does not say is taken to need no auth")
	}
}
