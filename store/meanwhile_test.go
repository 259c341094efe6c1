package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/store"
)

// within is how long something may take that waits for nobody.
const within = 30 * time.Second

// A copy of the database takes as long as the disk does, and who writes does not
// wait for it.
func TestWriteDuringRead(t *testing.T) {
	s := open(t, t.TempDir())
	c := login(t, s)
	err := store.Reading(s, func() {
		written := make(chan error, 1)
		go func() { written <- c.SetLabel("new") }()
		select {
		case err := <-written:
			must(t, err)
		case <-time.After(within):
			t.Error("the writer waits for the reader")
		}
	})
	must(t, err)
}

// A collection that is locked and unlocked while something is being written to
// it knows of that afterwards: no number is given out twice.
func TestUnlockDuringWrite(t *testing.T) {
	dir := t.TempDir()
	var inspected func()
	s := openWith(t, options(dir).Inspected(func() {
		if fn := inspected; fn != nil {
			inspected = nil
			fn()
		}
	}))
	c := login(t, s)
	want := map[string]string{"old": "v", "meanwhile": "v", "new": "v"}
	create(t, c, "old", "v", "name", "old")
	begun, looked, written := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		written <- store.CreateSlowly(s, "login", newItem(t, "meanwhile", "v", "name", "meanwhile"), func() {
			close(begun)
			for !store.Queued(s) { // until somebody waits for this, or does not
				select {
				case <-looked:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}()
	<-begun
	c.Lock()
	inspected = func() {
		close(looked)
		must(t, <-written)
	}
	must(t, c.Unlock(t.Context(), passphrase(t, "pass")))
	if id := create(t, c, "new", "v", "name", "new"); id != "3" {
		t.Errorf("the third is item %s", id)
	}
	if d := s.Damage(); len(d) > 0 {
		t.Errorf("damage: %+v", d)
	}
	must(t, s.Close())
	wantOnly(t, dir, want)
}

// What is done while an item is being repaired is not undone by the repair.
func TestChangesDuringRepair(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c := login(t, s)
	damaged := create(t, c, "damaged", "1", "name", "damaged")
	deleted := create(t, c, "deleted", "2", "name", "deleted")
	must(t, s.Backup())
	must(t, s.Close())
	flipRecord(t, dir, 1)

	var meanwhile func()
	o := options(dir).OpenWith(func(name string, flag int, perm os.FileMode) (*os.File, error) {
		if fn := meanwhile; fn != nil && strings.Contains(name, ".corrupt-") {
			meanwhile = nil
			fn()
		}
		return os.OpenFile(name, flag, perm)
	})
	s = openWith(t, o)
	c = unlock(t, s, "login")
	slot := c.Slots()[0].ID
	meanwhile = func() {
		must(t, c.Delete(deleted))
		create(t, c, "made", "3", "name", "made")
		must(t, c.SetLabel("renamed"))
		_, err := c.ReplaceSlot(t.Context(), slot, passphrase(t, "new pass"))
		must(t, err)
	}
	if got := reveal(t, c, damaged); got != "1" || meanwhile != nil {
		t.Errorf("%q, and the repair did not come to the disk: %v", got, meanwhile != nil)
	}
	for _, d := range s.Damage() {
		if !d.Restored || d.Item != damaged {
			t.Errorf("damage: %+v", d)
		}
	}
	must(t, s.Close())

	s = open(t, dir)
	c = collection(t, s, "login")
	must(t, c.Unlock(t.Context(), passphrase(t, "new pass")))
	if ids, err := c.Items(); err != nil || !slices.Equal(ids, []string{"1", "3"}) {
		t.Errorf("items %v, %v", ids, err)
	}
	if d := s.Damage(); len(d) > 0 || c.Info().Label != "renamed" {
		t.Errorf("damage %+v, label %q", d, c.Info().Label)
	}
}

// While something is wrong with a collection that nobody has unlocked yet, the
// copies that may put it right stay.
func TestDamageWhileLockedKeepsCopies(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c := login(t, s)
	create(t, c, "kept", "1", "name", "kept")
	other, err := s.Create(t.Context(), "", "Other", passphrase(t, "pass"))
	must(t, err)
	must(t, s.Backup())
	must(t, store.Tamper(s, "login", func(i store.Items) error { return i.Delete(1) }))
	id := other.Info().ID
	must(t, s.Close())

	s = open(t, dir)
	other = unlock(t, s, id)
	for i := range 4 {
		create(t, other, fmt.Sprint(i), "x")
		_ = s.Backup()
	}
	if got := reveal(t, unlock(t, s, "login"), "1"); got != "1" {
		t.Errorf("it is %q", got)
	}
}

// A record that was damaged on disk, and that nobody has read since, is not
// copied over the good ones. One that no copy has is no reason to make none.
func TestUnreadDamageKeepsCopies(t *testing.T) {
	for id, restored := range map[string]bool{"1": true, "2": false} {
		t.Run(id, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			c := login(t, s)
			create(t, c, "early", "value", "name", "early")
			must(t, s.Backup())
			create(t, c, "late", "value", "name", "late")
			must(t, s.Close())
			n := itemNumber(t, id)
			flipRecord(t, dir, n)

			s = open(t, dir)
			c = unlock(t, s, "login")
			for i := range 4 {
				create(t, c, fmt.Sprint(i), "x")
				must(t, s.Backup())
			}
			secret, err := c.Secret(id)
			defer secret.Wipe()
			if (err == nil) != restored {
				t.Errorf("%q, %v", text(secret), err)
			}
			for _, d := range s.Damage() {
				if d.Restored != restored || d.Item != id {
					t.Errorf("damage: %+v", d)
				}
			}
		})
	}
}

func itemNumber(t *testing.T, id string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(id, 10, 64)
	must(t, err)
	return n
}

// The rule for copies knows when the last was made, also while a store that is
// being opened is put right.
func TestNoCopyWhileOpening(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	login(t, s)
	must(t, s.Backup())
	must(t, s.Close())
	ruinSlot(t, dir)
	var first int
	s = openWith(t, options(dir).BackupWhen(func(last time.Time, _ int, _ time.Time) bool {
		if last.IsZero() {
			first++
		}
		return false
	}))
	if first > 0 || len(s.Damage()) == 0 {
		t.Errorf("it was asked %d times without the time of the last copy; damage %+v", first, s.Damage())
	}
}

// ruinSlot changes a bit in the wrapped key of the first slot.
func ruinSlot(t *testing.T, dir string) {
	t.Helper()
	s := open(t, dir)
	must(t, store.TamperSlot(s, "login", 1, func(b []byte) { b[len(b)-1] ^= 1 }))
	must(t, s.Close())
}

// A link to a disk that is not there is not a store that has never been.
func TestLinkToNothing(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink(filepath.Join(dir, "away", "keyrings.db"), filepath.Join(dir, "keyrings.db")))
	_, err := store.Open(t.Context(), options(dir))
	wantError(t, "open", err, keyring.ErrUnavailable)
	if _, err := os.Stat(filepath.Join(dir, "keyrings.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link: %v", err)
	}
}

// Who comes too late leaves nothing in a folder that may be another's by then.
func TestClosedStoreMakesNoIndexKey(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, s.Close())
	_, err := s.Create(t.Context(), "login", "Login", passphrase(t, "pass"))
	wantError(t, "create", err, keyring.ErrUnavailable)
	if _, err := os.Stat(filepath.Join(dir, "index.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the index key: %v", err)
	}
}
