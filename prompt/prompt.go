// Package prompt is the vocabulary of asking a person: a Question, its Answer,
// and the Prompter that shows one and waits for the other.
//
// It deliberately knows no key, no protocol and no window: package
// prompt/pinentry asks by running a program, and [Queue] keeps questions from
// appearing on top of each other.
package prompt

import (
	"context"
	"errors"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// A Kind says what sort of answer a question wants.
type Kind int

const (
	// Passphrase asks for the passphrase or PIN of something that exists.
	Passphrase Kind = iota
	// NewPassphrase asks for a passphrase to be chosen, and repeated.
	NewPassphrase
	// Confirm asks for permission. The safe answer, no, is the default.
	Confirm
	// Notice tells the user something and wants no answer but "seen".
	Notice
)

// A Question is one thing to ask the user. It says who is asking and why, so
// that a person can refuse it. All texts but Subject's quotes are shown as they
// are, so whoever fills them in sanitises what came from outside.
type Question struct {
	Kind     Kind
	Subject  string        // the key or collection, as the user knows it
	Reason   string        // "sign in as mia", if known
	Caller   string        // "ssh (1234) ← git ← zsh"
	Warning  string        // what the user must know before answering, such as "last try"
	Retry    bool          // the previous answer was wrong
	Left     int           // tries left before we stop; 0: not limited
	PIN      bool          // the user calls it a PIN (TPM keys), not a passphrase
	Remember time.Duration // how long the answer will be remembered; 0: not at all

	// What is known of where a use leads. All may be empty.
	Host        string // "git.example.org", or the host key's fingerprint
	HostWarning string // "not verified", with the reason; "": the name is known to belong to the host key
	Through     string // the hosts that the asker's connection is forwarded through, "gw.example.org → build7"
	Fingerprint string // of the key, as ssh-keygen -l prints it

	// Terms offers the choice of how long the answer stands: each [Term]. False:
	// the asker has decided.
	Terms bool
	// Automatic offers to unlock without asking from now on, where this machine's
	// TPM can do that.
	Automatic bool
}

// A Term is how long an answer stands.
type Term int

const (
	Once      Term = iota // this use and no other
	ForAWhile             // for Question.Remember
	UntilLock             // until the user locks, logs out or takes it back
)

// An Answer is what the user said.
type Answer struct {
	// Passphrase is set for Passphrase and NewPassphrase. The receiver wipes it.
	Passphrase secret.Bytes
	// Term is set, and Chosen true, where Question.Terms offered the choice and
	// the prompter could show it.
	Term   Term
	Chosen bool
	// Automatic is true where it was offered and taken.
	Automatic bool
}

// A Prompter asks the user one question and waits for the answer. Cancelling
// ctx takes the question off the screen. Errors wrap [ErrDismissed] (the user
// said no) or [ErrUnavailable] (there is nobody to ask), or are ctx's.
// Implementations may be called concurrently.
type Prompter interface {
	Prompt(ctx context.Context, q Question) (Answer, error)
}

var (
	// ErrDismissed means that the user saw the question and refused it.
	ErrDismissed = errors.New("dismissed")
	// ErrUnavailable means that the question could not be shown to anybody.
	ErrUnavailable = errors.New("no way to ask the user")
)
