package keyfile_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// made is a File made in code, with every field that its type may have.
func made() *keyfile.File {
	return &keyfile.File{
		Type:        keyfile.Importable,
		EmptyAuth:   new(true),
		Policy:      []keyfile.PolicyStep{{Code: 0x16a, Body: []byte{7}}},
		Secret:      tpm2b([]byte("seed")),
		AuthPolicy:  []keyfile.AuthPolicy{{Name: "n", Policy: []keyfile.PolicyStep{{Code: 0x16b}, {Code: 0x16a, Body: []byte{7}}}}, {Policy: []keyfile.PolicyStep{{Code: 0x16a, Body: []byte{7}}}}},
		Description: "text",
		RSAParent:   true,
		Parent:      owner,
		Public:      policyArea,
		Private:     tpm2b([]byte("private")),
	}
}

func TestCanonical(t *testing.T) {
	name := tlv(0xa0, tlv(0x0c, []byte("n")))
	policy := steps(0xa1, authorize)
	auth := steps(0xa3, tlv(0x30, name, steps(0xa1, authValue, authorize)), tlv(0x30, policy))
	old := func(f *keyfile.File) {
		*f = keyfile.File{Legacy: true, EmptyAuth: new(true), Parent: persistent, Public: plainArea, Private: f.Private}
	}
	for _, tc := range []struct {
		name string
		edit func(f *keyfile.File)
		want []byte
	}{
		{"everything", func(f *keyfile.File) {}, file(importable, yes, policy, secret, auth, text, rsaParent, inOwner, pubkey(policyArea), private)},
		{"least", func(f *keyfile.File) {
			*f = keyfile.File{Parent: persistent, Public: plainArea, Private: f.Private}
		}, file(loadable, inPersistent, pubkey(plainArea), private)},
		{"false is left out", func(f *keyfile.File) { f.EmptyAuth = new(false) }, file(importable, policy, secret, auth, text, rsaParent, inOwner, pubkey(policyArea), private)},
		{"no description unless set", func(f *keyfile.File) { f.Description = "" }, file(importable, yes, policy, secret, auth, rsaParent, inOwner, pubkey(policyArea), private)},
		{"empty lists are left out", func(f *keyfile.File) {
			*f = keyfile.File{Policy: []keyfile.PolicyStep{}, AuthPolicy: []keyfile.AuthPolicy{}, Parent: owner, Public: plainArea, Private: f.Private}
		}, file(loadable, inOwner, pubkey(plainArea), private)},
		{"sealed", func(f *keyfile.File) {
			*f = keyfile.File{Type: keyfile.Sealed, Parent: owner, Public: sealedArea, Private: f.Private}
		}, file(sealed, inOwner, pubkey(sealedArea), private)},
		{"old layout", old, file(legacy, yes, tlv(0xa1, inPersistent), tlv(0xa2, pubkey(plainArea)), private)},
		{"old layout with policy", func(f *keyfile.File) {
			old(f)
			f.Public, f.Policy = policyArea, []keyfile.PolicyStep{{Code: 0x16b}}
		}, file(legacy, yes, tlv(0xa1, inPersistent), tlv(0xa2, pubkey(policyArea)), steps(0xa3, authValue), private)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := made()
			tc.edit(f)
			der, err := f.DER()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(der, tc.want) {
				t.Errorf("written as\n%x, want\n%x", der, tc.want)
			}
			again, err := keyfile.Parse(der)
			if err != nil {
				t.Fatalf("what we wrote: %v", err)
			}
			checkLossless(t, again, der)
		})
	}
}

// TestChange: one changed field is written anew, and all others as they were.
func TestChange(t *testing.T) {
	odd := tlv(0xa0, []byte{1, 1, 1})       // not DER
	negative := []byte{2, 4, 0x81, 0, 0, 1} // nor what we write
	six := tlv(0xa6, []byte{4, 1, 'x'})
	policy := steps(0xa1, authorize)
	emptyName := steps(0xa3, tlv(0x30, tlv(0xa0, tlv(0x0c)), steps(0xa1, authorize)))
	pub := pubkey(policyArea)
	der := file(importable, odd, policy, secret, emptyName, text, six, negative, pub, private)
	for _, tc := range []struct {
		name string
		edit func(f *keyfile.File)
		want []byte
	}{
		{"nothing", func(f *keyfile.File) {}, der},
		{"emptyAuth to the same", func(f *keyfile.File) { f.EmptyAuth = new(true) }, der},
		{"emptyAuth to false", func(f *keyfile.File) { f.EmptyAuth = new(false) }, file(importable, policy, secret, emptyName, text, six, negative, pub, private)},
		{"emptyAuth in place", func(f *keyfile.File) { *f.EmptyAuth = false }, file(importable, policy, secret, emptyName, text, six, negative, pub, private)},
		{"emptyAuth to absent", func(f *keyfile.File) { f.EmptyAuth = nil }, file(importable, policy, secret, emptyName, text, six, negative, pub, private)},
		{"policy in place", func(f *keyfile.File) { f.Policy[0].Body[0] = 8 }, file(importable, odd,
			steps(0xa1, tlv(0x30, tlv(0xa0, []byte{2, 2, 1, 0x6a}), tlv(0xa1, []byte{4, 1, 8}))), secret, emptyName, text, six, negative, pub, private)},
		{"alternative in place", func(f *keyfile.File) { f.AuthPolicy[0].Name = "n" }, file(importable, odd, policy, secret,
			steps(0xa3, tlv(0x30, tlv(0xa0, tlv(0x0c, []byte("n"))), steps(0xa1, authorize))), text, six, negative, pub, private)},
		{"description away", func(f *keyfile.File) { f.Description = "" }, file(importable, odd, policy, secret, emptyName, six, negative, pub, private)},
		{"rsaParent and parent", func(f *keyfile.File) { f.RSAParent, f.Parent = true, owner }, file(importable, odd, policy, secret, emptyName, text, rsaParent, six, inOwner, pub, private)},
		{"imported", func(f *keyfile.File) {
			f.Type, f.Secret, f.Private = keyfile.Loadable, nil, tpm2b([]byte("imported"))
		}, file(loadable, odd, policy, emptyName, text, six, negative, pub, tlv(4, tpm2b([]byte("imported"))))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := keyfile.Parse(der)
			if err != nil {
				t.Fatal(err)
			}
			tc.edit(f)
			got, err := f.DER()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, tc.want) {
				t.Errorf("written as\n%x, want\n%x", got, tc.want)
			}
		})
	}
}

