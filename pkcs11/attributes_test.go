package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// What is said of a key is enough to make it again.
func TestAttributesMakeTheKey(t *testing.T) {
	k := testKeys()
	cert := certificateOf(t, k["rsa"], "mia", 5)
	s := start(t, softKeys("rsa", "p256", "p384", "p521", "ed25519"), Options{Certificates: showing(t, cert)})
	c, session := s.open(t, fileSlot)
	for name, key := range k {
		for _, cl := range []p11rpc.Class{p11rpc.ClassPublicKey, p11rpc.ClassPrivateKey} {
			handle := c.one(session, cl, key)
			value := func(a p11rpc.AttributeType) []byte {
				t.Helper()
				list, rv := c.attributes(session, handle, a)
				if rv != p11rpc.OK || !list[0].Valid {
					t.Fatalf("%s, class %d: attribute %#x: %v", name, cl, uint32(a), rv)
				}
				return list[0].Value
			}
			pub := must(x509.ParsePKIXPublicKey(value(p11rpc.AttrPublicKeyInfo)))
			id := must(keyring.NewKeyID(pub))
			if !bytes.Equal(id[:], value(p11rpc.AttrID)) || string(value(p11rpc.AttrLabel)) != name+" key" {
				t.Errorf("%s: ID %x, label %q", name, value(p11rpc.AttrID), value(p11rpc.AttrLabel))
			}
			typ := binary.BigEndian.Uint64(value(p11rpc.AttrKeyType))
			switch pub := key.signer.Public().(type) {
			case *rsa.PublicKey:
				if typ != 0 || new(big.Int).SetBytes(value(p11rpc.AttrModulus)).Cmp(pub.N) != 0 ||
					!bytes.Equal(value(p11rpc.AttrPublicExponent), []byte{1, 0, 1}) ||
					binary.BigEndian.Uint64(value(p11rpc.AttrModulusBits)) != 2048 {
					t.Errorf("%s: another RSA key", name)
				}
			case *ecdsa.PublicKey:
				var oid asn1.ObjectIdentifier
				var point []byte
				_, err1 := asn1.Unmarshal(value(p11rpc.AttrECParams), &oid)
				_, err2 := asn1.Unmarshal(value(p11rpc.AttrECPoint), &point)
				if typ != 3 || err1 != nil || err2 != nil || !bytes.Equal(point, must(pub.Bytes())) {
					t.Errorf("%s: another EC key: %v, %v", name, err1, err2)
				}
			case ed25519.PublicKey:
				var point []byte
				if _, err := asn1.Unmarshal(value(p11rpc.AttrECPoint), &point); typ != 0x40 || err != nil || !bytes.Equal(point, pub) {
					t.Errorf("%s: another Edwards key: %v", name, err)
				}
				if !bytes.Equal(value(p11rpc.AttrECParams), []byte("\x13\x0cedwards25519")) {
					t.Errorf("parameters %q", value(p11rpc.AttrECParams))
				}
			}
			if value(p11rpc.AttrPrivate)[0] != 0 || value(p11rpc.AttrToken)[0] != 1 {
				t.Errorf("%s: private %v", name, value(p11rpc.AttrPrivate))
			}
			if cl == p11rpc.ClassPrivateKey {
				decrypts, derives := byte(0), byte(0)
				switch key.signer.(type) {
				case *rsa.PrivateKey:
					decrypts = 1
				case *ecdsa.PrivateKey:
					derives = 1
				}
				for a, want := range map[p11rpc.AttributeType]byte{
					p11rpc.AttrSign: 1, p11rpc.AttrDecrypt: decrypts, p11rpc.AttrDerive: derives, p11rpc.AttrSensitive: 1,
					p11rpc.AttrExtractable: 0, p11rpc.AttrAlwaysAuthenticate: 0, p11rpc.AttrUnwrap: decrypts,
					p11rpc.AttrLocal: 0, p11rpc.AttrNeverExtractable: 0, p11rpc.AttrAlwaysSensitive: 0,
				} {
					if value(a)[0] != want {
						t.Errorf("%s: attribute %#x is %d", name, uint32(a), value(a)[0])
					}
				}
			}
		}
	}
	handle := c.find(session, class(p11rpc.ClassCertificate))[0]
	list, rv := c.attributes(session, handle, p11rpc.AttrValue, p11rpc.AttrSubject, p11rpc.AttrIssuer, p11rpc.AttrSerialNumber,
		p11rpc.AttrCheckValue, p11rpc.AttrStartDate, p11rpc.AttrCertificateType)
	if rv != p11rpc.OK || !bytes.Equal(list[0].Value, cert.Raw) || !bytes.Equal(list[1].Value, cert.RawSubject) ||
		!bytes.Equal(list[2].Value, cert.RawIssuer) || !bytes.Equal(list[3].Value, []byte{2, 1, 5}) || len(list[4].Value) != 3 ||
		string(list[5].Value) != cert.NotBefore.UTC().Format("20060102") {
		t.Errorf("certificate: %v, %v", list, rv)
	}
}

