// Package ask turns what other programs ask for into a [Question], has a
// [Screen] show it, and carries the answer back: as a pinentry program
// ([Server]), or as an SSH_ASKPASS program ([Askpass]).
//
// It deliberately knows no window: a Screen is whatever can show a question.
package ask

import (
	"context"
	"errors"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

// A Question is one window's worth of asking. Its texts are from other
// programs and not sanitised; "" stands for words of our own.
type Question struct {
	Kind prompt.Kind // NewPassphrase is also a GETPIN that wants a repetition

	// What any asker may say, in its own words.
	Title     string // of the window
	Text      string // what this is about, several lines
	Label     string // before the entry
	Error     string // what was wrong with the previous answer
	OK        string // on the buttons
	NotOK     string // on a third button, of a Confirm; "": there is none
	Cancel    string
	OneButton bool // a Confirm that can only be taken note of
	Visible   bool // what is typed need not be hidden: it is no secret

	// Of a NewPassphrase.
	RepeatLabel  string
	RepeatError  string // the two are not the same
	RepeatOK     string // they are
	QualityLabel string // before the bar
	QualityHint  string
	Generate     string // on the button that fills in a proposal
	GenerateHint string
	Hint         string // what is demanded of it
	HintLong     string
	ErrorTitle   string // what to say of one that was turned down

	// What keyringd says of its questions, see prompt.Question.
	Parts
}

// Parts are the facts of a question, to be shown one by one. The zero value
// means that the asker did not tell any.
type Parts struct {
	Known       bool // the asker speaks in facts, so that Text need not be shown
	Subject     string
	Fingerprint string
	Host        string
	HostWarning string
	Through     string
	Reason      string
	Caller      string
	Warning     string
	Retry       bool
	Left        int
	PIN         bool
	Remember    time.Duration
	Terms       bool // the user may choose how long the answer stands
	Automatic   bool // he may choose not to be asked again
}

// An Action is what the user did.
type Action int

const (
	// Cancelled is also what a window that vanishes leaves behind.
	Cancelled Action = iota
	// Closed is Cancelled by way of the window's frame.
	Closed
	// Refused is an explicit no.
	Refused
	// Accepted is OK.
	Accepted
)

// An Answer is how a question ended.
type Answer struct {
	Action Action
	// Passphrase is set where one was asked for and the Action is Accepted. The
	// receiver wipes it.
	Passphrase secret.Bytes
	// Repeated says that the passphrase was typed twice, the same.
	Repeated bool
	// Term is how long an accepted answer stands, where Parts.Terms offered that.
	Term prompt.Term
	// Automatic is set where it was offered and taken.
	Automatic bool
}

// Helpers are questions that a Screen may have for the asker while its own is
// on screen; nil ones are not offered. They may be called by any goroutine,
// block until the asker answers, and fail once Show has returned.
type Helpers struct {
	// Quality rates a passphrase, from -100 (not acceptable) to 100.
	Quality func(secret.Bytes) (int, error)
	// Generate proposes a passphrase, which is the caller's to Wipe.
	Generate func() (secret.Bytes, error)
	// Check returns what is wrong with a passphrase, "" for nothing.
	Check func(secret.Bytes) (string, error)
}

// A Screen shows one question at a time.
type Screen interface {
	// Show puts q on the screen and returns how it was answered. The end of
	// ctx takes it off, and is the error. [ErrNoScreen] is wrapped where there
	// is nothing to show it on.
	Show(ctx context.Context, q Question, h Helpers) (Answer, error)
}

// ErrNoScreen means that a question could not be shown, which is not the same
// as that the user did not want to answer it.
var ErrNoScreen = errors.New("cannot open a window")
