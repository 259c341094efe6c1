package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/secret"
)

// DefaultMaxFile is the size above which a file is not read. The largest key
// file known, RSA-16384 in OpenSSH's form, has 12 KiB.
const DefaultMaxFile = 64 << 10

// A File is one regular file in a watched directory, at one moment.
type File struct {
	Path string // under the directory as it was named to [Watch]; any bytes
	ID   ID
	Mode fs.FileMode // permission bits of the file itself, behind any symbolic link
	UID  uint32      // its owner: the user's own, or 0
}

// Exposed says why the file is not private, nil if only its owner may read and
// write it.
func (f File) Exposed() error {
	what := "read"
	switch {
	case f.Mode&0o077 == 0:
		return nil
	case f.Mode&0o044 == 0:
		what = "write"
	}
	return fmt.Errorf("mode %04o lets others %s it; chmod 600 %s", f.Mode, what, f.Path)
}

// An ID changes when a file is written, replaced, renamed or given another
// mode or owner. Two different contents within one tick of the filesystem's
// clock may share one.
type ID struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds since 1970
}

// clockTick is the coarsest clock of a local filesystem with room to spare.
const clockTick = 50 * time.Millisecond

// Fuzzy reports, asked once the file was read, whether it had changed so shortly
// before that it may change again and keep its ID. Whoever goes by the ID reads
// such a file again.
func (f File) Fuzzy() bool { return time.Since(time.Unix(0, f.ID.Ctime)) < clockTick }

// The reasons for which a file is not read. A consumer's own reasons are its
// own errors.
var (
	ErrPipe        = errors.New("a named pipe, not a file")
	ErrDevice      = errors.New("a device, not a file")
	ErrSocket      = errors.New("a socket, not a file")
	ErrDirectory   = errors.New("a directory, not a file")
	ErrLinkedDir   = errors.New("a symbolic link to a directory is not followed")
	ErrLinkLoop    = errors.New("a loop of symbolic links")
	ErrLinkNowhere = errors.New("a symbolic link to nothing")
	ErrTooLarge    = errors.New("too large for a key file")
	ErrForeign     = errors.New("belongs to another user")
	ErrUnreadable  = errors.New("cannot be read")
	ErrBusy        = errors.New("changes while it is read")
	ErrGone        = errors.New("is gone")
)

// Read calls fn with what is in the file at path; data is borrowed and wiped
// when fn returns. It has the rules of [Watch]: a regular file of the user's own
// or root's, of at most limit bytes ([DefaultMaxFile] if 0), that does not
// change meanwhile. Errors are fn's own or wrap one of the package's reasons.
func Read(path string, limit int64, fn func(f File, data []byte) error) error {
	if limit <= 0 {
		limit = DefaultMaxFile
	}
	err := ErrBusy
	for try := 0; try < readTries && errors.Is(err, ErrBusy); try++ {
		var st unix.Stat_t
		if st, err = statAt(unix.AT_FDCWD, path); err != nil {
			return err
		}
		if err = admissible(&st, limit); err != nil {
			return err
		}
		// A byte more than the file has, so that growth is noticed.
		buf := secret.New(int(st.Size) + 1)
		buf.Use(func(p []byte) {
			var n int
			var f File
			if n, f, err = readAt(unix.AT_FDCWD, path, limit, p); err != nil {
				return
			}
			f.Path = path
			if fnErr := fn(f, p[:n:n]); fnErr != nil {
				err = calledError{fnErr}
			}
		})
		buf.Wipe()
	}
	if called, ok := err.(calledError); ok {
		return called.error
	}
	return err
}

// calledError marks an error of Read's function, so that it is not taken for
// one of Read's own.
type calledError struct{ error }

// readTries is how often a file that changes under the reader is read again
// before it is left for later.
const readTries = 3

