// Package sshkeys is the keys in ordinary private key files: OpenSSH's own
// format, and PEM with PKCS #1, SEC 1 and PKCS #8, with or without a
// passphrase; RSA, ECDSA and ed25519.
//
// A [Set] is a consumer of internal/folder: it looks at each file's contents,
// whatever its name, and publishes a [Key] for each private key. What is needed
// to list a key is its public half, which is taken from the part of the file
// that is not encrypted, or from NAME.pub beside it.
//
// The private half is not kept. A key without a passphrase is read from its
// file for each signature; one with a passphrase is decrypted once, and kept in
// secret memory for as long as the Gate remembers the passphrase, because the
// work that protects the file against guessing would otherwise be paid each
// time (about 200 ms). Reading costs some 20 µs and parsing an RSA key a tenth
// of signing with it; in return a removed file stops signing at once, and there
// is no second copy to protect. While a signature is made, and until the
// collector gets round to it, the private half is in ordinary memory, as the
// standard library's types allow nothing else.
//
// [Added] is the keys that programs hand over while the daemon runs, as ssh-add
// does: private halves in secret memory, and nowhere else.
//
// It deliberately does not prompt, cache passphrases or watch files itself, and
// knows nothing of TPMs. DSA, RSA below 1024 bits and keys that live in a
// security key ("sk-") are named and left out.
package sshkeys
