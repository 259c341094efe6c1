package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// cheap makes tests of everything but the cost fast.
func cheap() params { return params{threads: 1, passes: 1, memory: 8} }

func bytesOf(s string) secret.Bytes { return secret.Copy([]byte(s)) }

func reveal(b secret.Bytes) (s string) {
	b.Use(func(p []byte) { s = string(p) })
	return s
}

func answer(pass string) func() (secret.Bytes, error) {
	return func() (secret.Bytes, error) { return bytesOf(pass), nil }
}

func nobody(t testing.TB) func() (secret.Bytes, error) {
	return func() (secret.Bytes, error) {
		t.Error("asked for a passphrase")
		return secret.Bytes{}, errors.New("asked")
	}
}

func examples() []Collection {
	random := make([]byte, 200_000)
	_, _ = rand.Read(random)
	day := time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
	return []Collection{
		{ID: "login", Aliases: []string{"default", "x"}, Label: "Lögin <&>", Created: day, Modified: day.Add(time.Hour), Items: []Item{
			{Label: "My mail", Attributes: map[string]string{"user": "mia", "server": "mail.example.org\n"}, ContentType: "text/plain; charset=utf8", Secret: bytesOf("correct horse"), Created: day},
			{Label: "Odd \"text\" \u2028\\", Attributes: map[string]string{"": ""}, Secret: bytesOf("\x00\x01\x1f\x7f\"\\/\n\r\t\u00e9\U0001f600\ufeff")},
			{Label: "Bytes", Attributes: map[string]string{}, Secret: bytesOf("\xff\xfe\x00")},
			{Label: "Long", Attributes: map[string]string{}, Secret: secret.Copy(random), ContentType: "application/octet-stream"},
			{Label: "Long text", Attributes: map[string]string{}, Secret: bytesOf(strings.Repeat("é\\", 100_000))},
			{Label: "", Attributes: map[string]string{}},
		}},
		{ID: "abc123", Label: ""},
	}
}

