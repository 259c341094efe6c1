package tpm

import (
	"crypto"
	"crypto/rsa"
	"fmt"
	"math/big"

	// The hashes a digest may be of.
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyringd/keyringd/internal/emsa"
)

// A shape is what a key's public area lets it do.
type shape struct {
	rsa     bool
	size    int                   // bytes: of the modulus, or of the curve's order
	scheme  tpm2.TPMIAlgSigScheme // TPMAlgNull: named in each command
	hash    crypto.Hash           // of the scheme, if it is fixed
	natural crypto.Hash           // the hash that fits the curve
	sign    bool
	raw     bool // RSA without any padding of the TPM's
	derive  bool

	padding     tpm2.TPMAlgID // of an RSA key that decrypts one only; 0: none or any
	paddingHash crypto.Hash
}

var algHash = map[tpm2.TPMIAlgHash]crypto.Hash{
	tpm2.TPMAlgSHA1:   crypto.SHA1,
	tpm2.TPMAlgSHA256: crypto.SHA256,
	tpm2.TPMAlgSHA384: crypto.SHA384,
	tpm2.TPMAlgSHA512: crypto.SHA512,
}

var hashAlg = map[crypto.Hash]tpm2.TPMIAlgHash{
	crypto.SHA1:   tpm2.TPMAlgSHA1,
	crypto.SHA256: tpm2.TPMAlgSHA256,
	crypto.SHA384: tpm2.TPMAlgSHA384,
	crypto.SHA512: tpm2.TPMAlgSHA512,
}

func shapeOf(pub *tpm2.TPMTPublic) (shape, error) {
	a := pub.ObjectAttributes
	sh := shape{sign: a.SignEncrypt, scheme: tpm2.TPMAlgNull}
	switch {
	case a.Restricted:
		return sh, fmt.Errorf("%w: a restricted key signs only what the TPM has made itself", ErrUnsupported)
	case !a.SignEncrypt && !a.Decrypt:
		return sh, fmt.Errorf("%w: the key neither signs nor decrypts", ErrUnsupported)
	}
	switch pub.Type {
	case tpm2.TPMAlgECC:
		return eccShape(pub, sh)
	case tpm2.TPMAlgRSA:
		return rsaShape(pub, sh)
	}
	return sh, fmt.Errorf("%w: key type %#x", ErrUnsupported, uint16(pub.Type))
}

func eccShape(pub *tpm2.TPMTPublic, sh shape) (shape, error) {
	parms, err := pub.Parameters.ECCDetail()
	if err != nil {
		return sh, err
	}
	switch parms.CurveID {
	case tpm2.TPMECCNistP256:
		sh.size, sh.natural = 32, crypto.SHA256
	case tpm2.TPMECCNistP384:
		sh.size, sh.natural = 48, crypto.SHA384
	case tpm2.TPMECCNistP521:
		sh.size, sh.natural = 66, crypto.SHA512
	default:
		return sh, fmt.Errorf("%w: curve %#x", ErrUnsupported, uint16(parms.CurveID))
	}
	sh.derive = pub.ObjectAttributes.Decrypt
	switch parms.Scheme.Scheme {
	case tpm2.TPMAlgNull:
	case tpm2.TPMAlgECDH:
		sh.sign = false
	case tpm2.TPMAlgECDSA:
		sh.derive = false
		sh.scheme = tpm2.TPMAlgECDSA
		d, err := parms.Scheme.Details.ECDSA()
		if err != nil {
			return sh, err
		}
		if sh.hash = algHash[d.HashAlg]; sh.hash == 0 {
			return sh, fmt.Errorf("%w: ECDSA with hash %#x", ErrUnsupported, uint16(d.HashAlg))
		}
	default:
		return sh, fmt.Errorf("%w: signing scheme %#x", ErrUnsupported, uint16(parms.Scheme.Scheme))
	}
	if !sh.sign && !sh.derive {
		return sh, fmt.Errorf("%w: the key neither signs nor derives", ErrUnsupported)
	}
	return sh, nil
}

