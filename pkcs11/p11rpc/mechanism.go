package p11rpc

import "fmt"

// A Mechanism is a CK_MECHANISM: what to do, with at most one kind of
// parameters.
type Mechanism struct {
	Type MechanismType
	PSS  *PSSParams
	OAEP *OAEPParams
	ECDH *ECDHParams
	Raw  []byte // parameters of no form that is known; nil: none
}

// PSSParams is CK_RSA_PKCS_PSS_PARAMS.
type PSSParams struct {
	Hash MechanismType
	MGF  uint64
	Salt uint64 // its length in bytes
}

// OAEPParams is CK_RSA_PKCS_OAEP_PARAMS.
type OAEPParams struct {
	Hash   MechanismType
	MGF    uint64
	Source uint64
	Data   []byte // nil: none
}

// ECDHParams is CK_ECDH1_DERIVE_PARAMS.
type ECDHParams struct {
	KDF            uint64
	Shared, Public []byte // nil: none
}

type paramForm int

const (
	paramsUnknown paramForm = iota
	paramsNone
	paramsPSS
	paramsOAEP
	paramsECDH
	paramsRaw
)

// params returns what form a mechanism's parameters have on the wire.
func (t MechanismType) params() paramForm {
	switch t {
	case MechRSAPKCSKeyPairGen, MechRSAPKCS, MechRSAX509,
		MechSHA1RSAPKCS, MechSHA224RSAPKCS, MechSHA256RSAPKCS, MechSHA384RSAPKCS, MechSHA512RSAPKCS,
		MechSHA1, MechSHA224, MechSHA256, MechSHA384, MechSHA512,
		MechECKeyPairGen, MechECEdwardsKeyPairGen,
		MechECDSA, MechECDSASHA1, MechECDSASHA224, MechECDSASHA256, MechECDSASHA384, MechECDSASHA512:
		return paramsNone
	case MechRSAPKCSPSS, MechSHA1RSAPKCSPSS, MechSHA224RSAPKCSPSS, MechSHA256RSAPKCSPSS,
		MechSHA384RSAPKCSPSS, MechSHA512RSAPKCSPSS:
		return paramsPSS
	case MechRSAPKCSOAEP:
		return paramsOAEP
	case MechECDH1Derive, MechECDH1CofactorDerive:
		return paramsECDH
	case MechEDDSA: // p11-kit does not know it, and would send what it does not know so
		return paramsRaw
	}
	return paramsUnknown
}

// Mechanism reads M.
func (d *Decoder) Mechanism() Mechanism {
	m := Mechanism{Type: MechanismType(d.uint32())}
	if d.err != nil {
		return Mechanism{}
	}
	form := m.Type.params()
	switch {
	case m.Type == MechNone && d.framing == FramingNew:
		return m
	case form == paramsUnknown:
		d.err, d.rest = fmt.Errorf("%w: %#x", ErrMechanism, uint32(m.Type)), nil
		return m
	case form == paramsNone:
		if d.framing == FramingOld {
			m.Raw, _ = d.array()
		}
		return m
	case d.framing == FramingNew && !d.flag():
		return m
	}
	switch form {
	case paramsPSS:
		m.PSS = &PSSParams{Hash: d.mechanismType(), MGF: d.Ulong(), Salt: d.Ulong()}
	case paramsOAEP:
		m.OAEP = &OAEPParams{Hash: d.mechanismType(), MGF: d.Ulong(), Source: d.Ulong()}
		m.OAEP.Data, _ = d.array()
	case paramsECDH:
		m.ECDH = &ECDHParams{KDF: d.Ulong()}
		m.ECDH.Shared, _ = d.array()
		m.ECDH.Public, _ = d.array()
	case paramsRaw:
		m.Raw, _ = d.array()
		if m.Raw == nil && d.framing == FramingNew {
			d.fail("parameters that are there and are not")
		}
	}
	return m
}

// mechanismType reads a mechanism that is written as a number.
func (d *Decoder) mechanismType() MechanismType {
	n := d.Ulong()
	if n > uint64(^MechanismType(0)) {
		d.fail("mechanism %#x", n)
	}
	return MechanismType(n)
}

// Mechanism writes M. Parameters must be of the type's kind.
func (e *Encoder) Mechanism(m Mechanism) {
	e.uint32(uint32(m.Type))
	switch m.Type.params() {
	case paramsUnknown: // MechNone: nothing follows
		return
	case paramsNone:
		if e.framing == FramingOld {
			e.array(m.Raw)
		}
		return
	}
	if e.framing == FramingNew {
		there := m.PSS != nil || m.OAEP != nil || m.ECDH != nil || m.Raw != nil
		e.flag(there)
		if !there {
			return
		}
	}
	switch {
	case m.PSS != nil:
		e.Ulong(uint64(m.PSS.Hash))
		e.Ulong(m.PSS.MGF)
		e.Ulong(m.PSS.Salt)
	case m.OAEP != nil:
		e.Ulong(uint64(m.OAEP.Hash))
		e.Ulong(m.OAEP.MGF)
		e.Ulong(m.OAEP.Source)
		e.array(m.OAEP.Data)
	case m.ECDH != nil:
		e.Ulong(m.ECDH.KDF)
		e.array(m.ECDH.Shared)
		e.array(m.ECDH.Public)
	default:
		e.array(m.Raw)
	}
}
