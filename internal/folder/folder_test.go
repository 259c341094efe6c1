package folder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is a consumer that knows what it was told.
type recorder struct {
	mu    sync.Mutex
	loads map[string]int
	text  map[string]string
	there map[string]string // as of the last Scanned
	lent  [][]byte
	scans int
	load  func(f File, data []byte) error // nil: takes everything
}

func newRecorder() *recorder {
	return &recorder{loads: map[string]int{}, text: map[string]string{}, there: map[string]string{}}
}

func (r *recorder) Load(f File, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads[f.Path]++
	r.lent = append(r.lent, data)
	r.text[f.Path] = string(data)
	if r.load != nil {
		return r.load(f, data)
	}
	return nil
}

func (r *recorder) Scanned(files []File, _ func(string, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scans++
	r.there = map[string]string{}
	for _, f := range files {
		r.there[f.Path] = r.text[f.Path]
	}
}

func (r *recorder) has(path, text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	got, ok := r.there[path]
	return ok && got == text
}

func (r *recorder) lacks(path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.there[path]
	return !ok
}

func (r *recorder) count(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loads[path]
}

// within is how soon a change must be known: a second, and what a machine at
// full load may add. Without the kernel's events it would be Poll, far longer.
const within = 4 * time.Second

func TestNoticedWithinASecond(t *testing.T) {
	if o := withDefaults(Options{}); maxSettles*o.Settle > time.Second/2 || o.Poll <= within {
		t.Errorf("a change may wait %v for its scan, or %v", maxSettles*o.Settle, o.Poll)
	}
}

// eventually waits for what follows an event of the kernel's.
func eventually(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// watch starts watching, and ends it with the test.
func watch(t *testing.T, o Options, c ...Consumer) *Folders {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet()
	}
	ctx, cancel := context.WithCancel(context.Background())
	f, err := Watch(ctx, o, c...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); <-f.Done() })
	return f
}

