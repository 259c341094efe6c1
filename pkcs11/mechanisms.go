package pkcs11

import (
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1" // CKM_SHA_1 and what is built on it; programs that still need it say so
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"

	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

type scheme int

const (
	schemeDigest scheme = iota
	schemeECDSA
	schemePKCS1
	schemePSS
	schemeEdDSA
)

// A mechanism is one way to digest or sign.
type mechanism struct {
	typ    p11rpc.MechanismType
	scheme scheme
	hash   crypto.Hash // 0: the program gives what is to be signed as it is
}

// mechanisms are all there are, in the order in which they are listed. SHA-224
// is left out: nobody asks for it, and many TPMs do not have it.
var mechanisms = []mechanism{
	{p11rpc.MechECDSA, schemeECDSA, 0},
	{p11rpc.MechECDSASHA256, schemeECDSA, crypto.SHA256},
	{p11rpc.MechECDSASHA384, schemeECDSA, crypto.SHA384},
	{p11rpc.MechECDSASHA512, schemeECDSA, crypto.SHA512},
	{p11rpc.MechECDSASHA1, schemeECDSA, crypto.SHA1},
	{p11rpc.MechRSAPKCS, schemePKCS1, 0},
	{p11rpc.MechSHA256RSAPKCS, schemePKCS1, crypto.SHA256},
	{p11rpc.MechSHA384RSAPKCS, schemePKCS1, crypto.SHA384},
	{p11rpc.MechSHA512RSAPKCS, schemePKCS1, crypto.SHA512},
	{p11rpc.MechSHA1RSAPKCS, schemePKCS1, crypto.SHA1},
	{p11rpc.MechRSAPKCSPSS, schemePSS, 0},
	{p11rpc.MechSHA256RSAPKCSPSS, schemePSS, crypto.SHA256},
	{p11rpc.MechSHA384RSAPKCSPSS, schemePSS, crypto.SHA384},
	{p11rpc.MechSHA512RSAPKCSPSS, schemePSS, crypto.SHA512},
	{p11rpc.MechSHA1RSAPKCSPSS, schemePSS, crypto.SHA1},
	{p11rpc.MechEDDSA, schemeEdDSA, 0},
	{p11rpc.MechSHA256, schemeDigest, crypto.SHA256},
	{p11rpc.MechSHA384, schemeDigest, crypto.SHA384},
	{p11rpc.MechSHA512, schemeDigest, crypto.SHA512},
	{p11rpc.MechSHA1, schemeDigest, crypto.SHA1},
}

// mechanismOf returns a mechanism by the number a program uses.
func mechanismOf(typ uint64) (mechanism, bool) {
	for _, m := range mechanisms {
		if uint64(m.typ) == typ {
			return m, true
		}
	}
	return mechanism{}, false
}

// on reports whether a slot's token has the mechanism.
func (m mechanism) on(s slot) bool { return m.scheme != schemeEdDSA || !s.neverHasEdDSA }

// fits reports whether the mechanism can be used with a key.
func (m mechanism) fits(k *publicKey) bool {
	switch m.scheme {
	case schemeECDSA:
		return k.typ == p11rpc.KeyTypeEC
	case schemePKCS1, schemePSS:
		return k.typ == p11rpc.KeyTypeRSA
	case schemeEdDSA:
		return k.typ == p11rpc.KeyTypeECEdwards
	}
	return false
}

// info returns what C_GetMechanismInfo says: key sizes in bits, and flags.
func (m mechanism) info() (low, high, flags uint64) {
	switch m.scheme {
	case schemeECDSA:
		return 224, 521, flagSign | flagVerify | flagECFp | flagECNamed | flagECUncomp
	case schemePKCS1, schemePSS:
		return 1024, 16384, flagSign | flagVerify
	case schemeEdDSA:
		return 255, 255, flagSign | flagVerify | flagECNamed
	}
	return 0, 0, flagDigest
}

// params checks what a program gave with the mechanism and returns how a core
// key is to sign, which is opts except where the mechanism leaves the hash open.
func (m mechanism) params(given p11rpc.Mechanism, k *publicKey) (crypto.SignerOpts, error) {
	if m.scheme != schemePSS {
		if len(given.Raw) > 0 {
			return nil, fmt.Errorf("%d bytes of parameters: %w", len(given.Raw), p11rpc.MechanismParamInvalid)
		}
		return m.hash, nil
	}
	p := given.PSS
	if p == nil {
		return nil, fmt.Errorf("PSS without parameters: %w", p11rpc.MechanismParamInvalid)
	}
	hash, mgf := pssHash(p.Hash)
	switch {
	case hash == 0, p.MGF != mgf, m.hash != 0 && m.hash != hash:
		return nil, fmt.Errorf("PSS with hash %#x and mask generation %d: %w", uint32(p.Hash), p.MGF, p11rpc.MechanismParamInvalid)
	case p.Salt == 0:
		// In crypto/rsa 0 means any length, and a signature with another salt
		// than the one asked for is none.
		return nil, fmt.Errorf("PSS without salt: %w", p11rpc.MechanismParamInvalid)
	case p.Salt > uint64(max(0, k.size-2-hash.Size())):
		return nil, fmt.Errorf("PSS with %d bytes of salt: %w", p.Salt, p11rpc.MechanismParamInvalid)
	}
	return &rsa.PSSOptions{Hash: hash, SaltLength: int(p.Salt)}, nil
}

// pssHash returns the hash that a mechanism is, and the mask generation function
// that goes with it; another one cannot be asked of a key.
func pssHash(t p11rpc.MechanismType) (crypto.Hash, uint64) {
	switch t {
	case p11rpc.MechSHA1:
		return crypto.SHA1, p11rpc.MGF1SHA1
	case p11rpc.MechSHA256:
		return crypto.SHA256, p11rpc.MGF1SHA256
	case p11rpc.MechSHA384:
		return crypto.SHA384, p11rpc.MGF1SHA384
	case p11rpc.MechSHA512:
		return crypto.SHA512, p11rpc.MGF1SHA512
	}
	return 0, 0
}
