package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// never makes no copies by itself.
func never(time.Time, int, time.Time) bool { return false }

func options(dir string) store.Options {
	return store.Options{Dir: dir, Log: slog.New(slog.NewTextHandler(&logtest.Buffer{}, nil))}.Cheap().BackupWhen(never)
}

func openWith(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), o)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	return openWith(t, options(dir))
}

func value(t testing.TB, s string) secret.Bytes {
	b := secret.Copy([]byte(s))
	t.Cleanup(b.Wipe)
	return b
}

func passphrase(t testing.TB, s string) keyring.Credential {
	return keyring.Credential{Kind: keyring.SlotPassphrase, Value: value(t, s)}
}

// login makes the collection that most tests use.
func login(t testing.TB, s *store.Store) keyring.Lockable {
	t.Helper()
	c, err := s.Create(t.Context(), "login", "Login", passphrase(t, "pass"))
	must(t, err)
	return c
}

func collection(t testing.TB, s *store.Store, id string) keyring.Lockable {
	t.Helper()
	for _, c := range s.Collections() {
		if c.Info().ID == id {
			return c.(keyring.Lockable)
		}
	}
	t.Fatalf("there is no collection %s", id)
	return nil
}

func unlock(t testing.TB, s *store.Store, id string) keyring.Lockable {
	t.Helper()
	c := collection(t, s, id)
	must(t, c.Unlock(t.Context(), passphrase(t, "pass")))
	return c
}

func newItem(t testing.TB, label, plain string, attributes ...string) keyring.NewItem {
	item := keyring.NewItem{Label: label, ContentType: "text/plain", Attributes: map[string]string{}, Secret: value(t, plain)}
	for i := 0; i < len(attributes); i += 2 {
		item.Attributes[attributes[i]] = attributes[i+1]
	}
	return item
}

func create(t testing.TB, c keyring.Collection, label, plain string, attributes ...string) string {
	t.Helper()
	id, _, err := c.Create(newItem(t, label, plain, attributes...), false)
	must(t, err)
	return id
}

func reveal(t testing.TB, c keyring.Collection, id string) string {
	t.Helper()
	b, err := c.Secret(id)
	must(t, err)
	defer b.Wipe()
	return text(b)
}

func text(b secret.Bytes) (s string) {
	b.Use(func(p []byte) { s = string(p) })
	return s
}

func TestContract(t *testing.T) {
	keyringtest.TestCollectionStore(t, func(t *testing.T, sealer keyring.Sealer) keyring.CollectionStore {
		o := options(t.TempDir())
		o.TPM = sealer
		return openWith(t, o)
	})
}

func TestCollectionContract(t *testing.T) {
	keyringtest.TestCollection(t, func(t *testing.T) keyring.Collection { return login(t, open(t, t.TempDir())) })
}

// What is written is read by the next process, and found while it is locked.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c := login(t, s)
	for i := range 50 {
		create(t, c, fmt.Sprint("item ", i), fmt.Sprint("secret ", i), "n", fmt.Sprint(i), "even", fmt.Sprint(i%2 == 0))
	}
	must(t, c.Delete("7"))
	must(t, s.SetAlias("default", "login"))
	want := c.Info()
	must(t, s.Close())

	s = open(t, dir)
	c = collection(t, s, "login")
	info := c.Info()
	if info.Label != "Login" || !info.Locked || !info.Created.Equal(want.Created) || !info.Modified.Equal(want.Modified) {
		t.Errorf("locked: %+v, was %+v", info, want)
	}
	locked, err := c.Search(map[string]string{"even": "true", "n": "10"})
	if err != nil || !slices.Equal(locked, []string{"11"}) {
		t.Errorf("locked search: %v, %v", locked, err)
	}
	unlock(t, s, "login")
	if got := reveal(t, c, "11"); got != "secret 10" {
		t.Errorf("secret: %q", got)
	}
	ids, err := c.Items()
	if err != nil || len(ids) != 49 || slices.Contains(ids, "7") {
		t.Errorf("items: %v, %v", ids, err)
	}
	if id := create(t, c, "new", "x"); id != "51" {
		t.Errorf("a new item is %s: an ID was used twice", id)
	}
	if s.Aliases()["default"] != "login" || len(s.Damage()) > 0 {
		t.Errorf("aliases %v, damage %v", s.Aliases(), s.Damage())
	}
}

// Concurrent writers share transactions, and each gets its own answer.
func TestWritersShareACommit(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c := login(t, s)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if i%4 == 3 {
				if err := c.Delete("99999"); err == nil {
					t.Error("an item that is not there was deleted")
				}
				return
			}
			item := keyring.NewItem{Label: fmt.Sprint(i), Secret: secret.Copy(fmt.Append(nil, i)), Attributes: map[string]string{"i": fmt.Sprint(i)}}
			defer item.Secret.Wipe()
			id, _, err := c.Create(item, false)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := c.Secret(id); err != nil || text(got) != fmt.Sprint(i) {
				t.Errorf("item %s: %v", id, err)
			}
		})
	}
	wg.Wait()
	must(t, s.Close())
	s = open(t, dir)
	c = unlock(t, s, "login")
	for i := range 200 {
		ids, err := c.Search(map[string]string{"i": fmt.Sprint(i)})
		if err != nil || (len(ids) == 1) != (i%4 != 3) {
			t.Fatalf("item %d: %v, %v", i, ids, err)
		}
	}
	if d := s.Damage(); len(d) > 0 {
		t.Error(d)
	}
}

