// Package foreign reads the files in which other programs keep secrets:
// gnome-keyring's encrypted and plaintext keyrings, and the keyrings that
// libsecret's file backend and oo7 write. Its nouns are a [Keyring] with its
// [Item]s, the [Format] of a file, and a [Reader] that goes through whole
// folders.
//
// What can be read of a damaged file is read, and the keyring's Notes say what
// was repaired or left out: the files often are the only copy there is. For the
// same reason nothing here writes: files are opened for reading, and what
// becomes of their contents is not decided here.
package foreign
