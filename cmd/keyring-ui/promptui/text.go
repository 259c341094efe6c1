package promptui

import (
	"strings"
	"unicode/utf8"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"
)

// A face is how a text looks.
type face struct {
	size  fyne.ThemeSizeName
	color fyne.ThemeColorName
	style fyne.TextStyle
}

var (
	faceHeading      = face{size: theme.SizeNameHeadingText, color: theme.ColorNameForeground, style: fyne.TextStyle{Bold: true}}
	faceText         = face{size: theme.SizeNameText, color: theme.ColorNameForeground}
	faceDim          = face{size: theme.SizeNameText, color: colorDim}
	faceCaption      = face{size: theme.SizeNameCaptionText, color: colorDim}
	faceFault        = face{size: theme.SizeNameText, color: colorOnFault, style: fyne.TextStyle{Bold: true}}
	faceCaution      = face{size: theme.SizeNameText, color: colorCaution}
	faceCautionSmall = face{size: theme.SizeNameCaptionText, color: colorCaution}
	faceButton       = face{size: theme.SizeNameText, color: theme.ColorNameForeground, style: fyne.TextStyle{Bold: true}}
)

// Styles are those of the faces that every question has. Fyne reads the fonts of
// a style when it is first used.
func Styles() []fyne.TextStyle { return []fyne.TextStyle{faceText.style, faceHeading.style} }

func (f face) points() float32 { return fyne.CurrentApp().Settings().Theme().Size(f.size) }

func (f face) width(s string) float32 { return fyne.MeasureText(s, f.points(), f.style).Width }

// ellipsize cuts s to width.
func (f face) ellipsize(s string, width float32) string {
	if f.width(s) <= width {
		return s
	}
	// What is left of the cut always gets longer, so that halving finds it.
	runes := []rune(s)
	low, high := 0, len(runes)
	for low < high {
		mid := (low + high + 1) / 2
		if f.width(string(runes[:mid])+"…") <= width {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return strings.TrimRight(string(runes[:low]), " ") + "…"
}

// wrap breaks s into lines no wider than width: at spaces, and within a word
// that is too long for a line.
func (f face) wrap(s string, width float32) []string {
	var lines []string
	for _, paragraph := range strings.Split(s, "\n") {
		line := ""
		for _, word := range strings.Split(paragraph, " ") {
			next := word
			if line != "" {
				next = line + " " + word
			}
			if f.width(next) <= width {
				line = next
				continue
			}
			if line != "" {
				lines = append(lines, line)
			}
			for f.width(word) > width {
				head := f.head(word, width)
				if head == word { // one character, wider than the line
					break
				}
				lines, word = append(lines, head), word[len(head):]
			}
			line = word
		}
		lines = append(lines, line)
	}
	return lines
}

// head returns as much of s as fits, at least one character.
func (f face) head(s string, width float32) string {
	var ends []int // of its characters
	for i := range s {
		if i > 0 {
			ends = append(ends, i)
		}
	}
	low, high := 0, len(ends)-1
	for low < high {
		mid := (low + high + 1) / 2
		if f.width(s[:ends[mid]]) <= width {
			low = mid
		} else {
			high = mid - 1
		}
	}
	if len(ends) == 0 {
		_, n := utf8.DecodeRuneInString(s)
		return s[:n]
	}
	return s[:ends[low]]
}

// A text shows lines, one below the other. It is no label: that would give a
// long word all the room that it wants.
type text struct {
	widget.BaseWidget
	face   face
	align  fyne.TextAlign
	lines  []string
	leader float32 // line height, in parts of the font's own
}

// newText shows s, wrapped to width.
func newText(f face, s string, width float32) *text {
	t := &text{face: f, leader: 1.08}
	t.ExtendBaseWidget(t)
	t.lines = f.wrap(s, width)
	return t
}

// newLine shows s on one line, cut to width.
func newLine(f face, s string, width float32) *text {
	t := &text{face: f, leader: 1.08}
	t.ExtendBaseWidget(t)
	t.lines = []string{f.ellipsize(s, width)}
	return t
}

// CreateRenderer implements [fyne.Widget].
func (t *text) CreateRenderer() fyne.WidgetRenderer {
	r := &textRenderer{t: t}
	r.Refresh()
	return r
}

type textRenderer struct {
	t       *text
	objects []fyne.CanvasObject
}

func (r *textRenderer) lineHeight() float32 {
	return fyne.MeasureText("M", r.t.face.points(), r.t.face.style).Height * r.t.leader
}

func (r *textRenderer) MinSize() fyne.Size {
	var w float32
	for _, line := range r.t.lines {
		w = max(w, r.t.face.width(line))
	}
	return fyne.NewSize(w, r.lineHeight()*float32(len(r.t.lines)))
}

func (r *textRenderer) Layout(size fyne.Size) {
	h := r.lineHeight()
	for i, o := range r.objects {
		o.Move(fyne.NewPos(0, float32(i)*h))
		o.Resize(fyne.NewSize(size.Width, h))
	}
}

func (r *textRenderer) Refresh() {
	th := fyne.CurrentApp().Settings().Theme()
	c := th.Color(r.t.face.color, fyne.CurrentApp().Settings().ThemeVariant())
	if len(r.objects) != len(r.t.lines) {
		r.objects = nil
		for range r.t.lines {
			r.objects = append(r.objects, canvas.NewText("", c))
		}
	}
	for i, line := range r.t.lines {
		o := r.objects[i].(*canvas.Text)
		o.Text, o.Color, o.TextSize, o.TextStyle, o.Alignment = line, c, r.t.face.points(), r.t.face.style, r.t.align
		o.Refresh()
	}
	r.Layout(r.t.Size())
}

func (r *textRenderer) Objects() []fyne.CanvasObject { return r.objects }
func (r *textRenderer) Destroy()                     {}
