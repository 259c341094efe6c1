package store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/store"
)

// childDir tells the test binary that it is a writer to be killed, and where.
const childDir = "KEYRINGD_STORE_CHILD"

// TestMain runs the writer instead of the tests where it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv(copierDir); dir != "" {
		if err := writeAndCopy(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(childDir); dir != "" {
		if err := writeForEver(dir, os.Getenv("KEYRINGD_STORE_SEED")); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writeForEver changes the store, and says on its output what it is about to do
// and what is done.
func writeForEver(dir, seed string) error {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	copies := func(_ time.Time, changes int, _ time.Time) bool { return changes > 20 }
	s, err := store.Open(testContext(), store.Options{Dir: dir, Log: quiet}.Cheap().BackupWhen(copies))
	if err != nil {
		return err
	}
	if d := s.Damage(); len(d) > 0 {
		return fmt.Errorf("damage: %v", d)
	}
	pass := keyring.Credential{Kind: keyring.SlotPassphrase, Value: secret.Copy([]byte("pass"))}
	var c keyring.Lockable
	if all := s.Collections(); len(all) > 0 {
		c = all[0].(keyring.Lockable)
		err = c.Unlock(testContext(), pass)
	} else {
		c, err = s.Create(testContext(), "login", "Login", pass)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	rounds, err := strconv.Atoi(os.Getenv("KEYRINGD_STORE_ROUNDS"))
	endless := err != nil
	for n := 0; endless || n < rounds; n++ {
		// Several writers, so that transactions with more than one change are
		// killed, too. Each has names of its own.
		done := make(chan error, 4)
		for w := range 4 {
			go func() { done <- writeOne(c, fmt.Sprintf("%d-%d", w, n%30), fmt.Sprintf("%s-%d", seed, n)) }()
		}
		for range 4 {
			if err := <-done; err != nil && endless {
				return err
			}
		}
	}
	// No Close: it is as if it were killed.
	return nil
}

// writeOne sets, or deletes, what is stored under a name.
func writeOne(c keyring.Collection, name, value string) error {
	if strings.HasSuffix(value, "7") {
		value = "" // deleted
	}
	fmt.Fprintf(os.Stdout, "try %s %s\n", name, value)
	var err error
	if value == "" {
		ids, searchErr := c.Search(map[string]string{"name": name})
		if searchErr != nil {
			return searchErr
		}
		for _, id := range ids {
			err = errors.Join(err, c.Delete(id))
		}
	} else {
		item := keyring.NewItem{Label: name, Attributes: map[string]string{"name": name}, Secret: secret.Copy([]byte(value))}
		_, _, err = c.Create(item, true)
		item.Secret.Wipe()
	}
	word := "did"
	if err != nil {
		word = "not"
	}
	fmt.Fprintf(os.Stdout, "%s %s %s\n", word, name, value)
	return err
}

// TestKill kills a writer at any moment, again and again. What it said was done
// is there; what it was at is there whole, or not at all.
// KEYRINGD_KILLS says how often.
func TestKill(t *testing.T) {
	kills := 40
	if n, err := strconv.Atoi(os.Getenv("KEYRINGD_KILLS")); err == nil {
		kills = n
	}
	dir := t.TempDir()
	done := map[string]string{}   // what was acknowledged
	trying := map[string]string{} // what was begun after that
	acknowledged := 0
	for kill := range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("KEYRINGD_STORE_SEED=%d", kill))
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		left := -1 // lines until it is killed, from when it is ready
		var killAt <-chan time.Time
		for lines.Scan() {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			name, value, _ := strings.Cut(rest, " ")
			switch word {
			case "ready":
				left = 1 + rand.IntN(200)
			case "try":
				trying[name] = value
			case "did":
				acknowledged++
				done[name] = value
				delete(trying, name)
			default:
				t.Fatalf("kill %d: %s", kill, lines.Text())
			}
			if left--; left == 0 && killAt == nil {
				delay := time.Duration(rand.IntN(2000)) * time.Microsecond
				killAt = time.After(delay)
				time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
			}
		}
		_ = cmd.Wait() // killed
		check(t, dir, done, trying)
		if t.Failed() {
			t.Fatalf("after kill %d", kill)
		}
	}
	t.Logf("%d kills, %d acknowledged writes", kills, acknowledged)
	if acknowledged < kills {
		t.Error("hardly anything was written: this shows nothing")
	}
}

// check compares a store with what was acknowledged, and makes done what there
// is.
func check(t *testing.T, dir string, done, trying map[string]string) {
	t.Helper()
	s, err := store.Open(t.Context(), options(dir))
	if err != nil {
		if len(done)+len(trying) == 0 {
			return
		}
		t.Fatal(err)
	}
	defer func() { must(t, s.Close()) }()
	if len(s.Collections()) == 0 {
		if len(done) > 0 {
			t.Fatal("the collection is gone")
		}
		return
	}
	c := unlock(t, s, "login")
	there := map[string]string{}
	ids, err := c.Items()
	must(t, err)
	for _, id := range ids {
		info, err := c.Item(id)
		must(t, err)
		there[info.Attributes["name"]] = reveal(t, c, id)
		if found, err := c.Search(info.Attributes); err != nil || !slices.Equal(found, []string{id}) {
			t.Errorf("item %s is found as %v, %v", id, found, err)
		}
	}
	if d := s.Damage(); len(d) > 0 {
		t.Errorf("damage: %v", d)
	}
	for _, name := range slices.Collect(maps.Keys(done)) {
		begun, unsure := trying[name]
		if got := there[name]; got != done[name] && !(unsure && got == begun) {
			t.Errorf("%s is %q; %q was acknowledged, %q begun", name, got, done[name], begun)
		}
	}
	for name, got := range there {
		if begun, unsure := trying[name]; got != done[name] && !(unsure && got == begun) {
			t.Errorf("%s is %q; %q was acknowledged, %q begun", name, got, done[name], begun)
		}
	}
	clear(done)
	clear(trying)
	maps.Copy(done, there)
}

// A device stands in for the disk under an open file: what is written to
// /dev/full finds no room, and what is written to /dev/null is lost and cannot
// be synced.
type device struct {
	t    *testing.T
	file *os.File
}

func (d *device) open(name string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err == nil && strings.Contains(name, "keyrings.db") && !strings.HasSuffix(name, ".copy") {
		d.file = f
	}
	return f, err
}

// become puts another file in the place of the database; the returned function
// undoes that.
func (d *device) become(name string) func() {
	d.t.Helper()
	other, err := os.OpenFile(name, os.O_RDWR, 0)
	must(d.t, err)
	fd := int(d.file.Fd())
	kept, err := syscall.Dup(fd)
	must(d.t, err)
	must(d.t, syscall.Dup3(int(other.Fd()), fd, syscall.O_CLOEXEC))
	must(d.t, other.Close())
	return func() {
		must(d.t, syscall.Dup3(kept, fd, syscall.O_CLOEXEC))
		must(d.t, syscall.Close(kept))
	}
}

// Where there is no room nothing is changed, on disk or in memory; when there is
// some, it goes on.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	d := &device{t: t}
	s := openWith(t, options(dir).OpenWith(d.open))
	c := login(t, s)
	kept := create(t, c, "kept", "value", "a", "1")
	before := c.Info()
	for range 3 {
		undo := d.become("/dev/full")
		for what, err := range failures(t, s, c, kept) {
			wantError(t, what, err, keyring.ErrUnavailable)
			if !strings.Contains(err.Error(), "hint: ") {
				t.Errorf("%s: %v: no hint", what, err)
			}
		}
		if c.Info() != before {
			t.Errorf("info %+v, was %+v", c.Info(), before)
		}
		undo()
	}
	create(t, c, "new", "new value", "a", "2")
	must(t, s.Close())
	wantOnly(t, dir, map[string]string{"kept": "value", "new": "new value"})
}

