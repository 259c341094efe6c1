package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
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

// within is how long a change may take to be known on a machine at full load.
// Without the kernel's events it would be never: nothing is polled.
const within = time.Minute

func TestNoticedWithinASecond(t *testing.T) {
	if o := withDefaults(Options{}); maxSettles*o.Settle > time.Second/2 || o.Poll <= time.Second {
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
	if o.Poll == 0 {
		o.Poll = time.Hour
	}
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