func dir(t *testing.T) string {
	t.Helper()
	d := filepath.Join(t.TempDir(), "keys")
	must(t, os.Mkdir(d, 0o700))
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func reason(f *Folders, path string) error {
	for _, s := range f.Skipped() {
		if s.Path == path {
			return s.Reason
		}
	}
	return nil
}

func TestHostileFolder(t *testing.T) {
	d := dir(t)
	at := func(name string) string { return filepath.Join(d, name) }
	want := map[string]error{}

	must(t, unix.Mkfifo(at("fifo"), 0o600))
	want["fifo"] = ErrPipe
	must(t, os.Symlink("/dev/zero", at("zero")))
	want["zero"] = ErrDevice
	must(t, os.Symlink("loop2", at("loop1")))
	must(t, os.Symlink("loop1", at("loop2")))
	want["loop1"], want["loop2"] = ErrLinkLoop, ErrLinkLoop
	must(t, os.Symlink("nowhere", at("dangling")))
	want["dangling"] = ErrLinkNowhere
	write(t, at("huge"), "")
	must(t, os.Truncate(at("huge"), 1<<30))
	want["huge"] = ErrTooLarge
	must(t, os.Symlink(at("fifo"), at("to-fifo")))
	want["to-fifo"] = ErrPipe
	must(t, os.Symlink(t.TempDir(), at("linked-dir")))
	want["linked-dir"] = ErrLinkedDir
	must(t, os.Symlink(d, at("linked-self")))
	want["linked-self"] = ErrLinkedDir
	short, err := os.MkdirTemp("", "kr")
	must(t, err)
	defer os.RemoveAll(short)
	l, err := net.Listen("unix", filepath.Join(short, "s"))
	must(t, err)
	defer l.Close()
	must(t, os.Symlink(filepath.Join(short, "s"), at("socket")))
	want["socket"] = ErrSocket
	must(t, os.Mkdir(at("open-dir"), 0o700))
	write(t, at("open-dir/inside"), "x")
	must(t, os.Chmod(at("open-dir"), 0o777))
	want["open-dir"] = errors.New("mode 0777 lets others")
	if os.Geteuid() == 0 {
		write(t, at("foreign"), "x")
		must(t, os.Chown(at("foreign"), 12345, 12345))
		want["foreign"] = ErrForeign
		must(t, os.Mkdir(at("foreign-dir"), 0o700))
		write(t, at("foreign-dir/inside"), "x")
		must(t, os.Chown(at("foreign-dir"), 12345, 12345))
		want["foreign-dir"] = ErrForeign
	} else {
		write(t, at("locked"), "x")
		must(t, os.Chmod(at("locked"), 0))
		want["locked"] = ErrUnreadable
		must(t, os.Symlink("/etc/passwd", at("roots"))) // root's are welcome
	}
	deep := strings.Repeat("deep/", DefaultMaxDepth+1)
	must(t, os.MkdirAll(at(deep), 0o700))
	write(t, at(deep+"inside"), "x")
	want[strings.TrimSuffix(deep, "/")] = errors.New("directories deep")

	good := []string{"key", "no\xff\xfeutf8", "new\nline", "id_dir.pub/key", "a/b/c/d/key", "-rf", strings.Repeat("n", 255)}
	for _, name := range good {
		must(t, os.MkdirAll(filepath.Dir(at(name)), 0o700))
		write(t, at(name), "good "+name)
	}
	elsewhere := filepath.Join(t.TempDir(), "dotfile")
	write(t, elsewhere, "good linked")
	must(t, os.Symlink(elsewhere, at("linked")))
	good = append(good, "linked")

	start := time.Now()
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	if took := time.Since(start); took > time.Second {
		t.Errorf("the scan took %v", took)
	}
	for _, name := range good {
		if !r.has(at(name), "good "+name) {
			t.Errorf("%q is not there: %v", name, reason(f, at(name)))
		}
	}
	for name, why := range want {
		got := reason(f, at(name))
		if got == nil || !errors.Is(got, why) && !strings.Contains(got.Error(), why.Error()) {
			t.Errorf("%q is skipped because %v; want %v", name, got, why)
		}
		if !r.lacks(at(name)) {
			t.Errorf("%q was handed out", name)
		}
	}
	for path := range r.there {
		if strings.HasSuffix(path, "inside") {
			t.Errorf("%q was reached", path)
		}
	}
	t.Logf("%d kinds of hostile entries skipped, %d good files found", len(want), len(good))
}

func TestTopDirectory(t *testing.T) {
	d := dir(t)
	write(t, filepath.Join(d, "key"), "x")
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(d, link))
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	bad := dir(t)
	write(t, filepath.Join(bad, "key"), "x")
	must(t, os.Chmod(bad, 0o770))

	r := newRecorder()
	f := watch(t, Options{Dirs: []string{link, link + "/.", file, bad}}, r)
	if got := slices.Collect(maps.Keys(r.there)); !slices.Equal(got, []string{filepath.Join(link, "key")}) {
		t.Errorf("found %q, want the linked directory's file once", got)
	}
	for path, want := range map[string]string{file: "not a directory", bad: "chmod 700"} {
		if got := reason(f, path); got == nil || !strings.Contains(got.Error(), want) {
			t.Errorf("%s: skipped because %v, want %q", path, got, want)
		}
	}
}

