package folder

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/secret"
)

// readBatch is how many directory entries are fetched at a time, so that a
// directory of millions costs no more memory than the cap on files allows.
const readBatch = 512

// scanner holds what is known from one scan to the next. It is used by one
// goroutine at a time.
type scanner struct {
	opts      Options
	consumers []Consumer
	buf       secret.Bytes
	digestKey []byte

	known map[string]*known
	skips map[string]Skip
	first bool
}

// known is what is remembered of a file that was read.
type known struct {
	file   File
	digest [sha256.Size]byte // keyed: a digest of a short secret must not tell it
	fuzzy  bool              // read within a clock tick of its last change
	skip   Skip              // Reason nil: some consumer took it
	late   error             // why it is left out although some consumer took it
	round  uint64
}

// round is one scan in the making.
type round struct {
	number  uint64
	files   []File
	skips   map[string]Skip
	seen    map[[2]uint64]bool // directories, by device and inode
	entries int
	capped  bool
	changed bool
	again   bool // something changed while it was read

	watch func(dir string)       // every directory, before it is read
	peek  func(dir, name string) // one name in a directory elsewhere
}

func newScanner(o Options, consumers []Consumer) *scanner {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return &scanner{
		opts: o, consumers: consumers, digestKey: key, first: true,
		buf:   secret.New(int(o.MaxFile) + 1),
		known: map[string]*known{},
	}
}

// scan looks at every directory once and tells the consumers.
func (s *scanner) scan(r *round) {
	r.skips, r.seen = map[string]Skip{}, map[[2]uint64]bool{}
	r.files = make([]File, 0, len(s.known))
	for _, dir := range s.opts.Dirs {
		s.top(r, dir)
	}
	for path, k := range s.known {
		if k.round != r.number {
			delete(s.known, path)
			r.changed = true
		}
	}
	if r.changed || s.first {
		s.tell(r)
	}
	for path, k := range s.known {
		if k.late != nil {
			r.skip(path, k.late, false)
		}
	}
	s.first = false
	s.logSkips(r.skips)
	s.skips = r.skips
}

