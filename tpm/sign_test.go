package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/link"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

const testPIN = "hunter22-canary"

// newDevice returns a Device that is closed at the end of the test.
func newDevice(t testing.TB, addr link.Address, o Options) *Device {
	t.Helper()
	d := New(addr, o)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// newKey returns the key of a file.
func newKey(t testing.TB, d *Device, file []byte) *Key {
	t.Helper()
	f, err := keyfile.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	k, err := d.Key(f)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newPIN(s string) secret.Bytes { return secret.Copy([]byte(s)) }

// signs makes a signature over a new digest and checks it with the public key
// of the file.
func signs(t testing.TB, k *Key, pin string) {
	t.Helper()
	if err := trySign(k, pin, crypto.SHA256); err != nil {
		t.Fatalf("sign: %v", err)
	}
}

func trySign(k *Key, pin string, hash crypto.Hash) error {
	digest := make([]byte, hash.Size())
	_, _ = rand.Read(digest)
	sig, err := k.Sign(context.Background(), newPIN(pin), digest, hash)
	if err != nil {
		return err
	}
	return check(k, hash, digest, sig)
}

var errWrongSignature = errors.New("wrong signature")

func check(k *Key, hash crypto.Hash, digest, sig []byte) error {
	switch pub := k.public.(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, digest, sig) {
			return errWrongSignature
		}
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(pub, hash, digest, sig) != nil {
			return errWrongSignature
		}
	}
	return nil
}

// TestCommandsPerSignature holds the figures of a TPM without a resource
// manager: how many commands the first signature takes, and all later ones.
func TestCommandsPerSignature(t *testing.T) {
	for _, c := range []struct {
		name       string
		alg        string
		pin        string
		persistent bool
		parent     uint32
		first      int
	}{
		// Load in vain, CreatePrimary, Load, Sign.
		{"made parent", tpmtest.EC256, "", false, 0, 4},
		// ReadPublic instead of the first; GetCapability and StartAuthSession more.
		{"made parent, PIN", tpmtest.EC256, testPIN, false, 0, 6},
		// Load, Sign.
		{"persistent parent", tpmtest.EC256, "", true, 0, 2},
		// And ReadPublic, GetCapability, StartAuthSession.
		{"persistent parent, PIN", tpmtest.EC256, testPIN, true, 0, 5},
		// ReadPublic, Load, Sign.
		{"persistent parent by name", tpmtest.EC256, "", true, tpmtest.PersistentSRK, 3},
		{"RSA", tpmtest.RSA2048, "", true, 0, 2},
		{"RSA, PIN", tpmtest.RSA2048, testPIN, true, 0, 5},
		{"P-384", tpmtest.EC384, "", true, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			sim := tpmtest.Start(t)
			if c.persistent {
				sim.PersistSRK(t)
			}
			file := sim.OpenSSLKey(t, c.alg, c.pin, c.parent)
			relay := sim.Relay()
			d := newDevice(t, relay.Address(), Options{})
			k := newKey(t, d, file)
			if n := relay.Total(); n != 0 {
				t.Fatalf("making the key took %d commands", n)
			}
			signs(t, k, c.pin)
			if n := relay.Total() - retried(d); n != c.first {
				t.Errorf("first signature took %d commands, want %d: %v", n, c.first, relay.Sent())
			}
			relay.Reset()
			for range 20 {
				signs(t, k, c.pin)
			}
			if n := relay.Total(); n != 20 {
				t.Errorf("20 signatures took %d commands: %v", n, relay.Sent())
			}
			if relay.Contains([]byte(testPIN)) || relay.Contains([]byte(testPIN[:8])) {
				t.Error("the PIN was on the bus")
			}
		})
	}
}

// retried counts the commands that the TPM asked for again, as it does once
// after it was started.
func retried(d *Device) int {
	n := 0
	for _, c := range d.Counters().Snapshot() {
		n += int(c.Retried)
	}
	return n
}

func TestAlternatingPINKeysShareTheSession(t *testing.T) {
	sim := tpmtest.Start(t)
	sim.PersistSRK(t)
	one, two := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0), sim.OpenSSLKey(t, tpmtest.EC256, "other", 0)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	a, b := newKey(t, d, one), newKey(t, d, two)
	signs(t, a, testPIN)
	signs(t, b, "other")
	relay.Reset()
	for range 5 {
		signs(t, a, testPIN)
		signs(t, b, "other")
	}
	if n := relay.Total(); n != 10 {
		t.Errorf("10 signatures took %d commands: %v", n, relay.Sent())
	}
}

func TestImportable(t *testing.T) {
	for _, alg := range []string{tpmtest.EC256, tpmtest.RSA2048} {
		for _, pin := range []string{"", testPIN} {
			sim := tpmtest.Start(t)
			file, _ := sim.ImportableKey(t, alg, pin, 0)
			relay := sim.Relay()
			d := newDevice(t, relay.Address(), Options{})
			k := newKey(t, d, file)
			for range 3 {
				signs(t, k, pin)
			}
			if n := relay.Sent()[tpm2.TPMCCImport]; n != 1 {
				t.Errorf("imported %d times", n)
			}
			d.Forget()
			signs(t, k, pin)
			if n := relay.Sent()[tpm2.TPMCCImport]; n != 1 {
				t.Errorf("imported %d times after a reset", n)
			}
		}
	}
}

func TestLegacyKey(t *testing.T) {
	for _, pin := range []string{"", testPIN} {
		sim := tpmtest.Start(t)
		sim.PersistSRK(t) // which is not its parent
		d := newDevice(t, sim.Address(), Options{})
		signs(t, newKey(t, d, sim.LegacyKey(t, pin)), pin)
	}
}