func rsaShape(pub *tpm2.TPMTPublic, sh shape) (shape, error) {
	parms, err := pub.Parameters.RSADetail()
	if err != nil {
		return sh, err
	}
	sh.rsa, sh.size = true, int(parms.KeyBits)/8
	var alg tpm2.TPMIAlgHash
	switch parms.Scheme.Scheme {
	case tpm2.TPMAlgNull:
		sh.raw = pub.ObjectAttributes.Decrypt
		return sh, nil
	case tpm2.TPMAlgRSAES:
		sh.padding, sh.sign = tpm2.TPMAlgRSAES, false
		return sh, nil
	case tpm2.TPMAlgOAEP:
		d, err := parms.Scheme.Details.OAEP()
		if err != nil {
			return sh, err
		}
		sh.padding, sh.sign = tpm2.TPMAlgOAEP, false
		if sh.paddingHash = algHash[d.HashAlg]; sh.paddingHash == 0 {
			return sh, fmt.Errorf("%w: OAEP with hash %#x", ErrUnsupported, uint16(d.HashAlg))
		}
		return sh, nil
	case tpm2.TPMAlgRSASSA:
		d, err := parms.Scheme.Details.RSASSA()
		if err != nil {
			return sh, err
		}
		alg = d.HashAlg
	case tpm2.TPMAlgRSAPSS:
		d, err := parms.Scheme.Details.RSAPSS()
		if err != nil {
			return sh, err
		}
		alg = d.HashAlg
	default:
		return sh, fmt.Errorf("%w: scheme %#x", ErrUnsupported, uint16(parms.Scheme.Scheme))
	}
	sh.scheme = tpm2.TPMIAlgSigScheme(parms.Scheme.Scheme)
	if sh.hash = algHash[alg]; sh.hash == 0 {
		return sh, fmt.Errorf("%w: scheme %#x with hash %#x", ErrUnsupported, uint16(sh.scheme), uint16(alg))
	}
	return sh, nil
}

// A plan is how one signature will be made.
type plan struct {
	digest []byte      // as it was given, for checking
	hash   crypto.Hash // as it was given
	pss    *rsa.PSSOptions

	send   []byte // what TPM2_Sign is given
	scheme tpm2.TPMTSigScheme
	padded []byte // if not nil: what RSA_Decrypt can be given instead
}

// plan decides how a digest is signed, or says why it cannot be.
func (k *Key) plan(digest []byte, opts crypto.SignerOpts) (*plan, error) {
	p := &plan{digest: append([]byte(nil), digest...)}
	if opts != nil {
		p.hash = opts.HashFunc()
	}
	if p.hash != 0 && (!p.hash.Available() || len(digest) != p.hash.Size()) {
		return nil, fmt.Errorf("%w: a digest of %d bytes that is said to be %s", ErrUnsupported, len(digest), p.hash)
	}
	if !k.shape.rsa {
		return p, k.planECDSA(p)
	}
	if o, ok := opts.(*rsa.PSSOptions); ok {
		p.pss = o
		return p, k.planPSS(p)
	}
	return p, k.planPKCS1(p)
}

func sigScheme(alg tpm2.TPMIAlgSigScheme, hash tpm2.TPMIAlgHash) tpm2.TPMTSigScheme {
	return tpm2.TPMTSigScheme{Scheme: alg, Details: tpm2.NewTPMUSigScheme(alg, &tpm2.TPMSSchemeHash{HashAlg: hash})}
}

// planECDSA fits the digest to the hash the command must name. ECDSA signs a
// number: the leftmost bits of the digest, as many as the order has (FIPS 186-5
// §6.4). Cutting a digest there, or putting zeros in front of a shorter one,
// changes nothing, and lets any digest pass for one of the curve's own hash.
func (k *Key) planECDSA(p *plan) error {
	sh := k.shape
	switch {
	case !sh.sign:
		return fmt.Errorf("%w: the key does not sign", ErrUnsupported)
	case len(p.digest) == 0:
		return fmt.Errorf("%w: an empty digest", ErrUnsupported)
	}
	if sh.hash != 0 {
		if p.hash != sh.hash {
			return fmt.Errorf("%w: the key signs only %s", ErrUnsupported, sh.hash)
		}
		p.send, p.scheme = p.digest, sigScheme(tpm2.TPMAlgECDSA, hashAlg[sh.hash])
		return nil
	}
	if alg, ok := hashAlg[p.hash]; ok && p.hash != crypto.SHA1 && len(p.digest) <= sh.size {
		p.send, p.scheme = p.digest, sigScheme(tpm2.TPMAlgECDSA, alg)
		return nil
	}
	n := sh.natural.Size()
	if len(p.digest) > n {
		// Only for P-521, whose order is longer than any digest we know.
		if sh.size > n {
			return fmt.Errorf("%w: a digest of %d bytes", ErrUnsupported, len(p.digest))
		}
		p.send = p.digest[:n]
	} else {
		p.send = append(make([]byte, n-len(p.digest)), p.digest...)
	}
	p.scheme = sigScheme(tpm2.TPMAlgECDSA, hashAlg[sh.natural])
	return nil
}

func (k *Key) planPKCS1(p *plan) error {
	sh := k.shape
	if sh.hash != 0 && (sh.scheme != tpm2.TPMAlgRSASSA || sh.hash != p.hash) {
		return fmt.Errorf("%w: the key signs only as %s", ErrUnsupported, sh.only())
	}
	var err error
	if sh.raw {
		if p.padded, err = padPKCS1(p.hash, p.digest, sh.size); err != nil {
			return err
		}
	}
	if alg, ok := hashAlg[p.hash]; ok && sh.sign {
		p.send, p.scheme = p.digest, sigScheme(tpm2.TPMAlgRSASSA, alg)
		return nil
	}
	if p.padded == nil {
		return fmt.Errorf("%w: the TPM would have to pad %s itself, and cannot", ErrUnsupported, hashName(p.hash))
	}
	return nil
}

