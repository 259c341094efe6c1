package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1" // CKA_CHECK_VALUE is made with it, §4.6.2
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// A publicKey is a key's public half with what PKCS#11 says of it.
type publicKey struct {
	crypto.PublicKey
	typ  uint64 // CKK_
	size int    // bytes of a signature's number: the modulus, or the order of the curve

	// Of the private half.
	tpm    bool
	usages keyring.Usages
	origin keyring.Origin

	params, point []byte // CKA_EC_PARAMS and CKA_EC_POINT
	spki          []byte // SubjectPublicKeyInfo, DER
}

func newPublicKey(pub crypto.PublicKey) (*publicKey, error) {
	k := &publicKey{PublicKey: pub}
	var err error
	if k.spki, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		k.typ, k.size = p11rpc.KeyTypeRSA, pub.Size()
		return k, nil
	case *ecdsa.PublicKey:
		k.typ, k.size = p11rpc.KeyTypeEC, (pub.Curve.Params().N.BitLen()+7)/8
		if k.params, err = curveName(pub.Curve); err != nil {
			return nil, err
		}
		point, err := pub.Bytes()
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		// The point is wrapped once more, PKCS#11 v2.40 mechanisms §2.3.3.
		k.point, err = asn1.Marshal(point)
		return k, err
	case ed25519.PublicKey:
		// PKCS#11 v3.0 mechanisms §2.3.5: the curve by its name.
		k.typ, k.size = p11rpc.KeyTypeECEdwards, ed25519.PublicKeySize
		if k.params, err = asn1.MarshalWithParams("edwards25519", "printable"); err != nil {
			return nil, err
		}
		k.point, err = asn1.Marshal([]byte(pub))
		return k, err
	}
	return nil, fmt.Errorf("public key of type %T: %w", pub, keyring.ErrUnsupported)
}

// may reports whether the private half may be used for a CKF_ of mechanisms.
func (k *publicKey) may(use uint64) bool {
	switch use {
	case flagSign:
		return k.usages.Has(keyring.UsageSign)
	case flagDecrypt:
		return k.usages.Has(keyring.UsageDecrypt)
	case flagDerive:
		return k.usages.Has(keyring.UsageDerive)
	}
	return false
}

// curveName returns a curve's object identifier, DER (RFC 5480 §2.1.1.1).
func curveName(c elliptic.Curve) ([]byte, error) {
	switch c {
	case elliptic.P224():
		return asn1.Marshal(asn1.ObjectIdentifier{1, 3, 132, 0, 33})
	case elliptic.P256():
		return asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	case elliptic.P384():
		return asn1.Marshal(asn1.ObjectIdentifier{1, 3, 132, 0, 34})
	case elliptic.P521():
		return asn1.Marshal(asn1.ObjectIdentifier{1, 3, 132, 0, 35})
	}
	return nil, fmt.Errorf("curve %s: %w", c.Params().Name, keyring.ErrUnsupported)
}

// attribute returns the value of an object's attribute. Errors are
// AttributeTypeInvalid and AttributeSensitive. Values are made as they are asked
// for, so that a thousand keys that nobody looks at cost little.
func (s *Server) attribute(o *object, t p11rpc.AttributeType) ([]byte, error) {
	switch t {
	case p11rpc.AttrClass:
		return p11rpc.UlongValue(uint64(o.name.class)), nil
	case p11rpc.AttrToken:
		return p11rpc.BoolValue(true), nil
	case p11rpc.AttrPrivate:
		// Without a login there is nothing to hide a private key behind.
		return p11rpc.BoolValue(s.strict && o.name.class == p11rpc.ClassPrivateKey), nil
	case p11rpc.AttrModifiable, p11rpc.AttrCopyable, p11rpc.AttrDestroyable:
		return p11rpc.BoolValue(false), nil
	case p11rpc.AttrLabel:
		return []byte(o.label), nil
	case p11rpc.AttrID:
		return o.name.key[:], nil
	case p11rpc.AttrPublicKeyInfo:
		return o.key.spki, nil
	}
	if o.name.class == p11rpc.ClassCertificate {
		return o.certAttribute(t)
	}
	if value, err := o.key.attribute(t); err == nil {
		return value, nil
	}
	switch t {
	case p11rpc.AttrStartDate, p11rpc.AttrEndDate:
		return nil, nil
	case p11rpc.AttrLocal:
		return p11rpc.BoolValue(o.key.origin.Born), nil
	case p11rpc.AttrKeyGenMechanism:
		return p11rpc.UlongValue(o.key.madeBy()), nil
	case p11rpc.AttrSubject:
		if o.other == nil {
			return nil, nil
		}
		return o.other.RawSubject, nil
	case p11rpc.AttrAllowedMechanisms:
		var list []byte
		for _, m := range mechanisms {
			if m.allowed(o.key, o.name.class) {
				list = append(list, p11rpc.UlongValue(uint64(m.typ))...)
			}
		}
		return list, nil
	}
	if o.name.class == p11rpc.ClassPublicKey {
		return publicAttribute(t)
	}
	return o.key.privateAttribute(t)
}

