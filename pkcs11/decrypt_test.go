package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
	"github.com/keyringd/keyringd/prompt"
)

var (
	rsaMechanism  = p11rpc.Mechanism{Type: p11rpc.MechRSAPKCS}
	oaepMechanism = p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSOAEP, OAEP: &p11rpc.OAEPParams{
		Hash: p11rpc.MechSHA256, MGF: p11rpc.MGF1SHA1, Source: p11rpc.DataSpecified, Data: []byte("label"),
	}}
)

func encrypted(k testKey, m p11rpc.Mechanism, plain []byte) []byte {
	pub := k.signer.Public().(*rsa.PublicKey)
	if m.OAEP != nil {
		return must(rsa.EncryptOAEPWithOptions(rand.Reader, pub, plain, &rsa.OAEPOptions{
			Hash: crypto.SHA256, MGFHash: crypto.SHA1, Label: m.OAEP.Data,
		}))
	}
	//lint:ignore SA1019 it is what programs ask for.
	return must(rsa.EncryptPKCS1v15(rand.Reader, pub, plain))
}

func (c *client) decryptInit(session uint64, m p11rpc.Mechanism, key uint64) {
	c.tb.Helper()
	c.must(p11rpc.DecryptInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(m); e.Ulong(key) })
}

func TestDecrypts(t *testing.T) {
	k := testKeys()["rsa"]
	fake := k.fake(keyring.KindTPM)
	s := start(t, []keyring.Key{fake}, Options{})
	c, session := s.open(t, 1)
	key := c.one(session, p11rpc.ClassPrivateKey, k)
	for _, m := range []p11rpc.Mechanism{rsaMechanism, oaepMechanism} {
		for _, plain := range [][]byte{[]byte("hello"), {}} {
			data := encrypted(k, m, plain)
			c.decryptInit(session, m, key)
			if b := c.must(p11rpc.Decrypt, signArgs(session, data, 0)).Bytes(); !b.LengthOnly || b.Length != 256 {
				t.Errorf("length: %+v", b)
			}
			if b := c.must(p11rpc.Decrypt, signArgs(session, data, 256)).Bytes(); b.LengthOnly || !bytes.Equal(b.Data, plain) {
				t.Errorf("%+v, want %q", b, plain)
			}
			c.want(p11rpc.OperationNotInitialized, p11rpc.Decrypt, signArgs(session, data, 256))

			// In parts.
			c.decryptInit(session, m, key)
			for _, part := range [][]byte{data[:100], data[100:]} {
				if b := c.must(p11rpc.DecryptUpdate, signArgs(session, part, 256)).Bytes(); len(b.Data) != 0 {
					t.Errorf("a part gave %d bytes", len(b.Data))
				}
			}
			c.want(p11rpc.OperationActive, p11rpc.Decrypt, signArgs(session, data, 256))
			final := func(room uint32) p11rpc.Bytes {
				return c.must(p11rpc.DecryptFinal, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(room) }).Bytes()
			}
			if b := final(0); !b.LengthOnly {
				t.Errorf("length: %+v", b)
			}
			if b := final(300); !bytes.Equal(b.Data, plain) {
				t.Errorf("%+v, want %q", b, plain)
			}
		}
	}
	if len(s.prompter.Questions()) != 0 {
		t.Error("asked")
	}
}

// A plaintext that has no room waits for it: the user is asked once.
func TestDecryptedOnceForTooLittleRoom(t *testing.T) {
	k := testKeys()["rsa"]
	uses := 0
	fake := k.fake(keyring.KindTPM)
	fake.KeyInfo.Confirm = true
	fake.Hook = func(context.Context) error { uses++; return nil }
	s := start(t, []keyring.Key{fake}, Options{})
	s.all.Refresh()
	s.prompter.Script(keyringtest.Reply{})
	c, session := s.open(t, 1)
	c.decryptInit(session, rsaMechanism, c.one(session, p11rpc.ClassPrivateKey, k))
	data := encrypted(k, rsaMechanism, []byte("sixteen bytes at"))
	for _, room := range []uint32{3, 15} {
		if b := c.must(p11rpc.Decrypt, signArgs(session, data, room)).Bytes(); !b.LengthOnly || b.Length != 16 {
			t.Errorf("room for %d: %+v", room, b)
		}
	}
	if b := c.must(p11rpc.Decrypt, signArgs(session, data, 16)).Bytes(); string(b.Data) != "sixteen bytes at" {
		t.Errorf("%+v", b)
	}
	asked := s.prompter.Questions()
	if uses != 1 || len(asked) != 1 || asked[0].Reason != reasonDecrypt || asked[0].Kind != prompt.Confirm {
		t.Errorf("%d uses, asked %+v", uses, asked)
	}
}