// failures tries everything that writes.
func failures(t *testing.T, s *store.Store, c keyring.Lockable, id string) map[string]error {
	t.Helper()
	other := value(t, "other")
	_, _, err1 := c.Create(newItem(t, "lost", "lost", "a", "lost"), false)
	_, _, err2 := c.Create(newItem(t, "lost", "lost", "a", "1"), true)
	_, _, err3 := c.AddSlot(t.Context(), passphrase(t, "more"))
	_, err4 := s.Create(t.Context(), "", "lost", passphrase(t, "x"))
	errs := map[string]error{
		"create": err1, "replace": err2, "add slot": err3, "create a collection": err4,
		"change": c.Change(id, keyring.ItemChange{Secret: &other}), "delete": c.Delete(id), "label": c.SetLabel("lost"),
		"alias": s.SetAlias("default", "login"), "delete a collection": s.Delete("login"),
	}
	if got := reveal(t, c, id); got != "value" {
		t.Errorf("it is %q now", got)
	}
	if ids, err := c.Search(map[string]string{"a": "1"}); err != nil || !slices.Equal(ids, []string{id}) {
		t.Errorf("search: %v, %v", ids, err)
	}
	if len(s.Collections()) != 1 || len(s.Aliases()) != 0 || len(c.Slots()) != 1 {
		t.Error("what failed is there in memory")
	}
	return errs
}