// equal compares all that an archive keeps.
func equal(t testing.TB, got, want []Collection) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d collections, want %d", len(got), len(want))
	}
	for n, w := range want {
		g := got[n]
		if g.ID != w.ID || g.Label != w.Label || !slices.Equal(g.Aliases, w.Aliases) || !g.Created.Equal(w.Created) || !g.Modified.Equal(w.Modified) || len(g.Items) != len(w.Items) {
			t.Fatalf("collection %+v, want %+v", g, w)
		}
		for n, w := range w.Items {
			g := g.Items[n]
			if g.Label != w.Label || !maps.Equal(g.Attributes, w.Attributes) || g.ContentType != w.ContentType ||
				!g.Secret.Equal(w.Secret) || !g.Created.Equal(w.Created) || !g.Modified.Equal(w.Modified) {
				t.Errorf("item %+v, want %+v", g, w)
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for name, write := range map[string]func(io.Writer, []Collection) error{
		"encrypted": func(w io.Writer, c []Collection) error { return Write(w, c, bytesOf("sesame")) },
		"plain":     WritePlain,
	} {
		var first bytes.Buffer
		if err := write(&first, examples()); err != nil {
			t.Fatal(name, err)
		}
		ask := answer("sesame")
		if name == "plain" {
			ask = nobody(t)
		}
		got, err := Read(iotest.HalfReader(bytes.NewReader(first.Bytes())), ask)
		if err != nil {
			t.Fatal(name, err)
		}
		want := examples()
		want[0].Items[3].Secret = got[0].Items[3].Secret // which is random
		equal(t, got, want)
		if strings.Contains(first.String(), "correct horse") != (name == "plain") {
			t.Errorf("%s: the secret is or is not there", name)
		}
		if name == "encrypted" {
			continue
		}
		var second bytes.Buffer
		if err := write(&second, got); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%s: written again it is another file: %v", name, err)
		}
		var any map[string]any
		if err := json.Unmarshal(first.Bytes(), &any); err != nil || any["version"] != 1.0 {
			t.Errorf("%s: to others it is no JSON: %v", name, err)
		}
	}
}

// sizes at which chunks end and begin.
func TestChunkBounds(t *testing.T) {
	empty := sealed(t, []Collection{{Items: []Item{{Attributes: map[string]string{}}}}})
	rest := len(empty) - headerSize - 32 - 16
	for _, n := range []int{chunkSize - rest - 1, chunkSize - rest, chunkSize - rest + 1, 2*chunkSize - rest, 3*chunkSize - rest + 1} {
		want := []Collection{{Items: []Item{{Attributes: map[string]string{}, Secret: bytesOf(strings.Repeat("x", n))}}}}
		data := sealed(t, want)
		got, err := Read(bytes.NewReader(data), answer("sesame"))
		if err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		equal(t, got, want)
		for _, cut := range []int{len(data) - 1, headerSize + 32 + sealedSize, headerSize + 32, headerSize + 33} {
			if cut >= len(data) {
				continue
			}
			if got, err := Read(bytes.NewReader(data[:cut]), answer("sesame")); !errors.Is(err, ErrDamaged) || got != nil {
				t.Errorf("%d of %d bytes: %v", cut, len(data), err)
			}
		}
		if _, err := Read(bytes.NewReader(append(slices.Clone(data), 0)), answer("sesame")); !errors.Is(err, ErrDamaged) {
			t.Errorf("a byte more: %v", err)
		}
	}
}

func sealed(t testing.TB, c []Collection) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b, c, bytesOf("sesame"), cheap()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// No bit of an encrypted archive may turn unnoticed, and chunks keep their
// places.
func TestDamageIsNoticed(t *testing.T) {
	data := sealed(t, examples())
	for at := 0; at < len(data); at += 1 + at/20 {
		spoilt := slices.Clone(data)
		spoilt[at] ^= 4
		got, err := Read(bytes.NewReader(spoilt), answer("sesame"))
		if err == nil || got != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		if at >= headerSize+32 && !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d: %v, want damage", at, err)
		}
	}
	body := headerSize + 32
	first, second := data[body:body+sealedSize], data[body+sealedSize:body+2*sealedSize]
	swapped := slices.Concat(data[:body], second, first, data[body+2*sealedSize:])
	dropped := slices.Concat(data[:body], data[body+sealedSize:])
	for name, spoilt := range map[string][]byte{"swapped": swapped, "dropped": dropped} {
		if _, err := Read(bytes.NewReader(spoilt), answer("sesame")); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWrongPassphrase(t *testing.T) {
	data := sealed(t, examples())
	if _, err := Read(bytes.NewReader(data), answer("sesam")); !errors.Is(err, ErrPassphrase) {
		t.Error(err)
	}
	gone := errors.New("gone")
	if _, err := Read(bytes.NewReader(data), func() (secret.Bytes, error) { return secret.Bytes{}, gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
	pass := bytesOf("sesame")
	if _, err := Read(bytes.NewReader(data), func() (secret.Bytes, error) { return pass, nil }); err != nil || pass.Len() != 0 {
		t.Errorf("the passphrase is left: %d bytes, %v", pass.Len(), err)
	}
}

// What costs too much is refused before anybody is asked.
func TestCostsAreBounded(t *testing.T) {
	for _, p := range []params{
		{0, 1, 8}, {maxThreads + 1, 1, 1024}, {1, 0, 8}, {1, maxPasses + 1, 8}, {1, 1, 7}, {4, 1, 31}, {1, 1, maxMemory + 1}, {255, 0xffffffff, 0xffffffff},
	} {
		data := append(p.header(make([]byte, saltSize)), make([]byte, 100)...)
		if _, err := Read(bytes.NewReader(data), nobody(t)); !errors.Is(err, ErrFormat) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if p := (params{4, 3, 64 << 10}); !p.fit() {
		t.Error("what we write we do not read")
	}
}

func TestRefuses(t *testing.T) {
	item := func(s string) string {
		return `{"format":"keyringd archive","version":1,"collections":[{"id":"a","label":"b","items":[` + s + `]}]}`
	}
	for name, text := range map[string]string{
		"nothing":            "",
		"something else":     "PK\x03\x04",
		"the magic alone":    magic,
		"a version to come":  magic + "\x02" + strings.Repeat("x", 100),
		"other JSON":         `{"a":1}`,
		"JSON of another":    `{"format":"x","version":1}`,
		"contents to come":   `{"format":"keyringd archive","version":2,"collections":[]}`,
		"half of it":         item("")[:60],
		"two of it":          item("") + item(""),
		"no secret":          item(`{"label":"x"}`),
		"two secrets":        item(`{"secret":"a","secretBase64":"YQ=="}`),
		"a secret number":    item(`{"secret":5}`),
		"half a character":   item(`{"secret":"\ud800"}`),
		"half and something": item(`{"secret":"\ud800\u0041"}`),
		"no base64":          item(`{"secretBase64":"a"}`),
		"no UTF-8":           item(`{"secret":"` + "\xff" + `"}`),
		"no time":            item(`{"secret":"a","created":"yesterday"}`),
	} {
		got, err := Read(strings.NewReader(text), answer("x"))
		if !errors.Is(err, ErrFormat) || got != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "d800") {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
	got, err := Read(strings.NewReader("\ufeff \n"+item(`{"label":"x","secret":"\u0041\ud83d\ude00\/\b\f\n\r\t\"\\"}`)), nobody(t))
	if err != nil || reveal(got[0].Items[0].Secret) != "A\U0001f600/\b\f\n\r\t\"\\" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestTooLarge(t *testing.T) {
	large := []Collection{{Items: []Item{{Secret: bytesOf(strings.Repeat("x", maxContent))}}}}
	if err := write(io.Discard, large, bytesOf("x"), cheap()); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := WritePlain(io.Discard, large); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	endless := io.MultiReader(strings.NewReader(`{"format":"`), zeros{})
	if _, err := Read(endless, nobody(t)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return copy(p, strings.Repeat("0", 4096)), nil }

// A disk that is full, and one that fails, are told of.
func TestErrorsOfTheDisk(t *testing.T) {
	broken := errors.New("broken")
	for _, n := range []int{0, 1, 100, sealedSize + 200} {
		w := &limited{n: n, err: broken}
		if err := write(w, examples(), bytesOf("x"), cheap()); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		if err := WritePlain(&limited{n: n, err: broken}, examples()); !errors.Is(err, broken) {
			t.Errorf("plain, after %d bytes: %v", n, err)
		}
		data := sealed(t, examples())
		r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken))
		if _, err := Read(r, answer("sesame")); !errors.Is(err, broken) {
			t.Errorf("read %d bytes: %v", n, err)
		}
	}
}

type limited struct {
	n   int
	err error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.n -= len(p); l.n < 0 {
		return 0, l.err
	}
	return len(p), nil
}

// A strange clock keeps nobody from having an archive.
func TestTimesWithoutForm(t *testing.T) {
	var b bytes.Buffer
	odd := []Collection{{Created: time.Unix(1<<40, 0), Modified: time.Unix(-1<<40, 0)}}
	if err := WritePlain(&b, odd); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&b, nobody(t))
	if err != nil || !got[0].Created.IsZero() || !got[0].Modified.IsZero() {
		t.Errorf("%+v %v", got, err)
	}
}

// FuzzRead: nothing panics, and what can be read is written and read again the
// same.
func FuzzRead(f *testing.F) {
	var plain bytes.Buffer
	small := examples()[:1]
	small[0].Items = append(small[0].Items[:3:3], small[0].Items[5])
	if err := WritePlain(&plain, small); err != nil {
		f.Fatal(err)
	}
	f.Add(plain.Bytes())
	f.Add(sealed(f, small))
	f.Add([]byte(`{"format":"keyringd archive","version":1,"collections":[{"items":[{"secret":"\ud83d\ude00"},{"secretBase64":"YQ=="}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, _, err := parseHeader(data[:min(len(data), headerSize)]); err == nil && (p.memory > 64 || p.passes > 2) {
			t.Skip("takes its time on purpose")
		}
		got, err := Read(bytes.NewReader(data), answer("sesame"))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WritePlain(&again, got); err != nil {
			t.Fatal(err)
		}
		same, err := Read(&again, nobody(t))
		if err != nil {
			t.Fatal(err)
		}
		for n := range got {
			for m := range got[n].Items { // none and an empty one are the same
				if got[n].Items[m].Attributes == nil {
					got[n].Items[m].Attributes = map[string]string{}
				}
			}
		}
		equal(t, same, got)
		Wipe(got)
		Wipe(same)
	})
}
