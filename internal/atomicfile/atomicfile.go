// Package atomicfile puts small files on disk so that whatever happens, a power
// cut, a full disk or a kill, a reader finds each of them whole or as it was
// before.
//
// [Stage] writes the contents beside where they will be; between it and
// [Staged.Commit] the caller can make sure that they are good. Neither a file
// that is there is overwritten, unless it is said, nor anything lost that was
// staged in place of it.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A File is one file to be put in place.
type File struct {
	Path    string // absolute; a symbolic link is followed where a file is replaced
	Data    []byte // borrowed
	Perm    fs.FileMode
	Replace bool // a file that is there is replaced; otherwise it is fs.ErrExist
}

// A Step is called before each thing that is done to the disk, with what it is
// and to which path; its error stops it from being done. It is for tests that
// want to see what a fault does there; nil does nothing.
type Step func(what, path string) error

func (s Step) before(what, path string) error {
	if s == nil {
		return nil
	}
	return s(what, path)
}

// Staged are files that are on the disk, synced, under names of their own.
// Commit or Discard ends them. It may not be used concurrently.
type Staged struct {
	step  Step
	files []staged
}

type staged struct {
	File
	temp   string
	target os.FileInfo // what is at temp
	placed bool
}

// suffix is what the temporary name ends in. It is the same each time, so that
// what a crash left behind is cleared by the next who writes the same file, and
// there is never more than one.
const suffix = ".keyringd-new"

// temporary is where the contents of path are staged: in the same directory, as
// only then they can be moved in one step.
func temporary(path string) string {
	dir, name := filepath.Split(path)
	return filepath.Join(dir, "."+name+suffix)
}

// IsTemporary reports whether a path is one where a file is staged, or was when
// somebody was killed: nobody's file yet.
func IsTemporary(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, ".") && strings.HasSuffix(name, suffix)
}

// Stage writes files beside their places. Where one is there that may not be
// replaced, the error wraps fs.ErrExist and nothing was written. Two calls for
// the same path must not overlap.
func Stage(step Step, files ...File) (*Staged, error) {
	s := &Staged{step: step}
	for _, f := range files {
		if f.Replace {
			if real, err := filepath.EvalSymlinks(f.Path); err == nil {
				f.Path = real
			}
		} else if _, err := os.Lstat(f.Path); err == nil {
			return nil, &fs.PathError{Op: "create", Path: f.Path, Err: fs.ErrExist}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		s.files = append(s.files, staged{File: f, temp: temporary(f.Path)})
	}
	for i := range s.files {
		if err := s.write(&s.files[i]); err != nil {
			s.Discard()
			return nil, err
		}
	}
	return s, nil
}

// Temp returns where the i-th file is staged.
func (s *Staged) Temp(i int) string { return s.files[i].temp }

func (s *Staged) write(f *staged) (err error) {
	if err := s.step.before("clear", f.temp); err != nil {
		return err
	}
	if err := os.Remove(f.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.step.before("create", f.temp); err != nil {
		return err
	}
	w, err := os.OpenFile(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Perm)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := w.Close(); err == nil {
			err = closeErr
		}
	}()
	if f.target, err = w.Stat(); err != nil {
		return err
	}
	if err := w.Chmod(f.Perm); err != nil { // whatever the umask
		return err
	}
	if err := s.step.before("write", f.temp); err != nil {
		return err
	}
	if _, err := w.Write(f.Data); err != nil {
		return err
	}
	if err := s.step.before("sync", f.temp); err != nil {
		return err
	}
	return w.Sync()
}

// Commit puts the files in their places, in their order. After an error those
// that were not there before are taken away again, and those that were replaced
// stay: the error says which.
func (s *Staged) Commit() error {
	for i := range s.files {
		if err := s.place(&s.files[i]); err != nil {
			return s.undo(err)
		}
	}
	for i := range s.files {
		if err := s.settle(&s.files[i]); err != nil {
			return fmt.Errorf("%s is in place, but a power cut may undo that: %w", s.files[i].Path, err)
		}
	}
	return nil
}

func (s *Staged) place(f *staged) error {
	if f.Replace {
		if err := s.step.before("rename", f.Path); err != nil {
			return err
		}
		if err := os.Rename(f.temp, f.Path); err != nil {
			return err
		}
		f.placed = true
		return nil
	}
	if err := s.step.before("link", f.Path); err != nil {
		return err
	}
	// Unlike a rename, a link never takes the place of anything.
	err := os.Link(f.temp, f.Path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		return s.placeWithoutLinks(f)
	}
	if err != nil {
		return err
	}
	f.placed = true
	if err := s.step.before("unlink", f.temp); err != nil {
		return err
	}
	return os.Remove(f.temp)
}

// placeWithoutLinks is for filesystems that have none, such as FAT: the name is
// taken first, so that only what is empty and ours is replaced.
func (s *Staged) placeWithoutLinks(f *staged) error {
	w, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Perm)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := s.step.before("rename", f.Path); err != nil {
		return errors.Join(err, os.Remove(f.Path))
	}
	if err := os.Rename(f.temp, f.Path); err != nil {
		return errors.Join(err, os.Remove(f.Path))
	}
	f.placed = true
	return nil
}

// settle makes the new name last.
func (s *Staged) settle(f *staged) error {
	dir := filepath.Dir(f.Path)
	if err := s.step.before("sync directory", dir); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a directory last through a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// undo takes away what Commit has put in place where there was nothing.
func (s *Staged) undo(cause error) error {
	for _, f := range s.files {
		if !f.placed {
			continue
		}
		if f.Replace {
			cause = fmt.Errorf("%w (%s was replaced already)", cause, f.Path)
			continue
		}
		if now, err := os.Lstat(f.Path); err == nil && os.SameFile(now, f.target) {
			cause = errors.Join(cause, os.Remove(f.Path))
		}
	}
	s.Discard()
	return cause
}

// Discard takes away what is staged. What was committed stays.
func (s *Staged) Discard() {
	for _, f := range s.files {
		// Only what this Stage has made: before that, there may be somebody else's.
		if now, err := os.Lstat(f.temp); f.target != nil && err == nil && os.SameFile(now, f.target) {
			_ = os.Remove(f.temp)
		}
	}
}
