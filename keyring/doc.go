// Package keyring is the keys and secrets that one user holds, and the rules
// for using them.
//
// A [Key] can sign; [Keys] is the set of them, fed by sources such as a folder
// of key files; a [Gate] stands before every use, and asks the user where one
// must be asked; a [Caller] is the process that a use is for.
//
// It deliberately knows no protocol, no TPM and no window: front ends call it,
// devices and stores implement its interfaces, and questions go to a
// prompt.Prompter.
package keyring
