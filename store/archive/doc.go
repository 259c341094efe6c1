// Package archive reads and writes the file in which collections leave the
// keyring and come back: an [Archive]'s [Collection]s and their [Item]s as
// JSON, encrypted with a passphrase or, where the user insists, in clear.
//
// An encrypted archive is
//
//	magic     16 bytes  "keyringd archive"
//	version    1 byte   1
//	threads    1 byte   Argon2id (RFC 9106), version 0x13
//	passes     4 bytes  big-endian
//	memory     4 bytes  big-endian, KiB
//	salt      16 bytes
//	check     32 bytes  HMAC-SHA256 of all before it
//	chunks              of 64 KiB, the last one of 0 to 64 KiB, each with 16 bytes of tag
//
// The passphrase and the salt give a key; HKDF-SHA256 (RFC 5869) without salt
// makes of it one for the check, with the info "check", and one for the chunks,
// with the info "chunks". Chunks are encrypted with XChaCha20-Poly1305; the nonce
// of chunk n is 15 zero bytes, n as 8 bytes big-endian, and 1 for the last chunk
// or 0 for others: keys are used for one archive only. What is left out, added,
// put elsewhere or cut off is noticed.
//
// The package deliberately knows no store: what is read is not yet kept.
package archive
