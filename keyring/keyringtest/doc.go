// Package keyringtest holds what every implementation of package keyring's
// interfaces must pass, and fakes that pass it too.
//
// [TestKey] is the contract of a keyring.Key. [FakeKey], on a [FakeDevice] that
// counts wrong tries, and [FakePrompter] stand in where a test is about
// something else. It deliberately needs no TPM, no window and no file.
package keyringtest
