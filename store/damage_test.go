package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/store"
)

// small makes a closed store of a few items and returns what is in it.
func small(t *testing.T, dir string, backups bool) map[string]string {
	t.Helper()
	s := open(t, dir)
	c := login(t, s)
	want := map[string]string{}
	for i := range 12 {
		name := fmt.Sprint("item ", i)
		want[name] = fmt.Sprint("value ", i)
		create(t, c, name, want[name], "name", name, "all", "yes")
	}
	must(t, c.Delete("3"))
	delete(want, "item 2")
	other := value(t, "changed")
	must(t, c.Change("5", keyring.ItemChange{Secret: &other}))
	want["item 4"] = "changed"
	if backups {
		must(t, s.Backup())
	}
	must(t, s.Close())
	return want
}

// An outcome of reading a damaged store.
type outcome struct{ refused, exact, reported, wrong int }

// examine reads all of a store that may be damaged. Each item is as it was, or
// it is said that it is not.
func examine(t *testing.T, dir string, want map[string]string, o *outcome, what string) {
	t.Helper()
	s, err := store.Open(t.Context(), options(dir))
	if err != nil {
		t.Logf("%s: refused: %v", what, err)
		o.refused++
		return
	}
	defer func() { must(t, s.Close()) }()
	wrong := func(format string, args ...any) {
		o.wrong++
		t.Errorf("%s: %s; damage %v", what, fmt.Sprintf(format, args...), s.Damage())
	}
	all := s.Collections()
	if len(all) != 1 {
		wrong("%d collections", len(all))
		return
	}
	c := all[0].(keyring.Lockable)
	// While it is locked it has all items, or says that it does not know.
	if ids, err := c.Search(map[string]string{"all": "yes"}); err == nil && len(ids) != len(want) && len(s.Damage()) == 0 {
		wrong("locked search finds %d items of %d", len(ids), len(want))
	}
	if err := c.Unlock(t.Context(), passphrase(t, "pass")); err != nil {
		t.Logf("%s: refused: %v", what, err)
		o.refused++
		return
	}
	ids, err := c.Items()
	if err != nil {
		o.refused++
		return
	}
	got, broken := map[string]string{}, 0
	for _, id := range ids {
		info, err := c.Item(id)
		plain, err2 := c.Secret(id)
		if err != nil || err2 != nil {
			broken++
			wantError(t, what, errors.Join(err, err2), keyring.ErrUnavailable)
			continue
		}
		got[info.Label] = text(plain)
		plain.Wipe()
		if found, err := c.Search(info.Attributes); err == nil && !slices.Contains(found, id) {
			wrong("item %s is not found by its attributes", id)
		}
	}
	switch {
	case maps.Equal(got, want) && broken == 0:
		o.exact++
	case len(s.Damage()) > 0:
		o.reported++
	default:
		wrong("%v, want %v; %d broken", got, want, broken)
	}
}

// Flips of single bits anywhere in the files are undone or noticed; none leads
// to something else than what was written. KEYRINGD_FLIPS says how many.
func TestBitFlips(t *testing.T) {
	for _, backups := range []bool{false, true} {
		t.Run(fmt.Sprint("backups=", backups), func(t *testing.T) {
			origin := t.TempDir()
			want := small(t, origin, backups)
			var o outcome
			flips := 150
			if n, err := strconv.Atoi(os.Getenv("KEYRINGD_FLIPS")); err == nil {
				flips = n
			}
			for n := range flips {
				dir := filepath.Join(t.TempDir(), "d")
				must(t, os.CopyFS(dir, os.DirFS(origin)))
				name := "keyrings.db"
				if n%20 == 19 {
					name = "index.key"
				}
				path := filepath.Join(dir, name)
				data, err := os.ReadFile(path)
				must(t, err)
				// Only what is in use: the rest of the file proves nothing.
				at := rand.IntN(len(data))
				for range 50 {
					if page := at / 4096 * 4096; !allZero(data[page:min(page+4096, len(data))]) && data[at] != 0 {
						break
					}
					at = rand.IntN(len(data))
				}
				bit := byte(1) << rand.IntN(8)
				data[at] ^= bit
				must(t, os.WriteFile(path, data, 0o600))
				examine(t, dir, want, &o, fmt.Sprintf("%s, byte %d, bit %#x", name, at, bit))
				must(t, os.RemoveAll(dir))
			}
			t.Logf("%d flips: %d refused, %d as it was, %d reported, %d silently wrong", flips, o.refused, o.exact, o.reported, o.wrong)
			if backups && o.refused > 0 {
				t.Errorf("%d times nothing could be read, although there was a copy", o.refused)
			}
		})
	}
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// A damaged byte does not make a store that a newer keyringd has written, and
// one that it has is left alone.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	want := small(t, dir, true)
	path := filepath.Join(dir, "keyrings.db")
	data, err := os.ReadFile(path)
	must(t, err)
	mark := []byte("format\x01\xfe")
	if !bytes.Contains(data, mark) {
		t.Fatal("the mark is not found")
	}
	for bit := range 16 {
		other := slices.Clone(mark)
		other[len("format")+bit/8] ^= 1 << (bit % 8)
		must(t, os.WriteFile(path, bytes.ReplaceAll(data, mark, other), 0o600))
		var o outcome
		examine(t, dir, want, &o, fmt.Sprintf("bit %d", bit))
		if o.exact != 1 {
			t.Errorf("bit %d: %+v", bit, o)
		}
	}
	newer := bytes.ReplaceAll(data, mark, []byte("format\x02\xfd"))
	must(t, os.WriteFile(path, newer, 0o600))
	if s, err := store.Open(t.Context(), options(dir)); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("a newer store: %v, %v", s, err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, newer) {
		t.Errorf("it was changed: %v", err)
	}
}

