// Package agent is the ssh-agent protocol's server, RFC 9987: it lets ssh,
// ssh-add, ssh-keygen and git use the keys of a keyring.Keys over a unix socket.
//
// A [Server] serves many connections side by side; a session is one of them,
// and answers its requests in order; an identity is a key as the protocol
// names it, by its public key blob. What a signature is for is read from the
// data to be signed: a login ([userauth]) or a file, commit or tag ([sshsig]).
//
// It follows OpenSSH's ssh-agent in what it accepts, answers and drops, and
// says where it does not. It deliberately has no policy: it never asks the
// user, never remembers an approval and never touches a private key. Requests
// that change the set of keys are answered with FAILURE.
package agent
