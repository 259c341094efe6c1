package dbus

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// verify checks a signature with the standard library or x/crypto/ssh.
func verify(t *testing.T, pub crypto.PublicKey, s scheme, form string, salt int, data, sig []byte) {
	t.Helper()
	digest := data
	if s.hash != 0 {
		h := s.hash.New()
		h.Write(data)
		digest = h.Sum(nil)
	}
	if form == formSSH {
		key, err := ssh.NewPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		var parsed ssh.Signature
		if err := ssh.Unmarshal(sig, &parsed); err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(data, &parsed); err != nil {
			t.Errorf("ssh: %v", err)
		}
		return
	}
	ok := false
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if s.pss {
			ok = rsa.VerifyPSS(k, s.hash, digest, sig, &rsa.PSSOptions{SaltLength: salt}) == nil
		} else {
			ok = rsa.VerifyPKCS1v15(k, s.hash, digest, sig) == nil
		}
	case *ecdsa.PublicKey:
		if form == formDER {
			ok = ecdsa.VerifyASN1(k, digest, sig)
		} else {
			n := len(sig) / 2
			ok = n == (k.Curve.Params().BitSize+7)/8 &&
				ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
		}
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, data, sig)
	}
	if !ok {
		t.Error("the signature is not right")
	}
}

// TestSignEverySchemeAndForm asks each kind of key for each scheme in each form:
// either the signature verifies, or the error says that there is none.
func TestSignEverySchemeAndForm(t *testing.T) {
	kinds := map[string]*keyringtest.FakeKey{}
	var keys []*keyringtest.FakeKey
	for _, kind := range []string{"p256", "p384", "p521", "rsa", "ed25519"} {
		kinds[kind] = newKey(t, kind, kind)
		keys = append(keys, kinds[kind])
	}
	h := serve(t, keys[0], keys[1], keys[2], keys[3], keys[4])
	c := h.client()
	data := []byte("what is signed")
	signed := map[string]int{}
	for kind, k := range kinds {
		for _, s := range schemes {
			for _, form := range []string{"", formSSH, formRaw, formDER} {
				o := options()
				if form != "" {
					o["format"] = godbus.MakeVariant(form)
				}
				sig, err := sign(c, pathOf(k), data, s.name, o)
				used := form
				if used == "" {
					used = s.form
				}
				if !s.fits(k.KeyInfo.Public) || s.check(used, k.KeyInfo.Public) != nil {
					if errorName(err) != "org.freedesktop.DBus.Error.NotSupported" {
						t.Errorf("%s %s %q: %v", kind, s.name, form, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s %s %q: %v", kind, s.name, form, err)
					continue
				}
				verify(t, k.KeyInfo.Public, s, used, rsa.PSSSaltLengthEqualsHash, data, sig)
				signed[kind]++
				if s.hash == 0 {
					continue
				}
				// The same from the digest.
				hash := s.hash.New()
				hash.Write(data)
				o["digest"] = godbus.MakeVariant(true)
				if sig, err = sign(c, pathOf(k), hash.Sum(nil), s.name, o); err != nil {
					t.Errorf("%s %s %q of a digest: %v", kind, s.name, form, err)
					continue
				}
				verify(t, k.KeyInfo.Public, s, used, rsa.PSSSaltLengthEqualsHash, data, sig)
			}
		}
	}
	// Of what was asked for, this many combinations exist: no key may be left
	// out by a scheme table that says no to everything.
	want := map[string]int{"p256": 14, "p384": 14, "p521": 14, "rsa": 23, "ed25519": 6}
	for kind, n := range want {
		if signed[kind] != n {
			t.Errorf("%s: %d combinations signed, want %d", kind, signed[kind], n)
		}
	}
}

func TestSignRefusesWhatItCannotKeep(t *testing.T) {
	rsaKey, edKey, ecKey := newKey(t, "rsa", "r"), newKey(t, "ed25519", "e"), newKey(t, "p256", "p")
	h := serve(t, rsaKey, edKey, ecKey)
	c := h.client()
	sum := sha256.Sum256(nil)
	const dbusError = "org.freedesktop.DBus.Error."
	for _, test := range []struct {
		name   string
		key    *keyringtest.FakeKey
		data   []byte
		scheme string
		o      map[string]godbus.Variant
		want   string
	}{
		{"unknown scheme", rsaKey, nil, "RSA-MD5", options(), "NotSupported"},
		{"unknown option", rsaKey, nil, "RSA-SHA256", options("confirm", true), "InvalidArgs"},
		{"option of the wrong type", rsaKey, nil, "RSA-SHA256", options("digest", "yes"), "InvalidArgs"},
		{"option of a strange type", rsaKey, nil, "RSA-SHA256", options("digest", [][]int32{{1}}), "InvalidArgs"},
		{"unknown format", rsaKey, nil, "RSA-SHA256", options("format", "pgp"), "InvalidArgs"},
		{"digest of the wrong length", rsaKey, sum[:31], "RSA-SHA256", options("digest", true), "InvalidArgs"},
		{"digest for ed25519", edKey, sum[:], "Ed25519", options("digest", true), "NotSupported"},
		{"salt without PSS", rsaKey, nil, "RSA-SHA256", options("salt-length", 20), "NotSupported"},
		{"no salt", rsaKey, nil, "RSA-PSS-SHA256", options("salt-length", 0), "NotSupported"},
		{"more salt than anything", rsaKey, nil, "RSA-PSS-SHA256", options("salt-length", uint64(1<<63)), "NotSupported"},
		{"too much data", rsaKey, make([]byte, maxData+1), "RSA-SHA256", options(), "LimitsExceeded"},
		{"far too much data", rsaKey, make([]byte, 5<<20), "RSA-SHA256", options(), "LimitsExceeded"},
		{"too many options", rsaKey, nil, "RSA-SHA256", options("reason", strings.Repeat("x", maxArguments)), "LimitsExceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := sign(c, pathOf(test.key), test.data, test.scheme, test.o); errorName(err) != dbusError+test.want {
				t.Errorf("got %s (%v), want %s", errorName(err), err, test.want)
			}
		})
	}
	if n := rsaKey.Signed() + edKey.Signed() + ecKey.Signed(); n != 0 {
		t.Errorf("%d signatures were made", n)
	}
	if _, err := sign(c, pathOf(rsaKey), make([]byte, maxData), "RSA-SHA256", options()); err != nil {
		t.Errorf("a MiB: %v", err)
	}
}

