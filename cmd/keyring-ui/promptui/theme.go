package promptui

import (
	"image/color"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/theme"
)

// Colours and sizes that Fyne has no name for.
const (
	colorDim     fyne.ThemeColorName = "keyringd-dim"
	colorBanner  fyne.ThemeColorName = "keyringd-banner"
	colorTrack   fyne.ThemeColorName = "keyringd-track"
	colorOnFault fyne.ThemeColorName = "keyringd-fault"
	colorCaution fyne.ThemeColorName = "keyringd-caution"
	colorChosen  fyne.ThemeColorName = "keyringd-chosen"
	colorSide    fyne.ThemeColorName = "keyringd-side"
)

// Theme is calm and native to a GNOME-like desktop, in light and in dark. Its
// texts have a contrast of at least 4.5 to 1.
type Theme struct {
	fyne.Theme
	always *fyne.ThemeVariant // nil: as it comes
}

// NewTheme returns the theme. Which variant is used, Fyne asks the desktop.
func NewTheme() Theme { return Theme{Theme: theme.DefaultTheme()} }

// In returns the theme in light or dark, whatever Fyne takes the desktop for.
func (t Theme) In(dark bool) Theme {
	v := theme.VariantLight
	if dark {
		v = theme.VariantDark
	}
	t.always = &v
	return t
}

// A pair is a colour in light and in dark, as 0xRRGGBBAA.
type pair [2]uint32

func palette(name fyne.ThemeColorName) (pair, bool) {
	p, ok := map[fyne.ThemeColorName]pair{
		theme.ColorNameBackground:          {0xfafafaff, 0x2e2e32ff},
		theme.ColorNameForeground:          {0x2e3436ff, 0xf4f4f4ff},
		colorDim:                           {0x63686bff, 0xb8b8bdff},
		theme.ColorNamePlaceHolder:         {0x75797cff, 0xa0a0a6ff},
		theme.ColorNameDisabled:            {0x92969aff, 0x8a8a90ff},
		theme.ColorNamePrimary:             {0x1c71d8ff, 0x3584e4ff},
		theme.ColorNameForegroundOnPrimary: {0xffffffff, 0xffffffff},
		theme.ColorNameButton:              {0xe6e6e7ff, 0x47474cff},
		theme.ColorNameDisabledButton:      {0xefeff0ff, 0x38383dff},
		theme.ColorNameHover:               {0x0000000d, 0xffffff12},
		theme.ColorNamePressed:             {0x0000001f, 0xffffff24},
		theme.ColorNameFocus:               {0x1c71d826, 0x62a0ea40},
		theme.ColorNameSelection:           {0x1c71d84d, 0x3584e480},
		theme.ColorNameInputBackground:     {0xffffffff, 0x1f1f23ff},
		theme.ColorNameInputBorder:         {0xb9bcbfff, 0x5c5c63ff},
		theme.ColorNameSeparator:           {0xdcdcdeff, 0x434348ff},
		theme.ColorNameScrollBar:           {0x00000066, 0xffffff66},
		theme.ColorNameError:               {0xc01c28ff, 0xff938cff},
		colorOnFault:                       {0xc01c28ff, 0xff938cff},
		colorCaution:                       {0x7a4b00ff, 0xf8e45cff},
		colorBanner:                        {0xfdf0d0ff, 0x45402bff},
		colorTrack:                         {0xdededfff, 0x4a4a50ff},
		colorChosen:                        {0xffffffff, 0x6a6a72ff},
		colorSide:                          {0xf0f0f1ff, 0x27272bff},
		theme.ColorNameWarning:             {0xc88800ff, 0xe5a50aff},
		theme.ColorNameSuccess:             {0x1b7f3bff, 0x57e389ff},
		theme.ColorNameMenuBackground:      {0xffffffff, 0x38383dff},
		theme.ColorNameOverlayBackground:   {0xffffffff, 0x38383dff},
	}[name]
	return p, ok
}

// Color implements [fyne.Theme].
func (t Theme) Color(name fyne.ThemeColorName, variant fyne.ThemeVariant) color.Color {
	if t.always != nil {
		variant = *t.always
	}
	p, ok := palette(name)
	if !ok {
		return t.Theme.Color(name, variant)
	}
	c := p[0]
	if variant == theme.VariantDark {
		c = p[1]
	}
	return color.NRGBA{R: uint8(c >> 24), G: uint8(c >> 16), B: uint8(c >> 8), A: uint8(c)}
}

// Size implements [fyne.Theme].
func (t Theme) Size(name fyne.ThemeSizeName) float32 {
	switch name {
	case theme.SizeNameText:
		return 14
	case theme.SizeNameHeadingText:
		return 19
	case theme.SizeNameCaptionText:
		return 12.5
	case theme.SizeNameInnerPadding:
		return 9
	case theme.SizeNamePadding:
		return 4
	case theme.SizeNameInputRadius, theme.SizeNameButtonRadius:
		return 8
	case theme.SizeNameSelectionRadius:
		return 4
	case theme.SizeNameInlineIcon:
		return 18
	}
	return t.Theme.Size(name)
}
