package foreign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keyringd/keyringd/internal/secret"
)

const (
	extension = ".keyring"
	// login is the keyring that has the passwords of others in it.
	login = "login"
	// maxTries is how often one keyring's password is asked for. Nothing but the
	// user's patience is spent on them.
	maxTries = 3
)

// ErrSkip is what a Reader's Ask returns for a keyring that shall be left out.
var ErrSkip = errors.New("left out")

// A File is a keyring that was found.
type File struct {
	Path          string
	Name          string // without the folder and ".keyring"
	Format        Format
	NeedsPassword bool
	// Default says that new secrets went into it where nobody said otherwise.
	Default bool
}

// A Result is what became of a file: a keyring or an error. An unreadable file
// has its Path and Name at least.
type Result struct {
	File    File
	Keyring *Keyring // the receiver's to Wipe
	// Chained says that the password was found in the login keyring.
	Chained bool
	// Err wraps ErrFormat, ErrPassword, ErrSkip, or what the system said.
	Err error
}

// A Reader reads files and whole folders of keyrings, such as
// $XDG_DATA_HOME/keyrings. Every file is opened for reading only.
type Reader struct {
	// Ask returns the password of a keyring; it is wiped after use. retry says
	// that the last one was wrong. ErrSkip leaves the keyring out, any other
	// error ends the whole. nil: leave out what needs a password that is not
	// found in the login keyring.
	Ask func(ctx context.Context, f File, retry bool) (secret.Bytes, error)
}

// Read reads what paths name, which are files and folders. Of a folder it takes
// NAME.keyring and v1/NAME.keyring, and what "default" says. The login keyring
// is read first: it has the passwords of keyrings that the user chose to have
// unlocked with it. A password that opened one keyring is tried with the next
// before the user is asked.
//
// There is a Result for every file, and an error only where ctx or Ask ended
// the whole; what was read until then is wiped. A path that does not exist is a
// Result, too.
func (r *Reader) Read(ctx context.Context, paths ...string) ([]Result, error) {
	files := find(paths)
	slices.SortStableFunc(files, func(a, b Result) int { return rank(a.File) - rank(b.File) })
	s := &session{reader: r, chained: map[string]secret.Bytes{}}
	defer s.wipe()
	for n := range files {
		if err := s.read(ctx, &files[n]); err != nil {
			for _, f := range files[:n] {
				if f.Keyring != nil {
					f.Keyring.Wipe()
				}
			}
			return nil, err
		}
	}
	return files, nil
}

// rank puts the login keyrings first.
func rank(f File) int {
	if f.Name == login {
		return 0
	}
	return 1
}

// find lists the files that paths name.
func find(paths []string) []Result {
	var all []Result
	seen := map[string]bool{}
	add := func(path string, named bool, defaults string) {
		name, keyring := strings.CutSuffix(filepath.Base(path), extension)
		if seen[path] || !(named || keyring) {
			return
		}
		seen[path] = true
		all = append(all, Result{File: File{Path: path, Name: name, Default: defaults != "" && name == defaults}})
	}
	for _, path := range paths {
		path = filepath.Clean(path)
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			add(path, true, defaultName(filepath.Dir(path)))
			continue
		}
		if err == nil {
			err = list(path, defaultName(path), add)
		}
		if err != nil {
			all = append(all, Result{File: File{Path: path, Name: filepath.Base(path)}, Err: err})
		}
	}
	return all
}

// list adds the keyrings in a folder and in v1 below it.
func list(dir, defaults string, add func(path string, named bool, defaults string)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		add(filepath.Join(dir, e.Name()), false, defaults)
	}
	below := filepath.Join(dir, "v1")
	entries, err = os.ReadDir(below)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	for _, e := range entries {
		add(filepath.Join(below, e.Name()), false, defaults)
	}
	return nil
}

// defaultName returns what the file "default" says, "" without one.
func defaultName(dir string) string {
	data, err := load(filepath.Join(dir, "default"))
	if err != nil || len(data) > 1024 {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// load reads a whole file, which it only opens for reading and does not wait
// for: what is no ordinary file may never end.
func load(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file: %w", path, ErrFormat)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d MiB: %w", path, maxFile>>20, ErrFormat)
	}
	return data, err
}

// A session is one call of Read: it knows the passwords that were found.
type session struct {
	reader  *Reader
	chained map[string]secret.Bytes // by the name of the keyring they open
	opened  []secret.Bytes          // those that opened a keyring
}

func (s *session) wipe() {
	for _, p := range s.chained {
		p.Wipe()
	}
	for _, p := range s.opened {
		p.Wipe()
	}
}

// read reads one file into r. It returns an error only for what ends the whole.
func (s *session) read(ctx context.Context, r *Result) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.Err != nil {
		return nil
	}
	data, err := load(r.File.Path)
	if err != nil {
		r.Err = err
		return nil
	}
	defer clear(data) // which may have secrets in it as they are
	r.File.Format, r.File.NeedsPassword = Detect(data), NeedsPassword(data)
	if !r.File.NeedsPassword {
		s.finish(r, data, secret.Bytes{})
		return nil
	}
	if p, ok := s.chained[r.File.Name]; ok && s.finish(r, data, p) {
		r.Chained = r.Err == nil
		return nil
	}
	for _, p := range s.opened {
		if s.finish(r, data, p) {
			return nil
		}
	}
	return s.ask(ctx, r, data)
}

// ask asks until a password is right or the user has had enough.
func (s *session) ask(ctx context.Context, r *Result, data []byte) error {
	r.Err = fmt.Errorf("%s: nobody knows its password: %w", r.File.Path, ErrSkip)
	if s.reader.Ask == nil {
		return nil
	}
	for try := range maxTries {
		p, err := s.reader.Ask(ctx, r.File, try > 0)
		if errors.Is(err, ErrSkip) {
			r.Err = fmt.Errorf("%s: %w", r.File.Path, ErrSkip)
			return nil
		}
		if err != nil {
			p.Wipe()
			return err
		}
		done := s.finish(r, data, p)
		if done && r.Err == nil {
			s.opened = append(s.opened, p)
		} else {
			p.Wipe()
		}
		if done {
			return nil
		}
	}
	return nil
}

// finish reads data with a password, and reports whether another one would not
// help.
func (s *session) finish(r *Result, data []byte, password secret.Bytes) bool {
	k, err := Read(data, password)
	if err != nil {
		r.Err = fmt.Errorf("%s: %w", r.File.Path, err)
		return !errors.Is(err, ErrPassword)
	}
	k.Name = r.File.Name
	r.Keyring, r.Err = k, nil
	if k.Name == login {
		s.chain(k)
	}
	return true
}

// chain remembers the passwords that the login keyring has of others. They lie
// in items with the attribute keyring=LOCAL:/keyrings/NAME.keyring.
func (s *session) chain(k *Keyring) {
	for _, i := range k.Items {
		at, file := filepath.Split(i.Attributes["keyring"])
		name, ok := strings.CutSuffix(file, extension)
		if !ok || at != "LOCAL:/keyrings/" {
			continue
		}
		s.chained[name].Wipe()
		s.chained[name] = i.Secret.Clone()
	}
}
