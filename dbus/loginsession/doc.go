// Package loginsession tells what the login session is at: its screen is locked
// or unlocked, it is idle, the machine goes to sleep or wakes, the user logs
// out.
//
// [Watch] asks logind on the system bus (org.freedesktop.login1(5)) and the
// desktop's screen saver on the session bus, and calls the functions of an
// [Events]. A source is one of those that say whether the screen is locked. An
// inhibitor is logind's promise to wait for us before the machine sleeps.
//
// It deliberately decides nothing: what is forgotten when is the caller's. It
// trusts no message but those of the program that owns the name, as on the
// system bus everybody may send to everybody.
package loginsession
