package tpmkeys

import (
	"context"
	"errors"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm"
)

// table says which of the core's errors a TPM's error is.
var table = []struct{ from, to error }{
	{tpm.ErrAuthFailed, keyring.ErrAuthFailed},
	{tpm.ErrLastTry, keyring.ErrTryWithheld},
	{tpm.ErrLockedOut, keyring.ErrLockedOut},
	{tpm.ErrUnsupported, keyring.ErrUnsupported},
	{tpm.ErrCiphertext, &keyring.CiphertextError{}},
	{tpm.ErrWrongTPM, keyring.ErrUnavailable},
	{tpm.ErrUnavailable, keyring.ErrUnavailable},
}

// translate turns an error of the TPM's into one of the core's that still says
// what happened. What has no counterpart, such as a policy that is not
// satisfied, is ErrUnavailable: the key cannot be used now.
func translate(path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var lockout *tpm.LockoutError
	if errors.As(err, &lockout) {
		e := &keyring.LockoutError{}
		if wait := lockout.Lockout.Wait(); wait > 0 {
			e.Until = time.Now().Add(wait)
		}
		return &failure{path, e, err}
	}
	for _, row := range table {
		if errors.Is(err, row.from) {
			return &failure{path, row.to, err}
		}
	}
	return &failure{path, keyring.ErrUnavailable, err}
}

// A failure is an error of the TPM's under a name of the core's. It speaks in
// the TPM's words, which say more.
type failure struct {
	path  string
	is    error
	cause error
}

// Error says what the TPM said of which file.
func (f *failure) Error() string { return f.path + ": " + f.cause.Error() }

// Unwrap gives both names.
func (f *failure) Unwrap() []error { return []error{f.is, f.cause} }
