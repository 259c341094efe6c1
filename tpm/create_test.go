package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// create makes a key and checks that its file is whole.
func create(t testing.TB, d *Device, tmpl Template, pin string) []byte {
	t.Helper()
	f, err := d.Create(t.Context(), tmpl, newPIN(pin))
	if err != nil {
		t.Fatalf("create %+v: %v", tmpl, err)
	}
	if f.NeedsAuth() != (pin != "") || f.EmptyAuth == nil || f.DAProtected() != (pin != "") {
		t.Errorf("PIN %q: the file says %v (%v), protected %v", pin, f.NeedsAuth(), f.EmptyAuth, f.DAProtected())
	}
	b, err := f.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// opensslUses has tpm2-openssl sign with a key file in two ways, and OpenSSL
// alone check what came of it.
func opensslUses(t *testing.T, sim *tpmtest.TPM, file []byte, pin string) {
	t.Helper()
	f, err := keyfile.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := f.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "key"), file)
	writeFile(t, filepath.Join(dir, "pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	writeFile(t, filepath.Join(dir, "digest"), randomDigest(32))
	provider := []string{"-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2"}
	pass := []string{}
	if pin != "" {
		pass = []string{"-passin", "pass:" + pin}
	}
	sim.Tool(t, dir, "openssl", slices.Concat([]string{"pkeyutl", "-sign", "-inkey", "key", "-in", "digest", "-out", "sig",
		"-pkeyopt", "digest:sha256"}, provider, pass)...)
	sim.Tool(t, dir, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "pub", "-in", "digest", "-sigfile", "sig", "-pkeyopt", "digest:sha256")
	sim.Tool(t, dir, "openssl", slices.Concat([]string{"req", "-x509", "-new", "-key", "key", "-subj", "/CN=mia", "-sha256", "-out", "cert"}, provider, pass)...)
	block, _ := pem.Decode(readFile(t, filepath.Join(dir, "cert")))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		t.Error(err)
	}
}

// What tpm2-openssl can do with the files, and that we go on reading them.
func TestCreatedKeysOfEveryKind(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	has, err := d.Algorithms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(has, ECDSAP256) || !slices.Contains(has, RSA2048) {
		t.Fatalf("the TPM has only %v", has)
	}
	for _, alg := range Algorithms() {
		for _, pin := range []string{"", testPIN} {
			t.Run(string(alg)+" "+pin, func(t *testing.T) {
				if !slices.Contains(has, alg) {
					_, err := d.Create(t.Context(), Template{Algorithm: alg}, newPIN(pin))
					if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "it has ecdsa-p256") {
						t.Errorf("a key that the TPM does not have: %v", err)
					}
					return
				}
				if alg == RSA3072 && testing.Short() {
					t.Skip("slow")
				}
				file := create(t, d, Template{Algorithm: alg}, pin)
				k := newKey(t, d, file)
				defer k.Close()
				signs(t, k, pin)
				opensslUses(t, sim, file, pin)
			})
		}
	}
}

