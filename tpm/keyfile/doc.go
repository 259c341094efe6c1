// Package keyfile reads and writes the files that hold a TPM key.
//
// A [File] is one "TSS2 PRIVATE KEY": the public area of a TPM object, its
// private area (which only one TPM can open), the parent it hangs under, and
// what must be shown to use it. It is loadable, importable or sealed. The
// older "TSS2 KEY BLOB" is read and written too; a TPM 1.2 key is recognised
// and refused by name.
//
// The format is that of draft-bottomley-tpm2-keys-00. Where its writers differ
// from it, and only there, [Parse] is tolerant; [File.DER] gives back the very
// bytes that were read.
//
// The package touches no device, reads no files, and holds no secrets: what a
// private area contains is encrypted, and a PIN is never part of a file.
package keyfile
