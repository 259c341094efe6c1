package keyfile

import (
	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
)

// plainArea decodes a TPMT_PUBLIC of the kind that nearly every key file holds:
// an ECC or RSA key with neither a symmetric algorithm nor a scheme of its own.
// Anything else, malformed or only unusual, is left to go-tpm, which decodes by
// reflection and takes fifty times as long: with a thousand key files that is
// felt at every start (TPM 2.0 Library Part 2, §12.2.4 "TPMT_PUBLIC").
func plainArea(b []byte) (*tpm2.TPMTPublic, bool) {
	s := cryptobyte.String(b)
	var kind, nameAlg, symmetric, scheme uint16
	var attributes uint32
	var policy cryptobyte.String
	if !s.ReadUint16(&kind) || !s.ReadUint16(&nameAlg) || !s.ReadUint32(&attributes) ||
		!s.ReadUint16LengthPrefixed(&policy) || !s.ReadUint16(&symmetric) || !s.ReadUint16(&scheme) ||
		tpm2.TPMAlgID(symmetric) != tpm2.TPMAlgNull || tpm2.TPMAlgID(scheme) != tpm2.TPMAlgNull {
		return nil, false
	}
	pub := &tpm2.TPMTPublic{Type: tpm2.TPMAlgID(kind), NameAlg: tpm2.TPMAlgID(nameAlg)}
	if len(policy) > 0 {
		pub.AuthPolicy.Buffer = policy
	}
	var ok bool
	if pub.ObjectAttributes, ok = objectAttributes(attributes); !ok {
		return nil, false
	}
	null := tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}
	switch pub.Type {
	case tpm2.TPMAlgECC:
		var curve, kdf uint16
		var x, y cryptobyte.String
		if !s.ReadUint16(&curve) || !s.ReadUint16(&kdf) || tpm2.TPMAlgID(kdf) != tpm2.TPMAlgNull ||
			!s.ReadUint16LengthPrefixed(&x) || !s.ReadUint16LengthPrefixed(&y) || !s.Empty() {
			return nil, false
		}
		pub.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: null,
			Scheme:    tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
			CurveID:   tpm2.TPMECCCurve(curve),
			KDF:       tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		})
		pub.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: x},
			Y: tpm2.TPM2BECCParameter{Buffer: y},
		})
		return pub, true
	case tpm2.TPMAlgRSA:
		var bits uint16
		var exponent uint32
		var modulus cryptobyte.String
		if !s.ReadUint16(&bits) || !s.ReadUint32(&exponent) || !s.ReadUint16LengthPrefixed(&modulus) || !s.Empty() {
			return nil, false
		}
		pub.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: null,
			Scheme:    tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull},
			KeyBits:   tpm2.TPMKeyBits(bits),
			Exponent:  exponent,
		})
		pub.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: modulus})
		return pub, true
	}
	return nil, false
}

// objectAttributes decodes a TPMA_OBJECT (Part 2, §8.3.2). ok is false if a bit
// is set that the structure has no name for.
func objectAttributes(v uint32) (a tpm2.TPMAObject, ok bool) {
	for _, f := range [...]struct {
		set *bool
		bit int
	}{
		{&a.FixedTPM, 1},
		{&a.STClear, 2},
		{&a.FixedParent, 4},
		{&a.SensitiveDataOrigin, 5},
		{&a.UserWithAuth, 6},
		{&a.AdminWithPolicy, 7},
		{&a.FirmwareLimited, 8},
		{&a.NoDA, 10},
		{&a.EncryptedDuplication, 11},
		{&a.Restricted, 16},
		{&a.Decrypt, 17},
		{&a.SignEncrypt, 18},
		{&a.X509Sign, 19},
	} {
		*f.set = v&(1<<f.bit) != 0
		v &^= 1 << f.bit
	}
	return a, v == 0
}