func TestChangesAreNoticed(t *testing.T) {
	d := dir(t)
	key := filepath.Join(d, "key")
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	step := func(what string, change func(), cond func() bool) {
		t.Helper()
		start := time.Now()
		change()
		eventually(t, within, what, cond)
		t.Logf("%s: %v", what, time.Since(start).Round(time.Millisecond))
	}
	step("added", func() { write(t, key, "1") }, func() bool { return r.has(key, "1") })
	step("written in place", func() { write(t, key, "2") }, func() bool { return r.has(key, "2") })
	step("replaced", func() {
		write(t, filepath.Join(d, "tmp"), "3")
		must(t, os.Rename(filepath.Join(d, "tmp"), key))
	}, func() bool { return r.has(key, "3") && r.lacks(filepath.Join(d, "tmp")) })
	n := r.count(key)
	step("opened to others", func() { must(t, os.Chmod(key, 0o644)) }, func() bool { return r.count(key) > n })
	step("in a new directory", func() {
		must(t, os.MkdirAll(filepath.Join(d, "a/b"), 0o700))
		write(t, filepath.Join(d, "a/b/key"), "4")
	}, func() bool { return r.has(filepath.Join(d, "a/b/key"), "4") })
	step("in that directory later", func() { write(t, filepath.Join(d, "a/b/late"), "5") },
		func() bool { return r.has(filepath.Join(d, "a/b/late"), "5") })
	step("directory removed", func() { must(t, os.RemoveAll(filepath.Join(d, "a"))) },
		func() bool { return r.lacks(filepath.Join(d, "a/b/key")) })
	step("removed", func() { must(t, os.Remove(key)) }, func() bool { return r.lacks(key) })
	if len(r.there) != 0 || len(f.Skipped()) != 0 {
		t.Errorf("left over: %v, %v", r.there, f.Skipped())
	}
}

func TestLinkedFileChanges(t *testing.T) {
	d, other := dir(t), dir(t)
	link, end := filepath.Join(d, "key"), filepath.Join(other, "dotfile")
	must(t, os.Symlink(end, link))
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	if got := reason(f, link); !errors.Is(got, ErrLinkNowhere) {
		t.Fatalf("skipped because %v", got)
	}
	write(t, end, "1")
	eventually(t, within, "the link's end appears", func() bool { return r.has(link, "1") })
	write(t, end, "22")
	eventually(t, within, "the link's end changes", func() bool { return r.has(link, "22") })
	must(t, os.Remove(end))
	eventually(t, within, "the link's end goes", func() bool { return r.lacks(link) })
}

func TestDirectoryThatComesAndGoes(t *testing.T) {
	top := t.TempDir()
	d := filepath.Join(top, "home/user/.ssh")
	key := filepath.Join(d, "key")
	r := newRecorder()
	watch(t, Options{Dirs: []string{d}}, r)
	for i := range 3 {
		text := fmt.Sprint(i)
		must(t, os.MkdirAll(d, 0o700))
		write(t, key, text)
		eventually(t, within, "a directory that was made", func() bool { return r.has(key, text) })
		must(t, os.RemoveAll(filepath.Join(top, "home")))
		eventually(t, within, "a directory that was removed", func() bool { return r.lacks(key) })
	}
	must(t, os.MkdirAll(d, 0o700))
	write(t, key, "moved")
	eventually(t, within, "made again", func() bool { return r.has(key, "moved") })
	must(t, os.Rename(d, d+".old"))
	eventually(t, within, "a directory that was moved away", func() bool { return r.lacks(key) })
	must(t, os.Rename(d+".old", d))
	eventually(t, within, "a directory that was moved back", func() bool { return r.has(key, "moved") })
}

// A file that never rests must not keep others from being seen.
func TestSteadyStreamOfChanges(t *testing.T) {
	d := dir(t)
	r := newRecorder()
	watch(t, Options{Dirs: []string{d}}, r)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(filepath.Join(d, "busy"), fmt.Append(nil, i), 0o600)
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	eventually(t, within, "the busy file is seen", func() bool { return r.count(filepath.Join(d, "busy")) > 0 })
	write(t, filepath.Join(d, "key"), "1")
	eventually(t, within, "another file", func() bool { return r.has(filepath.Join(d, "key"), "1") })
}

