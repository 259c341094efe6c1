// Package config reads and changes keyringd's config.toml as a careful person
// with an editor does: a [Change] touches one value, and everything else in the
// file, comments and order and spacing, stays as it was.
//
// keyringd.toml(5) says what the settings mean. It deliberately knows only those
// that a window offers, and does not judge the others: the daemon does.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/keyringd/keyringd/internal/atomicfile"
)

// maxSize is more than anybody writes into config.toml; keyringd reads no more,
// either.
const maxSize = 1 << 20

// The names of the settings.
const (
	Remember   = "remember"
	Confirm    = "confirm"
	Prompter   = "prompter"
	Notify     = "notify"
	LockScreen = "lock.screen"
	LockSleep  = "lock.sleep"
	LockIdle   = "lock.idle"
)

// What goes when: the values of LockScreen, LockSleep and LockIdle.
const (
	Forget   = "forget"
	Keyrings = "keyrings"
)

// Values are the settings that are offered, as the file has them or as they are
// without it.
type Values struct {
	Remember                        time.Duration
	Confirm                         []string
	Prompter                        string
	Notify                          bool
	LockScreen, LockSleep, LockIdle []string
}

// A Change gives one setting another value: a string, a bool or a []string.
type Change struct {
	Name  string
	Value any
}

// Duration is the value of a setting that is a time.
func Duration(d time.Duration) string {
	s := d.String() // 10m0s
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	if d == 0 {
		s = "0"
	}
	return s
}

// ErrByHand means that the file is written in a way that is not understood here,
// or has a mistake: it was left as it is.
var ErrByHand = errors.New("the settings file has to be changed by hand")

// Read reads the file at path; where there is none, all is as without it.
func Read(path string) (Values, error) {
	data, err := load(path)
	if err != nil {
		return Values{}, err
	}
	return Parse(data)
}

func load(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxSize {
		return nil, fmt.Errorf("%s: no ordinary file of at most %d bytes", path, maxSize)
	}
	return os.ReadFile(path)
}

// Parse is Read of a file's content.
func Parse(data []byte) (Values, error) {
	v := Values{Remember: 10 * time.Minute, Prompter: "auto", LockScreen: []string{Forget}, LockSleep: []string{Forget}}
	var file struct {
		Remember *string
		Confirm  []string
		Prompter *string
		Notify   bool
		Lock     struct{ Screen, Sleep, Idle *[]string }
	}
	if err := toml.Unmarshal(data, &file); err != nil {
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			row, _ := bad.Position()
			return v, fmt.Errorf("%w: line %d: %s", ErrByHand, row, strings.TrimPrefix(bad.Error(), "toml: "))
		}
		return v, fmt.Errorf("%w: %w", ErrByHand, err)
	}
	if file.Remember != nil {
		d, err := time.ParseDuration(*file.Remember)
		if err != nil || d < 0 {
			return v, fmt.Errorf("%w: %s is %q, which is no time", ErrByHand, Remember, *file.Remember)
		}
		v.Remember = d
	}
	v.Confirm, v.Notify = file.Confirm, file.Notify
	if file.Prompter != nil {
		v.Prompter = *file.Prompter
	}
	for _, l := range []struct{ from, to *[]string }{
		{file.Lock.Screen, &v.LockScreen}, {file.Lock.Sleep, &v.LockSleep}, {file.Lock.Idle, &v.LockIdle},
	} {
		if l.from != nil {
			*l.to = *l.from
		}
	}
	return v, nil
}

// Write makes the changes in the file at path, which is there whole afterwards
// or, after an error, as it was. Without one, it makes it.
func Write(path string, changes ...Change) error {
	data, err := load(path)
	if err != nil {
		return err
	}
	before := data
	for _, c := range changes {
		if data, err = Set(data, c); err != nil {
			return err
		}
	}
	if data == nil || bytes.Equal(data, before) {
		return nil
	}
	mode := fs.FileMode(0o600)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	staged, err := atomicfile.Stage(nil, atomicfile.File{Path: path, Data: data, Perm: mode, Replace: true})
	if err != nil {
		return err
	}
	return staged.Commit()
}

// Set makes one change in a file's content. It checks that nothing else is
// another than before; if it cannot do so, the error is ErrByHand.
func Set(data []byte, c Change) ([]byte, error) {
	var before, after map[string]any
	if err := toml.Unmarshal(data, &before); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrByHand, err)
	}
	changed, err := edit(data, c)
	if err != nil {
		return nil, err
	}
	if err := toml.Unmarshal(changed, &after); err != nil {
		return nil, ErrByHand
	}
	// Through TOML, so that both are of the same types.
	if before == nil {
		before = map[string]any{}
	}
	put(before, strings.Split(c.Name, "."), c.Value)
	text, err := toml.Marshal(before)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrByHand, err)
	}
	var want map[string]any
	if err := toml.Unmarshal(text, &want); err != nil || !reflect.DeepEqual(after, want) {
		return nil, ErrByHand
	}
	return changed, nil
}

func put(into map[string]any, name []string, value any) {
	for len(name) > 1 {
		next, ok := into[name[0]].(map[string]any)
		if !ok {
			next = map[string]any{}
			into[name[0]] = next
		}
		into, name = next, name[1:]
	}
	into[name[0]] = value
}

