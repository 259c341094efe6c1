// Package assuan speaks the Assuan line protocol (libassuan manual,
// "Assuan", chapters 2 and 3), both sides of it: a [Client] sends a command
// and reads its reply, a [Server] reads commands and calls a [Handler].
//
// Data may be secret: it goes from the line buffer, which is locked memory,
// into a [secret.Bytes] and never through a string. Everything from the other
// side is bounded: a line by [MaxLine], a reply by the client's limits.
//
// It deliberately knows no command but those of the protocol itself, starts no
// process and has no deadlines: closing the underlying pipe ends a wait.
package assuan

import (
	"errors"
	"fmt"
)

// MaxLine is the longest line that may be sent, without its line feed.
const MaxLine = 1000

// Errors of the transport. After one of them the connection is useless.
var (
	// ErrProtocol is wrapped when the other side does not keep to the protocol.
	ErrProtocol = errors.New("assuan protocol violated")
	// ErrTooLong is wrapped when a line or a reply exceeds its limit.
	ErrTooLong = errors.New("too long")
)

// Error codes of libgpg-error that the protocol's users tell apart, without
// the source that wrote them, which is in the upper bits.
const (
	CodeGeneral        = 1
	CodeTimeout        = 62
	CodeNotImplemented = 69
	CodeCanceled       = 99
	CodeNotConfirmed   = 114
	CodeUnknownOption  = 174
	CodeFullyCanceled  = 198
	CodeUnknownCommand = 275
	CodeParameter      = 280
)

// sourcePinentry is libgpg-error's GPG_ERR_SOURCE_PINENTRY, shifted: what a
// server of this package, which answers like one, puts into its codes.
const sourcePinentry = 5 << 24

// An Error is an ERR line: the command failed, and the connection goes on.
type Error struct {
	Code uint32 // libgpg-error code with its source, as on the wire
	Text string // for people; from the other side, not sanitised
}

// Errorf returns an Error with one of the Code constants.
func Errorf(code uint32, format string, args ...any) *Error {
	return &Error{Code: sourcePinentry | code, Text: fmt.Sprintf(format, args...)}
}

// Error shows code and text, the latter quoted where it is not plain.
func (e *Error) Error() string { return fmt.Sprintf("error %d %q", e.Code, e.Text) }

// Reason returns the code without its source.
func (e *Error) Reason() uint32 { return e.Code & 0xffff }
