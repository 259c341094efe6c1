package uitest

import (
	"image"
	"image/color"
	"slices"
	"testing"
)

// The comparisons see what they are there to see.
func TestComparisonsBite(t *testing.T) {
	plain := func() *image.NRGBA {
		img := image.NewNRGBA(image.Rect(0, 0, 8, 4))
		for i := range img.Pix {
			img.Pix[i] = 0xff
		}
		return img
	}
	was, rounded, other := plain(), plain(), plain()
	for x := range 8 {
		rounded.Set(x, 1, color.NRGBA{0xfe, 0xfe, 0xfe, 0xff})
	}
	for i, c := range []color.NRGBA{{0xe0, 0xff, 0xff, 0xff}, {0xff, 0xe0, 0xff, 0xff}, {0xff, 0xff, 0xe0, 0xff}} {
		other.Set(i, i, c)
	}
	if n := differing(rounded, was); n != 0 {
		t.Errorf("%d pixels differ by rounding", n)
	}
	for _, n := range []int{differing(other, was), differing(was, other)} {
		if n != 3 {
			t.Errorf("%d pixels differ, want 3", n)
		}
	}

	got := faults(map[string]any{"both": "beide", "old": "alt"}, map[string]bool{"both": true, "new": true})
	slices.Sort(got)
	if want := []string{`"old", which nothing says`, `no "new"`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
