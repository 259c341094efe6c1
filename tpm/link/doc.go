// Package link is one open channel to a TPM: it finds the device an [Address]
// names, carries one command at a time over it, and counts what it carried.
//
// An [Address] is what --tpm says. A [Link] is a connection to it; it frames
// commands and responses (TPM 2.0 Library, Part 1, "Command/Response
// Structure"), gives every command a deadline, and repeats for a bounded time
// what a TPM asks to be repeated. [Counters] say how many commands of which
// kind were sent and how long they took.
//
// It knows nothing of handles, sessions or authorization: that is package tpm.
// It reads the command code and the response code and nothing else, so that no
// secret passes through its hands in a form that it understands.
package link