func TestRaces(t *testing.T) {
	d := dir(t)
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}, Settle: 2 * time.Millisecond}, r)
	rnd := rand.New(rand.NewPCG(1, 2))
	name := func() string { return filepath.Join(d, fmt.Sprintf("k%02d", rnd.IntN(40))) }
	for i := range 1000 {
		p := name()
		switch rnd.IntN(6) {
		case 0:
			_ = os.Rename(p, name())
		case 1:
			_ = os.Truncate(p, int64(rnd.IntN(20)))
		case 2:
			if w, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
				_, _ = fmt.Fprint(w, i)
				_ = w.Close()
			}
		case 3:
			_ = os.Remove(p)
		default:
			_ = os.WriteFile(p, fmt.Append(nil, "file ", i), 0o600)
		}
	}
	disk := func() map[string]string {
		m := map[string]string{}
		list, err := os.ReadDir(d)
		must(t, err)
		for _, e := range list {
			b, err := os.ReadFile(filepath.Join(d, e.Name()))
			must(t, err)
			m[filepath.Join(d, e.Name())] = string(b)
		}
		return m
	}()
	eventually(t, within, "what is known equals the disk", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return maps.Equal(r.there, disk)
	})
	t.Logf("1000 changes, %d scans, %d files at the end", r.scans, len(disk))
	must(t, f.Rescan(t.Context()))
	if !maps.Equal(r.there, disk) {
		t.Error("another scan sees something else")
	}
}

func TestUnchangedFilesAreNotShownAgain(t *testing.T) {
	d := dir(t)
	key := filepath.Join(d, "key")
	write(t, key, "1")
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	must(t, os.Chtimes(key, time.Time{}, time.Now().Add(-time.Hour)))
	write(t, filepath.Join(d, "tmp"), "1")
	must(t, os.Rename(filepath.Join(d, "tmp"), key)) // another file, the same contents
	must(t, f.Rescan(t.Context()))
	must(t, f.Rescan(t.Context()))
	if n := r.count(key); n != 1 {
		t.Errorf("shown %d times", n)
	}
	for _, data := range r.lent {
		if !bytes.Equal(data, make([]byte, len(data))) {
			t.Errorf("what was lent still reads %q", data)
		}
	}
}

// A second write within the clock's tick leaves size and times as they were.
func TestWriteWithinOneTick(t *testing.T) {
	d := dir(t)
	key := filepath.Join(d, "key")
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}}, r)
	for i := range 300 {
		text := fmt.Sprintf("%04d", i)
		write(t, key, text)
		must(t, f.Rescan(t.Context()))
		if !r.has(key, text) {
			t.Fatalf("write %d was missed", i)
		}
	}
}

