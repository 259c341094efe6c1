package folder

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// watcher keeps kernel watches on the directories of the last scan. It is used
// by one goroutine.
//
// Its events only say that it is time to look; what happened is found out by
// looking. So each scan asks for all its watches again, which costs a system
// call each and needs no book-keeping about directories that came and went.
type watcher struct {
	log    *slog.Logger
	notify *fsnotify.Watcher // nil: the kernel has none to give
	round  uint64
	want   map[string]*interest
	remote bool // some directory changes without the kernel knowing
	failed bool // some watch could not be had
	told   bool
}

// interest is what of a directory matters: everything, or some names in it.
type interest struct {
	round uint64
	all   bool
	names map[string]bool
}

func newWatcher(log *slog.Logger) *watcher {
	w := &watcher{log: log, want: map[string]*interest{}}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		w.fail("", err)
	}
	return w
}

func (w *watcher) begin() uint64 {
	w.round++
	w.remote, w.failed = false, w.notify == nil
	return w.round
}

// end drops the watches that the round did not ask for.
func (w *watcher) end() {
	for dir, in := range w.want {
		if in.round != w.round {
			delete(w.want, dir)
			if w.notify != nil {
				_ = w.notify.Remove(dir) // gone with its directory, as a rule
			}
		}
	}
}

// dir watches everything in a directory. If it does not exist, the nearest one
// above it is watched for its coming; if it is reached by a symbolic link, so
// is the link.
func (w *watcher) dir(path string) {
	for range watchTries {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			if real != path {
				w.name(filepath.Dir(path), filepath.Base(path))
			}
			if w.add(real, "") {
				return
			}
		}
		// Watch first and look afterwards, so that what comes in between is seen.
		up := path
		for {
			name := filepath.Base(up)
			up = filepath.Dir(up)
			if above, err := filepath.EvalSymlinks(up); err == nil && w.add(above, name) {
				break
			}
			if up == filepath.Dir(up) {
				return
			}
		}
		if _, err := os.Stat(path); err != nil {
			return
		}
	}
}

// watchTries bounds the race with somebody who makes and removes a directory
// without end; the events of doing so lead to the next scan anyway.
const watchTries = 8

// name watches one name in a directory.
func (w *watcher) name(dir, name string) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		w.add(real, name)
	}
}

// add watches the directory for name, "" for everything, and reports whether
// the directory is there.
func (w *watcher) add(dir, name string) bool {
	in := w.want[dir]
	fresh := in == nil || in.round != w.round
	if in == nil {
		in = &interest{}
	}
	if fresh {
		if isRemote(dir) {
			w.remote = true
		}
		if w.notify != nil {
			// Asked for again in each round: it does nothing where the watch is
			// there, and renews it where the directory is another by now.
			if err := w.notify.Add(dir); err != nil {
				if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
					return false
				}
				w.fail(dir, err)
			}
		}
		*in = interest{round: w.round}
	}
	w.want[dir] = in
	if name == "" {
		in.all = true
	} else {
		if in.names == nil {
			in.names = map[string]bool{}
		}
		in.names[name] = true
	}
	return true
}

// fail notes that the kernel gives no watch, and says so once.
func (w *watcher) fail(dir string, err error) {
	w.failed = true
	if !w.told {
		w.told = true
		w.log.Warn("changes of key files are noticed late: the kernel gives no watch", "path", dir, "err", err)
	}
}

// blind reports whether changes can go unnoticed, so that polling is needed.
func (w *watcher) blind() bool { return w.failed || w.remote }

// concerns reports whether an event is about anything the last scan asked for.
func (w *watcher) concerns(ev fsnotify.Event) bool {
	if in := w.want[ev.Name]; in != nil && (in.all || ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename)) {
		return true
	}
	in := w.want[filepath.Dir(ev.Name)]
	return in != nil && (in.all || in.names[filepath.Base(ev.Name)])
}

// events is nil, and so never ready, where there are none.
func (w *watcher) events() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	return w.notify.Events
}

func (w *watcher) errors() <-chan error {
	if w.notify == nil {
		return nil
	}
	return w.notify.Errors
}

// lost takes note that the kernel's events ended.
func (w *watcher) lost() {
	w.notify = nil
	w.fail("", errors.New("events ended"))
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// isRemote reports whether a directory's filesystem can change without this
// kernel doing it.
func isRemote(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	switch uint32(st.Type) { // the magic numbers have 32 bits
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.V9FS_MAGIC,
		unix.CEPH_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		return true
	}
	return false
}
