package foreign

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"testing"
)

// A builder writes a GVariant tuple or array. Ends are the offsets where
// members end.
type builder struct {
	b    []byte
	ends []int
}

func (w *builder) member(p []byte) {
	w.b = append(w.b, p...)
	w.ends = append(w.ends, len(w.b))
}

func (w *builder) fixed(n int, v uint64) {
	for len(w.b)%n != 0 {
		w.b = append(w.b, 0)
	}
	var p [8]byte
	binary.LittleEndian.PutUint64(p[:], v)
	w.b = append(w.b, p[:n]...)
}

// done returns the tuple with its offsets backwards, or the array with them in
// order. Offsets are as wide as the whole is long.
func (w *builder) done(array bool) []byte {
	if !array {
		slices.Reverse(w.ends)
	}
	wide := 1
	if len(w.b)+len(w.ends) > 0xff {
		wide = 2
	}
	if len(w.b)+2*len(w.ends) > 0xffff {
		wide = 4
	}
	for _, end := range w.ends {
		var p [8]byte
		binary.LittleEndian.PutUint64(p[:], uint64(end))
		w.b = append(w.b, p[:wide]...)
	}
	return w.b
}

// entries writes a{ss} or, with NUL-less values, a{say}.
func entries(m map[string][]byte) []byte {
	var all builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		var e builder
		e.member(append([]byte(name), 0))
		e.b = append(e.b, m[name]...)
		all.member(e.done(false))
	}
	return all.done(true)
}

type testItem struct {
	label, secret string
	attributes    map[string]string
}

// sealPortable writes a keyring as oo7 does; key nil: unencrypted.
func sealPortable(key []byte, items ...testItem) []byte {
	var all builder
	for _, i := range items {
		clearly, hashed := map[string][]byte{}, map[string][]byte{}
		for name, value := range i.attributes {
			clearly[name] = append([]byte(value), 0)
			hashed[name] = []byte(value)
			if key != nil {
				hashed[name] = mac(key, []byte(value))
			}
		}
		var w builder
		w.member(entries(clearly))
		w.member(append([]byte(i.label), 0))
		w.fixed(8, 1000)
		w.fixed(8, 2000)
		w.b = append(w.b, i.secret...)
		blob := w.done(false)
		if key != nil {
			pad := aes.BlockSize - len(blob)%aes.BlockSize
			blob = append(blob, slices.Repeat([]byte{byte(pad)}, pad)...)
			block, err := aes.NewCipher(key)
			if err != nil {
				panic(err)
			}
			iv := []byte("sixteen bytes iv")
			cipher.NewCBCEncrypter(block, iv).CryptBlocks(blob, blob)
			blob = append(blob, iv...)
			blob = append(blob, mac(key, blob)...)
		}
		var e builder
		e.member(entries(hashed))
		e.b = append(e.b, blob...)
		all.member(e.done(false))
	}
	var w builder
	w.fixed(4, 8)
	w.member([]byte("saltsalt"))
	w.fixed(4, 10)
	w.fixed(8, 3000)
	w.fixed(4, 1)
	w.b = append(w.b, all.done(true)...)
	return slices.Concat(magic, []byte{1, 0}, w.done(false))
}

func testItems() []testItem {
	return []testItem{
		{"One", "correct horse", map[string]string{"a": "b", attributeContentType: "text/plain; charset=utf-8"}},
		{"Twö", string(make([]byte, 70_000)), map[string]string{"a": "", "c": "d"}},
		{"", "", nil},
	}
}

func testKey(t testing.TB, password string) []byte {
	f := portable{salt: []byte("saltsalt"), iterations: 10}
	key, err := f.derive(bytesOf(password))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(reveal(key))
}

