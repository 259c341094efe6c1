package store

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/keyringd/keyringd/keyring"
)

// A fault is an error of the core's in words that say more than its name.
type fault struct{ is, cause error }

// Error says what happened.
func (f *fault) Error() string { return f.cause.Error() }

// Unwrap gives both names.
func (f *fault) Unwrap() []error { return []error{f.is, f.cause} }

// problem is an error under a name of the core's.
func problem(is error, format string, args ...any) error {
	return &fault{is, fmt.Errorf(format, args...)}
}

// errDamaged is within every error about something on disk that is not what was
// written there, and within no other.
var errDamaged = errors.New("damaged")

// damaged is an error about what is not as it was written.
func damaged(format string, args ...any) error {
	return &fault{errDamaged, problem(keyring.ErrUnavailable, format, args...)}
}

// damagedItem is damaged about one item, beside which all else can be read.
func damagedItem(collection, id string) error {
	return &fault{errDamaged, problem(keyring.ErrDamaged, "item %s of collection %s is damaged", id, collection)}
}

// unwritten says why something could not be written, and what may help.
func unwritten(what string, err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		hint = "; hint: the disk or the quota is full, make room and try again"
	case errors.Is(err, syscall.EIO):
		hint = "; hint: the disk fails, see the kernel's log and copy the data folder elsewhere"
	case notWritable(err):
		hint = "; hint: see the permissions and the mount options of the data folder"
	}
	return problem(keyring.ErrUnavailable, "%s: nothing was changed: %w%s", what, err, hint)
}

// notWritable reports whether something is there, but not to be written.
func notWritable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// full reports whether there was no room for what was to be written.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}
