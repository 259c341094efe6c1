package tpm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func randomDigest(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestECDSADigests(t *testing.T) {
	sim := tpmtest.Start(t)
	files := map[string][]byte{
		"P-256": sim.OpenSSLKey(t, tpmtest.EC256, "", 0),
		"P-384": sim.OpenSSLKey(t, tpmtest.EC384, "", 0),
		"P-521": sim.ToolKey(t, tpmtest.ToolKey{Alg: "ecc521"}),
	}
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	for curve, file := range files {
		k := newKey(t, d, file)
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			if err := trySign(k, "", h); err != nil {
				t.Errorf("%s, %v: %v", curve, h, err)
			}
		}
		// Without a hash, any digest is signed as it is.
		for _, n := range []int{1, 20, 31, 33, 48, 64} {
			digest := randomDigest(n)
			sig, err := k.Sign(t.Context(), secret.Bytes{}, digest, crypto.Hash(0))
			if err != nil || !ecdsa.VerifyASN1(k.public.(*ecdsa.PublicKey), digest, sig) {
				t.Errorf("%s, %d bytes: %v", curve, n, err)
			}
		}
		if _, err := k.Sign(t.Context(), secret.Bytes{}, make([]byte, 31), crypto.SHA256); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s, a digest that is too short: %v", curve, err)
		}
	}
}

func TestFixedScheme(t *testing.T) {
	sim := tpmtest.Start(t)
	ec := sim.ToolKey(t, tpmtest.ToolKey{Alg: "ecc256:ecdsa-sha256"})
	ssa := sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048:rsassa-sha256"})
	pss := sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048:rsapss-sha256:null"})
	d := newDevice(t, sim.Address(), Options{})
	for _, file := range [][]byte{ec, ssa} {
		k := newKey(t, d, file)
		signs(t, k, "")
		if err := trySign(k, "", crypto.SHA512); !errors.Is(err, ErrUnsupported) {
			t.Errorf("another hash: %v", err)
		}
	}
	if _, err := signPSS(newKey(t, d, ssa), crypto.SHA256, rsa.PSSSaltLengthAuto); !errors.Is(err, ErrUnsupported) {
		t.Errorf("PSS by a key for PKCS #1 v1.5: %v", err)
	}
	k := newKey(t, d, pss)
	if err := trySign(k, "", crypto.SHA256); !errors.Is(err, ErrUnsupported) {
		t.Errorf("PKCS #1 v1.5 by a key for PSS: %v", err)
	}
	if _, err := signPSS(k, crypto.SHA256, rsa.PSSSaltLengthAuto); err != nil {
		t.Errorf("PSS: %v", err)
	}
	// The TPM chooses the salt; one that it does not choose is refused.
	if _, err := signPSS(k, crypto.SHA256, 17); !errors.Is(err, ErrUnsupported) {
		t.Errorf("PSS with a salt of 17 bytes: %v", err)
	}
}

func signPSS(k *Key, h crypto.Hash, salt int) ([]byte, error) {
	o := &rsa.PSSOptions{SaltLength: salt, Hash: h}
	digest := randomDigest(h.Size())
	sig, err := k.Sign(context.Background(), secret.Bytes{}, digest, o)
	if err != nil {
		return nil, err
	}
	return sig, rsa.VerifyPSS(k.public.(*rsa.PublicKey), h, digest, sig, o)
}

func TestRSA(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.RSA2048, "", 0) // sign and decrypt
	signOnly := sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048"})
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k, s := newKey(t, d, file), newKey(t, d, signOnly)
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for name, k := range map[string]*Key{"sign and decrypt": k, "sign": s} {
			if err := trySign(k, "", h); err != nil {
				t.Errorf("%s, %v: %v", name, h, err)
			}
			if h == crypto.SHA1 {
				continue
			}
			for _, salt := range []int{rsa.PSSSaltLengthAuto, rsa.PSSSaltLengthEqualsHash, 0, 11} {
				_, err := signPSS(k, h, salt)
				if name == "sign" && errors.Is(err, ErrUnsupported) && salt != rsa.PSSSaltLengthAuto {
					continue // what the TPM's own salt is, is its affair
				}
				if err != nil {
					t.Errorf("%s, PSS, %v, salt %d: %v", name, h, salt, err)
				}
			}
		}
	}
	// A hash the TPM does not know is padded here, if the key allows it.
	if err := trySign(k, "", crypto.SHA224); err != nil {
		t.Errorf("SHA-224: %v", err)
	}
	if err := trySign(s, "", crypto.SHA224); !errors.Is(err, ErrUnsupported) {
		t.Errorf("SHA-224 by a key that only signs: %v", err)
	}
	raw := randomDigest(40)
	if sig, err := k.Sign(t.Context(), secret.Bytes{}, raw, crypto.Hash(0)); err != nil || check(k, 0, raw, sig) != nil {
		t.Errorf("no hash: %v", err)
	}
	if _, err := k.Sign(t.Context(), secret.Bytes{}, randomDigest(250), crypto.Hash(0)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("too long: %v", err)
	}
}