// wantOnly reopens the store and compares all items by label.
func wantOnly(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	s := open(t, dir)
	c := unlock(t, s, "login")
	ids, err := c.Items()
	must(t, err)
	got := map[string]string{}
	for _, id := range ids {
		info, err := c.Item(id)
		must(t, err)
		got[info.Label] = reveal(t, c, id)
	}
	if !maps.Equal(got, want) || len(s.Damage()) > 0 {
		t.Errorf("%v, want %v; damage %v", got, want, s.Damage())
	}
	must(t, s.Close())
}

// A file that could not be synced is not written to again: what was acknowledged
// goes on in another.
func TestSyncFails(t *testing.T) {
	dir := t.TempDir()
	d := &device{t: t}
	s := openWith(t, options(dir).OpenWith(d.open))
	c := login(t, s)
	create(t, c, "kept", "value")
	for i := range 5 {
		before, err := os.Stat(filepath.Join(dir, "keyrings.db"))
		must(t, err)
		broken := d.file
		_ = d.become("/dev/null") // for good: the file is given up
		_, _, err = c.Create(newItem(t, "lost", "lost"), false)
		wantError(t, "create", err, keyring.ErrUnavailable)
		after, err := os.Stat(filepath.Join(dir, "keyrings.db"))
		must(t, err)
		if os.SameFile(before, after) || d.file == broken {
			t.Error("the file whose sync failed is used again")
		}
		create(t, c, fmt.Sprint("after ", i), "x")
	}
	must(t, s.Close())
	wantOnly(t, dir, map[string]string{"kept": "value", "after 0": "x", "after 1": "x", "after 2": "x", "after 3": "x", "after 4": "x"})
}

// Where there cannot be a new file either it is read from memory, and written
// again as soon as the disk takes it.
func TestSyncFailsAndNoNewFile(t *testing.T) {
	dir := t.TempDir()
	d := &device{t: t}
	full := false
	s := openWith(t, options(dir).OpenWith(func(name string, flag int, perm os.FileMode) (*os.File, error) {
		if full && flag&os.O_CREATE != 0 {
			return nil, &os.PathError{Op: "open", Path: name, Err: syscall.ENOSPC}
		}
		return d.open(name, flag, perm)
	}))
	c := login(t, s)
	kept := create(t, c, "kept", "value", "a", "1")
	full = true
	_ = d.become("/dev/null")
	for range 2 {
		for what, err := range failures(t, s, c, kept) {
			wantError(t, what, err, keyring.ErrUnavailable)
		}
	}
	full = false
	create(t, c, "new", "new value")
	must(t, s.Close())
	wantOnly(t, dir, map[string]string{"kept": "value", "new": "new value"})
}

// A transaction whose head reached the disk, and of which that is not known, is
// undone.
func TestUncertainCommitIsUndone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c := login(t, s)
	create(t, c, "kept", "value")
	good := store.Txid(t, s)
	create(t, c, "lost", "lost")
	store.Uncertain(s, good, syscall.EIO)
	must(t, s.Close())
	wantOnly(t, dir, map[string]string{"kept": "value"})
}

// Real EIO, from the kernel's side of the call, at the n-th sync and write.
func TestInjectedErrors(t *testing.T) {
	bustest.Need(t, "strace")
	if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("nothing can be traced here: %v: %s", err, out)
	}
	for _, fault := range []string{
		"fdatasync:error=EIO:when=9", "fdatasync:error=EIO:when=10", "pwrite64:error=EIO:when=30", "pwrite64:error=EIO:when=31",
		"pwrite64:error=ENOSPC:when=40", "fdatasync:error=EIO:when=12+",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			check(t, dir, map[string]string{}, map[string]string{}) // makes it, without faults
			call, _, _ := strings.Cut(fault, ":")
			cmd := exec.CommandContext(t.Context(), "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call, "-e", "inject="+fault, os.Args[0])
			cmd.Env = append(os.Environ(), childDir+"="+dir, "KEYRINGD_STORE_SEED=1", "KEYRINGD_STORE_ROUNDS=25")
			var out bytes.Buffer
			cmd.Stdout = &out
			err := cmd.Run()
			if err != nil {
				t.Logf("%v: %s", err, out.Bytes()[max(0, out.Len()-300):]) // the fault came while it was being opened
			}
			done, trying := map[string]string{}, map[string]string{}
			did, not := 0, 0
			for line := range strings.SplitSeq(out.String(), "\n") {
				word, rest, _ := strings.Cut(line, " ")
				name, value, _ := strings.Cut(rest, " ")
				switch word {
				case "try":
					trying[name] = value
				case "did":
					did++
					done[name] = value
					delete(trying, name)
				case "not": // and it is not there
					not++
					delete(trying, name)
				}
			}
			t.Logf("%d acknowledged, %d refused", did, not)
			if did+not < 25*4 || not == 0 {
				t.Error("the fault did not come, or it did not go on")
			}
			check(t, dir, done, trying)
		})
	}
}

// testContext is for a process that is killed.
func testContext() context.Context { return context.Background() }
