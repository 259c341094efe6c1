package foreign

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// An encoder writes gnome-keyring's big-endian encoding.
type encoder struct{ b []byte }

func (e *encoder) u32(v ...uint32) {
	for _, v := range v {
		e.b = binary.BigEndian.AppendUint32(e.b, v)
	}
}

func (e *encoder) str(s ...string) {
	for _, s := range s {
		if s == "<null>" {
			e.u32(0xffffffff)
			continue
		}
		e.u32(uint32(len(s)))
		e.b = append(e.b, s...)
	}
}

// sealEncrypted makes an encrypted keyring of items that head and body wrote.
func sealEncrypted(flags, timeout, iterations, n uint32, head, body []byte) []byte {
	e := encoder{append(slices.Clone(magic), 0, 0, 0, 0)}
	e.str("Made up")
	e.u32(0, 2000, 0, 1000, flags, timeout, iterations)
	e.b = append(e.b, "saltsalt"...)
	e.u32(0, 0, 0, 0, n)
	e.b = append(e.b, head...)
	for len(body)%aes.BlockSize != 0 {
		body = append(body, 0)
	}
	sum := md5.Sum(body)
	plain := append(sum[:], body...)
	stretch(bytesOf("pw"), []byte("saltsalt"), max(1, min(iterations, 10))).Use(func(key []byte) {
		block, err := aes.NewCipher(key[:16])
		if err != nil {
			panic(err)
		}
		cipher.NewCBCEncrypter(block, key[16:]).CryptBlocks(plain, plain)
	})
	e.str(string(plain))
	return e.b
}

func madeUp() (head, body []byte) {
	var h, b encoder
	h.u32(7, 1, 2) // an item of type 1 with two hashed attributes
	h.str("port")
	h.u32(1, 0x18a836ca)
	h.str("user")
	h.u32(0)
	h.str("5102ecd3d47f6561de70979017b87a80")
	b.str("Label", "<null>")
	b.u32(0, 1000, 0, 0)
	b.str("<null>")
	b.u32(0, 0, 0, 0, 2)
	b.str("port")
	b.u32(1, 143)
	b.str("user")
	b.u32(0)
	b.str("m\x00i\xffa")
	b.u32(1, 7) // somebody who may use it
	b.str("Program", "/usr/bin/program", "<null>")
	b.u32(0)
	return h.b, b.b
}

// Fields that today's gnome-keyring does not write, but older ones did.
func TestEncryptedFields(t *testing.T) {
	head, body := madeUp()
	k, err := Read(sealEncrypted(flagLockAfter, 300, 10, 1, head, body), bytesOf("pw"))
	if err != nil {
		t.Fatal(err)
	}
	if k.Label != "Made up" || k.LockAfter != 5*time.Minute || k.LockIdle != 0 || k.Created.Unix() != 1000 || k.Modified.Unix() != 2000 {
		t.Errorf("%+v", k)
	}
	i := k.Items[0]
	if i.Label != "Label" || i.Secret.Len() != 0 || i.Attributes["port"] != "143" || i.Attributes["user"] != "m\uFFFDi\uFFFDa" ||
		i.Attributes[schemaName] != "org.gnome.keyring.NetworkPassword" || i.Created.Unix() != 1000 || !i.Modified.IsZero() {
		t.Errorf("%+v", i)
	}
	k, err = Read(sealEncrypted(flagLockIdle, 60, 10, 1, head, body), bytesOf("pw"))
	if err != nil || k.LockIdle != time.Minute || k.LockAfter != 0 {
		t.Errorf("%+v %v", k, err)
	}
	// Two items announced, one written: it is not lost with the other.
	k, err = Read(sealEncrypted(0, 0, 10, 2, append(slices.Clone(head), head...), body), bytesOf("pw"))
	if err != nil || len(k.Items) != 1 || len(k.Notes) != 1 {
		t.Errorf("%+v %v", k, err)
	}
}

func TestEncryptedRefuses(t *testing.T) {
	head, body := madeUp()
	for name, data := range map[string][]byte{
		"endless hashing":      sealEncrypted(0, 0, maxIterations+1, 1, head, body),
		"no hashing":           sealEncrypted(0, 0, 0, 1, head, body),
		"a billion items":      sealEncrypted(0, 0, 10, 1_000_000_000, head, body),
		"no items in it":       sealEncrypted(0, 0, 10, 1, head, nil),
		"half a block":         slices.Concat(sealEncrypted(0, 0, 10, 0, nil, nil)[:91], []byte{0, 0, 0, 8}, make([]byte, 8)),
		"another cipher":       append(slices.Clone(magic), 0, 0, 1, 0),
		"a version to come":    append(slices.Clone(magic), 2, 0),
		"nothing":              nil,
		"a text":               []byte("[Desktop Entry]\nName=x\n"),
		"an end in the header": append(slices.Clone(magic), 0, 0, 0, 0, 0, 0, 0, 200),
	} {
		if k, err := Read(data, bytesOf("pw")); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v %v", name, k, err)
		}
	}
}

