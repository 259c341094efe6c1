// Package sshhelper reaches keys in smart cards and security keys through
// OpenSSH's own helper programs: ssh-pkcs11-helper(8) loads a PKCS #11 library,
// ssh-sk-helper(8) speaks to a FIDO token.
//
// [Programs] is an agent.Providers. A card is a helper process with one library
// in it, for as long as that is loaded; a security key's helper lives for one
// signature. Foreign code never runs in the daemon: a library that crashes or
// hangs takes its helper along, and nothing else.
//
// It speaks what the helpers of OpenSSH 8.9 to 10.0 speak, as ssh-pkcs11.c and
// ssh-sk-client.c have it. Each signature is checked before it is handed on, so
// that a helper of another version is an error and never a bad signature.
package sshhelper
