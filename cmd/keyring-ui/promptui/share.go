package promptui

import (
	"fyne.io/fyne/v2"
)

// Colours of [Theme] that Fyne has no name for, for other windows in it.
const (
	ColorDim     = colorDim
	ColorBanner  = colorBanner
	ColorTrack   = colorTrack
	ColorFault   = colorOnFault
	ColorCaution = colorCaution
	ColorSide    = colorSide
)

// Clean returns a text of other people's fit to be shown on one line: what a
// window would obey instead of showing it becomes U+FFFD.
func Clean(s string) string { return clean(s) }

// CleanLines is Clean for a text of several lines, of which it keeps the ends.
func CleanLines(s string) string { return cleanLines(s) }

// Ellipsize cuts s, as it looks in that size and style, to width.
func Ellipsize(s string, size fyne.ThemeSizeName, style fyne.TextStyle, width float32) string {
	return face{size: size, style: style}.ellipsize(s, width)
}

// Wrap breaks s, as it looks in that size and style, into lines no wider than
// width: at spaces, and within a word that is too long for a line.
func Wrap(s string, size fyne.ThemeSizeName, style fyne.TextStyle, width float32) []string {
	return face{size: size, style: style}.wrap(s, width)
}