// One attribute that cannot be had does not spoil the others, and the private
// value is never given.
func TestAttributesAreAnsweredOneByOne(t *testing.T) {
	k := testKeys()["rsa"]
	s := start(t, softKeys("rsa"), Options{})
	c, session := s.open(t, fileSlot)
	handle := c.one(session, p11rpc.ClassPrivateKey, k)
	d := c.must(p11rpc.GetAttributeValue, func(e *p11rpc.Encoder) {
		e.Ulong(session)
		e.Ulong(handle)
		e.Rooms([]p11rpc.Room{
			{Type: p11rpc.AttrPrivateExponent, Length: 256}, {Type: p11rpc.AttrID, Length: 32}, {Type: p11rpc.AttrModulus},
			{Type: p11rpc.AttrLabel, Length: 2}, {Type: p11rpc.AttrECPoint, Length: 100}, {Type: p11rpc.AttrKeyType},
		})
	})
	list, rv := d.Attributes(), p11rpc.RV(d.Ulong())
	if err := d.End(); err != nil {
		t.Fatal(err)
	}
	if rv != p11rpc.AttributeTypeInvalid {
		t.Errorf("code %v", rv)
	}
	if list[0].Valid || !list[1].Valid || len(list[1].Value) != 32 || list[2].Length != 256 || list[2].Value != nil ||
		list[3].Valid || list[4].Valid || list[5].Length != 8 {
		t.Errorf("%+v", list)
	}
	if _, rv := c.attributes(session, handle, p11rpc.AttrPrime1); rv != p11rpc.AttributeSensitive {
		t.Errorf("a prime: %v", rv)
	}
	for name, template := range map[string][]p11rpc.Attribute{
		"another value":     {p11rpc.NewAttribute(p11rpc.AttrLabel, []byte("x"))},
		"no such attribute": {p11rpc.NewAttribute(p11rpc.AttrECPoint, []byte("x"))},
		"sensitive":         {p11rpc.NewAttribute(p11rpc.AttrPrime1, []byte("x"))},
		"not valid":         {{Type: p11rpc.AttrID}},
		"empty":             {p11rpc.NewAttribute(p11rpc.AttrID, nil)},
		"template":          {{Type: p11rpc.AttrWrapTemplate, Valid: true}},
	} {
		if found := c.find(session, template...); len(found) != 0 {
			t.Errorf("%s: found %v", name, found)
		}
	}
}

