// Package pkcs11 is the server side of PKCS#11: it lets every program that can
// use a token use the keys of a keyring.Keys, over p11-kit's RPC protocol.
//
// A [Server] serves many connections, each of which is one application in the
// standard's sense. It has two slots, one for keys in the machine's TPM and one
// for ordinary keys, each with a token while there are such keys. A token's
// objects are public keys, private keys and certificates; a key's objects share
// their CKA_ID, which is its keyring.KeyID. [Certificates] finds the
// certificates in the key folders.
//
// A session belongs to the connection that opened it. Private keys are visible
// without a login, because the user is asked where a key is used and not where
// programs happen to log in.
//
// It deliberately has no policy and changes nothing: it never asks the user,
// never touches a private key, and answers with the fitting code whatever would
// write to the token. Section numbers are those of PKCS#11 v2.40 unless they say
// otherwise.
package pkcs11
