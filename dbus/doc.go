// Package dbus is the D-Bus front end: it lets programs on the session bus list
// a keyring.Keys, sign with its keys and follow their changes, and it is the
// Secret Service of a keyring.Secrets, the back end of the portal for
// applications' own keys, and where keyrings are looked after.
//
// A [Server] holds one connection to the bus at a time, and makes it anew when
// the bus comes back; a node is an object's path with the interfaces that
// answer there, looked up at each call; a sender is a program on the bus, by
// its unique name, with its own limits, sessions and prompts, and with a context
// that ends when it leaves; an announcer tells the bus of changes to secrets.
// The interface files (*.xml) are the source of the method tables.
//
// It deliberately has no policy: it never asks the user, remembers nothing and
// never touches a private key. godbus carries the connection; what other
// programs send is decoded by package wire, whose doc says why; package transfer
// encrypts secrets on their way.
package dbus
