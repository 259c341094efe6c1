package uitest

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Speak has translate load the words of a locale, for as long as the test. Times
// are UTC, wherever the test runs.
func Speak(t *testing.T, locale string, translate func() error) {
	t.Helper()
	t.Setenv("TZ", "UTC")
	t.Setenv("LC_ALL", locale)
	t.Setenv("LANGUAGE", "")
	if err := translate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Setenv("LC_ALL", "C")
		_ = translate()
	})
}

// Said returns the texts that source finds in the package under test, and in
// further files: what is in any of its groups.
func Said(t *testing.T, source *regexp.Regexp, further ...string) map[string]bool {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, path := range append(sources, further...) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range source.FindAllStringSubmatch(string(b), -1) {
			said[strings.Join(m[1:], "")] = true
		}
	}
	return said
}

// Translated fails the test if a text is missing in any language of translations
// but English, which is what the texts are in, or is there although nothing says
// it.
func Translated(t *testing.T, translations fs.FS, said map[string]bool) {
	t.Helper()
	files, err := fs.Glob(translations, "translations/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Fatalf("%d languages", len(files))
	}
	for _, name := range files {
		b, err := fs.ReadFile(translations, name)
		if err != nil {
			t.Fatal(err)
		}
		words := map[string]any{}
		if err := json.Unmarshal(b, &words); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if filepath.Base(name) == "en.json" {
			continue
		}
		for _, fault := range faults(words, said) {
			t.Errorf("%s has %s", name, fault)
		}
	}
}

// faults are what a language lacks, and what it has for nothing.
func faults(words map[string]any, said map[string]bool) (all []string) {
	for s := range said {
		if words[s] == nil {
			all = append(all, fmt.Sprintf("no %q", s))
		}
	}
	for s := range words {
		if !said[s] {
			all = append(all, fmt.Sprintf("%q, which nothing says", s))
		}
	}
	return all
}