func TestForeignKeyFile(t *testing.T) {
	home, abroad := tpmtest.Start(t), tpmtest.Start(t)
	file := home.OpenSSLKey(t, tpmtest.EC256, "", 0)
	for _, persistent := range []bool{false, true} {
		if persistent {
			abroad.PersistSRK(t)
		}
		d := newDevice(t, abroad.Address(), Options{})
		if err := trySign(newKey(t, d, file), "", crypto.SHA256); !errors.Is(err, ErrWrongTPM) {
			t.Errorf("persistent %v: got %v", persistent, err)
		}
		// A key of this TPM is not disturbed.
		signs(t, newKey(t, d, abroad.OpenSSLKey(t, tpmtest.EC256, "", 0)), "")
	}
}

// TestOtherStorageRoot has a key at 0x81000001 that looks like the storage root
// key of key files and is not: its template had zeros where the other has
// nothing.
func TestOtherStorageRoot(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	dir := t.TempDir()
	zeros := filepath.Join(dir, "unique")
	writeFile(t, zeros, append(append([]byte{32, 0}, make([]byte, 32)...), append([]byte{32, 0}, make([]byte, 32)...)...))
	sim.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "p.ctx", "-u", zeros,
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
	sim.Tool(t, dir, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", "p.ctx", "0x81000001")
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, file)
	signs(t, k, testPIN)
	if n := relay.Sent()[tpm2.TPMCCLoad]; n != 2 {
		t.Errorf("loaded %d times, want once in vain and once with success", n)
	}
	relay.Reset()
	signs(t, k, testPIN)
	if n := relay.Total(); n != 1 {
		t.Errorf("steady signature took %d commands: %v", n, relay.Sent())
	}
}

func TestBitFlipsNeverGiveAWrongSignature(t *testing.T) {
	sim := tpmtest.Start(t)
	noPIN, withPIN := sim.OpenSSLKey(t, tpmtest.EC256, "", 0), sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	relay := sim.Relay()
	d := New(relay.Address(), Options{})
	for _, c := range []struct {
		file []byte
		pin  string
	}{{noPIN, ""}, {withPIN, testPIN}} {
		k := newKey(t, d, c.file)
		signs(t, k, c.pin)
		failed := 0
		for bit := 80; bit < 680; bit += 37 {
			relay.Flip(tpm2.TPMCCSign, bit, 1)
			err := trySign(k, c.pin, crypto.SHA256)
			relay.Clear()
			if errors.Is(err, errWrongSignature) {
				t.Fatalf("bit %d: a wrong signature came through", bit)
			}
			if err != nil {
				failed++
				if !errors.Is(err, ErrUnavailable) {
					t.Errorf("bit %d: %v", bit, err)
				}
			}
			signs(t, k, c.pin)
		}
		if failed == 0 && c.pin != "" {
			t.Error("no flipped bit was noticed")
		}
	}
	_ = d.Close()
	// As many bits as the response has: one in the header that says how long
	// it is would only make everybody wait.
	for code, bits := range map[tpm2.TPMCC]int{
		tpm2.TPMCCCreatePrimary: 1600, tpm2.TPMCCLoad: 400, tpm2.TPMCCStartAuthSession: 256, tpm2.TPMCCGetCapability: 1200,
	} {
		for bit := 80; bit < bits; bit += 31 {
			d := New(relay.Address(), Options{})
			relay.Flip(code, bit, 1)
			if err := trySign(newKey(t, d, withPIN), testPIN, crypto.SHA256); errors.Is(err, errWrongSignature) {
				t.Fatalf("%v, bit %d: a wrong signature came through", code, bit)
			}
			relay.Clear()
			_ = d.Close()
		}
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	sim := tpmtest.Start(t)
	file := sim.OpenSSLKey(t, tpmtest.EC256, testPIN, 0)
	d := New(sim.Address(), Options{})
	signs(t, newKey(t, d, file), testPIN)
	d.Forget()
	signs(t, newKey(t, d, file), testPIN)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if h := handles(t, sim, 0x80000000); len(h) > 0 {
		t.Errorf("objects left: %x", h)
	}
	if h := handles(t, sim, 0x02000000); len(h) > 0 {
		t.Errorf("sessions left: %x", h)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// handles lists what is loaded in a TPM.
func handles(t *testing.T, sim *tpmtest.TPM, first uint32) []tpm2.TPMHandle {
	t.Helper()
	l, err := link.Dial(t.Context(), sim.Address(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return list.Handle
}

func TestSweepsWhatABrokenConnectionLeft(t *testing.T) {
	sim := tpmtest.Start(t)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	keys := manyKeys(t, sim, d, 3)
	for range 3 {
		for _, k := range keys {
			signs(t, k, "")
		}
	}
	for range 3 {
		relay.Disconnect() // the TPM keeps its three objects
		for _, k := range keys {
			signs(t, k, "")
		}
	}
	if h := handles(t, sim, 0x80000000); len(h) > 3 {
		t.Errorf("%d objects", len(h))
	}
}

func TestDERIsCanonical(t *testing.T) {
	sig := &tpm2.TPMSSignatureECC{
		SignatureR: tpm2.TPM2BECCParameter{Buffer: append([]byte{0, 0}, 0x80)},
		SignatureS: tpm2.TPM2BECCParameter{Buffer: []byte{0x7f}},
	}
	der, err := ecdsaDER(sig)
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte{0x30, 7, 2, 2, 0, 0x80, 2, 1, 0x7f}; !bytes.Equal(der, want) {
		t.Errorf("got %x, want %x", der, want)
	}
}