// None of what is secret, and none of what describes it, is in any file.
func TestNothingIsReadableOnDisk(t *testing.T) {
	dir := t.TempDir()
	l := &logtest.Buffer{}
	o := options(dir)
	o.Log = slog.New(slog.NewTextHandler(l, nil))
	s := openWith(t, o)
	c := login(t, s)
	for i := range 1000 {
		create(t, c, fmt.Sprint("canary-label-", i), fmt.Sprint("canary-secret-", i), fmt.Sprint("canary-name-", i%7), fmt.Sprint("canary-value-", i))
		if i%100 == 0 {
			must(t, s.Backup())
			changed := value(t, fmt.Sprint("canary-changed-", i))
			must(t, c.Change(fmt.Sprint(i+1), keyring.ItemChange{Secret: &changed}))
			must(t, c.SetLabel(fmt.Sprint("canary-collection-", i)))
		}
	}
	must(t, s.Close())
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	if len(files) < 6 {
		t.Fatalf("only %v", files)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		must(t, err)
		if bytes.Contains(data, []byte("canary")) {
			t.Errorf("%s has something readable in it", filepath.Base(path))
		}
		if stat, err := os.Stat(path); err != nil || stat.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", path, stat.Mode())
		}
	}
	if strings.Contains(l.String(), "canary") {
		t.Error("the log has something readable in it")
	}
}

// Sizes on disk do not tell how long a secret is.
func TestSizesArePadded(t *testing.T) {
	size := func(n int) int {
		dir := t.TempDir()
		s := open(t, dir)
		c := login(t, s)
		create(t, c, "x", strings.Repeat("a", n))
		return store.RecordSize(t, s, "login", 1)
	}
	if a, b := size(1), size(59); a != b {
		t.Errorf("a secret of 1 byte takes %d, one of 59 takes %d", a, b)
	}
	if a, b := size(59), size(61); a == b {
		t.Error("sizes do not grow at all")
	}
}

// A second process is told so, at once.
func TestOneAtATime(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := store.Open(t.Context(), options(dir))
	if err == nil || !strings.Contains(err.Error(), "another keyringd") {
		t.Errorf("a second one: %v", err)
	}
}

// A second process that wants to wait is told so, and has the store as soon as
// the first one ends.
func TestNextInTurn(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	create(t, login(t, first), "x", "y", "a", "1")
	o, told := options(dir), make(chan error, 2)
	o.InUse = func(err error) { told <- err }
	type opened struct {
		*store.Store
		error
	}
	second := make(chan opened, 1)
	go func() {
		s, err := store.Open(t.Context(), o)
		second <- opened{s, err}
	}()
	if err := <-told; !strings.Contains(err.Error(), "another keyringd") {
		t.Error(err)
	}
	select {
	case s := <-second:
		t.Fatalf("open while the first is: %v", s.error)
	default:
	}
	must(t, first.Close())
	s := <-second
	must(t, s.error)
	defer func() { must(t, s.Close()) }()
	if got := reveal(t, unlock(t, s.Store, "login"), "1"); got != "y" {
		t.Errorf("%q", got)
	}
	if len(told) > 0 {
		t.Error("told twice")
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-told; cancel() }()
	if _, err := store.Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// Items keep their order and their lock while the collection is locked; nothing
// of them can be read.
func TestLocked(t *testing.T) {
	s := open(t, t.TempDir())
	c := login(t, s)
	id := create(t, c, "x", "y", "a", "1")
	c.Lock()
	c.Lock()
	_, err1 := c.Item(id)
	_, err2 := c.Secret(id)
	_, _, err3 := c.Create(newItem(t, "x", "y"), true)
	_, _, err4 := c.AddSlot(t.Context(), passphrase(t, "z"))
	for i, err := range []error{err1, err2, err3, err4, c.Delete(id), c.SetLabel("x")} {
		wantError(t, fmt.Sprint("call ", i), err, keyring.ErrLocked)
	}
	if ids, err := c.Search(map[string]string{"a": "1"}); err != nil || !slices.Equal(ids, []string{id}) {
		t.Errorf("%v, %v", ids, err)
	}
	must(t, c.Unlock(t.Context(), passphrase(t, "pass")))
	if reveal(t, c, id) != "y" {
		t.Error("another secret")
	}
}

// Who still asks while the daemon ends is not told that there is nothing.
func TestClosedIsNotEmpty(t *testing.T) {
	s := open(t, t.TempDir())
	c := login(t, s)
	id := create(t, c, "x", "y", "a", "1")
	must(t, s.Close())
	_, err1 := c.Search(map[string]string{"a": "1"})
	_, err2 := c.Items()
	_, err3 := c.Item(id)
	_, _, err4 := c.Create(newItem(t, "x", "y"), true)
	for i, err := range []error{err1, err2, err3, err4, c.Unlock(t.Context(), passphrase(t, "pass"))} {
		wantError(t, fmt.Sprint("call ", i), err, keyring.ErrUnavailable)
	}
}

// Every write of the directory writes all aliases.
func TestAliasesHaveAnEnd(t *testing.T) {
	s := openWith(t, options(t.TempDir()))
	login(t, s)
	for n := range store.MaxAliases {
		must(t, s.SetAlias(fmt.Sprint("alias", n), "login"))
	}
	wantError(t, "one more", s.SetAlias("more", "login"), keyring.ErrUnsupported)
	must(t, s.SetAlias("alias0", "")) // makes room
	must(t, s.SetAlias("more", "login"))
	must(t, s.SetAlias("more", "login")) // is there already
}
