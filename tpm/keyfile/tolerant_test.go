package keyfile_test

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// TestTolerated is what is not the draft's, or not DER, and read all the same:
// and written again as it was.
func TestTolerated(t *testing.T) {
	pub := pubkey(plainArea)
	boolean := func(b byte) []byte { return tlv(0xa0, []byte{1, 1, b}) }
	for _, tc := range []struct {
		name string
		der  []byte
		ok   func(f *keyfile.File) bool
	}{
		{"true written 0x01", file(loadable, boolean(1), inOwner, pub, private), func(f *keyfile.File) bool { return !f.NeedsAuth() }},
		{"true written 0x80", file(loadable, boolean(0x80), inOwner, pub, private), func(f *keyfile.File) bool { return !f.NeedsAuth() }},
		{"false written", file(loadable, boolean(0), inOwner, pub, private), func(f *keyfile.File) bool { return f.NeedsAuth() && f.EmptyAuth != nil }},
		{"emptyAuth left out", file(loadable, inOwner, pub, private), func(f *keyfile.File) bool { return f.NeedsAuth() && f.EmptyAuth == nil }},
		{"rsaParent written 0x01", file(loadable, tlv(0xa5, []byte{1, 1, 1}), inOwner, pub, private), func(f *keyfile.File) bool { return f.RSAParent }},
		{"negative parent", file(loadable, []byte{2, 4, 0x81, 0, 0, 1}, pub, private), func(f *keyfile.File) bool { return f.Parent == persistent }},
		{"old: negative parent", file(legacy, tlv(0xa1, []byte{2, 4, 0x81, 0, 0, 1}), tlv(0xa2, pub), private), func(f *keyfile.File) bool { return f.Parent == persistent && f.Legacy }},
		{"old: parent left out", file(legacy, tlv(0xa2, pub), private), func(f *keyfile.File) bool { return f.Parent == owner && f.Legacy }},
		{"old: as DER without a guard", file(legacy, yes, tlv(0xa2, pub), private), func(f *keyfile.File) bool { return f.Legacy }},
		{"description empty", file(loadable, tlv(0xa4, tlv(0x0c)), inOwner, pub, private), func(f *keyfile.File) bool { return f.Description == "" }},
		{"authPolicy empty", file(loadable, steps(0xa1, authorize), steps(0xa3), inOwner, pubkey(policyArea), private), func(f *keyfile.File) bool { return len(f.AuthPolicy) == 0 }},
		{"alternative with an empty name", file(loadable, steps(0xa1, authorize), steps(0xa3, tlv(0x30, tlv(0xa0, tlv(0x0c)), steps(0xa1, authorize))), inOwner, pubkey(policyArea), private),
			func(f *keyfile.File) bool { return len(f.AuthPolicy) == 1 && f.AuthPolicy[0].Name == "" }},
		{"digest, but userWithAuth", file(importable, secret, inOwner, pubkey(pubkeyOf("tools-importable-p256.pem")), private), func(f *keyfile.File) bool { return f.Policy == nil }},
		{"sealed with a secret", file(sealed, secret, inOwner, pubkey(sealedArea), private), func(f *keyfile.File) bool { return f.Type == keyfile.Sealed && len(f.Secret) == 6 }},
		{"unknown fields", file(loadable, text, tlv(0xa6, []byte{4, 1, 'x'}), tlv(0xbe), inOwner, pub, private), func(f *keyfile.File) bool { return f.Description == "text" }},
		{"unknown field, primitive", file(loadable, tlv(0x8a, []byte("ten")), inOwner, pub, private), func(f *keyfile.File) bool { return f.Parent == owner }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := keyfile.Parse(tc.der)
			if err != nil {
				t.Fatal(err)
			}
			if !tc.ok(f) {
				t.Errorf("read as %+v", f)
			}
			checkLossless(t, f, tc.der)
		})
	}
}

func TestPEMAnywhere(t *testing.T) {
	block := string(armour("TSS2 PRIVATE KEY", plain))
	other := string(armour("CERTIFICATE", []byte("a certificate")))
	second := string(armour("TSS2 PRIVATE KEY", derOf(t, readCorpus(t, "openssl-p384.pem"))))
	for name, text := range map[string]string{
		"alone":                  block,
		"without a last newline": strings.TrimRight(block, "\n"),
		"CRLF":                   strings.ReplaceAll(block, "\n", "\r\n"),
		"after text":             "Key of mia, made in spring.\n\n" + block,
		"before text":            block + "and so on\n",
		"after another block":    other + block,
		"before another block":   block + other,
		"before another key":     block + second,
	} {
		f, err := keyfile.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if der, err := f.DER(); err != nil || !bytes.Equal(der, plain) {
			t.Errorf("%s: read as %x, %v", name, der, err)
		}
	}
}

// TestParseKeepsNothing: the caller may reuse its buffer, and append to what
// it was given.
func TestParseKeepsNothing(t *testing.T) {
	want := file(importable, yes, secret, inOwner, pubkey(plainArea), private)
	data := bytes.Clone(want)
	f, err := keyfile.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	_ = append(f.Secret, "overflow into the next field"...)
	_ = append(f.Public, "overflow into the next field"...)
	checkLossless(t, f, want)
}

// TestGuardFollowsLayout: the guard is what tells other tools the layout.
func TestGuardFollowsLayout(t *testing.T) {
	for name, want := range map[string]string{"legacy-p256.pem": "TSS2 KEY BLOB", "openssl-p256.der": "TSS2 PRIVATE KEY"} {
		f, err := keyfile.Parse(readCorpus(t, name))
		if err != nil {
			t.Fatal(err)
		}
		text, err := f.PEM()
		if err != nil {
			t.Fatal(err)
		}
		block, rest := pem.Decode(text)
		if block == nil || block.Type != want || len(block.Headers) > 0 || len(rest) > 0 {
			t.Errorf("%s: written as %s", name, text)
		}
	}
}
