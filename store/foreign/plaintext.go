package foreign

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// isPlaintext reports whether data begins with the group [keyring], after
// comments at most.
func isPlaintext(data []byte) bool {
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, " \t\r\n")
		if len(line) > 0 && line[0] != '#' {
			return string(line) == "[keyring]"
		}
	}
	return false
}

// A group is one "[name]" of a key file and the lines under it.
type group struct {
	name   string
	values map[string][]byte // as written
}

// readPlaintext reads gnome-keyring's format for a blank password: a GKeyFile,
// but for secrets, which are written as they are. One with a newline in it
// makes a file that gnome-keyring itself cannot read any more; see lines.
func readPlaintext(data []byte) (*Keyring, error) {
	k := &Keyring{}
	r := reader{lines: lines{rest: data}, keyring: k}
	groups := r.groups()
	if len(groups) == 0 {
		return nil, ErrFormat
	}
	k.head(groups[0])
	items := map[string]*Item{}
	types := map[string]uint32{}
	var ids []string // in the file's order
	for _, g := range groups[1:] {
		if id := g.name; strings.IndexByte(id, ':') < 0 {
			ids = append(ids, id)
			items[id] = &Item{Attributes: map[string]string{}}
			types[id] = k.item(g, items[id])
		}
	}
	for _, g := range groups[1:] {
		id, part, _ := strings.Cut(g.name, ":")
		switch {
		case items[id] == nil:
			k.note("[%s] belongs to no item, and was left out.", clean(g.name))
		case strings.HasPrefix(part, "attribute"):
			k.attribute(g, items[id])
		}
	}
	for _, id := range ids {
		items[id].setSchema(types[id])
		k.Items = append(k.Items, *items[id])
	}
	return k, nil
}

// head takes what is said of the keyring itself.
func (k *Keyring) head(g *group) {
	k.Label = k.text(g, "display-name")
	k.Created, k.Modified = order(g.time("ctime"), g.time("mtime"))
	timeout, _ := strconv.ParseUint(string(g.values["lock-timeout"]), 10, 32)
	switch {
	case string(g.values["lock-after"]) == "true":
		k.LockAfter = time.Duration(timeout) * time.Second
	case string(g.values["lock-on-idle"]) == "true":
		k.LockIdle = time.Duration(timeout) * time.Second
	}
}

// item takes what an item's own group says, and returns the item's type.
func (k *Keyring) item(g *group, i *Item) uint32 {
	i.Label = k.text(g, "display-name")
	i.Created, i.Modified = g.time("ctime"), g.time("mtime")
	raw, isText := g.values["secret"]
	encoded, isBinary := g.values["binary-secret"]
	switch {
	case isText:
		i.Secret = secret.Copy(raw)
		if bytes.IndexByte(raw, '\\') >= 0 {
			k.note("The secret of %q has a backslash in it. It is taken as it was stored; gnome-keyring may have handed it out changed since then.", i.Label)
		}
	case isBinary:
		plain := make([]byte, hex.DecodedLen(len(encoded)))
		n, err := hex.Decode(plain, encoded)
		if err != nil {
			k.note("The secret of %q should be hexadecimal digits and is not. It is kept as it stands in the file.", i.Label)
			i.Secret = secret.Copy(encoded)
			break
		}
		i.Secret = secret.From(plain[:n])
	} // neither: it is empty
	i.ContentType = contentType(i.Secret)
	itemType, _ := strconv.ParseUint(string(g.values["item-type"]), 10, 32)
	return uint32(itemType)
}

// attribute adds an attribute's group to its item. Numbers are in decimal
// already.
func (k *Keyring) attribute(g *group, i *Item) {
	if g.values["name"] == nil {
		k.note("An attribute of %q has no name, and was left out.", i.Label)
		return
	}
	i.Attributes[k.text(g, "name")] = k.text(g, "value")
}

// text returns a value that was written with the escapes of a GKeyFile.
func (k *Keyring) text(g *group, key string) string {
	raw := string(g.values[key])
	if strings.IndexByte(raw, '\\') < 0 {
		return clean(raw)
	}
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+1 == len(raw) {
			b.WriteByte(raw[i])
			continue
		}
		i++
		switch raw[i] {
		case 's':
			b.WriteByte(' ')
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case '\\':
			b.WriteByte('\\')
		default: // no escape at all: somebody wrote this by hand
			b.WriteByte('\\')
			b.WriteByte(raw[i])
		}
	}
	return clean(b.String())
}

