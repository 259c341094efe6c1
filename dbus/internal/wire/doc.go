// Package wire is the bytes of D-Bus messages: values ([Append], [Unmarshal]),
// message headers ([Header]), and a [Tap] that takes messages off a connection
// before godbus decodes them.
//
// godbus does what is the same for everybody: it authenticates, says hello and
// speaks with the bus. It is not let near what other programs send, because it
// decodes each message on the goroutine that reads, byte by byte and up to
// 128 MiB, takes replies from anybody, and gives a connection up over types
// that it does not know. What this package decodes is bounded by what arrived,
// may be refused by its header alone, and is decoded on whichever goroutine
// the receiver likes.
//
// It follows the D-Bus Specification 0.43, "Message Protocol" and "Type
// System". File descriptors come, a few with each message, and go along with
// those messages that are sent by [Tap.SendFilesAs].
package wire
