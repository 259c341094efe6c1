package control

import (
	"errors"

	"github.com/keyringd/keyringd/keyring"
)

// A result is what an answer says. There is a fourth, NO_DAEMON, which only a
// client says to itself.
type result uint32

const (
	resultOK     result = 0
	resultDenied result = 1
	resultFailed result = 2
)

// outcome is the result for what a Login returned.
func outcome(err error) result {
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, keyring.ErrAuthFailed), errors.Is(err, keyring.ErrDenied), errors.Is(err, keyring.ErrLockedOut):
		return resultDenied
	default:
		return resultFailed
	}
}