// tell ends a scan for the consumers.
func (s *scanner) tell(r *round) {
	slices.SortFunc(r.files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	for _, k := range s.known {
		k.late = nil
	}
	skip := func(path string, reason error) {
		if k := s.known[path]; k != nil {
			k.late = reason
		}
	}
	for _, c := range s.consumers {
		if err := guard(func() error { c.Scanned(r.files, skip); return nil }); err != nil {
			s.opts.Log.Error("key files could not be taken over", "err", err)
		}
	}
}

// top scans one of the directories the user named. It may be a symbolic link
// and need not exist.
func (s *scanner) top(r *round, dir string) {
	r.watch(dir)
	fd := -1
	err := again(func() (err error) {
		fd, err = unix.Openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		// Not a fault: it is watched for, and found when it comes.
	case errors.Is(err, unix.ENOTDIR):
		r.skip(dir, errors.New("not a directory"), false)
	case err != nil:
		r.skip(dir, openError(err), false)
	default:
		s.dir(r, fd, dir, 0)
	}
}

// dir scans the directory open at fd, which it closes.
func (s *scanner) dir(r *round, fd int, path string, depth int) {
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	var st unix.Stat_t
	if err := fstat(fd, &st); err != nil {
		r.skip(path, err, false)
		return
	}
	id := [2]uint64{uint64(st.Dev), st.Ino} // Dev is 32 bits wide on some machines
	if r.seen[id] {
		return
	}
	r.seen[id] = true
	if err := ownedByUs(&st); err != nil {
		r.skip(path, err, false)
		return
	}
	if st.Mode&0o022 != 0 {
		r.skip(path, fmt.Errorf("mode %04o lets others put files here; chmod 700 %s", st.Mode&0o7777, path), false)
		return
	}
	if depth > 0 {
		r.watch(path)
	}
	for !r.capped {
		list, err := d.ReadDir(readBatch)
		for _, e := range list {
			if r.entries++; r.entries > s.opts.MaxFiles {
				r.skip(path, fmt.Errorf("more than %d files; the rest is not looked at", s.opts.MaxFiles), false)
				r.capped = true
				return
			}
			s.entry(r, fd, path, e.Name(), e.Type(), depth)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			r.skip(path, openError(err), false)
		}
		if err != nil {
			return
		}
	}
}

// entry scans one entry of the directory open at dirfd.
func (s *scanner) entry(r *round, dirfd int, dir, name string, kind os.FileMode, depth int) {
	path := filepath.Join(dir, name)
	if kind.IsDir() {
		s.subdir(r, dirfd, path, name, depth+1)
		return
	}
	st, err := statAt(dirfd, name)
	linked := kind&os.ModeSymlink != 0
	if linked && (err != nil || int(st.Uid) == os.Geteuid()) {
		// What is another's, such as root's package store, is replaced by way of
		// the link and not in place.
		if td, tn, ok := target(path); ok {
			r.peek(td, tn)
		}
	}
	if err == nil {
		err = admissible(&st, s.opts.MaxFile)
	}
	switch {
	case errors.Is(err, ErrGone):
	case errors.Is(err, ErrDirectory) && linked:
		r.skip(path, ErrLinkedDir, true)
	case err != nil:
		// Sockets lie in ~/.ssh by design: agents and shared connections.
		r.skip(path, err, errors.Is(err, ErrSocket))
	default:
		s.file(r, dirfd, path, name, fileOf(&st))
	}
}

func (s *scanner) subdir(r *round, dirfd int, path, name string, depth int) {
	if depth > s.opts.MaxDepth {
		r.skip(path, fmt.Errorf("more than %d directories deep", s.opts.MaxDepth), false)
		return
	}
	fd := -1
	err := again(func() (err error) {
		fd, err = unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	switch err = openError(err); {
	case errors.Is(err, ErrGone):
	case err != nil:
		r.skip(path, err, false)
	default:
		s.dir(r, fd, path, depth)
	}
}

// file reads a regular file if it is not known as it is, and shows it to the
// consumers if its contents are new.
func (s *scanner) file(r *round, dirfd int, path, name string, f File) {
	f.Path = path
	k := s.known[path]
	if k == nil || k.file != f || k.fuzzy {
		var err error
		if k, err = s.load(r, k, dirfd, path, name); err != nil {
			// What it was is forgotten: scan sees that the round is not this one.
			if !errors.Is(err, ErrGone) {
				r.skip(path, err, false)
			}
			return
		}
		s.known[path] = k
	}
	k.round = r.number
	r.files = append(r.files, k.file)
	if k.skip.Reason != nil {
		r.skips[path] = k.skip
	}
}

// load reads a file, and shows it to the consumers if it is not what old says.
func (s *scanner) load(r *round, old *known, dirfd int, path, name string) (k *known, err error) {
	for range readTries {
		s.buf.Use(func(p []byte) {
			var n int
			var f File
			if n, f, err = readAt(dirfd, name, s.opts.MaxFile, p); err != nil {
				clear(p)
				return
			}
			defer clear(p[:n])
			f.Path = path
			k = &known{file: f, digest: s.digest(p[:n])}
			k.fuzzy = f.Fuzzy()
			if old != nil && old.digest == k.digest && old.file.Mode == f.Mode && old.file.UID == f.UID {
				k.skip, k.late = old.skip, old.late
				r.changed = r.changed || old.file != f
				return
			}
			r.changed = true
			k.skip = s.show(f, p[:n:n])
		})
		if !errors.Is(err, ErrBusy) {
			break
		}
		r.again = true
	}
	return k, err
}

func (s *scanner) digest(data []byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, s.digestKey)
	h.Write(data)
	h.Sum(sum[:0])
	return sum
}

// show hands a file to each consumer. The result has no Reason if one of them
// took it, else the best reason why none did.
func (s *scanner) show(f File, data []byte) Skip {
	out := Skip{Path: f.Path, Reason: ErrNotMine, Ordinary: true}
	took := false
	for _, c := range s.consumers {
		switch err := guard(func() error { return c.Load(f, data) }); {
		case err == nil:
			took = true
		case !errors.Is(err, ErrNotMine):
			out.Reason, out.Ordinary = err, false
		}
	}
	if took {
		return Skip{}
	}
	return out
}

// guard calls a consumer: a file that makes it panic is one bad file, no more.
// The panic's value is not told, as it may quote the file.
func guard(call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot be understood (%T)", p)
		}
	}()
	return call()
}

func (r *round) skip(path string, reason error, ordinary bool) {
	r.skips[path] = Skip{Path: path, Reason: reason, Ordinary: ordinary}
}
