// Package pkcs11 is the server side of PKCS#11: it lets every program that can
// use a token use the keys of a keyring.Keys, over p11-kit's RPC protocol.
//
// A [Server] serves many connections, each of which is one application in the
// standard's sense. It has two slots, one for keys in the machine's TPM and one
// for ordinary keys, each with a token while there are such keys; the TPM's has
// one also where a keyring.Maker can make the first. A token's objects are public
// keys, private keys and certificates; a key's objects share their CKA_ID, which
// is its keyring.KeyID, whatever ID a program would like. [Certificates] finds the
// certificates in the key folders, and adds to them. [URI] names a key for other
// programs' configuration.
//
// A session belongs to the connection that opened it, and so do the secret keys
// that come of deriving and unwrapping. Private keys are visible without a login,
// because the user is asked where a key is used and not where programs happen to
// log in.
//
// It deliberately has no policy: it never asks the user and never touches a
// private key. A program can have a key made and a certificate written beside its
// key; nothing is ever deleted, changed or written over, and whatever would is
// answered with the fitting code. Section numbers are those of PKCS#11 v2.40
// unless they say otherwise.
package pkcs11
