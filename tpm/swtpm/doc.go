// Package swtpm runs a private software TPM: the program swtpm as a child, for
// --tpm swtpm and for tests.
//
// A [Process] is that child and whoever looks after it: it is started again
// when it dies by itself, on the same state and socket, and ends with its
// parent. Its keys are as safe as the folder that holds the state, no more.
//
// swtpm serves one connection at a time: whoever dials second waits until the
// first hangs up.
package swtpm