// TestTPMWithoutSHA512 has a TPM that refuses the hash.
func TestTPMWithoutSHA512(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.RSA2048, testPIN, 0)
	signOnly := sim.ToolKey(t, tpmtest.ToolKey{Alg: "rsa2048"})
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, file)
	signs(t, k, testPIN)
	relay.Reset()
	relay.Inject(tpm2.TPMCCSign, tpm2.TPMRCHash+0x40+0x200, 1) // of parameter 2
	for range 3 {
		if err := trySign(k, testPIN, crypto.SHA512); err != nil {
			t.Fatal(err)
		}
	}
	if sign, decrypt := relay.Sent()[tpm2.TPMCCSign], relay.Sent()[tpm2.TPMCCRSADecrypt]; sign != 1 || decrypt != 3 {
		t.Errorf("%d Sign, %d RSA_Decrypt; the refusal should be remembered", sign, decrypt)
	}
	s := newKey(t, d, signOnly)
	relay.Inject(tpm2.TPMCCSign, tpm2.TPMRCHash+0x40+0x200, 1)
	if err := trySign(s, "", crypto.SHA512); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a key that only signs: %v", err)
	}
}

func TestKeysThatCannotSign(t *testing.T) {
	sim := tpmtest.Start(t)
	restricted := sim.ToolKey(t, tpmtest.ToolKey{
		Alg:        "ecc256:ecdsa-sha256:null",
		Attributes: "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted|noda",
	})
	storage := sim.ToolKey(t, tpmtest.ToolKey{
		Alg:        "ecc256",
		Attributes: "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt|noda",
	})
	d := newDevice(t, sim.Address(), Options{})
	for name, file := range map[string][]byte{"restricted": restricted, "storage": storage} {
		if err := tryKey(d, file); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInjectedFaults answers commands with codes that a TPM may give at any
// time: each ends well or with an error that says something.
func TestInjectedFaults(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.ToolKey(t, tpmtest.ToolKey{PIN: testPIN})
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, file)
	for _, c := range []struct {
		code tpm2.TPMCC
		rc   tpm2.TPMRC
		want error
	}{
		{tpm2.TPMCCSign, tpm2.TPMRCRetry, nil},
		{tpm2.TPMCCSign, tpm2.TPMRCNVRate, nil},
		{tpm2.TPMCCSign, tpm2.TPMRCReferenceH0, nil},
		{tpm2.TPMCCSign, tpm2.TPMRCReferenceS0, nil},
		{tpm2.TPMCCSign, tpm2.TPMRCHandle + 0x100, nil},
		{tpm2.TPMCCSign, tpm2.TPMRCFailure, ErrUnavailable},
		{tpm2.TPMCCSign, tpm2.TPMRCCanceled, ErrUnavailable},
		{tpm2.TPMCCSign, tpm2.TPMRCLockout, ErrLockedOut},
		{tpm2.TPMCCLoad, tpm2.TPMRCObjectMemory, nil},
		{tpm2.TPMCCStartAuthSession, tpm2.TPMRCSessionMemory, nil},
		{tpm2.TPMCCStartAuthSession, tpm2.TPMRCContextGap, nil},
		{tpm2.TPMCCCreatePrimary, tpm2.TPMRCObjectMemory, nil},
		{tpm2.TPMCCCreatePrimary, tpm2.TPMRCHierarchy + 0x100, ErrUnavailable},
	} {
		d.Forget()
		relay.Inject(c.code, c.rc, 1)
		err := trySign(k, testPIN, crypto.SHA256)
		if !errors.Is(err, c.want) {
			t.Errorf("%#x answered with %#x: %v", uint32(c.code), uint32(c.rc), err)
		}
		relay.Clear()
		d.Forget()
		if err := trySign(k, testPIN, crypto.SHA256); err != nil {
			t.Errorf("after %#x answered with %#x: %v", uint32(c.code), uint32(c.rc), err)
		}
	}
}

// TestEverythingAtOnce has many goroutines on many keys, with resets, guests
// and callers who leave.
func TestEverythingAtOnce(t *testing.T) {
	for _, mode := range []string{"one link", "resource manager"} {
		t.Run(mode, func(t *testing.T) {
			sim := tpmtest.Start(t)
			pinned, plain := sim.ToolKey(t, tpmtest.ToolKey{PIN: testPIN}), sim.ToolKey(t, tpmtest.ToolKey{})
			d := newDevice(t, addresses(t, sim)[mode], Options{MaxResident: 3, PinFile: filepath.Join(t.TempDir(), "parents")})
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					pin := ""
					file := plain
					if i%2 == 0 {
						file, pin = pinned, testPIN
					}
					k := newKey(t, d, file)
					defer k.Close()
					for j := range 12 {
						if err := trySign(k, pin, crypto.SHA256); err != nil {
							t.Errorf("sign: %v", err)
						}
						switch {
						case i == 1 && j%4 == 0:
							d.Forget()
						case i == 3:
							if _, err := d.Lockout(context.Background()); err != nil {
								t.Errorf("lockout: %v", err)
							}
						case i == 5:
							ctx, cancel := context.WithCancel(context.Background())
							go cancel()
							_, _ = k.Sign(ctx, secret.Bytes{}, randomDigest(32), crypto.SHA256)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
