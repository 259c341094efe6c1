package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

const both = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign|decrypt"

func secretly(t testing.TB, b secret.Bytes) []byte {
	t.Helper()
	var out []byte
	b.Use(func(p []byte) { out = bytes.Clone(p) })
	b.Wipe()
	return out
}

// TestDecrypt decrypts what crypto/rsa encrypts, in all paddings, and what is
// decrypted is never seen on the bus.
func TestDecrypt(t *testing.T) {
	sim := tpmtest.Start(t)
	pcrs := policySteps(t)
	for name, c := range map[string]struct {
		file []byte
		pin  string
	}{
		"without PIN":  {sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048", Attributes: both}), ""},
		"with PIN":     {sim.OpenSSLKey(t, tpmtest.RSA2048, testPIN, 0), testPIN},
		"with policy":  {sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048", Attributes: pcrs.attributes, PolicyDigest: pcrs.digest, Policy: pcrs.steps}), ""},
		"decrypt only": {sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048", Attributes: "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|decrypt", PIN: testPIN}), testPIN},
	} {
		t.Run(name, func(t *testing.T) {
			for mode, addr := range addresses(t, sim) {
				d := New(addr, Options{})
				k := newKey(t, d, c.file)
				if tr := k.Traits(); !tr.Decrypt || tr.Derive || !tr.FixedTPM || !tr.SensitiveDataOrigin {
					t.Errorf("traits: %+v", tr)
				}
				pub := k.public.(*rsa.PublicKey)
				for _, n := range []int{0, 100} {
					plain := []byte("plaintext that must not be seen: ")
					plain = append(plain, randomDigest(67)...)[:n]
					for _, opts := range paddings() {
						got, err := k.Decrypt(t.Context(), newPIN(c.pin), encryptFor(t, pub, plain, opts), opts)
						if b := secretly(t, got); err != nil || !bytes.Equal(b, plain) {
							t.Errorf("%s, %d bytes, %+v: %x, %v", mode, n, opts, b, err)
						}
					}
				}
				_ = d.Close()
			}
			if sim.Relay().Contains([]byte("must not be seen")) || sim.ResourceManager().Contains([]byte("must not be seen")) {
				t.Error("a plaintext was on the bus")
			}
		})
	}
}

func paddings() []crypto.DecrypterOpts {
	return []crypto.DecrypterOpts{
		nil,
		&rsa.OAEPOptions{Hash: crypto.SHA1},
		&rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("a label")},
		&rsa.OAEPOptions{Hash: crypto.SHA384},
		&rsa.OAEPOptions{Hash: crypto.SHA512, Label: []byte("ends in zero\x00")},
		&rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1},
	}
}

func encryptFor(t testing.TB, pub *rsa.PublicKey, plain []byte, opts crypto.DecrypterOpts) []byte {
	t.Helper()
	var c []byte
	var err error
	if o, ok := opts.(*rsa.OAEPOptions); ok {
		c, err = rsa.EncryptOAEPWithOptions(rand.Reader, pub, plain, o)
	} else {
		//lint:ignore SA1019 it is what keys are asked for.
		c, err = rsa.EncryptPKCS1v15(rand.Reader, pub, plain)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// policyOf is a key's policy: the command code that it may be used with.
type policyOf struct {
	attributes string
	digest     []byte
	steps      []tpmtest.PolicyStep
}

// policySteps is a policy that allows RSA_Decrypt alone.
func policySteps(t testing.TB) policyOf {
	t.Helper()
	var p policy
	body := []byte{0, 0, 0x01, 0x59} // TPM_CC_RSA_Decrypt
	p.add(tpm2.TPMCCPolicyCommandCode, body, body)
	return policyOf{
		attributes: "fixedtpm|fixedparent|sensitivedataorigin|noda|decrypt",
		digest:     p.digest,
		steps:      []tpmtest.PolicyStep{{Code: uint32(tpm2.TPMCCPolicyCommandCode), Body: body}},
	}
}

// TestDecryptRefusesAlike sees that what is wrong with a ciphertext does not
// show.
func TestDecryptRefusesAlike(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.Address(), Options{})
	k := newKey(t, d, sim.OpenSSLKey(t, tpmtest.RSA2048, testPIN, 0))
	pub := k.public.(*rsa.PublicKey)
	oaep := &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("label")}
	block := func(em ...byte) []byte { return encrypt(pub, append(em, make([]byte, pub.Size()-len(em))...)) }
	short := append([]byte{0, 2}, bytes.Repeat([]byte{9}, 7)...)
	for name, c := range map[string]struct {
		ciphertext []byte
		opts       crypto.DecrypterOpts
	}{
		"a zero in front is missing": {block(1, 2), nil},
		"another type":               {block(append([]byte{0, 1}, bytes.Repeat([]byte{255}, 20)...)...), nil},
		"too little padding":         {block(short...), nil},
		"no end of the padding":      {encrypt(pub, append([]byte{0, 2}, bytes.Repeat([]byte{7}, 254)...)), nil},
		"OAEP as PKCS1":              {encryptFor(t, pub, []byte("x"), oaep), nil},
		"PKCS1 as OAEP":              {encryptFor(t, pub, []byte("x"), nil), oaep},
		"another label":              {encryptFor(t, pub, []byte("x"), &rsa.OAEPOptions{Hash: crypto.SHA256}), oaep},
		"another hash":               {encryptFor(t, pub, []byte("x"), &rsa.OAEPOptions{Hash: crypto.SHA1, Label: oaep.Label}), oaep},
		"short":                      {make([]byte, 255), nil},
		"long":                       {make([]byte, 257), nil},
		"none":                       {nil, nil},
		"above the modulus":          {bytes.Repeat([]byte{255}, 256), oaep},
	} {
		got, err := k.Decrypt(t.Context(), newPIN(testPIN), c.ciphertext, c.opts)
		if err != ErrCiphertext || got.Len() != 0 {
			t.Errorf("%s: %v, %d bytes", name, err, got.Len())
		}
	}
	if _, err := k.Decrypt(t.Context(), newPIN("wrong"), block(0), nil); !errors.Is(err, ErrAuthFailed) {
		t.Errorf("with a wrong PIN: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Decrypt(ctx, newPIN(testPIN), block(0), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestDecryptUnpadded sees that OAEP's every byte counts.
func TestDecryptUnpadded(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	em := func(c []byte) []byte {
		m := new(big.Int).SetBytes(c)
		return m.Exp(m, key.D, key.N).FillBytes(make([]byte, 128))
	}
	opts := &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("l")}
	good := em(encryptFor(t, &key.PublicKey, []byte("message"), opts))
	take := func(b []byte) ([]byte, error) {
		return unpadOAEP(bytes.Clone(b), crypto.SHA256, crypto.SHA256, opts.Label)
	}
	if got, err := take(good); err != nil || string(got) != "message" {
		t.Fatalf("%q, %v", got, err)
	}
	for i := range good[:len(good)-len("message")] {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if got, err := take(bad); err != ErrCiphertext {
			t.Errorf("byte %d changed: %q, %v", i, got, err)
		}
	}
}

// TestFixedPaddings uses keys that are bound to one padding.
func TestFixedPaddings(t *testing.T) {
	sim := tpmtest.Start(t)
	attributes := "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|decrypt"
	for alg, fits := range map[string]crypto.DecrypterOpts{
		"rsa2048:rsaes":       nil,
		"rsa2048:oaep-sha256": &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("l\x00")},
	} {
		file := sim.ToolKey(t, tpmtest.ToolKey{Alg: alg + ":null", Attributes: attributes})
		d := New(sim.Address(), Options{})
		k := newKey(t, d, file)
		if tr := k.Traits(); tr.Sign || !tr.Decrypt {
			t.Errorf("%s: %+v", alg, tr)
		}
		pub := k.public.(*rsa.PublicKey)
		c := encryptFor(t, pub, []byte("hello"), fits)
		got, err := k.Decrypt(t.Context(), secret.Bytes{}, c, fits)
		if b := secretly(t, got); err != nil || string(b) != "hello" {
			t.Errorf("%s: %q, %v", alg, b, err)
		}
		c[200] ^= 1
		if _, err := k.Decrypt(t.Context(), secret.Bytes{}, c, fits); !errors.Is(err, ErrCiphertext) {
			t.Errorf("%s, changed: %v", alg, err)
		}
		for _, other := range []crypto.DecrypterOpts{
			&rsa.OAEPOptions{Hash: crypto.SHA1}, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("no zero")},
			&rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1},
		} {
			if _, err := k.Decrypt(t.Context(), secret.Bytes{}, c, other); !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s, %+v: %v", alg, other, err)
			}
		}
		if _, err := k.Bare(t.Context(), secret.Bytes{}, c); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s, bare: %v", alg, err)
		}
		if err := trySign(k, "", crypto.SHA256); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s, sign: %v", alg, err)
		}
		prove(t, d, file)
		_ = d.Close()
	}
}

