package foreign

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyringd/keyringd/internal/secret"
)

var (
	// ErrFormat says that a file is no keyring, or is too damaged to be read.
	ErrFormat = errors.New("not a keyring that can be read")
	// ErrPassword says that the password is wrong. gnome-keyring's encrypted
	// format cannot tell that from damage to the encrypted part.
	ErrPassword = errors.New("wrong password")
)

// A Format is a way to write a keyring to a file.
type Format int

// The formats that [Read] reads.
const (
	Unknown   Format = iota
	Encrypted        // gnome-keyring, version 0: "GnomeKeyring", AES and MD5
	Plaintext        // gnome-keyring with a blank password: a key file
	Portable         // libsecret and oo7, version 1: a GVariant with items encrypted one by one
)

// String is the format's name as a person may read it.
func (f Format) String() string {
	switch f {
	case Encrypted:
		return "gnome-keyring"
	case Plaintext:
		return "gnome-keyring without a password"
	case Portable:
		return "oo7 or libsecret"
	default:
		return "unknown"
	}
}

// A Keyring is what one file holds.
type Keyring struct {
	// Name is the file's name without ".keyring"; [Read] does not know it.
	Name string
	// Label is what the user calls it; "" where the file does not say.
	Label string
	// Created and Modified are zero where the file does not say.
	Created, Modified time.Time
	// LockIdle and LockAfter are the times after which the keyring wanted to be
	// locked when it was not used, or at all; 0: never.
	LockIdle, LockAfter time.Duration
	Items               []Item // in the file's order
	// Notes say, each in a sentence for the user, what was repaired or left out.
	// They have labels in them, and never secrets.
	Notes []string
}

// Wipe wipes the secrets of all items.
func (k *Keyring) Wipe() {
	for _, i := range k.Items {
		i.Secret.Wipe()
	}
}

// note adds a sentence to Notes. A damaged file of a million items has no need
// of a million of them.
func (k *Keyring) note(format string, args ...any) {
	switch n := len(k.Notes); {
	case n < maxNotes:
		k.Notes = append(k.Notes, fmt.Sprintf(format, args...))
	case n == maxNotes:
		k.Notes = append(k.Notes, "There is more of the kind.")
	}
}

// An Item is one secret and what is said of it. Label and attributes are valid
// UTF-8 without NUL.
type Item struct {
	Label string
	// Attributes has numbers in decimal. Where the file gives the item a type
	// instead of the attribute "xdg:schema", that is made from it.
	Attributes  map[string]string
	ContentType string
	Secret      secret.Bytes
	// Created and Modified are zero where the file does not say.
	Created, Modified time.Time
}

const (
	// maxFile is more than any keyring that was seen, and little enough to be
	// held in memory twice.
	maxFile = 32 << 20
	// maxIterations bounds how long a file can keep us busy: a hundred times of
	// what oo7 asks for, which is a second or two.
	maxIterations = 10_000_000
	maxNotes      = 100

	contentText   = "text/plain"
	contentBinary = "application/octet-stream"
	schemaName    = "xdg:schema"
)

// magic begins the files of formats Encrypted and Portable; the version follows.
var magic = []byte("GnomeKeyring\n\r\x00\n")

// Detect tells what format a file has. It looks at the beginning only.
func Detect(data []byte) Format {
	if rest, ok := bytes.CutPrefix(data, magic); ok {
		switch {
		case bytes.HasPrefix(rest, []byte{0, 0, 0, 0}):
			return Encrypted
		case bytes.HasPrefix(rest, []byte{1, 0}):
			return Portable
		}
		return Unknown
	}
	if isPlaintext(data) {
		return Plaintext
	}
	return Unknown
}

// NeedsPassword reports whether [Read] needs a password to read all of data.
func NeedsPassword(data []byte) bool {
	switch Detect(data) {
	case Encrypted:
		return true
	case Portable:
		f, err := parsePortable(data)
		return err == nil && f.encrypted()
	default:
		return false
	}
}

// Read reads a keyring. The password is borrowed, and not looked at where none
// is needed. Errors wrap ErrFormat or ErrPassword. The keyring is the caller's
// to Wipe.
func Read(data []byte, password secret.Bytes) (*Keyring, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%d bytes: %w", len(data), ErrFormat)
	}
	switch Detect(data) {
	case Encrypted:
		return readEncrypted(data, password)
	case Plaintext:
		return readPlaintext(data)
	case Portable:
		return readPortable(data, password)
	default:
		return nil, ErrFormat
	}
}

// schema names the type of an item in words, as gnome-keyring does, or "".
func schema(itemType uint32) string {
	switch itemType & 0xffff {
	case 0:
		return "org.freedesktop.Secret.Generic"
	case 1:
		return "org.gnome.keyring.NetworkPassword"
	case 2:
		return "org.gnome.keyring.Note"
	case 3:
		return "org.gnome.keyring.ChainedKeyring"
	case 4:
		return "org.gnome.keyring.EncryptionKey"
	case 0x100:
		return "org.gnome.keyring.PkStorage"
	default:
		return ""
	}
}

// setSchema gives the item the attribute that its type stands for, unless it
// has one.
func (i *Item) setSchema(itemType uint32) {
	if s := schema(itemType); s != "" && i.Attributes[schemaName] == "" {
		i.Attributes[schemaName] = s
	}
}

// contentType says what a secret is whose file does not say.
func contentType(s secret.Bytes) string {
	text := false
	s.Use(func(p []byte) { text = utf8.Valid(p) && bytes.IndexByte(p, 0) < 0 })
	if text {
		return contentText
	}
	return contentBinary
}

// clean makes s fit for D-Bus, whose strings are UTF-8 without NUL.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

// seconds is a point in time. Zero, what is before the epoch and what lies
// beyond the year 9999 were never meant, and are the zero time.
func seconds(s uint64) time.Time {
	if s == 0 || s > 253402300799 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}
