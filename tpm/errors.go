package tpm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/tpm/link"
)

// The errors that callers tell apart. Everything a [Device] or [Key] returns
// wraps one of them, is a [*PolicyError], or is a context error.
var (
	// ErrAuthFailed: the TPM did not accept the auth value.
	ErrAuthFailed = errors.New("wrong PIN")
	// ErrLockedOut: the TPM takes no tries for now; see [LockoutError].
	ErrLockedOut = errors.New("the TPM refuses more tries for now")
	// ErrLastTry: a wrong auth value would lock the TPM for every key that is
	// protected against guessing, so none was sent.
	ErrLastTry = errors.New("only one try is left before the TPM locks")
	// ErrWrongTPM: the key file was made for another TPM, or for this one
	// before it was cleared; or the TPM is not the one known from before.
	ErrWrongTPM = errors.New("not the TPM this key was made for")
	// ErrUnsupported: the key or the TPM cannot do what was asked.
	ErrUnsupported = errors.New("not supported")
	// ErrCiphertext: what was to be decrypted is not for this key, padding and
	// label. It says no more on purpose.
	ErrCiphertext = errors.New("the data cannot be decrypted with this key")
	// ErrUnavailable: there is no TPM, or it does not answer as it should.
	ErrUnavailable = errors.New("the TPM is not available")
)

// A LockoutError is an ErrLockedOut that knows when it ends.
type LockoutError struct{ Lockout Lockout }

// Error says how long to wait, rounded up to what a person can use.
func (e *LockoutError) Error() string {
	w := e.Lockout.Wait()
	switch {
	case w <= 0:
		return ErrLockedOut.Error()
	case w < time.Minute:
		return fmt.Sprintf("the TPM refuses more tries for another %d s", int((w+time.Second-1)/time.Second))
	}
	return fmt.Sprintf("the TPM refuses more tries for another %d min", int((w+time.Minute-1)/time.Minute))
}

// Unwrap makes errors.Is(err, ErrLockedOut) true.
func (e *LockoutError) Unwrap() error { return ErrLockedOut }

// A PolicyError says which step of a key's policy was not satisfied.
type PolicyError struct {
	Alternative string // name of the signed policy the step belongs to, if it has one
	Step        string // what the step demands and that it is not so, in words
	Err         error  // what the TPM said; may be nil
}

// Error names the step.
func (e *PolicyError) Error() string {
	s := "the key's policy is not satisfied: " + e.Step
	if e.Alternative != "" {
		s = fmt.Sprintf("the key's policy %q is not satisfied: %s", e.Alternative, e.Step)
	}
	return s
}

// Unwrap returns what the TPM said.
func (e *PolicyError) Unwrap() error { return e.Err }

// errStale marks an error that means: what we believed to be in the TPM is not
// there any more.
var errStale = errors.New("the TPM has lost what was loaded into it")

// staleIf marks err as stale if it is one of the given codes.
func staleIf(err error, codes ...tpm2.TPMRC) error {
	for _, rc := range codes {
		if errors.Is(err, rc) {
			return fmt.Errorf("%w: %w", errStale, err)
		}
	}
	return err
}

// stale says whether everything loaded must be taken for lost and the operation
// may be played again.
func stale(err error) bool {
	if errors.Is(err, errStale) || errors.Is(err, link.ErrGone) {
		return true
	}
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return false
	}
	// A handle or a session that is not loaded, by its place in the command.
	return rc == tpm2.TPMRCInitialize || rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceS6
}

// garbled says whether err came from an answer that makes no sense: neither a
// response code nor a broken link nor one of our own verdicts.
func garbled(err error) bool {
	var rc tpm2.TPMRC
	return err != nil && !errors.As(err, &rc) && !known(err)
}

// known says whether an error is already one of those that callers tell apart.
func known(err error) bool {
	for _, s := range []error{
		ErrAuthFailed, ErrLockedOut, ErrLastTry, ErrWrongTPM, ErrUnsupported, ErrCiphertext, ErrUnavailable,
		link.ErrGone, errStale, errNeedAuth, errBadSignature, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, s) {
			return true
		}
	}
	var policy *PolicyError
	return errors.As(err, &policy)
}

// public turns what is left over into ErrUnavailable, so that callers always
// have something to tell apart.
func public(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	if known(err) && !errors.Is(err, errStale) && !errors.Is(err, link.ErrGone) && !errors.Is(err, errBadSignature) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// isAuth says whether the TPM refused an auth value: AUTH_FAIL if the try was
// counted, BAD_AUTH if the entity is exempt from counting.
func isAuth(err error) bool {
	return errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth)
}

// isAny says whether err is one of the given codes.
func isAny(err error, codes ...tpm2.TPMRC) bool {
	for _, rc := range codes {
		if errors.Is(err, rc) {
			return true
		}
	}
	return false
}

// handleName says which TPM object a handle is, for a person.
func handleName(handle uint32) string {
	switch tpm2.TPMHandle(handle) {
	case tpm2.TPMRHOwner:
		return "the TPM's owner hierarchy"
	case tpm2.TPMRHEndorsement:
		return "the TPM's endorsement hierarchy"
	case tpm2.TPMRHPlatform:
		return "the TPM's platform hierarchy"
	case tpm2.TPMRHNull:
		return "the TPM's null hierarchy"
	case tpm2.TPMRHLockout:
		return "the TPM's lockout authorization"
	}
	return "the TPM object 0x" + strings.ToLower(fmt.Sprintf("%08x", handle))
}
