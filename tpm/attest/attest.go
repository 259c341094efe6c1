// Package attest is what a TPM says about a key that lives in it, in a form that
// can be checked on another machine, without a TPM.
//
// A [Bundle] is the statement with all that is needed to check it; [Verify]
// checks it and says what it proves as a [Statement].
//
// What it proves: the holder of the attestation key says that it and the key
// are in one TPM, that the key was made there and that it cannot leave. What it
// does not prove by itself: that the attestation key is in a real TPM. For that
// somebody must have seen the attestation key's name come from that machine
// before, or must run TPM2_ActivateCredential against the endorsement key of the
// bundle, whose certificate must lead to the TPM's maker. This package does
// neither: it never contacts the other machine.
package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Format is the value of a bundle's first field. Another one is another format.
const Format = "keyringd-attestation-1"

// MaxSize is how many bytes of JSON [Parse] reads; real bundles have about 3 KiB.
const MaxSize = 256 << 10

// A Bundle is one statement. In JSON its byte fields are base64.
type Bundle struct {
	Format string `json:"format"`

	Key            []byte `json:"key"`            // TPMT_PUBLIC of the key that it is about
	AttestationKey []byte `json:"attestationKey"` // TPMT_PUBLIC of the key that signed
	Attest         []byte `json:"attest"`         // TPMS_ATTEST
	Signature      []byte `json:"signature"`      // TPMT_SIGNATURE over it

	// The endorsement key with which the attestation key could be proven to be
	// in a real TPM, as far as the TPM has it. Nothing of it is checked here.
	EndorsementKey         []byte `json:"endorsementKey,omitempty"`         // TPMT_PUBLIC
	EndorsementCertificate []byte `json:"endorsementCertificate,omitempty"` // X.509, DER
}

// JSON writes the bundle.
func (b *Bundle) JSON() ([]byte, error) {
	out, err := json.MarshalIndent(b, "", "  ")
	return append(out, '\n'), err
}

// Parse reads what [Bundle.JSON] writes.
func Parse(data []byte) (*Bundle, error) {
	if len(data) > MaxSize {
		return nil, errors.New("attestation: too large")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	b := &Bundle{}
	if err := d.Decode(b); err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	if b.Format != Format {
		return nil, fmt.Errorf("attestation: its format is %q, not %q", b.Format, Format)
	}
	return b, nil
}

// Options say what a verifier knows beforehand. What is left out is not checked.
type Options struct {
	// Nonce is what the verifier gave the other side to be certified along, so
	// that an old statement is not taken for a new one. Nil: any.
	Nonce []byte

	// Key is the public key that the statement must be about.
	Key crypto.PublicKey

	// AttestationKey is the name, in hex, that the attestation key had when it
	// was last trusted.
	AttestationKey string
}

// A Statement is what a verified bundle proves.
type Statement struct {
	Key                crypto.PublicKey // *ecdsa.PublicKey or *rsa.PublicKey
	KeyName            string           // TPM name, hex
	AttestationKey     crypto.PublicKey
	AttestationKeyName string // TPM name, hex: what to remember about a machine
	Nonce              []byte
	NeedsPolicy        bool // the key can only be used under a policy
	LockoutProtected   bool // wrong PINs count towards the TPM's lockout

	// Pinned: Options named the attestation key. If not, its name is only as good
	// as the way on which the bundle came.
	Pinned bool
}

// ErrInvalid is wrapped by all errors of [Verify].
var ErrInvalid = errors.New("the attestation does not hold")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// Verify checks that the attestation key signed the statement, that the
// statement is a TPM's own (TPM_GENERATED_VALUE) about the key's name, and that
// key and attestation key have the attributes that tie them to their TPM: Part
// 2, "TPMA_OBJECT" fixedTPM, fixedParent, sensitiveDataOrigin, and of the
// attestation key restricted and sign. The error wraps [ErrInvalid] and says
// what is not so.
func Verify(b *Bundle, o Options) (*Statement, error) {
	key, keyName, err := area("key", b.Key)
	if err != nil {
		return nil, err
	}
	ak, akName, err := area("attestation key", b.AttestationKey)
	if err != nil {
		return nil, err
	}
	attest, err := statement(b.Attest)
	if err != nil {
		return nil, err
	}
	st := &Statement{
		KeyName: hex.EncodeToString(keyName), AttestationKeyName: hex.EncodeToString(akName),
		Nonce:            attest.ExtraData.Buffer,
		NeedsPolicy:      !key.ObjectAttributes.UserWithAuth,
		LockoutProtected: !key.ObjectAttributes.NoDA,
		Pinned:           o.AttestationKey != "",
	}
	if st.Key, err = tpm2.Pub(*key); err != nil {
		return nil, invalid("key: %w", err)
	}
	if st.AttestationKey, err = tpm2.Pub(*ak); err != nil {
		return nil, invalid("attestation key: %w", err)
	}
	if err := checkSigner(ak.ObjectAttributes); err != nil {
		return nil, err
	}
	if err := checkSignature(st.AttestationKey, b.Attest, b.Signature); err != nil {
		return nil, err
	}
	if err := checkStatement(attest, keyName, o.Nonce); err != nil {
		return nil, err
	}
	if err := checkKey(key.ObjectAttributes); err != nil {
		return nil, err
	}
	if o.AttestationKey != "" && o.AttestationKey != st.AttestationKeyName {
		return nil, invalid("another attestation key signed: %s, not %s", st.AttestationKeyName, o.AttestationKey)
	}
	if o.Key != nil && !same(o.Key, st.Key) {
		return nil, invalid("it is about another key than the one asked for")
	}
	return st, nil
}

// area reads a public area and computes its name: what anybody says the name is
// does not count.
func area(what string, b []byte) (*tpm2.TPMTPublic, []byte, error) {
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
	if err != nil || !bytes.Equal(tpm2.Marshal(pub), b) {
		return nil, nil, invalid("%s: its public area cannot be read", what)
	}
	hash, err := pub.NameAlg.Hash()
	if err != nil {
		return nil, nil, invalid("%s: %w", what, err)
	}
	h := hash.New()
	h.Write(b)
	return pub, h.Sum(binary.BigEndian.AppendUint16(nil, uint16(pub.NameAlg))), nil
}

// checkSigner: a key that is not restricted signs whatever anybody makes up.
func checkSigner(a tpm2.TPMAObject) error {
	if !a.Restricted || !a.SignEncrypt || a.Decrypt {
		return invalid("the attestation key is not one that signs only what its TPM says (restricted)")
	}
	if !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return invalid("the attestation key was not made in a TPM, or can leave it")
	}
	return nil
}

