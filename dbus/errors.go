package dbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/keyringd/keyringd/dbus/internal/transfer"
	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/keyring"
)

var (
	errUnknownObject    = errors.New("no such object")
	errUnknownInterface = errors.New("no such interface here")
	errUnknownMethod    = errors.New("no such method")
	errUnknownProperty  = errors.New("no such property")
	errReadOnly         = errors.New("the property cannot be set")
	errArguments        = errors.New("wrong arguments")
	errLimit            = errors.New("over the limit")
	errForeign          = errors.New("only for programs of the same user")
	errNotOwn           = errors.New("the socket is not the calling process's own")
	errSandbox          = errors.New("key files are for programs outside of a sandbox")
	errKeyrings         = errors.New("keyrings are looked after by programs outside of a sandbox")
	errPortal           = errors.New("applications' keys are for the portal")
	errNoSession        = errors.New("no such session, or it is another program's")
	errPrompted         = errors.New("the prompt was called already")
	errMaster           = errors.New("the passphrase does not open it")
	errPanic            = errors.New("panic")
	errSignature        = errors.New("malformed signature from the key")
)

const (
	standard      = "org.freedesktop.DBus.Error."
	secretService = "org.freedesktop.Secret.Error."
)

// outcomes is what each error is called on the bus, and how loudly this
// package's journal tells of it. A refused use of a key is the Gate's story,
// told there; what a client got wrong is no news. The first row that fits
// counts.
var outcomes = []struct {
	err   error
	name  string
	level slog.Level
}{
	{errPanic, standard + "Failed", slog.LevelError},
	{errSignature, standard + "Failed", slog.LevelError},
	{errUnknownObject, standard + "UnknownObject", slog.LevelDebug},
	{errUnknownInterface, standard + "UnknownInterface", slog.LevelDebug},
	{errUnknownMethod, standard + "UnknownMethod", slog.LevelDebug},
	{errUnknownProperty, standard + "UnknownProperty", slog.LevelDebug},
	{errReadOnly, standard + "PropertyReadOnly", slog.LevelDebug},
	{errArguments, standard + "InvalidArgs", slog.LevelDebug},
	{wire.ErrMalformed, standard + "InvalidArgs", slog.LevelDebug},
	{errLimit, standard + "LimitsExceeded", slog.LevelDebug},
	{errForeign, standard + "AccessDenied", slog.LevelWarn},
	{errNotOwn, standard + "AccessDenied", slog.LevelWarn},
	{errSandbox, standard + "AccessDenied", slog.LevelWarn},
	{errKeyrings, standard + "AccessDenied", slog.LevelWarn},
	{errPortal, standard + "AccessDenied", slog.LevelWarn},
	{errNoSession, secretService + "NoSession", slog.LevelDebug},
	{errPrompted, secretService + "AlreadyExists", slog.LevelDebug},
	{errMaster, "org.gnome.keyring.Error.Denied", slog.LevelDebug},
	{transfer.ErrAlgorithm, standard + "NotSupported", slog.LevelDebug},
	{transfer.ErrPeer, standard + "InvalidArgs", slog.LevelDebug},
	{transfer.ErrTransfer, standard + "InvalidArgs", slog.LevelDebug},
	{context.Canceled, standard + "NoReply", slog.LevelDebug}, // the sender left, or we are stopping
	{context.DeadlineExceeded, standard + "Timeout", slog.LevelDebug},
	{keyring.ErrNotFound, secretService + "NoSuchObject", slog.LevelDebug},
	{keyring.ErrLocked, secretService + "IsLocked", slog.LevelDebug},
	{keyring.ErrDenied, standard + "AccessDenied", slog.LevelDebug},
	{keyring.ErrAuthFailed, standard + "AuthFailed", slog.LevelDebug},
	{keyring.ErrLockedOut, standard + "Failed", slog.LevelDebug},
	{keyring.ErrUnsupported, standard + "NotSupported", slog.LevelDebug},
	{keyring.ErrUnavailable, standard + "Failed", slog.LevelDebug},
}

// outcome returns the error's name on the bus and the journal's level.
func outcome(err error) (name string, level slog.Level) {
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.name, o.level
		}
	}
	return standard + "Failed", slog.LevelError // a defect: the core promised one of these
}

func badArgument(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errArguments, fmt.Sprintf(format, args...))
}
