package dbus

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// An optionReader reads a method's options one by one, keeps the first thing
// that is wrong with them, and knows at the end which ones nobody read: who asks
// for something must not get something else.
type optionReader struct {
	left map[string]godbus.Variant
	err  error
}

func readOptions(all map[string]godbus.Variant) *optionReader {
	return &optionReader{left: maps.Clone(all)}
}

// option reads one; not given, it is the zero value.
func option[T any](o *optionReader, name string) (value T) {
	v, given := o.left[name]
	if !given {
		return value
	}
	delete(o.left, name)
	value, ok := v.Value().(T)
	if !ok {
		o.wrong("option %s is of type %s", name, v.Signature())
	}
	return value
}

func (o *optionReader) wrong(format string, args ...any) {
	if o.err == nil {
		o.err = badArgument(format, args...)
	}
}

// end returns what is wrong.
func (o *optionReader) end() error {
	for _, name := range slices.Sorted(maps.Keys(o.left)) {
		o.wrong("option %.64q is not known", name)
	}
	return o.err
}

// path makes a path clean. It is absolute: what it would be relative to differs
// between the two programs.
func (o *optionReader) path(what, p string) string {
	if !filepath.IsAbs(p) {
		o.wrong("%s %.200q is not an absolute path", what, p)
	}
	return filepath.Clean(p)
}

// name is path, where a bare name is meant for a key folder.
func (o *optionReader) name(what, p string) string {
	if p != "" && !strings.Contains(p, "/") {
		return p
	}
	return o.path(what, p)
}

// file reads which of a key's files is meant; "": it was not said.
func (o *optionReader) file() string {
	if p := option[string](o, "path"); p != "" {
		return o.path("option path", p)
	}
	return ""
}

// line is text that goes into a line of a file: more than one would be another
// line's business.
func (o *optionReader) line(what, text string) string {
	if strings.ContainsFunc(text, unicode.IsControl) {
		o.wrong("%s is not one line of text", what)
	}
	return text
}

// target reads the options of what makes a file.
func (o *optionReader) target(c *call) keyring.Target {
	return keyring.Target{
		Force:    option[bool](o, "force"),
		Comment:  o.line("option comment", option[string](o, "comment")),
		PIN:      !option[bool](o, "no-pin"),
		Progress: c.progress,
	}
}

// place reads the options of what is for this machine's own TPM.
func (o *optionReader) place(t *keyring.Target) {
	t.PCRs = option[string](o, "pcrs")
	v, given := o.left["parent"]
	if !given {
		return
	}
	delete(o.left, "parent")
	var ok bool
	if t.Parent, ok = handle(v.Value()); !ok {
		o.wrong("option parent is no handle: %.64s", v.String())
	}
}

// handle is a TPM handle of any integer type.
func handle(v any) (uint32, bool) {
	switch n := v.(type) {
	case uint32:
		return n, true
	case int32:
		return uint32(n), n >= 0
	case uint64:
		return uint32(n), n < 1<<32
	case int64:
		return uint32(n), n >= 0 && n < 1<<32
	}
	return 0, false
}
