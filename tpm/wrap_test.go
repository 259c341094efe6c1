package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func softwareKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	keys := map[string]crypto.Signer{}
	for name, curve := range curves() {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = k
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys["RSA-2048"] = k
	return keys
}

func pemOf(t testing.TB, f *keyfile.File) []byte {
	t.Helper()
	b, err := f.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func publicOf(t testing.TB, f *keyfile.File) crypto.PublicKey {
	t.Helper()
	pub, err := f.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// An imported key has the same public key, works for us and for tpm2-openssl,
// and neither it nor its PIN was on the bus.
func TestImportSoftwareKeys(t *testing.T) {
	sim := tpmtest.Start(t)
	rm := sim.ResourceManager()
	d := newDevice(t, rm.Address(), Options{})
	for name, key := range softwareKeys(t) {
		for _, pin := range []string{"", testPIN} {
			f, err := d.Import(t.Context(), key, Template{}, newPIN(pin))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if f.Type != keyfile.Loadable || !sameKey(key.Public(), publicOf(t, f)) || f.DAProtected() != (pin != "") {
				t.Errorf("%s: type %v, or another public key", name, f.Type)
			}
			signs(t, newKey(t, d, pemOf(t, f)), pin)
			opensslUses(t, sim, pemOf(t, f), pin)
		}
		var plain []byte
		switch k := key.(type) {
		case *ecdsa.PrivateKey:
			plain, _ = k.Bytes()
		case *rsa.PrivateKey:
			plain = k.Primes[0].Bytes()
		}
		if rm.Contains(plain) || rm.Contains([]byte(testPIN)) {
			t.Errorf("%s: a secret was on the bus", name)
		}
	}
}

func TestImportForPCRs(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	banks, err := ParsePCRs("sha256:7")
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Import(t.Context(), softwareKeys(t)["P-256"], Template{PCRs: banks}, newPIN(testPIN))
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(t, d, pemOf(t, f))
	signs(t, k, testPIN)
	extendPCR7(t, sim)
	var policy *PolicyError
	if err := trySign(k, testPIN, crypto.SHA256); !errors.As(err, &policy) {
		t.Errorf("after a register changed: %v", err)
	}
}

func TestKeysThatNoTPMTakes(t *testing.T) {
	d := newDevice(t, tpmtest.Start(t).Address(), Options{})
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]crypto.Signer{"no TPM can use an ed25519 key": ed, "P-224": p224} {
		_, err := d.Import(t.Context(), key, Template{}, secret.Bytes{})
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if n := d.Counters().Total(); n != 0 {
		t.Errorf("%d commands were sent", n)
	}
	big, err := rsa.GenerateKey(rand.Reader, 1024*4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Import(t.Context(), big, Template{}, secret.Bytes{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("RSA-4096 on a TPM without: %v", err)
	}
}

// A file that is wrapped for one TPM is taken by it, as it is and made loadable,
// and by no other.
func TestWrapForAnotherTPM(t *testing.T) {
	there, here := tpmtest.Start(t), tpmtest.Start(t)
	remote := newDevice(t, there.ResourceManager().Address(), Options{})
	local := newDevice(t, here.Address(), Options{})
	for _, persistent := range []uint32{0, tpmtest.PersistentSRK} {
		if persistent != 0 {
			there.PersistSRK(t)
		}
		p, err := remote.Parent(t.Context(), persistent)
		if err != nil {
			t.Fatal(err)
		}
		text, err := p.Text()
		if err != nil {
			t.Fatal(err)
		}
		request, err := ParseParent(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if request.Name() != p.Name() || request.Handle != p.Handle || len(p.Name()) != 68 {
			t.Errorf("%s at %#x became %s at %#x", p.Name(), p.Handle, request.Name(), request.Handle)
		}
		for name, key := range softwareKeys(t) {
			f, err := Wrap(key, request, Template{}, newPIN(testPIN))
			if err != nil {
				t.Fatal(err)
			}
			if f.Type != keyfile.Importable || !sameKey(key.Public(), publicOf(t, f)) {
				t.Errorf("%s: type %v, or another public key", name, f.Type)
			}
			if persistent == 0 {
				if err := trySign(newKey(t, local, pemOf(t, f)), testPIN, crypto.SHA256); !errors.Is(err, ErrWrongTPM) {
					t.Errorf("%s: the wrong TPM says %v", name, err)
				}
			}
			signs(t, newKey(t, remote, pemOf(t, f)), testPIN)
			loadable, err := remote.Localize(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			if loadable.Type != keyfile.Loadable || loadable.Secret != nil {
				t.Errorf("%s: still %v", name, loadable.Type)
			}
			signs(t, newKey(t, remote, pemOf(t, loadable)), testPIN)
			opensslUses(t, there, pemOf(t, loadable), testPIN)
		}
	}
}

// tpm2-tools and OpenSSL are understood where they name a parent, and
// tpm2_import takes what is wrapped.
func TestParentsOfOtherTools(t *testing.T) {
	sim := tpmtest.Start(t)
	dir := t.TempDir()
	const attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
	for _, alg := range []string{"ecc", "rsa"} {
		sim.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", alg, "-a", attributes, "-c", "srk.ctx")
		sim.Tool(t, dir, "tpm2_readpublic", "-Q", "-c", "srk.ctx", "-o", "srk.tpm2b")
		sim.Tool(t, dir, "tpm2_readpublic", "-Q", "-c", "srk.ctx", "-f", "pem", "-o", "srk.pem")
		var names []string
		for _, name := range []string{"srk.tpm2b", "srk.pem"} {
			p, err := ParseParent(readFile(t, filepath.Join(dir, name)))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if p.RSA != (alg == "rsa") || p.Handle != tpmtest.OwnerHierarchy {
				t.Errorf("%s: %+v", name, p)
			}
			names = append(names, p.Name())
			key := softwareKeys(t)["P-384"]
			f, err := Wrap(key, p, Template{}, newPIN(testPIN))
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "pub"), f.Public)
			writeFile(t, filepath.Join(dir, "dup"), f.Private)
			writeFile(t, filepath.Join(dir, "seed"), f.Secret)
			sim.Tool(t, dir, "tpm2_import", "-Q", "-C", "srk.ctx", "-u", "pub", "-i", "dup", "-s", "seed", "-r", "priv")
			sim.Tool(t, dir, "tpm2_load", "-Q", "-C", "srk.ctx", "-u", "pub", "-r", "priv", "-c", "key.ctx")
			writeFile(t, filepath.Join(dir, "digest"), randomDigest(48))
			sim.Tool(t, dir, "tpm2_sign", "-Q", "-c", "key.ctx", "-p", testPIN, "-g", "sha384", "-d", "digest", "-o", "sig")

			d := New(sim.ResourceManager().Address(), Options{})
			signs(t, newKey(t, d, pemOf(t, f)), testPIN)
			_ = d.Close()
		}
		if names[0] != names[1] {
			t.Errorf("%s: its name is %s in one form and %s in the other", alg, names[0], names[1])
		}
	}
}

func TestParentThatCannotBeOne(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.Address(), Options{})
	p, err := d.Parent(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.Text()
	if err != nil {
		t.Fatal(err)
	}
	f, err := keyfile.Parse(create(t, d, Template{}, ""))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":            nil,
		"a key":            f.Public, // signs, and is no parent
		"a key file":       pemOf(t, f),
		"another name":     []byte(strings.Replace(string(text), p.Name(), strings.Repeat("0", 68), 1)),
		"no handle":        []byte(strings.Replace(string(text), "0x40000001", "xyz", 1)),
		"a transient one":  []byte(strings.Replace(string(text), "0x40000001", "0x80000001", 1)),
		"half a structure": p.area[:20],
	} {
		if got, err := ParseParent(data); err == nil {
			t.Errorf("%s became %+v", name, got)
		}
	}
	if _, err := Wrap(softwareKeys(t)["P-256"], p, Template{PCRs: []PCRBank{{"sha256", []int{7}}}}, secret.Bytes{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("for registers: %v", err)
	}
}

func FuzzParseParent(f *testing.F) {
	f.Add([]byte("TPM parent: 0x81000001\n-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte{0, 2, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseParent(data)
		if err != nil {
			return
		}
		text, err := p.Text()
		if err != nil {
			return
		}
		again, err := ParseParent(text)
		if err != nil || again.Name() != p.Name() || again.Handle != p.Handle || again.RSA != p.RSA {
			t.Errorf("%+v, %v\n%s", again, err, text)
		}
	})
}
