package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// A forger has a key of his own, and no TPM.
type forger struct {
	t   *testing.T
	key *ecdsa.PrivateKey
}

func newForger(t *testing.T) *forger {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &forger{t, k}
}

func (f *forger) area(a tpm2.TPMAObject) []byte {
	b, err := f.key.PublicKey.Bytes()
	if err != nil {
		f.t.Fatal(err)
	}
	return tpm2.Marshal(&tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: b[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: b[33:]},
		}),
	})
}

// bundle signs a statement about key with an attestation key of the forger's
// make, as a TPM would.
func (f *forger) bundle(key, ak []byte, change func(*tpm2.TPMSAttest)) *Bundle {
	sum := sha256.Sum256(key)
	attest := &tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{
			Name: tpm2.TPM2BName{Buffer: append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), sum[:]...)},
		}),
	}
	if change != nil {
		change(attest)
	}
	signed := tpm2.Marshal(attest)
	digest := sha256.Sum256(signed)
	r, s, err := ecdsa.Sign(rand.Reader, f.key, digest[:])
	if err != nil {
		f.t.Fatal(err)
	}
	return &Bundle{Format: Format, Key: key, AttestationKey: ak, Attest: signed, Signature: tpm2.Marshal(&tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
		}),
	})}
}

func good() tpm2.TPMAObject {
	return tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true}
}

func restricted() tpm2.TPMAObject {
	a := good()
	a.Restricted = true
	return a
}

// Each attribute counts. The first case shows what no check can: a forger who
// makes it all up is only found out by the attestation key's name.
func TestEachAttributeCounts(t *testing.T) {
	f := newForger(t)
	whole := f.bundle(f.area(good()), f.area(restricted()), nil)
	if st, err := Verify(whole, Options{}); err != nil || st.Pinned {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := Verify(whole, Options{AttestationKey: strings.Repeat("0", 68)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a made-up machine: %v", err)
	}
	for name, change := range map[string]func(key, ak *tpm2.TPMAObject){
		"key not fixed to its TPM":     func(key, _ *tpm2.TPMAObject) { key.FixedTPM = false },
		"key not fixed to its parent":  func(key, _ *tpm2.TPMAObject) { key.FixedParent = false },
		"key made outside":             func(key, _ *tpm2.TPMAObject) { key.SensitiveDataOrigin = false },
		"signer not restricted":        func(_, ak *tpm2.TPMAObject) { ak.Restricted = false },
		"signer no signer":             func(_, ak *tpm2.TPMAObject) { ak.SignEncrypt = false },
		"signer decrypts":              func(_, ak *tpm2.TPMAObject) { ak.Decrypt = true },
		"signer not fixed":             func(_, ak *tpm2.TPMAObject) { ak.FixedTPM = false },
		"signer under a moving parent": func(_, ak *tpm2.TPMAObject) { ak.FixedParent = false },
		"signer made outside":          func(_, ak *tpm2.TPMAObject) { ak.SensitiveDataOrigin = false },
	} {
		key, ak := good(), restricted()
		change(&key, &ak)
		if st, err := Verify(f.bundle(f.area(key), f.area(ak), nil), Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
	for name, change := range map[string]func(*tpm2.TPMSAttest){
		"not a TPM's own": func(a *tpm2.TPMSAttest) { a.Magic = 0x12345678 },
		"a quote": func(a *tpm2.TPMSAttest) {
			a.Type = tpm2.TPMSTAttestQuote
			a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{})
		},
	} {
		if st, err := Verify(f.bundle(f.area(good()), f.area(restricted()), change), Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	fo := newForger(&testing.T{})
	whole := fo.bundle(fo.area(good()), fo.area(restricted()), nil)
	f.Add(whole.Key, whole.AttestationKey, whole.Attest, whole.Signature)
	f.Add([]byte{}, []byte{0, 1}, []byte{0xff, 0x54}, []byte{0, 0x18})
	f.Fuzz(func(t *testing.T, key, ak, attest, signature []byte) {
		b := &Bundle{Format: Format, Key: key, AttestationKey: ak, Attest: attest, Signature: signature}
		st, err := Verify(b, Options{AttestationKey: "000b"})
		if err == nil {
			t.Errorf("verified: %+v", st)
		}
		data, err := b.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(data); err != nil || !bytes.Equal(again.Attest, attest) {
			t.Errorf("%v", err)
		}
	})
}
