package outside

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/internal/atomicfile"
)

const (
	// maxPut bounds a file that is put down, which is an archive of all secrets.
	maxPut = 256 << 20
	// maxPutFiles is a key and its public half.
	maxPutFiles = 2
)

// A Check is what a kind of files must be like.
type Check struct {
	// Is wants contents to be of the kind, whole and with nothing else in it.
	Is func(data []byte) error
	// Was wants contents of the kind that may be replaced, whoever wrote them and
	// however; nil: Is.
	Was func(data []byte) error
	// Suffix is what their names end with.
	Suffix string
	// Hidden lets them be anywhere: a program that takes such a file for one of its
	// own finds nothing in it.
	Hidden bool
}

func (c Check) replaceable(data []byte) error {
	if c.Was != nil {
		return c.Was(data)
	}
	return c.Is(data)
}

// putFile is an atomicfile.File on its way. Its contents come as a file.
type putFile struct {
	Kind    string      `json:"kind"`
	Path    string      `json:"path"`
	Perm    fs.FileMode `json:"perm"`
	Replace bool        `json:"replace,omitempty"`
}

// Put puts files down where the daemon itself cannot, of kinds that [Serve] has a
// [Check] for: in the home not into a hidden folder, nor by a hidden name, except
// in the folders that [Start] was told of or if the kind may be there, and in the
// place of another file only if that is of the same kind. Errors are as those of atomicfile; it is an
// fs.ErrPermission if it may not be.
func (o *Process) Put(kinds []string, files ...atomicfile.File) error {
	m := message{Op: opPut}
	defer func() { m.close() }()
	for i, f := range files {
		fd, err := unix.MemfdCreate("put", unix.MFD_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("memfd_create", err)
		}
		c := os.NewFile(uintptr(fd), "put")
		m.files = append(m.files, c)
		if _, err := c.Write(f.Data); err != nil {
			return err
		}
		m.Put = append(m.Put, putFile{kinds[i], f.Path, f.Perm, f.Replace})
	}
	_, c, err := o.ask(m)
	if err != nil {
		return err
	}
	a, ok := <-c
	switch {
	case !ok:
		return ErrGone
	case a.Errno != 0:
		return &fs.PathError{Op: "write", Path: a.Path, Err: syscall.Errno(a.Errno)}
	case a.Err != "":
		return errors.New(a.Err)
	}
	return nil
}

// put answers opPut.
func (s *server) put(m message) {
	reply := message{ID: m.ID, Op: opPut}
	if err := s.place(m); err != nil {
		var errno syscall.Errno
		var at *fs.PathError
		reply.Err = err.Error()
		switch {
		case errors.As(err, &errno):
			reply.Errno = int(errno)
		case errors.Is(err, fs.ErrExist):
			reply.Errno = int(syscall.EEXIST)
		}
		if errors.As(err, &at) {
			reply.Path = at.Path
		}
	}
	_ = s.link.send(reply)
}

func (s *server) place(m message) error {
	if len(m.Put) == 0 || len(m.Put) > maxPutFiles || len(m.Put) != len(m.files) {
		return errors.New("a file is missing")
	}
	var files []atomicfile.File
	for i, p := range m.Put {
		f := atomicfile.File{Path: p.Path, Perm: p.Perm & 0o644, Replace: p.Replace}
		check, ok := s.checks[p.Kind]
		if !ok || !strings.HasSuffix(p.Path, check.Suffix) || !s.mayPut(p.Path, check) {
			return &fs.PathError{Op: "write", Path: p.Path, Err: syscall.EACCES}
		}
		var err error
		if f.Data, err = io.ReadAll(io.NewSectionReader(m.files[i], 0, maxPut)); err != nil {
			return err
		}
		defer clear(f.Data)
		if err := check.Is(f.Data); err != nil {
			return fmt.Errorf("%s: %w", p.Path, err)
		}
		if err := replaceable(f, check); err != nil {
			return err
		}
		files = append(files, f)
	}
	staged, err := atomicfile.Stage(nil, files...)
	if err != nil {
		return err
	}
	for i, f := range files {
		got, err := os.ReadFile(staged.Temp(i))
		if err == nil && !bytes.Equal(got, f.Data) {
			err = fmt.Errorf("%s does not come back from the disk as it was written", f.Path)
		}
		clear(got)
		if err != nil {
			staged.Discard()
			return err
		}
	}
	return staged.Commit()
}

// mayPut reports whether a file may be put at a path: hidden ones in the home are
// what programs run at the start of a session, or take their settings from.
func (s *server) mayPut(path string, check Check) bool {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return false
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return true // it will not be written
	}
	real := filepath.Join(dir, filepath.Base(path))
	if check.Hidden || slices.ContainsFunc(s.folders, func(folder string) bool { return isIn(real, folder) }) {
		return true
	}
	names := []string{filepath.Base(real)}
	if home, err := filepath.EvalSymlinks(s.home); err != nil || isIn(real, home) {
		names = strings.Split(strings.TrimPrefix(real, home), "/")
	}
	hidden := func(name string) bool { return strings.HasPrefix(name, ".") }
	return !slices.ContainsFunc(names, hidden)
}

// isIn reports whether a path without links is in a folder.
func isIn(real, folder string) bool {
	folder, err := filepath.EvalSymlinks(folder)
	return err == nil && strings.HasPrefix(real, folder+"/")
}

// replaceable wants a file that is to be replaced to be of the same kind.
func replaceable(f atomicfile.File, check Check) error {
	if !f.Replace {
		return nil
	}
	refused := &fs.PathError{Op: "replace", Path: f.Path, Err: syscall.EACCES}
	there, err := os.OpenFile(f.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer there.Close()
	if info, err := there.Stat(); err != nil || !info.Mode().IsRegular() {
		return refused
	}
	data, err := io.ReadAll(io.LimitReader(there, maxPut))
	defer clear(data)
	if err != nil {
		return err
	}
	if len(data) > 0 && check.replaceable(data) != nil {
		return refused
	}
	return nil
}
