package keyfile

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// FuzzPlainArea compares the short way with go-tpm: what it takes must encode to
// the same bytes, and mean the same to go-tpm.
func FuzzPlainArea(f *testing.F) {
	files, err := filepath.Glob("testdata/corpus/*")
	if err != nil {
		f.Fatal(err)
	}
	plain := 0
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if file, err := Parse(data); err == nil {
			f.Add(file.Public[2:])
			if _, ok := plainArea(file.Public[2:]); ok {
				plain++
			}
		}
	}
	if plain < 10 {
		f.Fatalf("only %d of the corpus go the short way", plain)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		pub, ok := plainArea(b)
		if !ok {
			return
		}
		if got := tpm2.Marshal(pub); !bytes.Equal(got, b) {
			t.Fatalf("decoded\n%x, encoded\n%x", b, got)
		}
		if _, err := tpm2.Unmarshal[tpm2.TPMTPublic](b); err != nil {
			t.Fatalf("go-tpm does not decode %x: %v", b, err)
		}
	})
}
