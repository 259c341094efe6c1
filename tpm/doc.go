// Package tpm is an open TPM 2.0: it takes turns at it, loads keys from key
// files, signs, decrypts and agrees on secrets with them, makes and changes such
// files, and brings everything back after a reset.
//
// A [Device] is one TPM. A [Key] is a key file on it; making one touches
// nothing, the TPM is first spoken to when a signature is wanted. A space (not
// exported) is what is seen of the TPM's memory through one link: without a
// resource manager there is one for the whole device, in which keys take turns
// at the few slots; behind a resource manager every key has a space of its own,
// so that the manager has nothing but that key to swap in and out. A parent is
// the TPM's own key that a key file hangs under.
//
// Auth values go to the TPM only through a session salted to a parent whose
// name was checked, and only as an HMAC, or encrypted where they are new: no
// byte of them is ever on the bus. What is decrypted comes from the TPM encrypted.
// A signature is checked against the public key before it is handed out.
//
// The package asks nobody anything but [Options.ParentAuth], remembers no auth
// value of a key, and knows nothing of users, prompts or callers. It never
// makes anything persistent in the TPM, evicts nothing persistent, and never
// resets the dictionary attack counter.
package tpm