// madeBy returns the CKM_ that a key was made with, if that is known.
func (k *publicKey) madeBy() uint64 {
	switch {
	case !k.origin.Born:
	case k.typ == p11rpc.KeyTypeRSA:
		return uint64(p11rpc.MechRSAPKCSKeyPairGen)
	case k.typ == p11rpc.KeyTypeEC:
		return uint64(p11rpc.MechECKeyPairGen)
	}
	return p11rpc.Unavailable
}

// attribute returns what both halves of a key have, by its type: §2.1.2, §2.1.3
// and §2.3.3, §2.3.4 of the mechanisms.
func (k *publicKey) attribute(t p11rpc.AttributeType) ([]byte, error) {
	if t == p11rpc.AttrKeyType {
		return p11rpc.UlongValue(k.typ), nil
	}
	if pub, ok := k.PublicKey.(*rsa.PublicKey); ok {
		switch t {
		case p11rpc.AttrModulus:
			return pub.N.Bytes(), nil
		case p11rpc.AttrModulusBits:
			return p11rpc.UlongValue(uint64(pub.N.BitLen())), nil
		case p11rpc.AttrPublicExponent:
			return big.NewInt(int64(pub.E)).Bytes(), nil
		}
		return nil, p11rpc.AttributeTypeInvalid
	}
	switch t {
	case p11rpc.AttrECParams:
		return k.params, nil
	case p11rpc.AttrECPoint:
		// The standard gives it to public keys alone; programs look for it here
		// to find out what a private key is.
		return k.point, nil
	}
	return nil, p11rpc.AttributeTypeInvalid
}

// publicAttribute returns what all public keys have in common, §4.8.
func publicAttribute(t p11rpc.AttributeType) ([]byte, error) {
	switch t {
	case p11rpc.AttrVerify:
		return p11rpc.BoolValue(true), nil
	case p11rpc.AttrEncrypt, p11rpc.AttrVerifyRecover, p11rpc.AttrWrap, p11rpc.AttrTrusted, p11rpc.AttrDerive:
		return p11rpc.BoolValue(false), nil
	}
	return nil, p11rpc.AttributeTypeInvalid
}

// privateAttribute returns what all private keys have in common, §4.9. That a
// key was never outside is claimed only of one that the TPM has made and does
// not let go.
func (k *publicKey) privateAttribute(t p11rpc.AttributeType) ([]byte, error) {
	switch t {
	case p11rpc.AttrSensitive:
		return p11rpc.BoolValue(true), nil
	case p11rpc.AttrSign:
		return p11rpc.BoolValue(k.may(flagSign)), nil
	case p11rpc.AttrDecrypt, p11rpc.AttrUnwrap:
		return p11rpc.BoolValue(k.may(flagDecrypt)), nil
	case p11rpc.AttrDerive:
		return p11rpc.BoolValue(k.may(flagDerive)), nil
	case p11rpc.AttrAlwaysSensitive, p11rpc.AttrNeverExtractable:
		return p11rpc.BoolValue(k.origin.Bound && k.origin.Born), nil
	case p11rpc.AttrSignRecover, p11rpc.AttrExtractable, p11rpc.AttrWrapWithTrusted, p11rpc.AttrAlwaysAuthenticate:
		return p11rpc.BoolValue(false), nil
	case p11rpc.AttrValue, p11rpc.AttrPrivateExponent, p11rpc.AttrPrime1, p11rpc.AttrPrime2,
		p11rpc.AttrExponent1, p11rpc.AttrExponent2, p11rpc.AttrCoefficient:
		return nil, p11rpc.AttributeSensitive
	}
	return nil, p11rpc.AttributeTypeInvalid
}

// certAttribute returns what certificates have, §4.6.3.
func (o *object) certAttribute(t p11rpc.AttributeType) ([]byte, error) {
	const (
		typeX509    = 0
		tokenUser   = 1 // CK_CERTIFICATE_CATEGORY_TOKEN_USER
		unspecified = 0
		day         = "20060102"
	)
	switch t {
	case p11rpc.AttrCertificateType:
		return p11rpc.UlongValue(typeX509), nil
	case p11rpc.AttrCertificateCategory:
		return p11rpc.UlongValue(tokenUser), nil
	case p11rpc.AttrJavaMIDPDomain:
		return p11rpc.UlongValue(unspecified), nil
	case p11rpc.AttrTrusted:
		return p11rpc.BoolValue(false), nil
	case p11rpc.AttrSubject:
		return o.cert.RawSubject, nil
	case p11rpc.AttrIssuer:
		return o.cert.RawIssuer, nil
	case p11rpc.AttrSerialNumber:
		der, err := asn1.Marshal(o.cert.SerialNumber)
		if err != nil {
			return nil, p11rpc.AttributeTypeInvalid
		}
		return der, nil
	case p11rpc.AttrValue:
		return o.cert.Raw, nil
	case p11rpc.AttrURL:
		return nil, nil
	case p11rpc.AttrCheckValue:
		sum := sha1.Sum(o.cert.Raw)
		return sum[:3], nil
	case p11rpc.AttrStartDate:
		return []byte(o.cert.NotBefore.UTC().Format(day)), nil
	case p11rpc.AttrEndDate:
		return []byte(o.cert.NotAfter.UTC().Format(day)), nil
	}
	return nil, p11rpc.AttributeTypeInvalid
}
