package keyring

import (
	"errors"
	"fmt"
	"time"
)

// The errors that front ends tell apart. Everything the core returns wraps one
// of them or is a context error; [Errors] lists them all.
var (
	ErrNotFound    = errors.New("not found")
	ErrLocked      = errors.New("locked")
	ErrDenied      = errors.New("refused by the user")
	ErrAuthFailed  = errors.New("wrong PIN or passphrase")
	ErrLockedOut   = errors.New("the TPM refuses more tries for now")
	ErrUnsupported = errors.New("not supported")
	ErrUnavailable = errors.New("not available")
)

// Errors is every sentinel of this package, so that a front end's test can see
// that none was forgotten.
var Errors = []error{
	ErrNotFound, ErrLocked, ErrDenied, ErrAuthFailed, ErrLockedOut, ErrUnsupported, ErrUnavailable,
}

// A LockoutError is an ErrLockedOut that knows when it ends.
type LockoutError struct {
	Until time.Time // when the device takes a try again
}

// Error says until when, on the user's clock.
func (e *LockoutError) Error() string {
	return fmt.Sprintf("the TPM refuses more tries until %s", e.Until.Format("15:04"))
}

// Unwrap makes errors.Is(err, ErrLockedOut) true.
func (e *LockoutError) Unwrap() error { return ErrLockedOut }
