package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// No sentinel of the core is forgotten, and each has an answer of its own.
func TestEveryErrorHasItsCode(t *testing.T) {
	want := map[error]p11rpc.RV{
		keyring.ErrNotFound:    p11rpc.ObjectHandleInvalid,
		keyring.ErrLocked:      p11rpc.UserNotLoggedIn,
		keyring.ErrDenied:      p11rpc.FunctionRejected,
		keyring.ErrAuthFailed:  p11rpc.PINIncorrect,
		keyring.ErrLockedOut:   p11rpc.PINLocked,
		keyring.ErrUnsupported: p11rpc.MechanismInvalid,
		keyring.ErrUnavailable: p11rpc.DeviceError,
	}
	for _, sentinel := range keyring.Errors {
		rv, level := outcome(fmt.Errorf("key x: %w", sentinel))
		if w, ok := want[sentinel]; !ok || rv != w {
			t.Errorf("%v: answered %v (%#x), want %#x", sentinel, rv, uint64(rv), uint64(w))
		}
		if level != slog.LevelDebug {
			t.Errorf("%v is told at level %v: the Gate has told it already", sentinel, level)
		}
	}
	for err, w := range map[error]p11rpc.RV{
		&keyring.LockoutError{}:                  p11rpc.PINLocked,
		context.Canceled:                         p11rpc.FunctionCanceled,
		fmt.Errorf("x: %w", p11rpc.DataLenRange): p11rpc.DataLenRange,
		errors.New("a defect"):                   p11rpc.GeneralError,
	} {
		if rv, _ := outcome(err); rv != w {
			t.Errorf("%v: answered %v, want %v", err, rv, w)
		}
	}
}
