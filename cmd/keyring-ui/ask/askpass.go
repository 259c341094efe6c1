package ask

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/keyringd/keyringd/prompt"
)

// Askpass asks as OpenSSH wants it of the program in SSH_ASKPASS (ssh(1),
// "ENVIRONMENT"): text is the program's argument, hint the variable
// SSH_ASKPASS_PROMPT. It writes what was typed to w, with a line feed, and
// returns the exit status and, for standard error, why it is not 0.
//
// With "confirm" only the exit status counts; with "none" the text is shown
// until the asker kills the program, or the user has seen it.
func Askpass(ctx context.Context, screen Screen, w io.Writer, text, hint string) (int, error) {
	q := Question{Kind: prompt.Passphrase, Text: text}
	switch hint {
	case "confirm":
		q.Kind = prompt.Confirm
	case "none":
		q.Kind, q.OneButton = prompt.Notice, true
	default:
		// Whether a host's key is the right one: the answer is a word.
		q.Visible = strings.Contains(text, "(yes/no")
	}
	a, err := screen.Show(ctx, q, Helpers{})
	defer a.Passphrase.Wipe()
	if err != nil {
		return 1, err
	}
	switch {
	case q.Kind == prompt.Notice:
		return 0, nil
	case a.Action != Accepted:
		return 1, nil
	case q.Kind == prompt.Confirm:
		return 0, nil
	}
	var failed error
	a.Passphrase.Use(func(p []byte) {
		if _, failed = w.Write(p); failed == nil {
			_, failed = w.Write([]byte{'\n'})
		}
	})
	if failed != nil {
		return 1, fmt.Errorf("answer: %w", failed)
	}
	return 0, nil
}
