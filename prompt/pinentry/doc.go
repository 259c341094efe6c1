// Package pinentry asks the user by running a program: [Program] runs a
// pinentry, or anything else that speaks its protocol, such as keyring-ui;
// [Askpass] runs an SSH_ASKPASS program; [New] chooses.
//
// Each question is one run of the program, in a session of its own, which is
// killed when the question's context ends and dies with this process. Nothing
// secret is passed to it; what it answers goes into locked memory. keyring-ui,
// whose toolkit takes its time, is started before it is asked, see
// [DefaultStandby].
//
// It deliberately draws nothing, and puts no order on questions: that is
// [prompt.Queue].
package pinentry

import "time"

const (
	// DefaultTimeout is how long a question stays on screen if nobody answers.
	// Longer, and the user who comes back would not know any more what asked.
	DefaultTimeout = 2 * time.Minute

	// readyWithin is how long a program may take until it can show a question.
	// A toolkit starts within two seconds on a busy machine.
	readyWithin = 15 * time.Second
	// exitWithin is how long it may take to go once it has answered.
	exitWithin = time.Second
	// killAfter is how long it may take to go when it is told to: a terminal
	// program puts its terminal in order.
	killAfter = 250 * time.Millisecond
	// timeoutGrace is how much longer than the program itself we wait for its
	// own timeout.
	timeoutGrace = 5 * time.Second
	// maxStderr bounds what is kept of a program's error messages.
	maxStderr = 1 << 10
	// maxRounds is how often a new passphrase may be repeated wrongly.
	maxRounds = 3
)
