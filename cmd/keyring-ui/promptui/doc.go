// Package promptui is the view of a question: what is in the window, how it
// looks, and how it behaves. [New] makes a [View] of an [ask.Question].
//
// All texts of a question are shown as they are, but for what would make them
// look like something else; none is markup. The buttons and the entry stay on
// screen however long the texts are.
//
// It deliberately opens no window and draws nothing itself, so that it is
// tested without a display: whoever has a window puts a View into it, on
// Fyne's own goroutine, which all methods belong to.
package promptui

import "time"

// Guard is how long a window is on screen, and no key was pressed, before a
// question that Enter could answer takes an answer: keys that were typed for
// another window are not meant for this one. [View.Arm] ends it.
const Guard = 500 * time.Millisecond
