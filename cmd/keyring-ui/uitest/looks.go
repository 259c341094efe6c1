// Package uitest is what the tests of keyring-ui's windows have in common: how a
// window looks is compared with an image that a person looked at, and its words
// with their translations.
//
// It deliberately opens no window and knows none.
package uitest

import (
	"flag"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden images anew; look at them")

// Compare fails the test if got is not testdata/NAME.png. It allows for the last
// bit of floating point, which is not the same on every processor, and for
// nothing that a person could see.
func Compare(t *testing.T, name string, got image.Image) {
	t.Helper()
	path := filepath.Join("testdata", name+".png")
	if *update {
		write(t, path, got)
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if got.Bounds() != want.Bounds() {
		keep(t, name, got)
		t.Fatalf("%v, want %v", got.Bounds(), want.Bounds())
	}
	if off := differing(got, want); off > 20 {
		keep(t, name, got)
		t.Errorf("%d pixels are not as they were", off)
	}
}

// differing returns how many pixels of two images of the same size a person
// could tell from each other.
func differing(a, b image.Image) int {
	n := 0
	for y := range a.Bounds().Dy() {
		for x := range a.Bounds().Dx() {
			if distant(a.At(x, y), b.At(x, y)) {
				n++
			}
		}
	}
	return n
}

func distant(a, b color.Color) bool {
	const most = 16 << 8
	r1, g1, b1, _ := a.RGBA()
	r2, g2, b2, _ := b.RGBA()
	for _, d := range []int{int(r1) - int(r2), int(g1) - int(g2), int(b1) - int(b2)} {
		if d > most || d < -most {
			return true
		}
	}
	return false
}

func keep(t *testing.T, name string, img image.Image) {
	t.Helper()
	path := filepath.Join(t.ArtifactDir(), name+".png")
	write(t, path, img)
	t.Logf("what there is now: %s (go test -artifacts keeps it; -update makes it what is wanted)", path)
}

func write(t *testing.T, path string, img image.Image) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(f, img); err != nil {
		t.Fatal(err)
	}
}
