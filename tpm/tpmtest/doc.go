// Package tpmtest gives a test a TPM: swtpm, with relays in front that count,
// record and misbehave, and with real tools that make key files on it.
//
// [Start] starts a [TPM]. A [Relay] passes commands on as they are, as if the
// TPM stood behind its address alone. An [RM] does to them what the resource
// manager of the kernel does, so that its address stands for /dev/tpmrm0. Both
// count commands by code, keep every byte, and take faults: codes to answer
// with, commands to hold or delay, bits to flip, connections to drop.
//
// # Connections
//
// swtpm serves one connection at a time, and a second one waits until the first
// ends. All addresses of this package but [TPM.Direct] share one connection and
// take turns on it, command by command. So a program under test may hold
// TPM.Address(), a relay or an RM open while the tools of this package (which
// have an RM of their own) make keys on the same TPM. Whoever uses Direct has
// the TPM to himself and must hang up before anything else here is used.
//
// Sharing a TPM without a resource manager means sharing its three slots: a tool
// needs up to two of them while it runs.
//
// A missing program skips the test, but fails it where KEYRINGD_TEST_REQUIRE=1.
package tpmtest