func TestWithoutKernelWatches(t *testing.T) {
	d := dir(t)
	r := newRecorder()
	o := withDefaults(Options{Dirs: []string{d}, Poll: 10 * time.Millisecond, Log: quiet()})
	f := &Folders{
		scanner: newScanner(o, []Consumer{r}),
		watcher: &watcher{log: quiet(), want: map[string]*interest{}},
		ask:     make(chan chan struct{}), done: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	go f.follow(ctx, f.scan())
	write(t, filepath.Join(d, "key"), "1")
	eventually(t, within, "added", func() bool { return r.has(filepath.Join(d, "key"), "1") })
	must(t, os.Remove(filepath.Join(d, "key")))
	eventually(t, within, "removed", func() bool { return r.lacks(filepath.Join(d, "key")) })
	cancel()
	<-f.Done()
	if err := f.Rescan(t.Context()); err == nil {
		t.Error("scanned after the end")
	}
}

func TestReasonsAreLoggedOnce(t *testing.T) {
	d := dir(t)
	for i := range maxSkipLines + 5 {
		must(t, unix.Mkfifo(filepath.Join(d, fmt.Sprintf("a_fifo%02d", i)), 0o600))
		write(t, filepath.Join(d, fmt.Sprintf("bad%02d", i)), "x")
	}
	write(t, filepath.Join(d, "known_hosts"), "x")
	var log bytes.Buffer
	r := newRecorder()
	r.load = func(f File, _ []byte) error {
		if strings.Contains(f.Path, "bad") {
			return errors.New("bad: " + f.Path)
		}
		return ErrNotMine
	}
	f := watch(t, Options{Dirs: []string{d}, Log: slog.New(slog.NewTextHandler(&log, nil))}, r)
	must(t, f.Rescan(t.Context()))
	if n := strings.Count(log.String(), "\n"); n != maxSkipLines+1 || !strings.Contains(log.String(), "files=25") || strings.Contains(log.String(), "known_hosts") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
	for _, s := range f.Skipped() {
		if s.Ordinary != (filepath.Base(s.Path) == "known_hosts") {
			t.Errorf("%+v", s)
		}
	}
}

func TestCapOnFiles(t *testing.T) {
	d := dir(t)
	for i := range 50 {
		write(t, filepath.Join(d, fmt.Sprint(i)), "x")
	}
	r := newRecorder()
	f := watch(t, Options{Dirs: []string{d}, MaxFiles: 20}, r)
	if len(r.there) != 20 || reason(f, d) == nil {
		t.Errorf("%d files, %v", len(r.there), reason(f, d))
	}
}

func TestConsumersDoNotDisturbEachOther(t *testing.T) {
	d := dir(t)
	write(t, filepath.Join(d, "bad"), "bad")
	write(t, filepath.Join(d, "good"), "good")
	panics, r := newRecorder(), newRecorder()
	panics.load = func(_ File, data []byte) error { return fmt.Errorf("%c", data[9]) }
	r.load = func(f File, _ []byte) error {
		if filepath.Base(f.Path) == "bad" {
			return ErrNotMine
		}
		return nil
	}
	f := watch(t, Options{Dirs: []string{d}}, panics, r)
	if !r.has(filepath.Join(d, "good"), "good") || reason(f, filepath.Join(d, "good")) != nil {
		t.Errorf("the good file: %v", reason(f, filepath.Join(d, "good")))
	}
	if got := reason(f, filepath.Join(d, "bad")); got == nil || !strings.Contains(got.Error(), "cannot be understood") {
		t.Errorf("the bad file: %v", got)
	}
}

func TestRead(t *testing.T) {
	d := dir(t)
	key := filepath.Join(d, "key")
	write(t, key, "secret")
	var lent []byte
	err := Read(key, 0, func(f File, data []byte) error {
		if string(data) != "secret" || f.Path != key || f.Mode != 0o600 || f.ID.Size != 6 {
			t.Errorf("read %q, %+v", data, f)
		}
		st, err := Stat(key)
		if err != nil || st != f {
			t.Errorf("Stat says %+v, %v", st, err)
		}
		lent = data
		return ErrBusy // the function's own: not a reason to read again
	})
	if !errors.Is(err, ErrBusy) || lent == nil {
		t.Errorf("error %v", err)
	}
	must(t, unix.Mkfifo(filepath.Join(d, "fifo"), 0o600))
	for path, want := range map[string]error{
		filepath.Join(d, "none"): ErrGone, filepath.Join(d, "fifo"): ErrPipe, d: ErrDirectory, "/dev/zero": ErrDevice,
	} {
		if err := Read(path, 0, func(File, []byte) error { return nil }); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if err := Read(key, 5, func(File, []byte) error { return nil }); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

func BenchmarkFirstScan1000(b *testing.B) {
	d := b.TempDir()
	if err := os.Chmod(d, 0o700); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("key%04d", i)), make([]byte, 500), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		ctx, cancel := context.WithCancel(context.Background())
		f, err := Watch(ctx, Options{Dirs: []string{d}, Log: quiet()}, newRecorder())
		if err != nil {
			b.Fatal(err)
		}
		cancel()
		<-f.Done()
	}
}
