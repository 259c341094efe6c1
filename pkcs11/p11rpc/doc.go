// Package p11rpc reads and writes p11-kit's RPC protocol, in which PKCS#11
// calls travel over a socket.
//
// A [Frame] carries one message: a [Call], its signature, and fields of the
// kinds that the signature names. A [Decoder] takes the fields of a message
// apart and an [Encoder] puts them together, one method for each kind. The
// types [RV], [AttributeType] and so on are the numbers of PKCS#11 itself.
//
// The protocol has no document; p11-kit's rpc-message.h is its source. Its
// numbers, signatures and framings are the interface and are kept exactly.
//
// It deliberately knows no sockets, sessions or keys. What it decodes is taken
// to be hostile: every length, count and depth is checked before memory is
// spent on it.
package p11rpc
