package folder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of [Watch]. The zero value of each field but Dirs is useful.
type Options struct {
	Dirs     []string      // made absolute; need not exist
	MaxFile  int64         // bytes; DefaultMaxFile if 0
	MaxFiles int           // directory entries looked at in all; DefaultMaxFiles if 0
	MaxDepth int           // of directories below those named; DefaultMaxDepth if 0
	Settle   time.Duration // quiet time after a change before it is looked at; 100 ms if 0
	Poll     time.Duration // between scans where the kernel cannot tell of changes; 5 s if 0
	Log      *slog.Logger  // slog.Default() if nil
}

// Limits on what one scan takes upon itself, so that a directory tree unpacked
// into ~/.ssh cannot keep it busy.
const (
	DefaultMaxFiles = 10_000
	DefaultMaxDepth = 4
)

// A Consumer is shown the files of the watched directories. Its methods are
// called by one goroutine at a time, and should not wait for anything.
type Consumer interface {
	// Load is called for each file that is new or whose contents, mode or owner
	// changed; whatever was loaded from f.Path before is void. data is borrowed
	// and wiped after the call. ErrNotMine means that there is nothing for this
	// consumer in the file; another error says, to a person, why it is left out.
	Load(f File, data []byte) error

	// Scanned is called after a scan that found any change, and after the first:
	// files are all the files there are, sorted by path, with their present ID.
	// The slice is borrowed. With skip it may say of files that it took in Load
	// why they are left out for now, until the next call.
	Scanned(files []File, skip func(path string, reason error))
}

// ErrNotMine is a [Consumer]'s word for a file that has nothing for it.
var ErrNotMine = errors.New("holds no key")

// A Skip is a file or directory that was left out.
type Skip struct {
	Path     string
	Reason   error // fit for a person
	Ordinary bool  // nothing is wrong with it: it just holds no key
}

// Folders are directories under watch.
type Folders struct {
	scanner *scanner
	watcher *watcher
	ask     chan chan struct{}
	done    chan struct{}

	mu      sync.Mutex
	skipped []Skip
}

// Watch scans the directories, and returns when the consumers know everything
// that is in them; it then follows changes until ctx ends. A change is told
// within Settle of the last of a burst, and within five times that however long
// the burst is. [Folders.Done] is closed when the last call to a consumer is
// over.
func Watch(ctx context.Context, o Options, consumers ...Consumer) (*Folders, error) {
	o = withDefaults(o)
	for i, dir := range o.Dirs {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("key directory %q: %w", dir, err)
		}
		o.Dirs[i] = abs
	}
	f := &Folders{
		scanner: newScanner(o, consumers),
		watcher: newWatcher(o.Log),
		ask:     make(chan chan struct{}),
		done:    make(chan struct{}),
	}
	r := f.scan()
	go f.follow(ctx, r)
	return f, nil
}

func withDefaults(o Options) Options {
	o.Dirs = slices.Clone(o.Dirs)
	if o.MaxFile <= 0 {
		o.MaxFile = DefaultMaxFile
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.MaxDepth <= 0 {
		o.MaxDepth = DefaultMaxDepth
	}
	if o.Settle <= 0 {
		o.Settle = 100 * time.Millisecond
	}
	if o.Poll <= 0 {
		o.Poll = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Done is closed when the directories are no longer watched.
func (f *Folders) Done() <-chan struct{} { return f.done }

// Rescan scans once, beginning after the call, and returns when the consumers
// have been told. It is for what the kernel does not tell of, such as a renamed
// directory above a watched one.
func (f *Folders) Rescan(ctx context.Context) error {
	reply := make(chan struct{})
	select {
	case f.ask <- reply:
	case <-f.done:
		return context.Canceled
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-reply:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Skipped returns what the last scan left out, sorted by path. It may be called
// concurrently.
func (f *Folders) Skipped() []Skip {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.skipped)
}

// scan scans once, with the watches renewed on the way.
func (f *Folders) scan() *round {
	r := &round{watch: f.watcher.dir, peek: f.watcher.name}
	r.number = f.watcher.begin()
	f.scanner.scan(r)
	f.watcher.end()
	skipped := make([]Skip, 0, len(r.skips))
	for _, s := range r.skips {
		skipped = append(skipped, s)
	}
	slices.SortFunc(skipped, func(a, b Skip) int { return strings.Compare(a.Path, b.Path) })
	f.mu.Lock()
	f.skipped = skipped
	f.mu.Unlock()
	return r
}

// maxSettles bounds the wait for quiet: a file that never stops changing is
// looked at every so many settling times.
const maxSettles = 5

// follow scans after each burst of changes until ctx ends.
func (f *Folders) follow(ctx context.Context, last *round) {
	defer close(f.done)
	defer f.watcher.close()
	settle := f.scanner.opts.Settle
	timer := time.NewTimer(0)
	timer.Stop()
	var first time.Time // of the present burst; zero: no scan is due
	due := func() {
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		timer.Reset(min(settle, max(0, maxSettles*settle-now.Sub(first))))
	}
	poll := time.NewTicker(f.scanner.opts.Poll)
	defer poll.Stop()
	scanned := func(r *round) {
		if r.again {
			due()
		}
		if f.watcher.blind() {
			poll.Reset(f.scanner.opts.Poll)
		} else {
			poll.Stop()
		}
	}
	scan := func() {
		timer.Stop()
		first = time.Time{}
		scanned(f.scan())
	}
	scanned(last)
	for {
		select {
		case <-ctx.Done():
			return
		case reply := <-f.ask:
			scan()
			close(reply)
		case ev, ok := <-f.watcher.events():
			if !ok || f.watcher.concerns(ev) {
				due()
			}
			if !ok {
				f.watcher.lost()
			}
		case <-f.watcher.errors():
			due() // events were lost: look for oneself
		case <-timer.C:
			scan()
		case <-poll.C:
			scan()
		}
	}
}

// maxSkipLines bounds what one scan writes to the log.
const maxSkipLines = 20

// logSkips tells of what is newly left out, once, and of many files with one
// reason in one line.
func (s *scanner) logSkips(skips map[string]Skip) {
	fresh := map[string][]string{} // paths by reason
	for path, skip := range skips {
		old, ok := s.skips[path]
		if skip.Ordinary || ok && old.Reason.Error() == skip.Reason.Error() {
			continue
		}
		fresh[skip.Reason.Error()] = append(fresh[skip.Reason.Error()], path)
	}
	for i, reason := range slices.Sorted(maps.Keys(fresh)) {
		if i == maxSkipLines {
			s.opts.Log.Warn("more files skipped", "reasons", len(fresh)-i)
			break
		}
		paths := fresh[reason]
		s.opts.Log.Warn("skipped", "path", slices.Min(paths), "files", len(paths), "err", reason)
	}
}