func TestSignSaltLength(t *testing.T) {
	k := newKey(t, "rsa", "r")
	h := serve(t, k)
	c := h.client()
	s, err := schemeFor("RSA-PSS-SHA384", k.KeyInfo.Public)
	if err != nil {
		t.Fatal(err)
	}
	for _, salt := range []any{byte(20), int16(20), uint16(20), int32(20), uint32(20), int64(20), uint64(20)} {
		sig, err := sign(c, pathOf(k), []byte("x"), s.name, options("salt-length", salt))
		if err != nil {
			t.Errorf("%T: %v", salt, err)
			continue
		}
		verify(t, k.KeyInfo.Public, s, formRaw, 20, []byte("x"), sig)
	}
}

// TestQuestionSaysWhoAndWhy: the user sees the program and its reason, which
// cannot pretend to be ours.
func TestQuestionSaysWhoAndWhy(t *testing.T) {
	k := newKey(t, "p256", "my key").Locked("1234", nil)
	h := serve(t, k)
	h.prompter.Script(keyringtest.Reply{Passphrase: "1234"})
	if _, err := sign(h.client(), pathOf(k), nil, "ECDSA-SHA256", options("reason", "backup\n\x1b[31mRoot needs this")); err != nil {
		t.Fatal(err)
	}
	q := h.prompter.Questions()
	if len(q) != 1 || q[0].Kind != prompt.Passphrase || q[0].Subject != "my key" {
		t.Fatalf("asked %+v", q)
	}
	if strings.ContainsAny(q[0].Reason, "\n\x1b") || !strings.HasPrefix(q[0].Reason, "the program says: “backup") {
		t.Errorf("reason %q", q[0].Reason)
	}
	if !strings.Contains(q[0].Caller, "dbus.test") {
		t.Errorf("caller %q does not name this program", q[0].Caller)
	}
}

// TestPublicKeyFormats compares our encodings with those of x/crypto/ssh.
func TestPublicKeyFormats(t *testing.T) {
	for _, kind := range []string{"p256", "p384", "p521", "rsa", "ed25519"} {
		pub := newSigner(t, kind).Public()
		key, err := ssh.NewPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		if blob := sshBlob(pub); !bytes.Equal(blob, key.Marshal()) || fingerprint(blob) != ssh.FingerprintSHA256(key) {
			t.Errorf("%s: %x, want %x", kind, blob, key.Marshal())
		}
	}
	if blob := sshBlob(newSigner(t, "p224").Public()); len(blob) != 0 || fingerprint(blob) != "" {
		t.Errorf("P-224: %x", blob)
	}
	small := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 3}
	key, _ := ssh.NewPublicKey(small)
	if !bytes.Equal(sshBlob(small), key.Marshal()) {
		t.Error("a modulus with its top bit set")
	}
}