func (g *group) time(key string) time.Time {
	s, err := strconv.ParseUint(string(g.values[key]), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return seconds(s)
}

// A reader cuts a key file into groups.
type reader struct {
	lines
	keyring *Keyring
}

// groups reads the whole file. The first group is [keyring]; groups of one name
// are one.
func (r *reader) groups() []*group {
	var all []*group
	named := map[string]*group{}
	var g *group
	stray := 0
	for {
		line, ok := r.next()
		if !ok {
			break
		}
		if name, ok := header(line); ok {
			if g = named[name]; g == nil {
				g = &group{name: name, values: map[string][]byte{}}
				named[name] = g
				all = append(all, g)
			} else {
				r.keyring.note("[%s] is there more than once; what is said last counts.", clean(name))
			}
			continue
		}
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, value, ok := bytes.Cut(line, []byte("="))
		if !ok || g == nil {
			stray++
			continue
		}
		if trimmed := bytes.TrimRight(key, " \t"); len(trimmed) < len(key) {
			// The writer puts no spaces around "=", so that those in front of a
			// secret are its own. Who puts them there is a person.
			key, value = trimmed, bytes.TrimLeft(value, " \t")
		}
		if string(key) == "secret" {
			value = r.secret(g, value)
		}
		g.values[string(key)] = value
	}
	if stray > 0 {
		r.keyring.note("%d lines made no sense, and were left out.", stray)
	}
	return all
}

// secret returns the whole of a secret that begins with value, which is the
// rest of the line that was read last. The writer puts two times and an empty
// line after it, so that whatever stands before these is the secret's, even if
// it looks like something else.
func (r *reader) secret(g *group, value []byte) []byte {
	more, found := r.untilTimes()
	if !found {
		more = r.untilSense()
	}
	if more == 0 {
		return value
	}
	whole := make([]byte, 0, len(value)+1+more)
	whole = append(whole, value...)
	whole = append(whole, '\n')
	whole = append(whole, bytes.TrimSuffix(r.rest[:more], []byte("\n"))...) // which is the file's
	r.rest = r.rest[more:]
	if r.crlf {
		whole = bytes.ReplaceAll(whole, []byte("\r\n"), []byte("\n"))
		whole = bytes.TrimSuffix(whole, []byte("\r"))
	}
	label := r.keyring.text(g, "display-name")
	if found {
		r.keyring.note("The secret of %q has several lines, which gnome-keyring stored so that it could not read the keyring any more. It was put together again.", label)
	} else {
		r.keyring.note("The secret of %q has several lines. It was put together from what looks like a part of it; please check it.", label)
	}
	return whole
}

// lines cuts a file into lines.
type lines struct {
	rest    []byte
	crlf    bool // the file, not just a secret in it, has lines that end in CR LF
	begun   bool // crlf is known
	noTimes bool // there are none in the rest, so that nobody looks for them again
}

// next returns the next line without its end.
func (l *lines) next() ([]byte, bool) {
	if len(l.rest) == 0 {
		return nil, false
	}
	line, rest, _ := bytes.Cut(l.rest, []byte("\n"))
	l.rest = rest
	if !l.begun {
		l.begun, l.crlf = true, bytes.HasSuffix(line, []byte("\r"))
	}
	return l.trim(line), true
}

func (l *lines) trim(line []byte) []byte {
	if l.crlf {
		return bytes.TrimSuffix(line, []byte("\r"))
	}
	return line
}

// untilTimes returns how many bytes of the rest stand before the times that end
// an item. It does not look beyond the beginning of another item: a file that a
// person has changed may have no times.
func (l *lines) untilTimes() (int, bool) {
	if l.noTimes {
		return 0, false
	}
	ahead := *l
	for {
		at := len(l.rest) - len(ahead.rest)
		line, ok := ahead.next()
		if !ok {
			l.noTimes = true
			return 0, false
		}
		after := ahead
		next, _ := after.next()
		if name, ok := header(line); ok && isID(name) && begins(next) {
			return 0, false
		}
		if !isTime(line, "mtime=") || !isTime(next, "ctime=") {
			continue
		}
		if last, ok := after.next(); !ok || len(last) == 0 {
			return at, true
		}
	}
}

// untilSense returns how many bytes of the rest stand before the next line that
// can be nothing but a part of the file's structure.
func (l *lines) untilSense() int {
	ahead := *l
	for {
		at := len(l.rest) - len(ahead.rest)
		line, ok := ahead.next()
		if !ok || len(line) == 0 || isKnown(line) {
			return at
		}
		if name, ok := header(line); ok && isID(name) {
			return at
		}
	}
}

// isTime reports whether a line is name followed by seconds.
func isTime(line []byte, name string) bool {
	digits, ok := bytes.CutPrefix(line, []byte(name))
	_, err := strconv.ParseUint(string(digits), 10, 64)
	return ok && err == nil
}

// begins reports whether a line may come first in a group that is not
// [keyring]. The times never do.
func begins(line []byte) bool {
	return bytes.HasPrefix(line, []byte("name=")) ||
		isKnown(line) && !bytes.HasPrefix(line, []byte("mtime")) && !bytes.HasPrefix(line, []byte("ctime"))
}

// isKnown reports whether a line sets one of the values that items have.
func isKnown(line []byte) bool {
	key, _, ok := bytes.Cut(line, []byte("="))
	if !ok {
		return false
	}
	switch string(bytes.TrimRight(key, " \t")) {
	case "item-type", "display-name", "secret", "binary-secret", "mtime", "ctime":
		return true
	}
	return false
}

// header returns the name of the group that a line begins.
func header(line []byte) (string, bool) {
	line = bytes.TrimRight(line, " \t")
	if len(line) < 3 || line[0] != '[' || line[len(line)-1] != ']' || bytes.ContainsAny(line[1:len(line)-1], "[]") {
		return "", false
	}
	return string(line[1 : len(line)-1]), true
}

// isID reports whether a group is one that the writer makes.
func isID(name string) bool {
	id, part, whole := strings.Cut(name, ":")
	if _, err := strconv.ParseUint(id, 10, 32); err != nil {
		return false
	}
	return !whole || strings.HasPrefix(part, "attribute") || strings.HasPrefix(part, "acl")
}
