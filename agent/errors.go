package agent

import (
	"context"
	"errors"
	"log/slog"

	"github.com/keyringd/keyringd/keyring"
)

var (
	errMalformed  = errors.New("malformed request")
	errNotServed  = errors.New("request not served")
	errUnknownKey = errors.New("unknown key")
	errPanic      = errors.New("panic")
	errSignature  = errors.New("malformed signature from the key")
)

// outcomes is how each error is answered, and how loudly this package's journal
// tells of it. A refused use of a key is the Gate's story, told there in one
// line that names caller, key and reason; what a client got wrong is no news.
// The first row that fits counts.
var outcomes = []struct {
	err   error
	reply byte
	level slog.Level
}{
	{errPanic, msgFailure, slog.LevelError},
	{errSignature, msgFailure, slog.LevelError},
	{errBinding, msgExtensionFailure, slog.LevelDebug},
	{errMalformed, msgFailure, slog.LevelDebug},
	{errNotServed, msgFailure, slog.LevelDebug},
	{errUnknownKey, msgFailure, slog.LevelDebug},
	{errDestination, msgFailure, slog.LevelInfo}, // somebody tries what the owner of the key forbade
	{errRemote, msgFailure, slog.LevelInfo},
	{context.Canceled, msgFailure, slog.LevelDebug}, // the client hung up, or we are stopping
	{context.DeadlineExceeded, msgFailure, slog.LevelDebug},
	{keyring.ErrNotFound, msgFailure, slog.LevelDebug}, // its file went away just now
	{keyring.ErrLocked, msgFailure, slog.LevelDebug},
	{keyring.ErrDenied, msgFailure, slog.LevelDebug},
	{keyring.ErrAuthFailed, msgFailure, slog.LevelDebug},
	{keyring.ErrLockedOut, msgFailure, slog.LevelDebug},
	{keyring.ErrUnsupported, msgFailure, slog.LevelDebug},
	{keyring.ErrUnavailable, msgFailure, slog.LevelDebug},
}

// outcome returns the reply's type and the journal's level for err.
func outcome(err error) (reply byte, level slog.Level) {
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.reply, o.level
		}
	}
	return msgFailure, slog.LevelError // a defect: the core promised one of these
}
