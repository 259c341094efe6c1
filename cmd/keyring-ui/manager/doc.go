// Package manager is the window for looking after keys and keyrings: what is in
// it, how it looks, and how it behaves. A [Manager] is the window's content; a
// [Daemon] is keyringd as it sees it, and [Link] the one on the message bus.
//
// Nothing here waits for the daemon on the goroutine that draws: each call has a
// goroutine of its own, and ends with the window. What the daemon tells is shown
// as it is, but for what would make it look like something else. Secrets are
// shown when the user asks, and forgotten when they look away; toolkits keep
// texts where nobody can wipe them, so that none is fetched before.
//
// It deliberately opens no window, so that it is tested without a display:
// whoever has one puts a Manager into it. All its methods belong to the
// goroutine that draws.
package manager