// One damaged item is the trouble of nobody else, and comes back from a copy.
func TestDamagedItem(t *testing.T) {
	for _, backups := range []bool{false, true} {
		dir := t.TempDir()
		want := small(t, dir, backups)
		flipRecord(t, dir, 8)
		s := open(t, dir)
		c := unlock(t, s, "login")
		_, err := c.Secret("8")
		d := s.Damage()
		if backups {
			must(t, err)
			if len(d) != 1 || !d[0].Restored || d[0].Item != "8" || d[0].Collection != "login" {
				t.Errorf("damage: %+v", d)
			}
		} else {
			wantError(t, "a damaged item", err, keyring.ErrUnavailable)
			if len(d) != 1 || d[0].Restored || d[0].Item != "8" {
				t.Errorf("damage: %+v", d)
			}
			if s.Backup() == nil {
				t.Error("a damaged store is copied over good copies")
			}
			if ids, err := c.Search(map[string]string{"name": "item 7"}); err != nil || !slices.Equal(ids, []string{"8"}) {
				t.Errorf("search for the damaged item: %v, %v", ids, err)
			}
			must(t, c.Delete("8"))
			delete(want, "item 7")
		}
		if got := reveal(t, c, "9"); got != want["item 8"] {
			t.Errorf("its neighbour is %q", got)
		}
		must(t, s.Close())
		wantOnly(t, dir, want)
	}
}

func flipRecord(t *testing.T, dir string, n uint64) {
	t.Helper()
	s := open(t, dir)
	record := store.RecordBytes(t, s, "login", n)
	must(t, s.Close())
	path := filepath.Join(dir, "keyrings.db")
	data, err := os.ReadFile(path)
	must(t, err)
	for at := 0; ; {
		next := bytes.Index(data[at:], record)
		if next < 0 {
			break
		}
		at += next
		data[at+len(record)-30] ^= 1
	}
	must(t, os.WriteFile(path, data, 0o600))
}

// A record that is put back to what it was, one that is taken away, and two that
// change places, are noticed by the next who unlocks, and undone from a copy.
func TestRollbackOfOneRecord(t *testing.T) {
	for name, tamper := range map[string]func(store.Items, []byte) error{
		"put back":   func(i store.Items, old []byte) error { return i.Put(5, old) },
		"taken away": func(i store.Items, _ []byte) error { return i.Delete(5) },
		"swapped": func(i store.Items, _ []byte) error {
			a, b := bytes.Clone(i.Get(5)), bytes.Clone(i.Get(6))
			return errors.Join(i.Put(5, b), i.Put(6, a))
		},
	} {
		for _, backup := range []bool{false, true} {
			t.Run(fmt.Sprint(name, backup), func(t *testing.T) {
				dir := t.TempDir()
				want := small(t, dir, false)
				s := open(t, dir)
				c := unlock(t, s, "login")
				old := store.RecordBytes(t, s, "login", 5)
				other := value(t, "changed again")
				must(t, c.Change("5", keyring.ItemChange{Secret: &other}))
				want["item 4"] = "changed again"
				if backup {
					must(t, s.Backup())
				}
				must(t, store.Tamper(s, "login", func(i store.Items) error { return tamper(i, old) }))
				must(t, s.Close())

				s = open(t, dir)
				c = collection(t, s, "login")
				if _, err := c.Search(map[string]string{"name": "item 4"}); err == nil {
					t.Error("while locked it is not noticed")
				}
				c = unlock(t, s, "login")
				d := s.Damage()
				if len(d) == 0 {
					t.Fatal("it is not noticed")
				}
				if backup {
					if slices.ContainsFunc(d, func(d store.Damage) bool { return !d.Restored }) || reveal(t, c, "5") != "changed again" {
						t.Errorf("damage: %+v", d)
					}
					must(t, s.Close())
					wantOnly(t, dir, want)
				}
			})
		}
	}
}