func prove(t *testing.T, d *Device, file []byte) {
	t.Helper()
	f, err := keyfile.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Prove(t.Context(), f, secret.Bytes{}); err != nil {
		t.Error(err)
	}
}

// TestECDH agrees with a key in memory.
func TestECDH(t *testing.T) {
	sim := tpmtest.Start(t)
	for alg, curve := range map[string]ecdh.Curve{"ecc256": ecdh.P256(), "ecc384": ecdh.P384(), "ecc521": ecdh.P521()} {
		file := sim.ToolKey(t, tpmtest.ToolKey{Alg: alg, Attributes: both, PIN: testPIN})
		only := sim.ToolKey(t, tpmtest.ToolKey{Alg: alg + ":ecdh-sha256:null", Attributes: "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|decrypt"})
		for mode, addr := range addresses(t, sim) {
			d := New(addr, Options{})
			for pin, k := range map[string]*Key{testPIN: newKey(t, d, file), "": newKey(t, d, only)} {
				if tr := k.Traits(); !tr.Derive || tr.Decrypt || tr.Sign != (pin != "") {
					t.Errorf("%s: %+v", alg, tr)
				}
				own, err := k.public.(*ecdsa.PublicKey).ECDH()
				if err != nil {
					t.Fatal(err)
				}
				for range 5 {
					other, err := curve.GenerateKey(rand.Reader)
					if err != nil {
						t.Fatal(err)
					}
					want, err := other.ECDH(own)
					if err != nil {
						t.Fatal(err)
					}
					got, err := k.ECDH(t.Context(), newPIN(pin), other.PublicKey())
					if b := secretly(t, got); err != nil || !bytes.Equal(b, want) {
						t.Errorf("%s, %s: %x, want %x: %v", mode, alg, b, want, err)
					}
					if sim.Relay().Contains(want) || sim.ResourceManager().Contains(want) {
						t.Error("the shared secret was on the bus")
					}
				}
				stranger, err := ecdh.X25519().GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := k.ECDH(t.Context(), newPIN(pin), stranger.PublicKey()); !errors.Is(err, ErrUnsupported) {
					t.Errorf("another curve: %v", err)
				}
				if pin == "" {
					if err := trySign(k, "", crypto.SHA256); !errors.Is(err, ErrUnsupported) {
						t.Errorf("sign with a key that only derives: %v", err)
					}
				}
			}
			prove(t, d, only)
			_ = d.Close()
		}
	}
	file := sim.ToolKey(t, tpmtest.ToolKey{})
	signer := newKey(t, newDevice(t, sim.Address(), Options{}), file)
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.ECDH(t.Context(), secret.Bytes{}, other.PublicKey()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("derive with a key that only signs: %v", err)
	}
	if _, err := signer.Decrypt(t.Context(), secret.Bytes{}, make([]byte, 64), nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("decrypt with it: %v", err)
	}
}

