package agent

import (
	"crypto/sha256"
	"crypto/sha512"
)

const (
	sshsigMagic = "SSHSIG"
	// maxNamespace bounds what an approval may be remembered for. Real
	// namespaces are words such as "git" and "file".
	maxNamespace = 255
)

// An sshsig is the data that is signed for a file, a commit or a tag (OpenSSH,
// PROTOCOL.sshsig §3). Its fields are parts of the data they were parsed from.
type sshsig struct {
	namespace []byte // what the signature is for, such as "git"
	reserved  []byte
	hash      []byte // "sha256" or "sha512"
	digest    []byte // of the message, by that hash
}

// parseSSHSig reports false unless data is exactly such a thing.
func parseSSHSig(data []byte) (sshsig, bool) {
	d := decoder{rest: data}
	magic := d.take(len(sshsigMagic))
	s := sshsig{namespace: d.string(), reserved: d.string(), hash: d.string(), digest: d.string()}
	if !d.done() || string(magic) != sshsigMagic ||
		len(s.namespace) == 0 || len(s.namespace) > maxNamespace {
		return sshsig{}, false
	}
	size := map[string]int{"sha256": sha256.Size, "sha512": sha512.Size}[string(s.hash)]
	if size == 0 || len(s.digest) != size {
		return sshsig{}, false
	}
	return s, true
}