// Every mechanism signs what Go says is right, the token's own verdict is the
// same, and what does not fit is refused with the right code.
func TestEveryMechanism(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("rsa", "p256", "p521", "ed25519"), Options{})
	c, session := s.open(t, fileSlot)
	message := []byte("a message")
	digest := func(h crypto.Hash) []byte {
		if h == 0 {
			h = crypto.SHA256
		}
		w := h.New()
		w.Write(message)
		return w.Sum(nil)
	}
	for _, m := range mechanisms {
		name := map[scheme]string{schemeECDSA: "p256", schemePKCS1: "rsa", schemePSS: "rsa", schemeEdDSA: "ed25519"}[m.scheme]
		if name == "" {
			continue
		}
		given := p11rpc.Mechanism{Type: m.typ}
		if m.scheme == schemePSS {
			given.PSS = &p11rpc.PSSParams{Hash: p11rpc.MechSHA256, MGF: p11rpc.MGF1SHA256, Salt: 17}
			for _, h := range hashes {
				if h.hash == m.hash {
					given.PSS.Hash, given.PSS.MGF = h.typ, h.mgf
				}
			}
		}
		data := message
		if m.hash == 0 && m.scheme != schemeEdDSA {
			if data = digest(0); m.scheme == schemePKCS1 {
				data = append([]byte(digestInfos[0].prefix), data...)
			}
		}
		private, public := c.one(session, p11rpc.ClassPrivateKey, k[name]), c.one(session, p11rpc.ClassPublicKey, k[name])
		sig, rv := c.sign(session, given, private, data)
		if rv != p11rpc.OK {
			t.Errorf("mechanism %#x: %v", uint32(m.typ), rv)
			continue
		}
		good := false
		hash := m.hash
		if hash == 0 {
			hash = crypto.SHA256
		}
		switch pub := k[name].signer.Public().(type) {
		case *ecdsa.PublicKey:
			good = ecdsa.Verify(pub, digest(m.hash), new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
		case *rsa.PublicKey:
			if m.scheme == schemePSS {
				good = rsa.VerifyPSS(pub, hash, digest(m.hash), sig, &rsa.PSSOptions{SaltLength: 17}) == nil
			} else {
				good = rsa.VerifyPKCS1v15(pub, hash, digest(m.hash), sig) == nil
			}
		case ed25519.PublicKey:
			good = ed25519.Verify(pub, message, sig)
		}
		if !good {
			t.Errorf("mechanism %#x: the signature is wrong", uint32(m.typ))
		}
		check := func(data, sig []byte) p11rpc.RV {
			c.must(p11rpc.VerifyInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(given); e.Ulong(public) })
			rv, _ := c.call(p11rpc.Verify, func(e *p11rpc.Encoder) { e.Ulong(session); e.Data(data); e.Data(sig) })
			return rv
		}
		bad := bytes.Clone(sig)
		bad[len(bad)-1] ^= 1
		if a, b, d := check(data, sig), check(data, bad), check(data, sig[1:]); a != p11rpc.OK || b != p11rpc.SignatureInvalid || d != p11rpc.SignatureLenRange {
			t.Errorf("mechanism %#x: verified: %v, altered: %v, cut: %v", uint32(m.typ), a, b, d)
		}
	}
	pss := func(h p11rpc.MechanismType, mgf, salt uint64) p11rpc.Mechanism {
		return p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSPSS, PSS: &p11rpc.PSSParams{Hash: h, MGF: mgf, Salt: salt}}
	}
	sum := sha256.Sum256(message)
	for name, x := range map[string]struct {
		key  string
		m    p11rpc.Mechanism
		data []byte
		want p11rpc.RV
	}{
		"ECDSA with an RSA key":      {"rsa", ecdsaMechanism, sum[:], p11rpc.KeyTypeInconsistent},
		"a digest is no signature":   {"rsa", p11rpc.Mechanism{Type: p11rpc.MechSHA256}, sum[:], p11rpc.MechanismInvalid},
		"raw RSA":                    {"rsa", p11rpc.Mechanism{Type: p11rpc.MechRSAX509}, sum[:], p11rpc.OK},
		"raw RSA with an EC key":     {"p256", p11rpc.Mechanism{Type: p11rpc.MechRSAX509}, sum[:], p11rpc.KeyTypeInconsistent},
		"PSS without parameters":     {"rsa", p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSPSS}, sum[:], p11rpc.MechanismParamInvalid},
		"PSS with too much salt":     {"rsa", pss(p11rpc.MechSHA256, p11rpc.MGF1SHA256, 223), sum[:], p11rpc.MechanismParamInvalid},
		"PSS with all salt there is": {"rsa", pss(p11rpc.MechSHA256, p11rpc.MGF1SHA256, 222), sum[:], p11rpc.OK},
		"PSS with endless salt":      {"rsa", pss(p11rpc.MechSHA256, p11rpc.MGF1SHA256, 1<<63), sum[:], p11rpc.MechanismParamInvalid},
		"PSS with two hashes":        {"rsa", pss(p11rpc.MechSHA256, p11rpc.MGF1SHA1, 32), sum[:], p11rpc.MechanismParamInvalid},
		"PSS of another length":      {"rsa", pss(p11rpc.MechSHA256, p11rpc.MGF1SHA256, 32), sum[:31], p11rpc.DataLenRange},
		"PKCS #1 of no digest":       {"rsa", p11rpc.Mechanism{Type: p11rpc.MechRSAPKCS}, []byte("no digest"), p11rpc.OK},
		"PKCS #1 of too much":        {"rsa", p11rpc.Mechanism{Type: p11rpc.MechRSAPKCS}, make([]byte, 246), p11rpc.DataLenRange},
		"ECDSA of nothing":           {"p256", ecdsaMechanism, nil, p11rpc.DataLenRange},
		"ECDSA of an odd length":     {"p256", ecdsaMechanism, sum[:31], p11rpc.OK},
		"ECDSA of a longer digest":   {"p256", ecdsaMechanism, make([]byte, 64), p11rpc.OK},
		"P-521":                      {"p521", ecdsaMechanism, sum[:], p11rpc.OK},
		"EdDSA with a context":       {"ed25519", p11rpc.Mechanism{Type: p11rpc.MechEDDSA, Raw: []byte{1}}, sum[:], p11rpc.MechanismParamInvalid},
	} {
		sig, rv := c.sign(session, x.m, c.one(session, p11rpc.ClassPrivateKey, k[x.key]), x.data)
		if rv != x.want {
			t.Errorf("%s: %v, want %v", name, rv, x.want)
		}
		if pub, ok := k[x.key].signer.Public().(*ecdsa.PublicKey); ok && rv == p11rpc.OK {
			half := len(sig) / 2
			if !ecdsa.Verify(pub, x.data, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])) {
				t.Errorf("%s: the signature is wrong", name)
			}
		}
		// Whatever became of it, the session is free again.
		if rv := c.signInit(session, p11rpc.Mechanism{Type: p11rpc.MechSHA256RSAPKCS}, c.one(session, p11rpc.ClassPrivateKey, k["rsa"])); rv != p11rpc.OK {
			t.Errorf("%s: afterwards %v", name, rv)
		}
		c.signInit(session, p11rpc.Mechanism{Type: p11rpc.MechNone}, 0)
	}
	public := c.one(session, p11rpc.ClassPublicKey, k["rsa"])
	if rv := c.signInit(session, p11rpc.Mechanism{Type: p11rpc.MechRSAPKCS}, public); rv != p11rpc.KeyFunctionNotPermitted {
		t.Errorf("signs with a public key: %v", rv)
	}
}