// TestDecryptCommands counts what a decryption costs once key and session are
// there: one.
func TestDecryptCommands(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, sim.OpenSSLKey(t, tpmtest.RSA2048, testPIN, 0))
	c := encryptFor(t, k.public.(*rsa.PublicKey), []byte("x"), nil)
	for i := range 11 {
		if i == 1 {
			relay.Reset()
		}
		if _, err := k.Decrypt(t.Context(), newPIN(testPIN), c, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := relay.Total(); n != 10 {
		t.Errorf("10 decryptions took %d commands: %v", n, relay.Sent())
	}
}

func TestPSSWithoutSalt(t *testing.T) {
	sim := tpmtest.Start(t)
	files := [][]byte{
		sim.OpenSSLKey(t, tpmtest.RSA2048, "", 0), sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048:rsapss-sha256:null"}),
	}
	d := newDevice(t, sim.Address(), Options{})
	k := newKey(t, d, files[0])
	opts := &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: noSalt}
	digest := randomDigest(32)
	a, err := k.Sign(t.Context(), secret.Bytes{}, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Sign(t.Context(), secret.Bytes{}, digest, opts)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("two signatures differ: there is salt in them; %v", err)
	}
	if err := rsa.VerifyPSS(k.public.(*rsa.PublicKey), crypto.SHA256, digest, a, nil); err != nil {
		t.Error(err)
	}
	fixed := newKey(t, d, files[1])
	if _, err := fixed.Sign(t.Context(), secret.Bytes{}, digest, opts); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a key whose salt is the TPM's: %v", err)
	}
}

func TestRandom(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	b := make([]byte, 100)
	if err := d.Random(t.Context(), b); err != nil || bytes.Count(b, []byte{0}) > 20 {
		t.Errorf("%x, %v", b, err)
	}
	if n := relay.Sent()[tpm2.TPMCCGetRandom]; n != 4 {
		t.Errorf("100 bytes took %d commands", n)
	}
	for i := 0; i+32 <= len(b); i += 32 {
		if relay.Contains(b[i : i+32]) {
			t.Error("what was on the bus is what was handed out")
		}
	}
	sim.Kill()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Random(ctx, b); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
