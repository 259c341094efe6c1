// Package sshkeys is the keys in ordinary private key files: OpenSSH's own
// format, and PEM with PKCS #1, SEC 1 and PKCS #8, with or without a
// passphrase; RSA, ECDSA and ed25519.
//
// A [Set] is a consumer of internal/folder: it looks at each file's contents,
// whatever its name, and publishes a [Key] for each private key. What is needed
// to list a key is its public half, which is taken from the part of the file
// that is not encrypted, or from NAME.pub beside it.
//
// The private half is read at the first signature, and kept in secret memory: of
// a file with a passphrase for as long as the Gate remembers that, because the
// work that protects the file against guessing would otherwise be paid each time
// (about 200 ms); of another, which lies on the disk in clear, until the file
// changes. Each use looks first whether the file is still there and as it was, so
// that a removed or changed one stops signing at once. While a signature is made,
// and until the collector gets round to it, the private half is in ordinary
// memory, as the standard library's types allow nothing else.
//
// [Added] is the keys that programs hand over while the daemon runs, as ssh-add
// does: private halves in secret memory, and nowhere else.
//
// It deliberately does not prompt, cache passphrases or watch files itself, and
// knows nothing of TPMs. DSA, RSA below 1024 bits and keys that live in a
// security key ("sk-") are named and left out.
package sshkeys