func TestDecryptRefuses(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("rsa", "p256"), Options{})
	c, session := s.open(t, fileSlot)
	key := c.one(session, p11rpc.ClassPrivateKey, k["rsa"])
	public, ec := c.one(session, p11rpc.ClassPublicKey, k["rsa"]), c.one(session, p11rpc.ClassPrivateKey, k["p256"])
	good := encrypted(k["rsa"], oaepMechanism, []byte("x"))
	for name, x := range map[string]struct {
		m    p11rpc.Mechanism
		key  uint64
		data []byte
		want p11rpc.RV
	}{
		"another padding":        {rsaMechanism, key, bytes.Repeat([]byte{1}, 256), p11rpc.EncryptedDataInvalid},
		"too short":              {oaepMechanism, key, good[1:], p11rpc.EncryptedDataLenRange},
		"nothing":                {oaepMechanism, key, nil, p11rpc.EncryptedDataLenRange},
		"a public key":           {oaepMechanism, public, good, p11rpc.KeyFunctionNotPermitted},
		"an EC key":              {oaepMechanism, ec, good, p11rpc.KeyFunctionNotPermitted},
		"no key":                 {oaepMechanism, 99, good, p11rpc.KeyHandleInvalid},
		"a signing mechanism":    {p11rpc.Mechanism{Type: p11rpc.MechSHA256RSAPKCS}, key, good, p11rpc.MechanismInvalid},
		"raw, above the modulus": {p11rpc.Mechanism{Type: p11rpc.MechRSAX509}, key, bytes.Repeat([]byte{0xff}, 256), p11rpc.EncryptedDataInvalid},
		"OAEP without a word":    {p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSOAEP}, key, good, p11rpc.MechanismParamInvalid},
		"OAEP with another hash": {p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSOAEP, OAEP: &p11rpc.OAEPParams{Hash: 7, MGF: 1}}, key, good, p11rpc.MechanismParamInvalid},
		"OAEP with a stray label": {p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSOAEP, OAEP: &p11rpc.OAEPParams{
			Hash: p11rpc.MechSHA1, MGF: p11rpc.MGF1SHA1, Data: []byte("x")}}, key, good, p11rpc.MechanismParamInvalid},
	} {
		rv, _ := c.call(p11rpc.DecryptInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(x.m); e.Ulong(x.key) })
		if rv == p11rpc.OK {
			rv, _ = c.call(p11rpc.Decrypt, signArgs(session, x.data, 256))
		}
		if rv != x.want {
			t.Errorf("%s: %v, want %v", name, rv, x.want)
		}
		c.want(p11rpc.OperationNotInitialized, p11rpc.Decrypt, signArgs(session, good, 256))
	}
	c.decryptInit(session, oaepMechanism, key)
	c.want(p11rpc.OperationActive, p11rpc.DecryptInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(oaepMechanism); e.Ulong(key) })
	c.must(p11rpc.DecryptInit, func(e *p11rpc.Encoder) {
		e.Ulong(session)
		e.Mechanism(p11rpc.Mechanism{Type: p11rpc.MechNone})
		e.Ulong(0)
	})
	c.decryptInit(session, oaepMechanism, key)
	c.want(p11rpc.EncryptedDataLenRange, p11rpc.DecryptUpdate, signArgs(session, make([]byte, 257), 256))
	c.want(p11rpc.OperationNotInitialized, p11rpc.DecryptUpdate, signArgs(session, nil, 256))
}

func attr(t p11rpc.AttributeType, value []byte) p11rpc.Attribute {
	a := p11rpc.NewAttribute(t, value)
	return a
}

func secretTemplate(more ...p11rpc.Attribute) []p11rpc.Attribute {
	return append([]p11rpc.Attribute{
		class(p11rpc.ClassSecretKey), attr(p11rpc.AttrKeyType, p11rpc.UlongValue(p11rpc.KeyTypeGenericSecret)),
		attr(p11rpc.AttrToken, p11rpc.BoolValue(false)), attr(p11rpc.AttrLabel, []byte("shared")),
	}, more...)
}

func (c *client) derive(session uint64, p *p11rpc.ECDHParams, key uint64, template []p11rpc.Attribute) (uint64, p11rpc.RV) {
	c.tb.Helper()
	rv, d := c.call(p11rpc.DeriveKey, func(e *p11rpc.Encoder) {
		e.Ulong(session)
		e.Mechanism(p11rpc.Mechanism{Type: p11rpc.MechECDH1Derive, ECDH: p})
		e.Ulong(key)
		e.Attributes(template)
	})
	if rv != p11rpc.OK {
		return 0, rv
	}
	return d.Ulong(), rv
}

