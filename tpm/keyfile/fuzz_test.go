package keyfile_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"runtime"
	"testing"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// FuzzParse: what is read is written as the same bytes, what is written is
// read, whatever else is asked of a File does not panic, and the memory that
// reading takes is bounded by the input.
func FuzzParse(f *testing.F) {
	for _, row := range corpus {
		data := readCorpus(f, row.file)
		f.Add(data)
		f.Add(derOf(f, data))
	}
	f.Add(readCorpus(f, "tpm12.pem"))
	f.Add(plain)
	f.Add(file(loadable, tlv(0xa4, tlv(0x0c)), tlv(0xa6), tlv(0x8a, []byte("ten")), []byte{2, 4, 0x81, 0, 0, 1}, pubkey(plainArea), private))
	f.Add(file(sealed, secret, inOwner, pubkey(sealedArea), private))
	f.Add(file(loadable, steps(0xa1, authorize), steps(0xa3, tlv(0x30, tlv(0xa0, tlv(0x0c)), steps(0xa1, authorize))), inOwner, pubkey(policyArea), private))
	f.Add(file(loadable, inOwner, pubkey(plainArea[2:]), private))
	f.Fuzz(func(t *testing.T, data []byte) {
		kept := bytes.Clone(data)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		file, err := keyfile.Parse(data)
		runtime.ReadMemStats(&after)
		// Lists of tiny steps take the most for their bytes, and go-tpm's
		// reflection a fixed amount; neither comes near this.
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+256*len(data)); got > most {
			t.Errorf("%d bytes allocated for an input of %d", got, len(data))
		}
		if !bytes.Equal(data, kept) {
			t.Fatal("Parse wrote into its input")
		}
		if err != nil {
			if file != nil {
				t.Fatalf("both a File and the error %v", err)
			}
			return
		}
		der, err := file.DER()
		if err != nil {
			t.Fatalf("read, but not written: %v", err)
		}
		if !bytes.Contains(data, []byte("-----BEGIN")) && !bytes.Equal(der, data) {
			t.Fatalf("read\n%x, written\n%x", data, der)
		}
		if block := firstKey(data); block != nil && !bytes.Equal(der, block) && !bytes.Equal(der, data) {
			t.Fatalf("read\n%x, written\n%x", block, der)
		}
		again, err := keyfile.Parse(der)
		if err != nil {
			t.Fatalf("written, but not read: %v", err)
		}
		if der2, err := again.DER(); err != nil || !bytes.Equal(der, der2) {
			t.Fatalf("written\n%x, then\n%x, %v", der, der2, err)
		}
		checkFields(t, file, again)
		if text, err := file.PEM(); err == nil {
			if _, err := keyfile.Parse(text); err != nil {
				t.Fatalf("PEM written by us: %v", err)
			}
		}
	})
}

// checkFields sees that a file of the same fields without its form is valid
// too, and says the same.
func checkFields(t *testing.T, a, b *keyfile.File) {
	t.Helper()
	key, err := a.PublicKey()
	if key2, err2 := b.PublicKey(); (err == nil) != (err2 == nil) {
		t.Fatalf("public keys %v, %v and %v, %v", key, err, key2, err2)
	}
	if _, err := a.PublicArea(); err != nil {
		t.Fatalf("read, but PublicArea: %v", err)
	}
	fresh := keyfile.File{Type: a.Type, Legacy: a.Legacy, EmptyAuth: a.EmptyAuth, Policy: a.Policy, Secret: a.Secret,
		AuthPolicy: a.AuthPolicy, Description: a.Description, RSAParent: a.RSAParent, Parent: a.Parent, Public: a.Public, Private: a.Private}
	der, err := fresh.DER()
	if err != nil {
		// Its integers may take a byte more than those that were read.
		if whole, err := a.DER(); err == nil && len(whole) < keyfile.MaxSize-8 {
			t.Fatalf("canonically not written: %v", fresh)
		}
		return
	}
	c, err := keyfile.Parse(der)
	if err != nil {
		t.Fatalf("canonical form is not read: %v", err)
	}
	if c.NeedsAuth() != a.NeedsAuth() || c.DAProtected() != a.DAProtected() || c.Parent != a.Parent || c.Type != a.Type ||
		c.Legacy != a.Legacy || c.Description != a.Description || !bytes.Equal(c.Public, a.Public) || !bytes.Equal(c.Private, a.Private) {
		t.Fatalf("canonical form says otherwise:\n%+v\n%+v", a, c)
	}
}

// firstKey returns the DER of the first PEM block that is a key of ours.
func firstKey(data []byte) []byte {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil
		}
		if block.Type == "TSS2 PRIVATE KEY" || block.Type == "TSS2 KEY BLOB" {
			return block.Bytes
		}
		data = rest
	}
}

// FuzzTPM12: whatever a TPM 1.2 blob holds, it is named, and its key usable.
func FuzzTPM12(f *testing.F) {
	f.Add(derOf(f, readCorpus(f, "tpm12.pem")))
	f.Fuzz(func(t *testing.T, der []byte) {
		if len(der) > 32<<10 {
			return
		}
		_, err := keyfile.Parse(armour("TSS KEY BLOB", der))
		var unsupported *keyfile.UnsupportedError
		if !errors.As(err, &unsupported) {
			t.Fatalf("got %v, want an UnsupportedError", err)
		}
	})
}

// FuzzPublicArea goes where FuzzParse seldom gets: an area that is taken is
// one that can be asked for everything.
func FuzzPublicArea(f *testing.F) {
	for _, row := range corpus {
		file, err := keyfile.Parse(readCorpus(f, row.file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file.Public[2:])
	}
	f.Fuzz(func(t *testing.T, area []byte) {
		if len(area) > 1<<15 {
			return
		}
		in := file(loadable, inOwner, pubkey(tpm2b(area)), private)
		f, err := keyfile.Parse(in)
		if err != nil {
			return
		}
		if der, err := f.DER(); err != nil || !bytes.Equal(der, in) {
			t.Fatalf("read\n%x, written\n%x, %v", in, der, err)
		}
		key, err := f.PublicKey()
		if (key == nil) == (err == nil) {
			t.Fatalf("both or neither of the key %v and the error %v", key, err)
		}
		f.DAProtected()
	})
}
