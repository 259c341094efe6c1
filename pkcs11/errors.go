package pkcs11

import (
	"context"
	"errors"
	"log/slog"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

var errPanic = errors.New("panic")

// outcomes is how each error is answered, and how loudly this package's journal
// tells of it. A refused use of a key is the Gate's story, told there in one
// line that names caller, key and reason; what a client got wrong is no news.
// The first row that fits counts.
var outcomes = []struct {
	err   error
	rv    p11rpc.RV
	level slog.Level
}{
	{errPanic, p11rpc.GeneralError, slog.LevelError},
	{errBadSignature, p11rpc.DeviceError, slog.LevelError},
	{p11rpc.ErrMechanism, p11rpc.MechanismInvalid, slog.LevelDebug},
	{p11rpc.ErrCall, p11rpc.FunctionNotSupported, slog.LevelDebug},
	{p11rpc.ErrMalformed, p11rpc.DeviceError, slog.LevelDebug}, // as p11-kit's server says it
	{context.Canceled, p11rpc.FunctionCanceled, slog.LevelDebug},
	{context.DeadlineExceeded, p11rpc.FunctionCanceled, slog.LevelDebug},
	{keyring.ErrNotFound, p11rpc.ObjectHandleInvalid, slog.LevelDebug}, // its file went away just now
	{keyring.ErrLocked, p11rpc.UserNotLoggedIn, slog.LevelDebug},
	{keyring.ErrDenied, p11rpc.FunctionRejected, slog.LevelDebug},
	{keyring.ErrAuthFailed, p11rpc.PINIncorrect, slog.LevelDebug},
	{keyring.ErrLockedOut, p11rpc.PINLocked, slog.LevelDebug},
	{keyring.ErrUnsupported, p11rpc.MechanismInvalid, slog.LevelDebug},
	{keyring.ErrUnavailable, p11rpc.DeviceError, slog.LevelDebug},
}

// outcome returns the code that answers err, and the journal's level for it.
func outcome(err error) (p11rpc.RV, slog.Level) {
	var rv p11rpc.RV
	if errors.As(err, &rv) {
		return rv, slog.LevelDebug
	}
	var bad *keyring.CiphertextError
	if errors.As(err, &bad) {
		return p11rpc.EncryptedDataInvalid, slog.LevelDebug
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.rv, o.level
		}
	}
	return p11rpc.GeneralError, slog.LevelError // a defect: the core promised one of these
}
