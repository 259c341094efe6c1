package foreign

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The files in testdata were written by gnome-keyring 42.1 and by libsecret
// 0.20.5.

func golden(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestGoldenEncrypted(t *testing.T) {
	data := golden(t, "encrypted.keyring")
	if Detect(data) != Encrypted || !NeedsPassword(data) {
		t.Errorf("format %v, needs password %v", Detect(data), NeedsPassword(data))
	}
	k, err := Read(data, bytesOf("sesame"))
	if err != nil {
		t.Fatal(err)
	}
	n := slices.IndexFunc(k.Items, func(i Item) bool { return i.Label == "Number" })
	if n < 0 || k.Items[n].Attributes["port"] != "143" || len(k.Items[n].Attributes) != 2 {
		t.Errorf("the item with a number: %d %+v", n, k.Items)
	} else {
		k.Items = slices.Delete(k.Items, n, n+1)
	}
	check(t, k, time.Unix(1_700_000_000, 0))
	if k.Label != "Filled" || len(k.Notes) > 0 {
		t.Errorf("label %q, notes %q", k.Label, k.Notes)
	}
	for _, wrong := range []string{"", "sesam", "sesame "} {
		if _, err := Read(data, bytesOf(wrong)); !isPassword(err) {
			t.Errorf("password %q: %v", wrong, err)
		}
	}
}

// What stands in the file is exactly what gnome-keyring cannot read.
func TestGoldenBrokenPlaintext(t *testing.T) {
	data := golden(t, "broken.keyring")
	if Detect(data) != Plaintext || NeedsPassword(data) {
		t.Errorf("format %v, needs password %v", Detect(data), NeedsPassword(data))
	}
	k, err := Read(data, bytesOf("not looked at"))
	if err != nil {
		t.Fatal(err)
	}
	check(t, k, time.Unix(1_700_000_000, 0))
	notes := strings.Join(k.Notes, "\n")
	for _, want := range []string{`"Several\nlines" has several lines`, `"Newlines" has several lines`, `"Backslash" has a backslash`} {
		if !strings.Contains(notes, want) {
			t.Errorf("nothing says %q in\n%s", want, notes)
		}
	}
	if strings.Contains(notes, "horse") || strings.Contains(notes, "line one") {
		t.Error("a secret is in the notes")
	}
}

func TestGoldenFolder(t *testing.T) { checkFolder(t, "testdata/folder") }

func TestGoldenLibsecret(t *testing.T) {
	data := golden(t, "libsecret.keyring")
	k, err := Read(data, bytesOf("sesame"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, i := range k.Items {
		got[i.Label] = reveal(i.Secret)
		if i.Attributes["user"] != "mia" || i.Attributes["label"] != i.Label || i.ContentType != contentText {
			t.Errorf("%+v", i)
		}
	}
	if len(got) != 2 || got["First"] != "correct horse" || got["Second"] != strings.Repeat("long ", 60) {
		t.Errorf("%q", got)
	}
	if _, err := Read(data, bytesOf("other")); !isPassword(err) {
		t.Errorf("a wrong password: %v", err)
	}
}

// A file that ends too early says so, whatever its format; where it can it
// gives back what is there.
func TestTruncated(t *testing.T) {
	for _, name := range []string{"encrypted.keyring", "libsecret.keyring", "broken.keyring"} {
		data := golden(t, name)
		step := 1 + len(data)/200
		for n := 0; n < len(data); n += step {
			k, err := Read(data[:n], bytesOf("sesame"))
			if err == nil && name != "broken.keyring" {
				t.Fatalf("%s: the first %d of %d bytes are %d items", name, n, len(data), len(k.Items))
			}
		}
	}
}

// A bit that turns in an item of a portable keyring costs that item, and says
// so. A gnome-keyring is encrypted as one.
func TestDamaged(t *testing.T) {
	data := golden(t, "libsecret.keyring")
	for at := 100; at < 300; at += 25 {
		spoilt := slices.Clone(data)
		spoilt[at] ^= 0x10
		k, err := Read(spoilt, bytesOf("sesame"))
		if err != nil || len(k.Items) != 1 || len(k.Notes) != 1 {
			t.Errorf("byte %d: %+v %v", at, k, err)
		}
	}
	data = golden(t, "encrypted.keyring")
	for at := len(data) - 200; at < len(data); at += 25 {
		spoilt := slices.Clone(data)
		spoilt[at] ^= 0x10
		if _, err := Read(spoilt, bytesOf("sesame")); !isPassword(err) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
	k, err := Read(append(slices.Clone(data), "more"...), bytesOf("sesame"))
	if err != nil || len(k.Items) != len(wants())+1 || len(k.Notes) != 1 {
		t.Errorf("with something after the end: %+v %v", k, err)
	}
}