func TestCreateNeverSendsThePIN(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	file := create(t, d, Template{}, testPIN)
	signs(t, newKey(t, d, file), testPIN)
	f, err := keyfile.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ChangeAuth(t.Context(), f, newPIN(testPIN), newPIN("another-canary")); err != nil {
		t.Fatal(err)
	}
	sealed, err := d.Seal(t.Context(), Template{}, newPIN(testPIN), newPIN("sealed-canary"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Unseal(t.Context(), sealed, newPIN(testPIN)); err != nil {
		t.Fatal(err)
	}
	if !relay.Contains([]byte("\x80\x02")) {
		t.Fatal("the relay recorded nothing")
	}
	for _, canary := range []string{testPIN, testPIN[:8], "another-canary", "sealed-canary"} {
		if relay.Contains([]byte(canary)) {
			t.Errorf("%q was on the bus", canary)
		}
	}
}

// TestCommandsToMakeAKey holds the figures of the doc comments.
func TestCommandsToMakeAKey(t *testing.T) {
	for _, c := range []struct {
		name       string
		persistent bool
		tmpl       Template
		pin        string
		want       int
	}{
		// ReadPublic, CreatePrimary, StartAuthSession, Create, Load, Sign.
		{"made parent", false, Template{}, testPIN, 6},
		{"made parent, no PIN", false, Template{}, "", 6},
		// ReadPublic, StartAuthSession, Create, Load, Sign.
		{"persistent parent by name", true, Template{Parent: tpmtest.PersistentSRK}, testPIN, 5},
		// CreatePrimary and its Flush more, to be sure that it is the hierarchy's own.
		{"persistent parent", true, Template{}, testPIN, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			sim := tpmtest.Start(t)
			if c.persistent {
				sim.PersistSRK(t)
			}
			relay := sim.Relay()
			d := newDevice(t, relay.Address(), Options{})
			file := create(t, d, c.tmpl, c.pin)
			if n := relay.Total() - retried(d); n != c.want {
				t.Errorf("%d commands, want %d: %v", n, c.want, relay.Sent())
			}
			relay.Reset()
			create(t, d, c.tmpl, c.pin)
			if n := relay.Total() - retried(d); n > 4 {
				t.Errorf("the second key took %d commands: %v", n, relay.Sent())
			}
			_ = d.Close() // its slots are needed
			opensslUses(t, sim, file, c.pin)
		})
	}
}

func TestCreateBehindAResourceManager(t *testing.T) {
	sim := tpmtest.Start(t)
	rm := sim.ResourceManager()
	d := newDevice(t, rm.Address(), Options{})
	for _, pin := range []string{"", testPIN} {
		file := create(t, d, Template{}, pin)
		signs(t, newKey(t, d, file), pin)
		opensslUses(t, sim, file, pin)
	}
}

// A key that looks like the storage root key is at 0x81000001, but is another:
// a file made under it must not say that its parent is the owner's.
func TestCreateBesideAnotherStorageRoot(t *testing.T) {
	sim := tpmtest.Start(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "unique"), make([]byte, 68))
	sim.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-u", "unique", "-c", "srk.ctx",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
	sim.Tool(t, dir, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", "srk.ctx", "0x81000001")
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	file := create(t, d, Template{}, testPIN)
	opensslUses(t, sim, file, testPIN)
	under := create(t, d, Template{Parent: 0x81000001}, testPIN)
	opensslUses(t, sim, under, testPIN)
}

// The owner's password is asked for where there is no other way, and not where
// there is one.
func TestCreateUnderAnOwnerWithAPassword(t *testing.T) {
	sim := tpmtest.Start(t)
	sim.PersistSRK(t)
	sim.Tool(t, t.TempDir(), "tpm2_changeauth", "-Q", "-c", "o", "owner-pass")
	d := newDevice(t, sim.Address(), Options{})
	f, err := keyfile.Parse(create(t, d, Template{}, testPIN))
	if err != nil {
		t.Fatal(err)
	}
	if f.Parent != tpmtest.PersistentSRK {
		t.Errorf("parent %#x", f.Parent)
	}
	_, err = d.Create(t.Context(), Template{Parent: tpmtest.OwnerHierarchy}, secret.Bytes{})
	if !errors.Is(err, ErrAuthFailed) {
		t.Errorf("nobody to ask: %v", err)
	}
	asked := newDevice(t, sim.Address(), Options{ParentAuth: answer("owner-pass")})
	signs(t, newKey(t, asked, create(t, asked, Template{Parent: tpmtest.OwnerHierarchy}, testPIN)), testPIN)
}

func TestParsePCRs(t *testing.T) {
	for in, want := range map[string][]PCRBank{
		"":                nil,
		"sha256:0,7":      {{"sha256", []int{0, 7}}},
		"SHA256:7,0,7":    {{"sha256", []int{0, 7}}},
		"sha1:0+sha384:9": {{"sha1", []int{0}}, {"sha384", []int{9}}},
	} {
		got, err := ParsePCRs(in)
		if err != nil || !slices.EqualFunc(got, want, func(a, b PCRBank) bool { return a.Hash == b.Hash && slices.Equal(a.Registers, b.Registers) }) {
			t.Errorf("%q is %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"7", "sha256", "sha256:", "sha256:24", "sha256:-1", "sha256:1,", "md5:1", "sha256:1+sha256:2", "+"} {
		if got, err := ParsePCRs(in); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}

// A key that is bound to registers signs until one changes, with and without a
// PIN, and never without its policy.
func TestCreateForPCRs(t *testing.T) {
	for _, pin := range []string{"", testPIN} {
		sim := tpmtest.Start(t)
		d := newDevice(t, sim.ResourceManager().Address(), Options{})
		// More registers than one answer has, in two banks.
		banks, err := ParsePCRs("sha256:0,1,2,3,4,5,6,7,8,9+sha1:7")
		if err != nil {
			t.Fatal(err)
		}
		file := create(t, d, Template{PCRs: banks}, pin)
		k := newKey(t, d, file)
		signs(t, k, pin)
		if pin != "" {
			if err := trySign(k, "wrong", crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
				t.Errorf("a wrong PIN: %v", err)
			}
		}
		around := newKey(t, d, file)
		around.policy = nil
		if err := trySign(around, pin, crypto.SHA256); err == nil {
			t.Error("signed without its policy")
		}
		extendPCR7(t, sim)
		var policy *PolicyError
		if err := trySign(k, pin, crypto.SHA256); !errors.As(err, &policy) || !strings.Contains(err.Error(), "7") {
			t.Errorf("after a register changed: %v", err)
		}
	}
}

// Both steps are those that the tools of the TPM would take to the same digest.
func TestPCRPolicyIsTheToolsOwn(t *testing.T) {
	sim := tpmtest.Start(t)
	m := newPolicy(t, sim)
	m.pcr7()
	m.authValue()
	want := m.digest()
	d := newDevice(t, sim.Address(), Options{})
	banks, err := ParsePCRs("sha256:7")
	if err != nil {
		t.Fatal(err)
	}
	f, err := keyfile.Parse(create(t, d, Template{PCRs: banks}, testPIN))
	if err != nil {
		t.Fatal(err)
	}
	area, err := f.PublicArea()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(area.AuthPolicy.Buffer, want) {
		t.Errorf("the policy is %x, tpm2-tools say %x", area.AuthPolicy.Buffer, want)
	}
}

func TestAuthThatNoKeyCanHave(t *testing.T) {
	d := newDevice(t, tpmtest.Start(t).Address(), Options{})
	for _, pin := range []string{strings.Repeat("x", MaxAuth+1), "ends in zero\x00"} {
		if _, err := d.Create(t.Context(), Template{}, newPIN(pin)); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q: %v", pin, err)
		}
	}
	longest := strings.Repeat("ö", MaxAuth/2)
	signs(t, newKey(t, d, create(t, d, Template{}, longest)), longest)
	if n := d.Counters().Total(); n == 0 {
		t.Error("nothing was sent for the longest")
	}
}

func TestCreateWhileLockedOut(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.Address(), Options{})
	k := newKey(t, d, create(t, d, Template{}, testPIN))
	l, err := d.Lockout(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range l.Left() {
		_ = trySign(k, "wrong", crypto.SHA256)
	}
	if _, err := d.Create(t.Context(), Template{}, newPIN(testPIN)); !errors.Is(err, ErrLockedOut) {
		t.Errorf("a key with a PIN: %v", err)
	}
	// One without is exempt.
	signs(t, newKey(t, d, create(t, d, Template{}, "")), "")
}

// A key that cannot be proven is not given out, and nothing stays behind.
func TestUnprovenKeyIsNotGivenOut(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	for _, code := range []tpm2.TPMCC{tpm2.TPMCCCreate, tpm2.TPMCCLoad, tpm2.TPMCCSign} {
		relay.Inject(code, tpm2.TPMRCFailure, 10)
		f, err := d.Create(t.Context(), Template{}, newPIN(testPIN))
		if f != nil || !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v fails: %v, %v", code, f != nil, err)
		}
		relay.Clear()
	}
	create(t, d, Template{}, testPIN)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if left := handles(t, sim, 0x80000000); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCertificateRequest(t *testing.T) {
	d := newDevice(t, tpmtest.Start(t).Address(), Options{})
	for _, alg := range []Algorithm{ECDSAP384, RSA2048} {
		k := newKey(t, d, create(t, d, Template{Algorithm: alg}, testPIN))
		der, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mia"}},
			Signer{t.Context(), k, newPIN(testPIN)})
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != "mia" {
			t.Errorf("%v: %v", alg, err)
		}
	}
}

// sameKey says whether two public keys are one.
func sameKey(a, b crypto.PublicKey) bool {
	switch a := a.(type) {
	case *ecdsa.PublicKey:
		return a.Equal(b)
	case *rsa.PublicKey:
		return a.Equal(b)
	}
	return false
}

func curves() map[string]elliptic.Curve {
	return map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
}