func TestDerives(t *testing.T) {
	s := start(t, softKeys("p256", "p384", "p521"), Options{})
	c, session := s.open(t, fileSlot)
	for name, k := range testKeys() {
		own, ok := k.signer.(*ecdsa.PrivateKey)
		if !ok {
			continue
		}
		key := c.one(session, p11rpc.ClassPrivateKey, k)
		other := must(must(own.ECDH()).Curve().GenerateKey(rand.Reader))
		want := must(other.ECDH(must(own.PublicKey.ECDH())))
		point := other.PublicKey().Bytes()
		for _, public := range [][]byte{point, must(asn1.Marshal(point))} {
			handle, rv := c.derive(session, &p11rpc.ECDHParams{KDF: p11rpc.KDFNull, Public: public}, key, secretTemplate())
			if rv != p11rpc.OK {
				t.Fatalf("%s: %v", name, rv)
			}
			list, rv := c.attributes(session, handle, p11rpc.AttrValue, p11rpc.AttrLabel, p11rpc.AttrValueLen, p11rpc.AttrToken)
			if rv != p11rpc.OK || !bytes.Equal(list[0].Value, want) || string(list[1].Value) != "shared" ||
				binary.BigEndian.Uint64(list[2].Value) != uint64(len(want)) || list[3].Value[0] != 0 {
				t.Errorf("%s: %v, %v, want %x", name, rv, list, want)
			}
			if found := c.find(session, class(p11rpc.ClassSecretKey)); !slices.Contains(found, handle) {
				t.Errorf("found %v, want %d", found, handle)
			}
			c.must(p11rpc.DestroyObject, ulongs(session, handle))
			c.want(p11rpc.ObjectHandleInvalid, p11rpc.GetObjectSize, ulongs(session, handle))
		}
		// Cut to the length of a key, from its beginning.
		handle, rv := c.derive(session, &p11rpc.ECDHParams{KDF: p11rpc.KDFNull, Public: point}, key,
			secretTemplate(attr(p11rpc.AttrValueLen, p11rpc.UlongValue(16))))
		if list, _ := c.attributes(session, handle, p11rpc.AttrValue); rv != p11rpc.OK || !bytes.Equal(list[0].Value, want[len(want)-16:]) {
			t.Errorf("%s: %v, %x of %x", name, rv, list[0].Value, want)
		}
		if _, rv := c.derive(session, &p11rpc.ECDHParams{KDF: p11rpc.KDFNull, Public: point}, key,
			secretTemplate(attr(p11rpc.AttrValueLen, p11rpc.UlongValue(100)))); rv != p11rpc.KeySizeRange {
			t.Errorf("%s: more than there is: %v", name, rv)
		}
	}
	// They are the application's, and end with their session.
	second := c.openSession(fileSlot)
	if found := c.find(second, class(p11rpc.ClassSecretKey)); len(found) != 3 {
		t.Errorf("another session sees %v", found)
	}
	stranger, strange := s.open(t, fileSlot)
	if found := stranger.find(strange, class(p11rpc.ClassSecretKey)); len(found) != 0 {
		t.Errorf("another application sees %v", found)
	}
	c.must(p11rpc.CloseSession, ulongs(session))
	if found := c.find(second, class(p11rpc.ClassSecretKey)); len(found) != 0 {
		t.Errorf("still there: %v", found)
	}
}