// statement reads a TPMS_ATTEST of the one kind that there is use for. The kind
// is looked at first, so that a stranger's bytes reach no decoder of another.
func statement(b []byte) (*tpm2.TPMSAttest, error) {
	switch {
	case len(b) < 6:
		return nil, invalid("the signed statement cannot be read")
	case binary.BigEndian.Uint32(b) != uint32(tpm2.TPMGeneratedValue):
		return nil, invalid("the statement is not a TPM's own")
	case binary.BigEndian.Uint16(b[4:]) != uint16(tpm2.TPMSTAttestCertify):
		return nil, invalid("the statement is not about a key (type %#x)", b[4:6])
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](b)
	if err != nil || !bytes.Equal(tpm2.Marshal(a), b) {
		return nil, invalid("the signed statement cannot be read")
	}
	return a, nil
}

func checkStatement(a *tpm2.TPMSAttest, name, nonce []byte) error {
	info, err := a.Attested.Certify()
	if err != nil {
		return invalid("the statement cannot be read")
	}
	if !bytes.Equal(info.Name.Buffer, name) {
		return invalid("the statement is about another key than the one beside it")
	}
	if nonce != nil && !bytes.Equal(nonce, a.ExtraData.Buffer) {
		return invalid("the statement was made for another nonce: it may be an old one")
	}
	return nil
}

func checkKey(a tpm2.TPMAObject) error {
	switch {
	case !a.SensitiveDataOrigin:
		return invalid("the key was made outside of the TPM and imported: copies of it may exist")
	case !a.FixedTPM, !a.FixedParent:
		return invalid("the key can be copied to another TPM")
	}
	return nil
}

// checkSignature checks a TPMT_SIGNATURE over what the TPM has hashed with
// SHA-256, which is the only hash an attestation key of ours uses.
func checkSignature(pub crypto.PublicKey, signed, signature []byte) error {
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		return invalid("its signature cannot be read")
	}
	digest := sha256.Sum256(signed)
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		s, err := sig.Signature.ECDSA()
		if err != nil || sig.SigAlg != tpm2.TPMAlgECDSA || s.Hash != tpm2.TPMAlgSHA256 {
			return invalid("its signature is not ECDSA with SHA-256")
		}
		ok = ecdsa.VerifyASN1(k, digest[:], der(s.SignatureR.Buffer, s.SignatureS.Buffer))
	case *rsa.PublicKey:
		s, err := sig.Signature.RSASSA()
		if err != nil || sig.SigAlg != tpm2.TPMAlgRSASSA || s.Hash != tpm2.TPMAlgSHA256 {
			return invalid("its signature is not RSA PKCS #1 v1.5 with SHA-256")
		}
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], s.Sig.Buffer) == nil
	}
	if !ok {
		return invalid("its signature is wrong")
	}
	return nil
}

func same(a, b crypto.PublicKey) bool {
	x, err := x509.MarshalPKIXPublicKey(a)
	if err != nil {
		return false
	}
	y, err := x509.MarshalPKIXPublicKey(b)
	return err == nil && bytes.Equal(x, y)
}
