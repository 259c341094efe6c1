package keyfile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// RSA keys outside these sizes are refused: below, they protect nothing; above,
// no TPM makes them.
const (
	minRSABits = 1024
	maxRSABits = 4096
)

// defaultExponent is what an exponent of 0 in a public area stands for (TPM
// 2.0 part 2, 12.2.3.5, and the same in TPM 1.2 part 2, 10.1).
const defaultExponent = 65537

// PublicArea returns the decoded public area. It is shared by all who ask and
// must not be changed.
func (f *File) PublicArea() (*tpm2.TPMTPublic, error) {
	pub, err := f.area()
	if err != nil {
		return nil, fmt.Errorf("pubkey: %w", err)
	}
	return pub, nil
}

// DAProtected reports whether wrong authorization values count towards the
// TPM's dictionary-attack lockout: the attribute noDA is clear. It is true for
// a public area that cannot be read, as the careful answer.
func (f *File) DAProtected() bool {
	pub, err := f.area()
	return err != nil || !pub.ObjectAttributes.NoDA
}

// PublicKey returns an [*ecdsa.PublicKey] on P-256, P-384 or P-521, whose point
// has been checked to be on the curve, or an [*rsa.PublicKey] of 1024 to 4096
// bits. Other keys, and sealed data, give an error.
func (f *File) PublicKey() (crypto.PublicKey, error) {
	pub, err := f.area()
	if err != nil {
		return nil, fmt.Errorf("pubkey: %w", err)
	}
	var key crypto.PublicKey
	switch pub.Type {
	case tpm2.TPMAlgECC:
		key, err = ecdsaKey(pub)
	case tpm2.TPMAlgRSA:
		key, err = rsaKey(pub)
	default:
		err = errors.New("sealed data or a symmetric key has no public key")
	}
	if err != nil {
		return nil, fmt.Errorf("pubkey: %w", err)
	}
	return key, nil
}

func ecdsaKey(pub *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	parms, err := pub.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	point, err := pub.Unique.ECC()
	if err != nil {
		return nil, err
	}
	var curve elliptic.Curve
	switch parms.CurveID {
	case tpm2.TPMECCNistP256:
		curve = elliptic.P256()
	case tpm2.TPMECCNistP384:
		curve = elliptic.P384()
	case tpm2.TPMECCNistP521:
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("curve 0x%04x is not supported", uint16(parms.CurveID))
	}
	size := (curve.Params().BitSize + 7) / 8
	uncompressed := make([]byte, 1+2*size)
	uncompressed[0] = 4
	// Some TPMs drop a coordinate's leading zeros, others pad it.
	for i, c := range [][]byte{point.X.Buffer, point.Y.Buffer} {
		c = bytes.TrimLeft(c, "\x00")
		if len(c) > size {
			return nil, errors.New("coordinate is too long for the curve")
		}
		copy(uncompressed[1+(i+1)*size-len(c):], c)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, uncompressed)
	if err != nil {
		return nil, fmt.Errorf("point is not on %s", curve.Params().Name)
	}
	return key, nil
}

func rsaKey(pub *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	parms, err := pub.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	modulus, err := pub.Unique.RSA()
	if err != nil {
		return nil, err
	}
	key, err := newRSAKey(modulus.Buffer, uint64(parms.Exponent))
	if err != nil {
		return nil, err
	}
	if key.N.BitLen() != int(parms.KeyBits) {
		return nil, fmt.Errorf("RSA modulus of %d bits in a key of %d", key.N.BitLen(), parms.KeyBits)
	}
	return key, nil
}

// newRSAKey checks what Go's crypto/rsa leaves to the first use.
func newRSAKey(modulus []byte, exponent uint64) (*rsa.PublicKey, error) {
	if exponent == 0 {
		exponent = defaultExponent
	}
	// An int of 32 bits is the least a rsa.PublicKey can hold.
	if exponent < 3 || exponent%2 == 0 || exponent > 1<<31-1 {
		return nil, fmt.Errorf("RSA exponent %d", exponent)
	}
	n := new(big.Int).SetBytes(modulus)
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("RSA modulus of %d bits", bits)
	}
	if n.Bit(0) == 0 {
		return nil, errors.New("RSA modulus is even")
	}
	return &rsa.PublicKey{N: n, E: int(exponent)}, nil
}

// decodeArea decodes the public area ahead of those who will ask for it. It is
// for Parse, before anybody else has the File.
func (f *File) decodeArea() {
	own := bytes.Clone(f.Public) // what is decoded points into it
	if pub, err := parsePublic(own); err == nil && f.read != nil {
		f.read.area, f.read.areaOf = pub, own
	}
}

// area returns the decoded public area, decoded before if the file is as it was
// read.
func (f *File) area() (*tpm2.TPMTPublic, error) {
	if f.read != nil && f.read.area != nil && bytes.Equal(f.Public, f.read.areaOf) {
		return f.read.area, nil
	}
	return parsePublic(f.Public)
}

// parsePublic decodes a TPM2B_PUBLIC that takes up all of b.
func parsePublic(b []byte) (*tpm2.TPMTPublic, error) {
	if err := sized(b); err != nil {
		// Some tools hand out the structure that belongs inside.
		if _, inner := parsePublicArea(b); inner == nil {
			return nil, errors.New("a TPMT_PUBLIC without the size prefix of a TPM2B_PUBLIC")
		}
		return nil, err
	}
	return parsePublicArea(b[2:])
}

// parsePublicArea decodes a TPMT_PUBLIC that takes up all of b. What the decoder
// did not read shows when it is encoded again.
func parsePublicArea(b []byte) (*tpm2.TPMTPublic, error) {
	if pub, ok := plainArea(b); ok {
		return pub, nil
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
	if err != nil {
		return nil, fmt.Errorf("not a public area: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(pub), b) {
		return nil, errors.New("not a public area: bytes after its end")
	}
	return pub, nil
}
