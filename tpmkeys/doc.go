// Package tpmkeys is the keys in TPM key files: files that hold a private key
// which only this machine's TPM can use.
//
// A [Set] is a consumer of internal/folder: it looks at each file's contents,
// whatever its name, and publishes a [Key] for each TPM key. It is where tpm and
// keyring meet: errors, lockout and authorization values are translated here.
//
// Finding and listing keys touches no TPM. A file that does not change keeps
// its [Key], and with it the slot in which the TPM holds it. The package
// deliberately does not prompt, cache PINs, watch files or make keys.
package tpmkeys