func TestSchemas(t *testing.T) {
	for itemType, want := range map[uint32]string{
		0: "org.freedesktop.Secret.Generic", 1: "org.gnome.keyring.NetworkPassword", 2: "org.gnome.keyring.Note",
		3: "org.gnome.keyring.ChainedKeyring", 4: "org.gnome.keyring.EncryptionKey", 0x100: "org.gnome.keyring.PkStorage",
		0x01000001: "org.gnome.keyring.NetworkPassword", 77: "",
	} {
		i := Item{Attributes: map[string]string{}}
		if i.setSchema(itemType); i.Attributes[schemaName] != want {
			t.Errorf("type %#x is %q, want %q", itemType, i.Attributes[schemaName], want)
		}
	}
	i := Item{Attributes: map[string]string{schemaName: "org.example.Own"}}
	if i.setSchema(1); i.Attributes[schemaName] != "org.example.Own" {
		t.Error("an item's own schema was replaced")
	}
}

// Files that a person wrote or changed, and older writers.
func TestPlaintextByHand(t *testing.T) {
	for name, test := range map[string]struct {
		text    string
		secrets string // label=secret, …
		note    string
	}{
		"spaces around the equals sign": {"# mine\n\n[keyring]\ndisplay-name = K\n\n[1]\ndisplay-name = a\nsecret = x y \n", "a=x y ", ""},
		"lines that end in CR LF":       {"[keyring]\r\ndisplay-name=K\r\n\r\n[1]\r\ndisplay-name=a\r\nsecret=x\r\nmtime=1\r\nctime=1\r\n", "a=x", ""},
		"several lines, too":            {"[keyring]\r\n[1]\r\ndisplay-name=a\r\nsecret=x\r\ny\r\nmtime=1\r\nctime=1\r\n", "a=x\ny", "put together again"},
		"times in another order":        {"[keyring]\n[1]\ndisplay-name=a\nsecret=x\nctime=1\nmtime=1\n\n[2]\ndisplay-name=b\nsecret=y\nmtime=1\nctime=1\n", "a=x,b=y", ""},
		"no times":                      {"[keyring]\n[1]\ndisplay-name=a\nsecret=x\n\n[1:attribute0]\nname=n\nvalue=v\n\n[2]\ndisplay-name=b\nsecret=y\nmtime=1\nctime=1\n", "a=x,b=y", ""},
		"no times, several lines":       {"[keyring]\n[1]\ndisplay-name=a\nsecret=x\nmore\n[2]\ndisplay-name=b\nsecret=y", "a=x\nmore,b=y", "please check"},
		"the end of the file":           {"[keyring]\n[1]\ndisplay-name=a\nsecret=x\nmore", "a=x\nmore", "please check"},
		"no hexadecimal":                {"[keyring]\n[1]\ndisplay-name=a\nbinary-secret=xyz\n", "a=xyz", "hexadecimal"},
		"a group twice":                 {"[keyring]\n[1]\ndisplay-name=a\n[1]\nsecret=x\n", "a=x", "more than once"},
		"nonsense":                      {"[keyring]\nwhat?\n[1]\ndisplay-name=a\nsecret=x\n\nwhat?\n[9:attribute0]\nname=q\n", "a=x", "made no sense"},
		"attributes first":              {"[keyring]\n[1:attribute0]\nname=n\nvalue=v\n[1]\ndisplay-name=a\nsecret=x\n", "a=x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := Read([]byte(test.text), bytesOf(""))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range k.Items {
				got = append(got, i.Label+"="+reveal(i.Secret))
			}
			if s := strings.Join(got, ","); s != test.secrets {
				t.Errorf("%q, want %q", s, test.secrets)
			}
			if notes := strings.Join(k.Notes, "\n"); !strings.Contains(notes, test.note) || (test.note == "") != (notes == "") {
				t.Errorf("notes %q", k.Notes)
			}
			if strings.Contains(name, "attribute") && k.Items[0].Attributes["n"] != "v" {
				t.Errorf("attributes %q", k.Items[0].Attributes)
			}
		})
	}
	k, err := Read([]byte("[keyring]\nlock-on-idle=true\nlock-after=false\nlock-timeout=60\nctime=5\ndisplay-name=\\sa\\tb\\\\c\\qd\\\n"), bytesOf(""))
	if err != nil || k.LockIdle != time.Minute || k.LockAfter != 0 || k.Created.Unix() != 5 || k.Label != " a\tb\\c\\qd\\" {
		t.Errorf("%+v %v", k, err)
	}
}

// A file of nothing but secrets is read in one go, not once for each of them.
func TestPlaintextTakesLinearTime(t *testing.T) {
	k, err := Read([]byte("[keyring]\n[1]\n"+strings.Repeat("secret=x\n\n", 400_000)), bytesOf(""))
	if err != nil || len(k.Items) != 1 {
		t.Errorf("%v", err)
	}
}
