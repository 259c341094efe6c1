// Package tpmkeys is the keys in TPM key files: files that hold a private key
// which only this machine's TPM can use.
//
// A [Set] is a consumer of internal/folder: it looks at each file's contents,
// whatever its name, and publishes a [Key] for each TPM key. It is where tpm and
// keyring meet: errors, lockout and authorization values are translated here.
//
// A [Maker] makes such files: new keys, keys of other files, keys for another
// machine; and changes and removes them, so that no fault on the way loses one.
// It asks for PINs through the Gate. A [Sealer] binds a store's secret to the
// TPM.
//
// Finding and listing keys touches no TPM. A file that does not change keeps
// its [Key], and with it the slot in which the TPM holds it. The package
// deliberately shows no prompt, caches no PIN and watches no file.
package tpmkeys