func TestDeriveRefuses(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("rsa", "p256"), Options{})
	c, session := s.open(t, fileSlot)
	key, rsaKey := c.one(session, p11rpc.ClassPrivateKey, k["p256"]), c.one(session, p11rpc.ClassPrivateKey, k["rsa"])
	public := must(ecdh.P256().GenerateKey(rand.Reader)).PublicKey().Bytes()
	good := func() *p11rpc.ECDHParams { return &p11rpc.ECDHParams{KDF: p11rpc.KDFNull, Public: public} }
	for name, x := range map[string]struct {
		key      uint64
		p        *p11rpc.ECDHParams
		template []p11rpc.Attribute
		want     p11rpc.RV
	}{
		"an RSA key":           {rsaKey, good(), secretTemplate(), p11rpc.KeyFunctionNotPermitted},
		"a derivation by hash": {key, &p11rpc.ECDHParams{KDF: 2, Public: public}, secretTemplate(), p11rpc.MechanismParamInvalid},
		"no point":             {key, &p11rpc.ECDHParams{KDF: 1}, secretTemplate(), p11rpc.MechanismParamInvalid},
		"a point off the curve": {key, &p11rpc.ECDHParams{KDF: 1, Public: append([]byte{4}, make([]byte, 64)...)},
			secretTemplate(), p11rpc.MechanismParamInvalid},
		"shared data":    {key, &p11rpc.ECDHParams{KDF: 1, Public: public, Shared: []byte{1}}, secretTemplate(), p11rpc.MechanismParamInvalid},
		"on the token":   {key, good(), []p11rpc.Attribute{attr(p11rpc.AttrToken, p11rpc.BoolValue(true))}, p11rpc.TokenWriteProtected},
		"no secret key":  {key, good(), []p11rpc.Attribute{class(p11rpc.ClassPrivateKey)}, p11rpc.TemplateInconsistent},
		"twice":          {key, good(), secretTemplate(attr(p11rpc.AttrLabel, []byte("other"))), p11rpc.TemplateInconsistent},
		"a value":        {key, good(), secretTemplate(attr(p11rpc.AttrValue, []byte("x"))), p11rpc.TemplateInconsistent},
		"AES of no size": {key, good(), []p11rpc.Attribute{attr(p11rpc.AttrKeyType, p11rpc.UlongValue(p11rpc.KeyTypeAES))}, p11rpc.TemplateInconsistent},
	} {
		if _, rv := c.derive(session, x.p, x.key, x.template); rv != x.want {
			t.Errorf("%s: %v, want %v", name, rv, x.want)
		}
	}
	// What is not to be read is not.
	handle, rv := c.derive(session, good(), key, secretTemplate(attr(p11rpc.AttrSensitive, p11rpc.BoolValue(true))))
	if list, why := c.attributes(session, handle, p11rpc.AttrValue); rv != p11rpc.OK || why != p11rpc.AttributeSensitive || list[0].Valid {
		t.Errorf("a sensitive value: %v, %v", rv, why)
	}
	for range maxSecrets - 1 {
		if _, rv := c.derive(session, good(), key, nil); rv != p11rpc.OK {
			t.Fatal(rv)
		}
	}
	if _, rv := c.derive(session, good(), key, nil); rv != p11rpc.DeviceMemory {
		t.Errorf("one too many: %v", rv)
	}
}

func TestUnwraps(t *testing.T) {
	k := testKeys()["rsa"]
	s := start(t, softKeys("rsa"), Options{})
	c, session := s.open(t, fileSlot)
	key := c.one(session, p11rpc.ClassPrivateKey, k)
	unwrap := func(m p11rpc.Mechanism, wrapped []byte, template []p11rpc.Attribute) (p11rpc.RV, *p11rpc.Decoder) {
		return c.call(p11rpc.UnwrapKey, func(e *p11rpc.Encoder) {
			e.Ulong(session)
			e.Mechanism(m)
			e.Ulong(key)
			e.Data(wrapped)
			e.Attributes(template)
		})
	}
	secret := []byte("sixteen bytes at")
	for _, m := range []p11rpc.Mechanism{rsaMechanism, oaepMechanism} {
		rv, d := unwrap(m, encrypted(k, m, secret), []p11rpc.Attribute{
			class(p11rpc.ClassSecretKey), attr(p11rpc.AttrKeyType, p11rpc.UlongValue(p11rpc.KeyTypeAES)), attr(p11rpc.AttrValueLen, p11rpc.UlongValue(16)),
		})
		if rv != p11rpc.OK {
			t.Fatal(rv)
		}
		if list, rv := c.attributes(session, d.Ulong(), p11rpc.AttrValue); rv != p11rpc.OK || !bytes.Equal(list[0].Value, secret) {
			t.Errorf("%v, %v", rv, list)
		}
	}
	if rv, _ := unwrap(rsaMechanism, make([]byte, 10), nil); rv != p11rpc.WrappedKeyLenRange {
		t.Errorf("short: %v", rv)
	}
}

// A login is for one use of one key: while something waits, C_Login for it is
// accepted.
func TestContextSpecificLogin(t *testing.T) {
	k := testKeys()["rsa"]
	s := start(t, softKeys("rsa"), Options{})
	c, session := s.open(t, fileSlot)
	login := func(e *p11rpc.Encoder) { e.Ulong(session); e.Ulong(userContextSpecific); e.Data([]byte("1234")) }
	c.want(p11rpc.OperationNotInitialized, p11rpc.Login, login)
	c.decryptInit(session, rsaMechanism, c.one(session, p11rpc.ClassPrivateKey, k))
	c.must(p11rpc.Login, login)
}
