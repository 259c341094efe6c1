// Package agent is the ssh-agent protocol's server, RFC 9987: it lets ssh,
// ssh-add, ssh-keygen and git use the keys of a keyring.Keys over a unix socket.
//
// A [Server] serves many connections side by side; a session is one of them,
// and answers its requests in order; an identity is a key as the protocol
// names it, by its public key blob or by a certificate. Identities come from
// files, with the [Certificates] beside them; from clients, which may bind them
// to constraints, and whose private halves a [Holder] keeps; from smart cards
// and security keys, which [Providers] reach; and from another agent upstream.
//
// A connection can be bound to SSH sessions (session-bind@openssh.com). From
// that, from the data to be signed, a login ([userauth]) or a file, commit or
// tag ([sshsig]), and from known_hosts comes what a question to the user says:
// who logs in where, through which hosts, and what of it is proven.
//
// It follows OpenSSH's ssh-agent in what it accepts, answers and drops, and
// says where it does not; one suite of tests runs against both. It deliberately
// has little policy: it never asks the user, never remembers an approval and
// never sees a private key but on its way to the Holder.
package agent
