// Package secret holds bytes that must not leak: PINs, passphrases, decrypted
// private keys.
//
// [Bytes] is a handle on memory outside the Go heap that is locked (not
// swapped), left out of core dumps and not inherited by children, and that is
// overwritten by [Bytes.Wipe]. [Harden] makes the whole process unreadable to
// others of the same user.
//
// It does not promise that no copy exists: whatever is decoded by other
// packages passes through ordinary memory first. What it promises is that the
// copy which is kept for minutes is kept here.
package secret
