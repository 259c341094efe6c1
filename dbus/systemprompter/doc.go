// Package systemprompter asks the user through the desktop's own prompter, the
// program behind org.gnome.keyring.SystemPrompter: GNOME Shell, whose prompts
// are the only truly modal ones on Wayland, or gcr-prompter.
//
// A [Prompter] opens a connection to the session bus for each question, begins
// a prompt, shows it, and ends it; an exchange is how an answer travels, so that
// it is not on the bus in clear (gcr, "GcrSecretExchange"). It keeps out
// whoever watches the bus, and not whoever could stand between.
//
// It deliberately sees a question and returns an answer, and cannot reach keys.
package systemprompter
