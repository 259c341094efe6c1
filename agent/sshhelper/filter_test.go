package sshhelper

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// TestFilters tells helpers what they may be told, and what they may not.
func TestFilters(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	good, other, link := filepath.Join(dir, "good.so"), filepath.Join(dir, "other", "bad.so"), filepath.Join(dir, "link.so")
	if err := os.Mkdir(filepath.Dir(other), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{good, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	allow := dir + "/*.so,!*/other/*"
	add := func(library string) []byte {
		return appendString(appendString([]byte{msgAddSmartcard}, library), "1234")
	}
	sign := func(version byte, kind uint32, library string) []byte {
		b := binary.BigEndian.AppendUint32([]byte{version}, kind)
		b = binary.BigEndian.AppendUint32(append(b, 0), 0)
		return appendString(appendString(appendString(b, "key"), library), "data")
	}
	for _, test := range []struct {
		name    string
		filter  func(to, from *bytes.Buffer) error
		message []byte
		passes  bool
	}{
		{"a card", pkcs11Filter(allow), add(good), true},
		{"a signature of a card", pkcs11Filter(allow), []byte{msgSignRequest, 0}, true},
		{"a card that is removed", pkcs11Filter(allow), []byte{msgRemoveSmartcard, 0}, true},
		{"another library", pkcs11Filter(allow), add(other), false},
		{"a link to another", pkcs11Filter(allow), add(link), false},
		{"no library", pkcs11Filter(allow), add(dir + "/none.so"), false},
		{"half a message", pkcs11Filter(allow), add(good)[:5], false},
		{"something else", pkcs11Filter(allow), []byte{99}, false},
		{"a security key", skFilter(allow), sign(skVersion, skSign, good), true},
		{"OpenSSH's own way", skFilter(allow), sign(skVersion, skSign, "internal"), true},
		{"another provider", skFilter(allow), sign(skVersion, skSign, other), false},
		{"a new key", skFilter(allow), sign(skVersion, 2, good), false},
		{"another version", skFilter(allow), sign(skVersion+1, skSign, good), false},
	} {
		var from, to bytes.Buffer
		from.Write(frame(test.message))
		err := test.filter(&to, &from)
		if passed := bytes.Equal(to.Bytes(), frame(test.message)); passed != test.passes || (err == nil) != test.passes {
			t.Errorf("%s: passes %v, error %v", test.name, passed, err)
		}
	}
	var to bytes.Buffer
	if err := FilterPKCS11(&to, bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), allow); err == nil || to.Len() != 0 {
		t.Errorf("a message of 4 GB: %v, and %d bytes passed", err, to.Len())
	}
}

func pkcs11Filter(allow string) func(to, from *bytes.Buffer) error {
	return func(to, from *bytes.Buffer) error { return FilterPKCS11(to, from, allow) }
}

func skFilter(allow string) func(to, from *bytes.Buffer) error {
	return func(to, from *bytes.Buffer) error { return FilterSK(to, from, allow) }
}