// What would change a token is refused with the fitting code, and what is not
// offered says so.
func TestNothingIsWritten(t *testing.T) {
	s := start(t, softKeys("p256"), Options{})
	c, session := s.open(t, fileSlot)
	key := c.one(session, p11rpc.ClassPrivateKey, testKeys()["p256"])
	c.want(p11rpc.ActionProhibited, p11rpc.DestroyObject, ulongs(session, key))
	c.want(p11rpc.ObjectHandleInvalid, p11rpc.DestroyObject, ulongs(session, 99))
	certificate := []p11rpc.Attribute{class(p11rpc.ClassCertificate), p11rpc.NewAttribute(p11rpc.AttrToken, p11rpc.BoolValue(true))}
	c.want(p11rpc.TokenWriteProtected, p11rpc.CreateObject, func(e *p11rpc.Encoder) { e.Ulong(session); e.Attributes(certificate) })
	c.want(p11rpc.TokenWriteProtected, p11rpc.GenerateKeyPair, func(e *p11rpc.Encoder) {
		e.Ulong(session)
		e.Mechanism(p11rpc.Mechanism{Type: p11rpc.MechECKeyPairGen})
		e.Attributes(nil)
		e.Attributes(nil)
	})
	for call, want := range map[p11rpc.Call]p11rpc.RV{
		p11rpc.InitToken: p11rpc.TokenWriteProtected, p11rpc.CopyObject: p11rpc.ActionProhibited,
		p11rpc.SetAttributeValue: p11rpc.AttributeReadOnly, p11rpc.SeedRandom: p11rpc.RandomSeedNotSupported,
		p11rpc.DigestKey: p11rpc.KeyIndigestible, p11rpc.GetOperationState: p11rpc.StateUnsaveable,
		p11rpc.EncryptInit: p11rpc.FunctionNotSupported, p11rpc.GenerateKey: p11rpc.FunctionNotSupported,
		p11rpc.WrapKey: p11rpc.FunctionNotSupported, p11rpc.SetPIN: p11rpc.FunctionNotSupported,
		p11rpc.InitPIN: p11rpc.FunctionNotSupported, p11rpc.LoginUser: p11rpc.FunctionNotSupported,
	} {
		c.want(want, call, ulongs(session, 1))
	}
	c.want(p11rpc.NoEvent, p11rpc.WaitForSlotEvent, ulongs(1))
	c.want(p11rpc.FunctionNotSupported, p11rpc.WaitForSlotEvent, ulongs(0))
	d := c.must(p11rpc.GetMechanismInfo, ulongs(fileSlot, uint64(p11rpc.MechECDSA)))
	if low, high, flags := d.Ulong(), d.Ulong(), d.Ulong(); low > 256 || high < 521 || flags&flagSign == 0 {
		t.Errorf("ECDSA: %d to %d, %#x", low, high, flags)
	}
	c.want(p11rpc.MechanismInvalid, p11rpc.GetMechanismInfo, ulongs(fileSlot, 1<<40|uint64(p11rpc.MechECDSA)))
}
