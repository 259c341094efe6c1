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

// ErrDamaged is the ErrUnavailable of one item that is there and cannot be read,
// while all else can.
var ErrDamaged = fmt.Errorf("damaged, and %w", ErrUnavailable)

// Errors is every sentinel of this package, so that a front end's test can see
// that none was forgotten.
var Errors = []error{
	ErrNotFound, ErrLocked, ErrDenied, ErrAuthFailed, ErrLockedOut, ErrUnsupported, ErrUnavailable,
}

// ErrTryWithheld is for [Key.Sign] to tell the [Gate], and nobody else: the key
// found that only one try is left before its device locks, and did not spend
// auth on it. The Gate then looks at [Guarded.Tries] and asks the user. It is
// not in [Errors], because no front end ever sees it.
var ErrTryWithheld = errors.New("the last try is withheld")

// A LockoutError is an ErrLockedOut that knows when it ends.
type LockoutError struct {
	Until time.Time // when the device gives a try back; zero: not known
	Kept  bool      // one try is left, and is not spent by guessing
}

// Error says until when, on the user's clock, with the day where that is not
// today.
func (e *LockoutError) Error() string {
	until := e.Until.Format("15:04")
	if now := time.Now(); e.Until.YearDay() != now.YearDay() || e.Until.Year() != now.Year() {
		until = e.Until.Format("15:04 on 2 January")
	}
	switch {
	case e.Kept && e.Until.IsZero():
		return "one try is left before the TPM locks; it is kept until the TPM gives another one back"
	case e.Kept:
		return "one try is left before the TPM locks; it is kept, and the TPM gives another one back at " + until
	case e.Until.IsZero():
		return "the TPM refuses more tries for now"
	default:
		return "the TPM refuses more tries until " + until
	}
}

// Unwrap makes errors.Is(err, ErrLockedOut) true.
func (e *LockoutError) Unwrap() error { return ErrLockedOut }