// planPSS leaves the salt to the TPM, whose length it chooses itself, unless
// the padding can be made here, where any length can.
func (k *Key) planPSS(p *plan) error {
	sh := k.shape
	if p.pss.Hash != 0 && p.pss.Hash != p.hash || p.hash == 0 {
		return fmt.Errorf("%w: PSS without a hash", ErrUnsupported)
	}
	if sh.hash != 0 && (sh.scheme != tpm2.TPMAlgRSAPSS || sh.hash != p.hash) {
		return fmt.Errorf("%w: the key signs only as %s", ErrUnsupported, sh.only())
	}
	var err error
	if sh.raw {
		if p.padded, err = padPSS(k.public.(*rsa.PublicKey), p.hash, p.digest, p.pss.SaltLength); err != nil {
			return err
		}
		if p.pss.SaltLength != rsa.PSSSaltLengthAuto {
			return nil
		}
	}
	if p.pss.SaltLength == noSalt {
		return fmt.Errorf("%w: the TPM would choose the salt itself, and there is to be none", ErrUnsupported)
	}
	if alg, ok := hashAlg[p.hash]; ok && sh.sign {
		p.send, p.scheme = p.digest, sigScheme(tpm2.TPMAlgRSAPSS, alg)
		return nil
	}
	if p.padded == nil {
		return fmt.Errorf("%w: the TPM would have to pad %s itself, and cannot", ErrUnsupported, hashName(p.hash))
	}
	return nil
}

func (s shape) only() string {
	if s.scheme == tpm2.TPMAlgRSAPSS {
		return "PSS with " + s.hash.String()
	}
	return "PKCS #1 v1.5 with " + s.hash.String()
}

func hashName(h crypto.Hash) string {
	if h == 0 {
		return "what is no digest"
	}
	return h.String()
}

// ecdsaDER writes r and s as ASN.1.
func ecdsaDER(sig *tpm2.TPMSSignatureECC) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(sig.SignatureR.Buffer))
		b.AddASN1BigInt(new(big.Int).SetBytes(sig.SignatureS.Buffer))
	})
	return b.Bytes()
}

// padPKCS1 makes EMSA-PKCS1-v1_5. RFC 8017 §9.2.
func padPKCS1(hash crypto.Hash, digest []byte, size int) ([]byte, error) {
	prefix, err := digestInfo(hash, len(digest))
	if err != nil {
		return nil, err
	}
	pad := size - 3 - len(prefix) - len(digest)
	if pad < 8 {
		return nil, fmt.Errorf("%w: %d bytes are too long for a key of %d bits", ErrUnsupported, len(digest), size*8)
	}
	em := make([]byte, 0, size)
	em = append(em, 0, 1)
	for range pad {
		em = append(em, 0xff)
	}
	em = append(em, 0)
	em = append(em, prefix...)
	return append(em, digest...), nil
}

// digestInfo returns what stands before a digest. RFC 8017 §9.2, note 1.
func digestInfo(hash crypto.Hash, n int) ([]byte, error) {
	oids := map[crypto.Hash][]byte{
		crypto.SHA1:   {0x2b, 0x0e, 0x03, 0x02, 0x1a},
		crypto.SHA224: {0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x04},
		crypto.SHA256: {0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01},
		crypto.SHA384: {0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02},
		crypto.SHA512: {0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03},
	}
	if hash == 0 {
		return nil, nil
	}
	oid, ok := oids[hash]
	if !ok {
		return nil, fmt.Errorf("%w: PKCS #1 v1.5 with %s", ErrUnsupported, hash)
	}
	l := byte(len(oid))
	p := []byte{0x30, 8 + l + byte(n), 0x30, 4 + l, 0x06, l}
	p = append(p, oid...)
	return append(p, 0x05, 0, 0x04, byte(n)), nil
}

// noSalt asks for PSS without salt, as 0 asks for any length. The number is the
// core's, too.
const noSalt = -2

// padPSS makes EMSA-PSS with a salt of the length that crypto/rsa's options ask
// for, or noSalt.
func padPSS(pub *rsa.PublicKey, hash crypto.Hash, digest []byte, saltLength int) ([]byte, error) {
	switch saltLength {
	case rsa.PSSSaltLengthAuto:
		saltLength = (pub.N.BitLen()+6)/8 - 2 - hash.Size()
	case rsa.PSSSaltLengthEqualsHash:
		saltLength = hash.Size()
	case noSalt:
		saltLength = 0
	}
	em, err := emsa.PSS(pub, hash, digest, saltLength)
	if err != nil {
		return nil, fmt.Errorf("%w: a PSS salt of %d bytes: %w", ErrUnsupported, saltLength, err)
	}
	return em, nil
}
