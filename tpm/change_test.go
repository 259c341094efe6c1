package tpm

import (
	"bytes"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func parse(t testing.TB, file []byte) *keyfile.File {
	t.Helper()
	f, err := keyfile.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Keys of every tool get another PIN, one at all, or none.
func TestChangeAuth(t *testing.T) {
	sim := tpmtest.Start(t)
	sim.PersistSRK(t)
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	importable, _ := sim.ImportableKey(t, tpmtest.EC256, "old", 0)
	for name, c := range map[string]struct {
		file []byte
		old  string
	}{
		"ours":               {create(t, d, Template{}, "old"), "old"},
		"ours, no PIN":       {create(t, d, Template{}, ""), ""},
		"ours for PCRs":      {create(t, d, Template{PCRs: []PCRBank{{"sha256", []int{7}}}}, "old"), "old"},
		"tpm2-openssl":       {sim.OpenSSLKey(t, tpmtest.EC256, "old", 0), "old"},
		"RSA":                {sim.OpenSSLKey(t, tpmtest.RSA2048, "old", 0), "old"},
		"under a persistent": {sim.OpenSSLKey(t, tpmtest.EC384, "", tpmtest.PersistentSRK), ""},
		"importable":         {importable, "old"},
		"legacy":             {sim.LegacyKey(t, "old"), "old"},
	} {
		t.Run(name, func(t *testing.T) {
			before := parse(t, c.file)
			for _, fresh := range []string{"new", ""} {
				after, err := d.ChangeAuth(t.Context(), before, newPIN(c.old), newPIN(fresh))
				if err != nil {
					t.Fatal(err)
				}
				if after.NeedsAuth() != (fresh != "") || after.Type != keyfile.Loadable || after.Legacy != before.Legacy ||
					!bytes.Equal(after.Public, before.Public) {
					t.Errorf("to %q: it became %+v", fresh, after)
				}
				k := newKey(t, d, pemOf(t, after))
				signs(t, k, fresh)
				if err := trySign(k, "wrong", crypto.SHA256); !errors.Is(err, ErrAuthFailed) && fresh != "" {
					t.Errorf("a wrong PIN: %v", err)
				}
				k.Close()
				clearLockout(t, sim, d)
				if !before.Legacy && len(before.Policy) == 0 {
					opensslUses(t, sim, pemOf(t, after), fresh)
				}
			}
			// The old file is as good as it was.
			k := newKey(t, d, c.file)
			defer k.Close()
			signs(t, k, c.old)
		})
	}
}

// clearLockout forgives what the test did wrong.
func clearLockout(t testing.TB, sim *tpmtest.TPM, d *Device) {
	t.Helper()
	sim.Tool(t, t.TempDir(), "tpm2_dictionarylockout", "-Q", "-c")
	d.Forget()
}

func TestChangeAuthSpendsTriesAsSignDoes(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	f := parse(t, create(t, d, Template{}, testPIN))
	before, err := d.Lockout(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ChangeAuth(t.Context(), f, newPIN("wrong"), newPIN("new")); !errors.Is(err, ErrAuthFailed) {
		t.Errorf("a wrong PIN: %v", err)
	}
	after, err := d.Lockout(t.Context())
	if err != nil || after.Left() != before.Left()-1 {
		t.Errorf("%d tries left, before %d; %v", after.Left(), before.Left(), err)
	}
	// Somebody who has not looked at the counter is not given the last one.
	fresh := newDevice(t, sim.ResourceManager().Address(), Options{})
	for range after.Left() - 1 {
		_, _ = d.ChangeAuth(t.Context(), f, newPIN("wrong"), newPIN("new"))
	}
	if _, err := fresh.ChangeAuth(t.Context(), f, newPIN(testPIN), newPIN("new")); !errors.Is(err, ErrLastTry) {
		t.Errorf("the last try: %v", err)
	}
	_, _ = d.ChangeAuth(t.Context(), f, newPIN("wrong"), newPIN("new"))
	var lockout *LockoutError
	if _, err := d.ChangeAuth(t.Context(), f, newPIN(testPIN), newPIN("new")); !errors.As(err, &lockout) {
		t.Errorf("locked out: %v", err)
	}
}

func TestPINThatWouldProtectNothing(t *testing.T) {
	d := newDevice(t, tpmtest.Start(t).Address(), Options{})
	f := parse(t, create(t, d, Template{PCRs: []PCRBank{{"sha256", []int{7}}}}, ""))
	_, err := d.ChangeAuth(t.Context(), f, secret.Bytes{}, newPIN("new"))
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "policy") {
		t.Errorf("error %v", err)
	}
}

// What cannot be proven with the new PIN is not given out.
func TestUnprovenChangeIsNotGivenOut(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	f := parse(t, create(t, d, Template{}, testPIN))
	for _, code := range []tpm2.TPMCC{tpm2.TPMCCObjectChangeAuth, tpm2.TPMCCSign} {
		relay.Inject(code, tpm2.TPMRCFailure, 10)
		got, err := d.ChangeAuth(t.Context(), f, newPIN(testPIN), newPIN("new"))
		if got != nil || err == nil {
			t.Errorf("%v fails: %v, %v", code, got != nil, err)
		}
		relay.Clear()
	}
	// Changed on its way: the new private area is not what the TPM made.
	relay.Flip(tpm2.TPMCCObjectChangeAuth, 400, 1)
	if got, err := d.ChangeAuth(t.Context(), f, newPIN(testPIN), newPIN("new")); got != nil && err == nil {
		signs(t, newKey(t, d, pemOf(t, got)), "new")
	}
	relay.Clear()
	signs(t, newKey(t, d, pemOf(t, f)), testPIN)
}

func TestSealAndUnseal(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.ResourceManager()
	d := newDevice(t, relay.Address(), Options{})
	pcr := Template{PCRs: []PCRBank{{"sha256", []int{7}}}}
	for name, c := range map[string]struct {
		tmpl Template
		pin  string
	}{
		"bare": {}, "PIN": {pin: testPIN}, "PCRs": {tmpl: pcr}, "PCRs and PIN": {pcr, testPIN},
	} {
		t.Run(name, func(t *testing.T) {
			for _, plain := range []string{"s", strings.Repeat("sealed-canary ", 9) + "==", "zero at the end\x00"} {
				f, err := d.Seal(t.Context(), c.tmpl, newPIN(c.pin), newPIN(plain))
				if err != nil {
					t.Fatal(err)
				}
				f = parse(t, pemOf(t, f))
				if f.Type != keyfile.Sealed || f.NeedsAuth() != (c.pin != "") || f.DAProtected() != (c.pin != "") {
					t.Errorf("%+v", f)
				}
				got, err := d.Unseal(t.Context(), f, newPIN(c.pin))
				if err != nil || !got.Equal(newPIN(plain)) {
					t.Errorf("%d bytes gave %d: %v", len(plain), got.Len(), err)
				}
				if c.pin != "" {
					if _, err := d.Unseal(t.Context(), f, newPIN("wrong")); !errors.Is(err, ErrAuthFailed) {
						t.Errorf("a wrong PIN: %v", err)
					}
					clearLockout(t, sim, d)
				}
				if len(c.tmpl.PCRs) == 0 {
					toolsUnseal(t, sim, f, c.pin, plain)
				}
			}
		})
	}
	if relay.Contains([]byte("sealed-canary")) || relay.Contains([]byte(testPIN)) {
		t.Error("a secret was on the bus, of commands that are not tpm2-tools'")
	}
	f, err := d.Seal(t.Context(), pcr, secret.Bytes{}, newPIN("x"))
	if err != nil {
		t.Fatal(err)
	}
	extendPCR7(t, sim)
	var policy *PolicyError
	if _, err := d.Unseal(t.Context(), f, secret.Bytes{}); !errors.As(err, &policy) {
		t.Errorf("after a register changed: %v", err)
	}
	for _, n := range []int{0, MaxSealed + 1} {
		if _, err := d.Seal(t.Context(), Template{}, secret.Bytes{}, newPIN(strings.Repeat("x", n))); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := d.Unseal(t.Context(), parse(t, create(t, d, Template{}, "")), secret.Bytes{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a key: %v", err)
	}
}

// toolsUnseal has tpm2-tools read what was sealed.
func toolsUnseal(t *testing.T, sim *tpmtest.TPM, f *keyfile.File, pin, want string) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "pub"), f.Public)
	writeFile(t, filepath.Join(dir, "priv"), f.Private)
	sim.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "srk.ctx",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
	sim.Tool(t, dir, "tpm2_load", "-Q", "-C", "srk.ctx", "-u", "pub", "-r", "priv", "-c", "obj.ctx")
	args := []string{"-Q", "-c", "obj.ctx", "-o", "plain"}
	if pin != "" {
		args = append(args, "-p", pin)
	}
	sim.Tool(t, dir, "tpm2_unseal", args...)
	got, err := os.ReadFile(filepath.Join(dir, "plain"))
	if err != nil || string(got) != want {
		t.Errorf("tpm2_unseal gives %d bytes, want %d; %v", len(got), len(want), err)
	}
}

// What tpm2-tools seal is read, with PIN and without.
func TestUnsealWhatToolsSealed(t *testing.T) {
	sim := tpmtest.Start(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "plain"), []byte("from the tools"))
	sim.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "srk.ctx",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	for _, pin := range []string{"", testPIN} {
		args := []string{"-Q", "-C", "srk.ctx", "-i", "plain", "-u", "pub", "-r", "priv"}
		if pin != "" {
			args = append(args, "-p", pin)
		}
		sim.Tool(t, dir, "tpm2_create", args...)
		empty := pin == ""
		f := &keyfile.File{Type: keyfile.Sealed, EmptyAuth: &empty, Parent: tpmtest.OwnerHierarchy,
			Public: readFile(t, filepath.Join(dir, "pub")), Private: readFile(t, filepath.Join(dir, "priv"))}
		got, err := d.Unseal(t.Context(), parse(t, pemOf(t, f)), newPIN(pin))
		if err != nil || !got.Equal(newPIN("from the tools")) {
			t.Errorf("PIN %q: %d bytes, %v", pin, got.Len(), err)
		}
	}
}

// The answer of Unseal is authenticated: a flipped bit is an error, never
// another secret.
func TestUnsealNoticesFlippedBits(t *testing.T) {
	relay := tpmtest.Start(t).Relay()
	d := newDevice(t, relay.Address(), Options{})
	f, err := d.Seal(t.Context(), Template{}, newPIN(testPIN), newPIN("the secret"))
	if err != nil {
		t.Fatal(err)
	}
	for bit := 80; bit < 500; bit += 23 {
		relay.Flip(tpm2.TPMCCUnseal, bit, 1)
		got, err := d.Unseal(t.Context(), f, newPIN(testPIN))
		relay.Clear()
		if err == nil && !got.Equal(newPIN("the secret")) {
			t.Fatalf("bit %d: another secret came out", bit)
		}
	}
}
