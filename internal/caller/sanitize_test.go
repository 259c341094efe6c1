package caller

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSanitize(t *testing.T) {
	const bad = "\uFFFD"
	for _, test := range []struct {
		in   string
		max  int
		want string
	}{
		{"ssh", 10, "ssh"},
		{"schlüssel für 東京 🔑", 30, "schlüssel für 東京 🔑"},
		{"a\nb\tc\x00", 10, "a" + bad + "b" + bad + "c" + bad},
		{"\x1b[31mred\x1b[0m", 30, bad + "[31mred" + bad + "[0m"},
		{"\u009b31m", 10, bad + "31m"},
		{"evil\u202Egpj.exe", 30, "evil" + bad + "gpj.exe"},
		{"a\u2066b\u200Bc\uFEFFd", 30, "a" + bad + "b" + bad + "c" + bad + "d"},
		{"a\xff\xfeb", 10, "a" + bad + bad + "b"},
		{"a\u00a0b\u3000c\u2800d", 10, "a b c d"},
		{"hidden\u3164filler", 30, "hidden" + bad + "filler"},
		{"line\u2028sep\u2029par", 30, "line" + bad + "sep" + bad + "par"},
		{"e\u0301", 5, "e\u0301"},
		{"z" + strings.Repeat("\u0334", 6), 30, "z" + strings.Repeat("\u0334", 3) + bad + bad + bad},
		{"  trimmed  ", 30, "trimmed"},
		{"12345", 5, "12345"},
		{"123456", 5, "1234…"},
		{strings.Repeat("x", 1<<20), 4, "xxx…"},
		{strings.Repeat("\xff", 1<<20), 3, bad + bad + "…"},
		{"x", 0, ""},
		{"xy", 1, "…"},
		{"", 5, ""},
	} {
		if got := Sanitize(test.in, test.max); got != test.want {
			t.Errorf("Sanitize(%.20q, %d) = %q, want %q", test.in, test.max, got, test.want)
		}
	}
}

func FuzzSanitize(f *testing.F) {
	f.Add("ssh", 10)
	f.Add("\x1b]0;title\x07\u202Ea\xff", 5)
	f.Add("z\u0334\u0334\u0334\u0334\u0334", 9)
	f.Fuzz(func(t *testing.T, s string, max int) {
		max %= 1000
		got := Sanitize(s, max)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > max && max >= 0 {
			t.Fatalf("Sanitize(%q, %d) = %q", s, max, got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || !unicode.IsPrint(r) {
				t.Fatalf("Sanitize(%q) lets %U through", s, r)
			}
		}
		if again := Sanitize(got, max); again != got {
			t.Fatalf("not settled: %q, then %q", got, again)
		}
	})
}