// A database that is gone, empty, cut off or something else is not an empty
// store: the copy takes its place, or there is an error. What was there is kept.
func TestUnreadableIsNotEmpty(t *testing.T) {
	for name, ruin := range map[string]func(path string) error{
		"gone":    os.Remove,
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"cut off": func(path string) error { return os.Truncate(path, 5000) },
		"other":   func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("no"), 9000), 0o600) },
	} {
		for _, backups := range []bool{false, true} {
			t.Run(fmt.Sprint(name, backups), func(t *testing.T) {
				dir := t.TempDir()
				want := small(t, dir, backups)
				path := filepath.Join(dir, "keyrings.db")
				must(t, ruin(path))
				s, err := store.Open(t.Context(), options(dir))
				if !backups {
					wantError(t, "open", err, keyring.ErrUnavailable)
					if _, err := store.Open(t.Context(), options(dir)); err == nil {
						t.Error("the second time it opens")
					}
					return
				}
				must(t, err)
				if len(s.Damage()) == 0 {
					t.Error("nothing is reported")
				}
				kept, _ := filepath.Glob(path + ".corrupt-*")
				if (len(kept) == 1) != (name != "gone") {
					t.Errorf("kept: %v", kept)
				}
				must(t, s.Close())
				wantOnly(t, dir, want)
			})
		}
	}
}

// What was written after the newest copy comes back from the damaged file when
// the collection is unlocked.
func TestNewerItemsAreSalvaged(t *testing.T) {
	dir := t.TempDir()
	want := small(t, dir, true)
	s := open(t, dir)
	c := unlock(t, s, "login")
	for i := range 60 { // enough for pages of their own
		name := fmt.Sprint("new ", i)
		want[name] = strings.Repeat("n", i)
		create(t, c, name, want[name], "name", name)
	}
	must(t, s.Close())
	store.RuinIndex(t, filepath.Join(dir, "keyrings.db"))
	s = open(t, dir)
	unlock(t, s, "login")
	if len(s.Damage()) == 0 {
		t.Error("nothing is reported")
	}
	must(t, s.Close())
	wantOnly(t, dir, want)
}

// Copies rotate, and each is a store.
func TestBackupsRotate(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c := login(t, s)
	for i := range 5 {
		create(t, c, fmt.Sprint(i), "x")
		must(t, s.Backup())
	}
	must(t, s.Close())
	for n, want := range map[int]int{1: 5, 2: 4, 3: 3} {
		other := t.TempDir()
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("keyrings.db.", n)))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(other, "keyrings.db"), data, 0o600))
		s := open(t, other)
		if ids, err := unlock(t, s, "login").Items(); err != nil || len(ids) != want {
			t.Errorf("copy %d: %v, %v; want %d items", n, ids, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "keyrings.db.4")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("there is a fourth copy")
	}
}

// Where nothing can be written everything can be read.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	want := small(t, dir, false)
	o := options(dir).OpenWith(func(name string, flag int, perm os.FileMode) (*os.File, error) {
		if flag&(os.O_RDWR|os.O_WRONLY|os.O_CREATE) != 0 {
			return nil, &os.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
		}
		return os.OpenFile(name, flag, perm)
	})
	s := openWith(t, o)
	c := unlock(t, s, "login")
	if got := reveal(t, c, "9"); got != want["item 8"] {
		t.Errorf("%q", got)
	}
	_, _, err := c.Create(newItem(t, "x", "y"), false)
	wantError(t, "create", err, keyring.ErrUnavailable)
	if !strings.Contains(err.Error(), "read-only") {
		t.Error(err)
	}
}

// A store that was made by the first version opens for ever.
func TestGolden(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if os.Getenv("KEYRINGD_GOLDEN") != "" {
		small(t, "testdata/v1", true)
		// The copy is the same, and has no room to grow in it.
		must(t, os.Rename("testdata/v1/keyrings.db.1", "testdata/v1/keyrings.db"))
		must(t, os.Remove("testdata/v1/keyrings.lock"))
	}
	must(t, os.CopyFS(dir, os.DirFS("testdata/v1")))
	s := open(t, dir)
	c := collection(t, s, "login")
	if ids, err := c.Search(map[string]string{"name": "item 4"}); err != nil || !slices.Equal(ids, []string{"5"}) || c.Info().Label != "Login" {
		t.Errorf("locked search: %v, %v", ids, err)
	}
	unlock(t, s, "login")
	if got := reveal(t, c, "5"); got != "changed" {
		t.Errorf("%q", got)
	}
	info, err := c.Item("5")
	must(t, err)
	if info.Label != "item 4" || !maps.Equal(info.Attributes, map[string]string{"name": "item 4", "all": "yes"}) || info.ContentType != "text/plain" {
		t.Errorf("%+v", info)
	}
	if len(s.Damage()) > 0 {
		t.Error(s.Damage())
	}
}
