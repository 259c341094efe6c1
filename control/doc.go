// Package control serves the socket over which the password of the login
// session arrives: that of gnome-keyring ($XDG_RUNTIME_DIR/keyring/control), so
// that the pam_gnome_keyring.so that every distribution has unlocks keyringd.
//
// A client connects, sends a zero byte (which on other systems carries its
// credentials) and one request, and reads one answer. A request is a length, an
// operation and the operation's strings; an answer is a length and a result.
// Numbers are 32 bits, big-endian; a length counts itself; a string is a length
// and bytes.
//
//	INITIALIZE 0  which components to start and what the environment of the
//	              desktop is; answered with the environment to set. There is
//	              nothing to start and nothing to set: it is answered with none.
//	UNLOCK     1  the password: unlock the login keyring, or make it
//	CHANGE     2  the old password and the new one
//	QUIT       3  is denied: who ends keyringd is the service manager
//
// The answer NO_DAEMON is never given, because pam_gnome_keyring.so then starts
// gnome-keyring-daemon. It also asks whether somebody is here by an UNLOCK
// without a password, to which FAILED is the answer it knows.
//
// The package deliberately does not know what a login keyring is; see [Login].
package control
