package tpm

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/attest"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func TestAttest(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	nonce := []byte("a nonce of the verifier's")
	ak := ""
	for name, c := range map[string]struct {
		tmpl Template
		pin  string
	}{
		"P-256":    {},
		"PIN":      {pin: testPIN},
		"RSA":      {tmpl: Template{Algorithm: RSA2048}},
		"for PCRs": {Template{PCRs: []PCRBank{{"sha256", []int{7}}}}, testPIN},
	} {
		t.Run(name, func(t *testing.T) {
			f := parse(t, create(t, d, c.tmpl, c.pin))
			b, err := d.Attest(t.Context(), f, newPIN(c.pin), nonce)
			if err != nil {
				t.Fatal(err)
			}
			data, err := b.JSON()
			if err != nil {
				t.Fatal(err)
			}
			if b, err = attest.Parse(data); err != nil {
				t.Fatal(err)
			}
			st, err := attest.Verify(b, attest.Options{Nonce: nonce, Key: publicOf(t, f), AttestationKey: ak})
			if err != nil {
				t.Fatal(err)
			}
			if !sameKey(st.Key, publicOf(t, f)) || st.LockoutProtected != (c.pin != "") || st.NeedsPolicy != (len(c.tmpl.PCRs) > 0) ||
				!bytes.Equal(st.Nonce, nonce) || st.Pinned != (ak != "") {
				t.Errorf("%+v", st)
			}
			ak = st.AttestationKeyName // the same for all of this TPM
			if len(b.EndorsementKey) == 0 {
				t.Error("no endorsement key")
			}
			if c.pin != "" {
				if _, err := d.Attest(t.Context(), f, newPIN("wrong"), nil); !errors.Is(err, ErrAuthFailed) {
					t.Errorf("a wrong PIN: %v", err)
				}
				clearLockout(t, sim, d)
			}
		})
	}
	// Three slots, and no resource manager that would swap.
	raw := newDevice(t, sim.Address(), Options{})
	f := parse(t, create(t, raw, Template{}, testPIN))
	b, err := raw.Attest(t.Context(), f, newPIN(testPIN), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attest.Verify(b, attest.Options{AttestationKey: ak}); err != nil {
		t.Error(err)
	}
}

// An endorsement certificate that the TPM's maker left is brought along.
func TestAttestBringsTheCertificate(t *testing.T) {
	sim := tpmtest.Start(t)
	dir := t.TempDir()
	cert := bytes.Repeat([]byte("certificate "), 100)
	writeFile(t, filepath.Join(dir, "cert"), cert)
	sim.Tool(t, dir, "tpm2_nvdefine", "-Q", "0x1c0000a", "-C", "p", "-s", "1200",
		"-a", "ppwrite|ppread|ownerread|authread|no_da|platformcreate")
	sim.Tool(t, dir, "tpm2_nvwrite", "-Q", "0x1c0000a", "-C", "p", "-i", "cert")
	d := newDevice(t, sim.Address(), Options{})
	b, err := d.Attest(t.Context(), parse(t, create(t, d, Template{}, "")), secret.Bytes{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.EndorsementCertificate, cert) || b.EndorsementKey != nil {
		t.Errorf("a certificate of %d bytes, want %d", len(b.EndorsementCertificate), len(cert))
	}
}

// Nothing in a bundle can be changed, and what is not proven is not claimed.
func TestAttestationThatDoesNotHold(t *testing.T) {
	sim := tpmtest.Start(t)
	d := newDevice(t, sim.ResourceManager().Address(), Options{})
	key, other := parse(t, create(t, d, Template{}, "")), parse(t, create(t, d, Template{}, ""))
	nonce := []byte("nonce")
	good, err := d.Attest(t.Context(), key, secret.Bytes{}, nonce)
	if err != nil {
		t.Fatal(err)
	}
	st, err := attest.Verify(good, attest.Options{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	about, err := d.Attest(t.Context(), other, secret.Bytes{}, nonce)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := d.Import(t.Context(), softwareKeys(t)["P-256"], Template{}, secret.Bytes{})
	if err != nil {
		t.Fatal(err)
	}
	outside, err := d.Attest(t.Context(), imported, secret.Bytes{}, nonce)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(b *attest.Bundle)
		o      attest.Options
		want   string
	}{
		"made elsewhere":      {func(b *attest.Bundle) { *b = *outside }, attest.Options{}, "imported"},
		"another key":         {func(b *attest.Bundle) { b.Key = about.Key }, attest.Options{}, "another key"},
		"another statement":   {func(b *attest.Bundle) { b.Attest = about.Attest }, attest.Options{}, "signature is wrong"},
		"another signature":   {func(b *attest.Bundle) { b.Signature = about.Signature }, attest.Options{}, "signature is wrong"},
		"signed by itself":    {func(b *attest.Bundle) { b.AttestationKey = b.Key }, attest.Options{}, "restricted"},
		"an old one":          {func(*attest.Bundle) {}, attest.Options{Nonce: []byte("other")}, "nonce"},
		"not that key":        {func(*attest.Bundle) {}, attest.Options{Key: publicOf(t, other)}, "asked for"},
		"not that machine":    {func(*attest.Bundle) {}, attest.Options{AttestationKey: strings.Repeat("0", 68)}, "another attestation key"},
		"a bit more":          {func(b *attest.Bundle) { b.Key = append(b.Key[:len(b.Key):len(b.Key)], 0) }, attest.Options{}, "cannot be read"},
		"no signature":        {func(b *attest.Bundle) { b.Signature = nil }, attest.Options{}, "cannot be read"},
		"not of a TPM's make": {func(b *attest.Bundle) { b.Attest = bytes.Repeat([]byte{1}, 50) }, attest.Options{}, "not a TPM's own"},
	} {
		b := *good
		c.change(&b)
		if got, err := attest.Verify(&b, c.o); !errors.Is(err, attest.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for i := range good.Attest {
		b := *good
		b.Attest = bytes.Clone(good.Attest)
		b.Attest[i] ^= 4
		if _, err := attest.Verify(&b, attest.Options{AttestationKey: st.AttestationKeyName}); err == nil {
			t.Errorf("byte %d of the statement may be anything", i)
		}
	}
	if _, err := d.Attest(t.Context(), key, secret.Bytes{}, make([]byte, maxNonce+1)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a long nonce: %v", err)
	}
	for _, data := range []string{"", "{}", `{"format":"keyringd-attestation-2"}`, `{"format":"keyringd-attestation-1","more":1}`} {
		if _, err := attest.Parse([]byte(data)); err == nil {
			t.Errorf("%q is a bundle", data)
		}
	}
}
