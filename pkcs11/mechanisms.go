package pkcs11

import (
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1" // CKM_SHA_1 and what is built on it; programs that still need it say so
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

type scheme int

const (
	schemeDigest scheme = iota
	schemeECDSA
	schemePKCS1
	schemePSS
	schemeEdDSA
	schemeOAEP
	schemeRSA // as it is, without a padding
	schemeECDH
	schemeMakeRSA
	schemeMakeEC
)

// uses are what the operations of each kind need of a mechanism.
var uses = [kinds]uint64{signing: flagSign, verifying: flagVerify, decrypting: flagDecrypt}

// A mechanism is one way to use a key, to make one, or to digest.
type mechanism struct {
	typ    p11rpc.MechanismType
	scheme scheme
	hash   crypto.Hash // 0: the program gives what is to be signed as it is
}

// mechanisms are all there are, in the order in which they are listed.
var mechanisms = []mechanism{
	{p11rpc.MechECDSA, schemeECDSA, 0},
	{p11rpc.MechECDSASHA256, schemeECDSA, crypto.SHA256},
	{p11rpc.MechECDSASHA384, schemeECDSA, crypto.SHA384},
	{p11rpc.MechECDSASHA512, schemeECDSA, crypto.SHA512},
	{p11rpc.MechECDSASHA224, schemeECDSA, crypto.SHA224},
	{p11rpc.MechECDSASHA1, schemeECDSA, crypto.SHA1},
	{p11rpc.MechRSAPKCS, schemePKCS1, 0},
	{p11rpc.MechSHA256RSAPKCS, schemePKCS1, crypto.SHA256},
	{p11rpc.MechSHA384RSAPKCS, schemePKCS1, crypto.SHA384},
	{p11rpc.MechSHA512RSAPKCS, schemePKCS1, crypto.SHA512},
	{p11rpc.MechSHA224RSAPKCS, schemePKCS1, crypto.SHA224},
	{p11rpc.MechSHA1RSAPKCS, schemePKCS1, crypto.SHA1},
	{p11rpc.MechRSAPKCSPSS, schemePSS, 0},
	{p11rpc.MechSHA256RSAPKCSPSS, schemePSS, crypto.SHA256},
	{p11rpc.MechSHA384RSAPKCSPSS, schemePSS, crypto.SHA384},
	{p11rpc.MechSHA512RSAPKCSPSS, schemePSS, crypto.SHA512},
	{p11rpc.MechSHA224RSAPKCSPSS, schemePSS, crypto.SHA224},
	{p11rpc.MechSHA1RSAPKCSPSS, schemePSS, crypto.SHA1},
	{p11rpc.MechRSAPKCSOAEP, schemeOAEP, 0},
	{p11rpc.MechRSAX509, schemeRSA, 0},
	{p11rpc.MechECDH1Derive, schemeECDH, 0},
	{p11rpc.MechEDDSA, schemeEdDSA, 0},
	{p11rpc.MechECKeyPairGen, schemeMakeEC, 0},
	{p11rpc.MechRSAPKCSKeyPairGen, schemeMakeRSA, 0},
	{p11rpc.MechSHA256, schemeDigest, crypto.SHA256},
	{p11rpc.MechSHA384, schemeDigest, crypto.SHA384},
	{p11rpc.MechSHA512, schemeDigest, crypto.SHA512},
	{p11rpc.MechSHA224, schemeDigest, crypto.SHA224},
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

// has reports whether a slot's token has the mechanism.
func (q *request) has(id uint64, m mechanism) bool {
	t, err := q.slot(id)
	if err != nil {
		return false
	}
	switch m.scheme {
	case schemeEdDSA:
		return !t.hardware
	case schemeMakeRSA, schemeMakeEC:
		return t.hardware && q.server.maker != nil
	}
	return true
}

// flags is what the mechanism is for, as C_GetMechanismInfo says it.
func (m mechanism) flags() uint64 {
	switch m.scheme {
	case schemePKCS1:
		if m.hash == 0 {
			return flagSign | flagVerify | flagDecrypt
		}
		return flagSign | flagVerify
	case schemeRSA:
		return flagSign | flagVerify | flagDecrypt
	case schemeECDSA, schemePSS, schemeEdDSA:
		return flagSign | flagVerify
	case schemeOAEP:
		return flagDecrypt
	case schemeECDH:
		return flagDerive
	case schemeMakeRSA, schemeMakeEC:
		return flagGenerateKeyPair
	}
	return flagDigest
}

// fits reports whether the mechanism can be used with a key.
func (m mechanism) fits(k *publicKey) bool {
	switch m.scheme {
	case schemeECDSA, schemeECDH:
		return k.typ == p11rpc.KeyTypeEC
	case schemePKCS1, schemePSS, schemeOAEP:
		return k.typ == p11rpc.KeyTypeRSA
	case schemeRSA:
		return k.typ == p11rpc.KeyTypeRSA && k.may(flagDecrypt)
	case schemeEdDSA:
		return k.typ == p11rpc.KeyTypeECEdwards
	}
	return false
}

// allowed reports whether the mechanism can do anything with one half of a key.
func (m mechanism) allowed(k *publicKey, class p11rpc.Class) bool {
	use := m.flags() & flagVerify
	if class == p11rpc.ClassPrivateKey {
		use = 0
		for _, u := range []uint64{flagSign, flagDecrypt, flagDerive} {
			if k.may(u) {
				use |= m.flags() & u
			}
		}
	}
	return use != 0 && m.fits(k)
}

// info returns what C_GetMechanismInfo says: key sizes in bits, and flags.
func (m mechanism) info() (low, high, flags uint64) {
	flags = m.flags()
	switch m.scheme {
	case schemeECDSA, schemeECDH, schemeMakeEC:
		return 256, 521, flags | flagECFp | flagECNamed | flagECUncomp
	case schemePKCS1, schemePSS, schemeOAEP, schemeRSA:
		return 1024, 16384, flags
	case schemeMakeRSA:
		return 2048, 4096, flags
	case schemeEdDSA:
		return 255, 255, flags | flagECNamed
	}
	return 0, 0, flags
}

// params checks what a program gave with the mechanism and returns how a core
// key is to be used: crypto.SignerOpts, which is the hash except where the
// mechanism leaves that open, or crypto.DecrypterOpts.
func (m mechanism) params(given p11rpc.Mechanism, k *publicKey) (any, error) {
	switch m.scheme {
	case schemePSS:
		return m.pss(given.PSS, k)
	case schemeOAEP:
		return oaep(given.OAEP)
	}
	if len(given.Raw) > 0 {
		return nil, fmt.Errorf("%d bytes of parameters: %w", len(given.Raw), p11rpc.MechanismParamInvalid)
	}
	return m.hash, nil
}

func (m mechanism) pss(p *p11rpc.PSSParams, k *publicKey) (*rsa.PSSOptions, error) {
	if p == nil {
		return nil, fmt.Errorf("PSS without parameters: %w", p11rpc.MechanismParamInvalid)
	}
	hash, mgf := hashOf(p.Hash), mgfOf(p.MGF)
	salt := p.Salt
	switch {
	case hash == 0, mgf != hash, m.hash != 0 && m.hash != hash:
		// Another mask generation than with the same hash cannot be asked of a key.
		return nil, fmt.Errorf("PSS with hash %#x and mask generation %d: %w", uint32(p.Hash), p.MGF, p11rpc.MechanismParamInvalid)
	case salt > uint64(max(0, k.size-2-hash.Size())):
		return nil, fmt.Errorf("PSS with %d bytes of salt: %w", salt, p11rpc.MechanismParamInvalid)
	case salt == 0:
		return &rsa.PSSOptions{Hash: hash, SaltLength: keyring.PSSNoSalt}, nil
	}
	return &rsa.PSSOptions{Hash: hash, SaltLength: int(salt)}, nil
}

// oaep returns how a key decrypts, PKCS#11 mechanisms §2.1.8.
func oaep(p *p11rpc.OAEPParams) (*rsa.OAEPOptions, error) {
	if p == nil {
		return nil, fmt.Errorf("OAEP without parameters: %w", p11rpc.MechanismParamInvalid)
	}
	o := &rsa.OAEPOptions{Hash: hashOf(p.Hash), MGFHash: mgfOf(p.MGF)}
	switch {
	case o.Hash == 0, o.MGFHash == 0:
		return nil, fmt.Errorf("OAEP with hash %#x and mask generation %d: %w", uint32(p.Hash), p.MGF, p11rpc.MechanismParamInvalid)
	case p.Source != p11rpc.DataSpecified && (p.Source != 0 || len(p.Data) > 0), len(p.Data) > maxLabel:
		return nil, fmt.Errorf("OAEP with source %d of %d bytes: %w", p.Source, len(p.Data), p11rpc.MechanismParamInvalid)
	}
	o.Label = append([]byte(nil), p.Data...)
	return o, nil
}

// maxLabel bounds what a session keeps of a request. Labels have a few bytes.
const maxLabel = 4096

// hashes are those that mechanisms can be made with, and the CKG_ that uses
// each.
var hashes = []struct {
	typ  p11rpc.MechanismType
	mgf  uint64
	hash crypto.Hash
}{
	{p11rpc.MechSHA256, p11rpc.MGF1SHA256, crypto.SHA256},
	{p11rpc.MechSHA384, p11rpc.MGF1SHA384, crypto.SHA384},
	{p11rpc.MechSHA512, p11rpc.MGF1SHA512, crypto.SHA512},
	{p11rpc.MechSHA224, p11rpc.MGF1SHA224, crypto.SHA224},
	{p11rpc.MechSHA1, p11rpc.MGF1SHA1, crypto.SHA1},
}

// hashOf returns the hash that a mechanism is, 0 if it is none.
func hashOf(t p11rpc.MechanismType) crypto.Hash {
	for _, h := range hashes {
		if h.typ == t {
			return h.hash
		}
	}
	return 0
}

// mgfOf returns the hash of a mask generation function, 0 for one that is not
// known.
func mgfOf(mgf uint64) crypto.Hash {
	for _, h := range hashes {
		if h.mgf == mgf {
			return h.hash
		}
	}
	return 0
}