func TestPortable(t *testing.T) {
	for name, data := range map[string][]byte{"encrypted": sealPortable(testKey(t, "pw"), testItems()...), "unencrypted": sealPortable(nil, testItems()...)} {
		if NeedsPassword(data) != (name == "encrypted") {
			t.Errorf("%s: needs password %v", name, NeedsPassword(data))
		}
		k, err := Read(data, bytesOf("pw"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(k.Items) != 3 || len(k.Notes) > 0 || k.Modified.Unix() != 3000 {
			t.Fatalf("%s: %+v", name, k)
		}
		for n, want := range testItems() {
			i := k.Items[n]
			kind := want.attributes[attributeContentType]
			delete(want.attributes, attributeContentType)
			if kind == "" {
				kind = map[bool]string{true: contentBinary, false: contentText}[n == 1]
			}
			if i.Label != want.label || reveal(i.Secret) != want.secret || !maps.Equal(i.Attributes, want.attributes) ||
				i.ContentType != kind || i.Created.Unix() != 1000 || i.Modified.Unix() != 2000 {
				t.Errorf("%s: item %d: label %q, %d bytes, attributes %q, type %q", name, n, i.Label, i.Secret.Len(), i.Attributes, i.ContentType)
			}
		}
		if _, err := Read(data, bytesOf("other")); isPassword(err) != (name == "encrypted") {
			t.Errorf("%s: with another password: %v", name, err)
		}
	}
}

// Items stored with another password than the rest come back with theirs.
func TestPortableWithTwoPasswords(t *testing.T) {
	var all builder
	for _, pw := range []string{"pw", "other"} {
		f, err := parsePortable(sealPortable(testKey(t, pw), testItem{pw, "x", map[string]string{"a": "b"}}))
		if err != nil {
			t.Fatal(err)
		}
		var e builder
		e.member(entries(f.items[0].hashed))
		e.b = append(e.b, f.items[0].blob...)
		all.member(e.done(false))
	}
	all.member(nil) // and an item that is none
	var w builder
	w.fixed(4, 8)
	w.member([]byte("saltsalt"))
	w.fixed(4, 10)
	w.fixed(8, 3000)
	w.fixed(4, 1)
	w.b = append(w.b, all.done(true)...)
	k, err := Read(slices.Concat(magic, []byte{1, 0}, w.done(false)), bytesOf("other"))
	if err != nil || len(k.Items) != 1 || k.Items[0].Label != "other" || len(k.Notes) != 2 {
		t.Errorf("%+v %v", k, err)
	}
}

// Nobody can exchange the attributes of two items, nor add one.
func TestPortableAttributesAreTheItems(t *testing.T) {
	f, err := parsePortable(sealPortable(testKey(t, "pw"), testItems()...))
	if err != nil {
		t.Fatal(err)
	}
	i := f.items[0]
	for name, hashed := range map[string]map[string][]byte{
		"of another": f.items[1].hashed, "more": {"a": i.hashed["a"], "z": i.hashed["a"]}, "changed": {"a": mac(testKey(t, "pw"), []byte("c"))},
	} {
		i.hashed = hashed
		if _, ok := i.open(testKey(t, "pw")); ok {
			t.Errorf("opened with attributes %s", name)
		}
	}
}

// What is beside an unencrypted item must be its own, too: it is how such an
// item is told from an encrypted one.
func TestPortableUnencryptedAttributes(t *testing.T) {
	f, err := parsePortable(sealPortable(nil, testItems()...))
	if err != nil {
		t.Fatal(err)
	}
	i := f.items[0]
	if _, ok := i.plain(); !ok {
		t.Error("an unencrypted item is none")
	}
	i.hashed = map[string][]byte{"a": []byte("other")}
	if _, ok := i.plain(); ok {
		t.Error("attributes of another were taken")
	}
}

// An array of millions of nothing asks for no room.
func TestElementsTakeRoom(t *testing.T) {
	if all, ok := elements(make([]byte, 100_000), leastEntry); ok {
		t.Errorf("%d elements of no bytes each", len(all))
	}
	if all, ok := elements(entries(map[string][]byte{"": nil}), leastEntry); !ok || len(all) != 1 {
		t.Errorf("the smallest entry: %v %v", all, ok)
	}
}

func TestPortableRefuses(t *testing.T) {
	whole := sealPortable(nil, testItems()[0])
	at := len(magic) + 2
	change := func(offset int, b byte) []byte {
		c := slices.Clone(whole)
		c[at+offset] = b
		return c
	}
	for name, data := range map[string][]byte{
		"a salt of another size": change(0, 9),
		"endless hashing":        change(15, 0x7f),
		"no hashing":             change(12, 0),
		"an end beyond the end":  change(len(whole)-at-1, 0xff),
		"no end":                 whole[:at],
	} {
		if k, err := Read(data, bytesOf("")); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v %v", name, k, err)
		}
	}
}