// TestChangeOfLayout: nothing of one layout's form gets into the other.
func TestChangeOfLayout(t *testing.T) {
	f, err := keyfile.Parse(file(loadable, yes, tlv(0xa6), inPersistent, pubkey(plainArea), private))
	if err != nil {
		t.Fatal(err)
	}
	f.Legacy = true
	got, err := f.DER()
	if want := file(legacy, yes, tlv(0xa1, inPersistent), tlv(0xa2, pubkey(plainArea)), private); err != nil || !bytes.Equal(got, want) {
		t.Errorf("to the old: %x, %v, want %x", got, err, want)
	}
	f, err = keyfile.Parse(file(legacy, tlv(0xa2, pubkey(plainArea)), private))
	if err != nil {
		t.Fatal(err)
	}
	f.Legacy = false
	got, err = f.DER()
	if want := file(loadable, inOwner, pubkey(plainArea), private); err != nil || !bytes.Equal(got, want) {
		t.Errorf("to the new: %x, %v, want %x", got, err, want)
	}
}

// TestWritesNothingMalformed: what Parse would refuse is not written.
func TestWritesNothingMalformed(t *testing.T) {
	for _, tc := range []struct {
		want string
		edit func(f *keyfile.File)
	}{
		{"type: unknown (3)", func(f *keyfile.File) { f.Type = 3 }},
		{"type: the old layout cannot hold this key", func(f *keyfile.File) { f.Legacy = true }},
		{"parent: 0x00000000 is neither a persistent nor a permanent handle", func(f *keyfile.File) { f.Parent = 0 }},
		{"rsaParent: set, but the parent is a persistent key", func(f *keyfile.File) { f.Parent = persistent }},
		{"secret: missing, an importable key needs it", func(f *keyfile.File) { f.Secret = nil }},
		{"secret: a loadable key has none", func(f *keyfile.File) { f.Type = keyfile.Loadable }},
		{"pubkey: no size prefix", func(f *keyfile.File) { f.Public = nil }},
		{"pubkey: not that of sealed data", func(f *keyfile.File) { f.Type = keyfile.Sealed }},
		{"privkey: no size prefix", func(f *keyfile.File) { f.Private = nil }},
		{"description: not UTF-8", func(f *keyfile.File) { f.Description = "\xff" }},
		{"authPolicy: entry 1: name: not UTF-8", func(f *keyfile.File) { f.AuthPolicy[0].Name = "\xff" }},
		{"authPolicy: entry 2: does not end with PolicyAuthorize", func(f *keyfile.File) { f.AuthPolicy[1].Policy = nil }},
		{"policy: missing, and the key can be used through its policy only", func(f *keyfile.File) { f.Policy, f.AuthPolicy = nil, nil }},
	} {
		f := made()
		tc.edit(f)
		if _, err := f.DER(); err == nil || err.Error() != "malformed TPM key: "+tc.want {
			t.Errorf("DER: got error %v, want %q", err, tc.want)
		}
		if _, err := f.PEM(); err == nil {
			t.Errorf("PEM: written in spite of %q", tc.want)
		}
	}
}

// TestWritesNothingTooLarge: nor what Parse would not read for its size.
func TestWritesNothingTooLarge(t *testing.T) {
	f := made()
	f.Description = strings.Repeat("x", 50<<10)
	der, err := f.DER()
	if err != nil {
		t.Fatalf("DER of 50 KiB: %v", err)
	}
	if _, err := keyfile.Parse(der); err != nil {
		t.Errorf("DER of %d bytes is not read: %v", len(der), err)
	}
	if text, err := f.PEM(); err == nil {
		t.Errorf("PEM of %d bytes was written", len(text))
	}
	f.Description = strings.Repeat("x", 64<<10)
	if der, err := f.DER(); err == nil {
		t.Errorf("DER of %d bytes was written", len(der))
	}
}