// Stat says what [Read] would find at path, without opening it.
func Stat(path string) (File, error) {
	st, err := statAt(unix.AT_FDCWD, path)
	if err == nil {
		err = admissible(&st, DefaultMaxFile)
	}
	if err != nil {
		return File{}, err
	}
	f := fileOf(&st)
	f.Path = path
	return f, nil
}

// readAt fills p from the file and returns how much there was. The file must
// fit p with a byte to spare and be the same before and after.
func readAt(dir int, name string, limit int64, p []byte) (int, File, error) {
	// O_NONBLOCK so that a pipe put here since it was looked at cannot hang us,
	// O_NOCTTY so that a terminal cannot become ours.
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		return err
	})
	if err != nil {
		return 0, File{}, openError(err)
	}
	defer unix.Close(fd)
	var before, after unix.Stat_t
	if err := fstat(fd, &before); err != nil {
		return 0, File{}, err
	}
	if err := admissible(&before, limit); err != nil {
		return 0, File{}, err
	}
	n := 0
	for n < len(p) {
		var k int
		err := again(func() (err error) { k, err = unix.Read(fd, p[n:]); return err })
		if err != nil {
			return 0, File{}, openError(err)
		}
		if k == 0 {
			break
		}
		n += k
	}
	if err := fstat(fd, &after); err != nil {
		return 0, File{}, err
	}
	f := fileOf(&after)
	if fileOf(&before) != f || int64(n) != f.ID.Size {
		return 0, File{}, ErrBusy
	}
	return n, f, nil
}

// admissible says why a file must not be read, nil if it may be.
func admissible(st *unix.Stat_t, limit int64) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFIFO:
		return ErrPipe
	case unix.S_IFSOCK:
		return ErrSocket
	case unix.S_IFDIR:
		return ErrDirectory
	case unix.S_IFLNK:
		return ErrLinkLoop
	default:
		return ErrDevice
	}
	if err := ownedByUs(st); err != nil {
		return err
	}
	if st.Size > limit {
		return fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, st.Size, limit)
	}
	return nil
}

// ownedByUs accepts what the user or root owns: another user could change it
// at will.
func ownedByUs(st *unix.Stat_t) error {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: uid %d", ErrForeign, st.Uid)
	}
	return nil
}

func fileOf(st *unix.Stat_t) File {
	return File{
		ID: ID{
			Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, // Dev is 32 bits wide on some machines
			Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
		},
		Mode: fs.FileMode(st.Mode & 0o777),
		UID:  st.Uid,
	}
}

// statAt looks at what name leads to, through symbolic links.
func statAt(dir int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstatat(dir, name, &st, 0) })
	if errors.Is(err, unix.ENOENT) {
		var link unix.Stat_t
		if unix.Fstatat(dir, name, &link, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return st, ErrLinkNowhere
		}
	}
	if err != nil {
		return st, openError(err)
	}
	return st, nil
}

func fstat(fd int, st *unix.Stat_t) error {
	if err := again(func() error { return unix.Fstat(fd, st) }); err != nil {
		return openError(err)
	}
	return nil
}

// openError gives a system error one of the package's names.
func openError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESTALE):
		return ErrGone
	case errors.Is(err, unix.ELOOP):
		return ErrLinkLoop
	case errors.Is(err, unix.ENXIO): // a socket, or a pipe's device
		return ErrSocket
	}
	return fmt.Errorf("%w: %w", ErrUnreadable, err)
}

// again repeats a system call that a signal interrupted.
func again(call func() error) error {
	for {
		err := call()
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// target returns the directory and name of the file that a symbolic link leads
// to, so that a change there is noticed as well. Of a link to nothing it is what
// the link itself says.
func target(path string) (dir, name string, ok bool) {
	end, err := filepath.EvalSymlinks(path)
	if err != nil {
		if end, err = os.Readlink(path); err != nil {
			return "", "", false
		}
		if !filepath.IsAbs(end) {
			end = filepath.Join(filepath.Dir(path), end)
		}
	}
	return filepath.Dir(end), filepath.Base(end), true
}