// A place is where a setting is, or where it would have to be.
type place struct {
	key, value, end int // of the setting, where it is there
	found           bool
	table           int // after the line that begins its table; -1: there is none
	first           int // where the first table begins; -1: there is none
}

// edit writes one value where the old one is or, if there is none, where it
// belongs.
func edit(data []byte, c Change) ([]byte, error) {
	text, err := spell(c.Value)
	if err != nil {
		return nil, err
	}
	table, name, nested := strings.Cut(c.Name, ".")
	if !nested {
		table, name = "", table
	}
	p, err := find(data, table, name)
	if err != nil {
		return nil, err
	}
	line := name + " = " + text + "\n"
	switch {
	case p.found:
		return splice(data, p.value, p.end, text), nil
	case nested && p.table >= 0:
		return insert(data, p.table, line), nil
	case nested:
		lead := "\n"
		if len(bytes.TrimSpace(data)) == 0 {
			lead = ""
		}
		return insert(data, len(data), lead+"["+table+"]\n"+line), nil
	case p.first >= 0:
		return insert(data, above(data, p.first), line), nil
	}
	return insert(data, len(data), line), nil
}

func splice(data []byte, from, to int, text string) []byte {
	return append(append(append(make([]byte, 0, len(data)+len(text)), data[:from]...), text...), data[to:]...)
}

// insert puts lines at the beginning of a line, or at the end.
func insert(data []byte, at int, lines string) []byte {
	if at > 0 && data[at-1] != '\n' {
		lines = "\n" + lines
	}
	return splice(data, at, at, lines)
}

// above goes up from the beginning of a table over the comment that is its own,
// so that the two stay together.
func above(data []byte, at int) int {
	for at = lineStart(data, at); at > 0; {
		before := lineStart(data, at-1)
		if !bytes.HasPrefix(bytes.TrimSpace(data[before:at]), []byte("#")) {
			break
		}
		at = before
	}
	return at
}

func lineStart(data []byte, at int) int { return bytes.LastIndexByte(data[:at], '\n') + 1 }

// find looks for a setting.
func find(data []byte, table, name string) (place, error) {
	p := place{table: -1, first: -1}
	var parser unstable.Parser
	parser.Reset(data)
	in := ""
	for parser.NextExpression() {
		e := parser.Expression()
		var parts []string
		start, after := -1, 0
		for it := e.Key(); it.Next(); {
			shape := parser.Shape(it.Node().Raw)
			if start < 0 {
				start = shape.Start.Offset
			}
			after = shape.End.Offset
			parts = append(parts, string(it.Node().Data))
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			in = strings.Join(parts, ".")
			if p.first < 0 {
				p.first = start
			}
			if e.Kind == unstable.Table && in == table && table != "" {
				p.table = lineEnd(data, after)
			}
		case unstable.KeyValue:
			if full := append([]string{in}, parts...); !p.found && equal(full, table, name) {
				value := after + bytes.IndexByte(data[after:], '=') + 1
				for value < len(data) && (data[value] == ' ' || data[value] == '\t') {
					value++
				}
				p.key, p.value, p.end, p.found = start, value, valueEnd(data, value), true
			}
		}
	}
	if err := parser.Error(); err != nil {
		return p, fmt.Errorf("%w: %w", ErrByHand, err)
	}
	return p, nil
}

// equal compares a key in a table, both of which may have dots in them.
func equal(full []string, table, name string) bool {
	if full[0] == "" {
		full = full[1:]
	}
	if table == "" {
		return len(full) == 1 && full[0] == name
	}
	return len(full) == 2 && full[0] == table && full[1] == name
}

func lineEnd(data []byte, at int) int {
	if n := bytes.IndexByte(data[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(data)
}

// valueEnd returns where the value of a well-formed file ends that begins at at.
func valueEnd(data []byte, at int) int {
	depth, end := 0, at
	for i := at; i < len(data); {
		switch c := data[i]; c {
		case '#':
			if depth == 0 {
				return end
			}
			i = lineEnd(data, i)
			continue
		case '\n':
			if depth == 0 {
				return end
			}
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '"', '\'':
			i = stringEnd(data, i)
			end = i
			continue
		case ' ', '\t', '\r':
			i++
			continue
		}
		i++
		end = i
	}
	return end
}

// stringEnd returns where the string ends that begins at at: TOML 1.0, "String".
func stringEnd(data []byte, at int) int {
	quote := string(data[at : at+1])
	long := strings.HasPrefix(string(data[at:]), strings.Repeat(quote, 3))
	close := quote
	if long {
		close = strings.Repeat(quote, 3)
	}
	for i := at + len(close); i < len(data); i++ {
		switch {
		case data[i] == '\\' && quote == `"`:
			i++
		case bytes.HasPrefix(data[i:], []byte(close)):
			i += len(close)
			for long && i < len(data) && data[i] == quote[0] { // one or two more may belong to it
				i++
			}
			return i
		}
	}
	return len(data)
}

// spell writes a value as TOML does.
func spell(value any) (string, error) {
	text, err := toml.Marshal(map[string]any{"v": value})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(strings.TrimPrefix(string(text), "v = ")), nil
}
