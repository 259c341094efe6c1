package foreign

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzRead feeds whole files: nothing panics, every error is one of two, what
// comes back fits D-Bus, and there is no more of it than was in the file.
func FuzzRead(f *testing.F) {
	head, body := madeUp()
	for _, seed := range [][]byte{
		golden(f, "encrypted.keyring"), golden(f, "broken.keyring"), golden(f, "folder/login.keyring"), golden(f, "folder/Blank.keyring"),
		sealEncrypted(3, 1, 10, 1, head, body), sealPortable(nil, testItems()[0], testItems()[2]), sealPortable(testKey(f, "sesame"), testItems()[0]),
		[]byte("[keyring]\n[1]\nsecret=x\n[2]\ny\nmtime=1\nctime=2\n\n[1:attribute0]\nname=\\s\nvalue=\\\n"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if iterations(data) > 5000 {
			t.Skip("takes its time on purpose")
		}
		NeedsPassword(data)
		k, err := Read(data, bytesOf("sesame"))
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrPassword) {
				t.Fatalf("error %v", err)
			}
			return
		}
		checkSane(t, k, len(data))
		k.Wipe()
	})
}

// FuzzItems feeds what stands behind the encryption, which no mutation of a
// file gets past.
func FuzzItems(f *testing.F) {
	_, body := madeUp()
	f.Add(body)
	var w builder
	w.member(entries(map[string][]byte{"a": []byte("b\x00")}))
	w.member([]byte("label\x00"))
	w.fixed(8, 1)
	w.fixed(8, 2)
	w.b = append(w.b, "secret"...)
	f.Add(w.done(false))
	f.Fuzz(func(t *testing.T, data []byte) {
		k := &Keyring{}
		_ = k.readItems(&decoder{rest: data}, []encryptedItem{{1, 0}, {2, 1}, {3, 77}})
		if i, ok := readPortableItem(data); ok {
			k.Items = append(k.Items, i.finish())
		}
		checkSane(t, k, 2*len(data))
		k.Wipe()
	})
}

// iterations says how long a file wants to be hashed.
func iterations(data []byte) uint64 {
	switch Detect(data) {
	case Encrypted:
		d := decoder{rest: data[len(magic)+4:]}
		d.str()
		d.take(8 + 8 + 4 + 4)
		return uint64(d.u32())
	case Portable:
		if p, err := parsePortable(data); err == nil {
			return p.iterations
		}
	}
	return 0
}

func checkSane(t *testing.T, k *Keyring, most int) {
	t.Helper()
	total := 0
	fits := func(s string) {
		if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
			t.Errorf("%q does not fit D-Bus", s)
		}
	}
	fits(k.Label)
	for _, i := range k.Items {
		fits(i.Label)
		for name, value := range i.Attributes {
			fits(name)
			fits(value)
		}
		if i.ContentType == "" {
			t.Errorf("%q has no content type", i.Label)
		}
		total += i.Secret.Len()
	}
	for _, n := range k.Notes {
		fits(n)
	}
	if total > most {
		t.Errorf("%d bytes of secrets out of %d", total, most)
	}
}
