package store

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// What decodes encodes to the same bytes, and takes no more memory than its
// length asks for.
func FuzzDecode(f *testing.F) {
	i := &info{label: "l", contentType: "text/plain", created: 1, modified: 2, attributes: map[string]string{"a": "1", "b": "", "": "x"}}
	st := &state{label: "l", created: 1, count: 2, next: 3, slots: []slotTag{{id: 1}}}
	d := &directory{collections: []string{"login", "x"}, aliases: map[string]string{"default": "login"}}
	l := &slot{id: 1, kind: keyring.SlotPassphrase, created: 1, cost: usualCost(), salt: make([]byte, saltSize)}
	kek, ck := newKey(), newKey()
	l.wrap("login", kek, ck)
	tpm := &slot{id: 2, kind: keyring.SlotTPM, pin: true, pcrs: "sha256:7", sealed: []byte("sealed")}
	tpm.wrap("login", kek, ck)
	k := newInnerKeys(ck)
	for _, seed := range [][]byte{i.encode(), st.encode(), d.encode(), l.encode(), tpm.encode(), k.sealRecord("login", 1, 1, i, secret.Bytes{}), {}, bytes.Repeat([]byte{0xff}, 300)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := decodeInfo(b); err == nil && !bytes.Equal(i.encode(), b) {
			t.Errorf("info %x encodes as %x", b, i.encode())
		}
		if d, err := decodeDirectory(b); err == nil && !bytes.Equal(d.encode(), b) {
			t.Errorf("directory %x encodes as %x", b, d.encode())
		}
		if l, err := decodeSlot(1, b); err == nil && (!bytes.Equal(l.encode(), b) || !bytes.Equal(l.encodeHead(), l.head)) {
			t.Errorf("slot %x encodes as %x", b, l.encode())
		}
		r := &reader{b: b}
		if st := r.state(); r.end() == nil && !bytes.Equal(st.encode(), b) {
			t.Errorf("state %x encodes as %x", b, st.encode())
		}
		if rec, err := parseRecord(b); err == nil {
			if _, ok := k.authentic("login", 1, rec); ok && rec.revision != 1 {
				t.Error("a forged record is authentic")
			}
		}
		if plain, err := unpad(b); err == nil {
			again := make([]byte, padded(len(plain)))
			if pad(again, plain); !bytes.Equal(again, b) {
				t.Errorf("%x pads as %x", b, again)
			}
		}
	})
}

// A number in the input cannot ask for memory.
func TestDecodeAllocatesLittle(t *testing.T) {
	huge := append(bytes.Repeat([]byte{0}, 24), 0xff, 0xff, 0xff, 0xff)
	if n := testing.AllocsPerRun(10, func() {
		_, _ = decodeInfo(huge)
		_, _ = decodeSlot(1, huge)
		_, _ = parseRecord(huge)
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
	_, err := decodeInfo(huge)
	if err == nil {
		t.Error("4 billion attributes in 28 bytes")
	}
	// A passphrase slot that asks for 4 TiB, or for weeks.
	for _, c := range []cost{{3, 1 << 31, 4}, {1 << 30, 64 << 10, 4}, {3, 64 << 10, 0}, {0, 64 << 10, 4}, {3, 8, 4}} {
		l := &slot{id: 1, kind: keyring.SlotPassphrase, cost: c, salt: make([]byte, saltSize)}
		l.wrap("login", newKey(), newKey())
		if _, err := decodeSlot(1, l.encode()); err == nil {
			t.Errorf("cost %+v is taken", c)
		}
	}
}

// No bit of a record, and none of where it lies, can be changed.
func TestRecordIsBound(t *testing.T) {
	k := newInnerKeys(newKey())
	i := &info{label: "l", attributes: map[string]string{"a": "1"}}
	plain := secret.Copy([]byte("value"))
	defer plain.Wipe()
	b := k.sealRecord("login", 7, 9, i, plain)
	open := func(collection string, id uint64, b []byte) bool {
		rec, err := parseRecord(b)
		if err != nil {
			return false
		}
		got, ok := k.authentic(collection, id, rec)
		return ok && got.label == "l" && maps.Equal(got.attributes, i.attributes)
	}
	if !open("login", 7, b) {
		t.Fatal("it does not open")
	}
	if open("login", 8, b) || open("other", 7, b) {
		t.Error("it opens elsewhere")
	}
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		if open("login", 7, b) {
			t.Errorf("bit %d can be changed", bit)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	one, two := k.sealRecord("login", 7, 9, i, plain), k.sealRecord("login", 7, 9, i, plain)
	if bytes.Equal(one, two) {
		t.Error("the same item is encrypted the same twice")
	}
}

// A code is read however it is typed, and a wrong letter is noticed.
func TestRecoveryCode(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		code, value := newCode()
		shown := ""
		code.Use(func(b []byte) { shown = string(b) })
		if len(shown) != codeLetters+codeLetters/codeGroup-1 || seen[shown] {
			t.Fatalf("code %q", shown)
		}
		seen[shown] = true
		for _, typed := range []string{
			shown, strings.ToLower(shown), strings.ReplaceAll(shown, "-", ""), " " + strings.ReplaceAll(shown, "-", "  ") + "\n",
			strings.ReplaceAll(strings.ReplaceAll(shown, "0", "O"), "1", "I"), strings.ReplaceAll(strings.ReplaceAll(shown, "0", "o"), "1", "l"),
		} {
			got, ok := readCode(secret.Copy([]byte(typed)))
			if !ok || !got.Equal(value) {
				t.Errorf("%q, typed %q, is not read", shown, typed)
			}
		}
		for at := range shown {
			other := []byte(shown)
			if other[at] == '-' {
				continue
			}
			other[at] = codeAlphabet[(strings.IndexByte(codeAlphabet, other[at])+1)%32]
			if _, ok := readCode(secret.Copy(other)); ok {
				t.Errorf("%q with a wrong letter is read", shown)
			}
		}
	}
	for _, typed := range []string{"", "-", "U" + strings.Repeat("0", 39), strings.Repeat("0", 41), strings.Repeat("A", 100_000)} {
		if _, ok := readCode(secret.Copy([]byte(typed))); ok {
			t.Errorf("%.20q is read", typed)
		}
	}
}

// An image reader survives any file, and what it lets pass the engine survives.
func FuzzImage(f *testing.F) {
	golden, err := os.ReadFile("testdata/v1/keyrings.db")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{0xff})
	f.Add(uint32(4096*3+10), []byte{0xff, 0xff})
	f.Add(uint32(16), []byte{1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		data := bytes.Clone(golden)
		copy(data[int(at)%len(data):], patch)
		path := filepath.Join(t.TempDir(), "keyrings.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = readDump(path, "")
		s := &Store{}
		if s.checkFile(path) != nil {
			return
		}
		db, _, err := s.openBolt(path, true)
		if err != nil {
			t.Fatalf("it was let pass, and does not open: %v", err)
		}
		tx, err := db.Begin(false)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(); _ = db.Close() }()
		for problem := range tx.Check() {
			t.Errorf("it was let pass, and the engine says: %v", problem)
		}
	})
}
