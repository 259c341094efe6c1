package agent

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func loginData(user, method string, blob, hostKey []byte) []byte {
	b := slices.Concat(str("session id"), []byte{msgUserauthRequest}, str(user), str(serviceConnection),
		str(method), []byte{1}, str("ssh-ed25519"), str(blob))
	if hostKey != nil {
		b = append(b, str(hostKey)...)
	}
	return b
}

func sshsigData(namespace, hash string, digest []byte) []byte {
	return slices.Concat([]byte(sshsigMagic), str(namespace), str(""), str(hash), str(digest))
}

// encode is what the client had encoded.
func (u userauth) encode() []byte {
	method := methodPublicKey
	if u.hostKey != nil {
		method = methodHostBound
	}
	b := slices.Concat(str(u.sessionID), []byte{msgUserauthRequest}, str(u.user), str(serviceConnection),
		str(method), []byte{1}, str(u.algorithm), str(u.blob))
	if u.hostKey != nil {
		b = append(b, str(u.hostKey)...)
	}
	return b
}

func (s sshsig) encode() []byte {
	return slices.Concat([]byte(sshsigMagic), str(s.namespace), str(s.reserved), str(s.hash), str(s.digest))
}

func TestPurpose(t *testing.T) {
	blob, host := edKey(1).blob(), edKey(9).blob()
	fp := ssh.FingerprintSHA256(must(ssh.ParsePublicKey(host)))
	cert := &ssh.Certificate{Key: must(ssh.ParsePublicKey(host)), CertType: ssh.HostCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, must(ssh.NewSignerFromSigner(edKey(8).signer))); err != nil {
		t.Fatal(err)
	}
	const unknown = "sign data of an unknown kind"
	login := loginData("mia", methodPublicKey, blob, nil)
	commit := sshsigData("git", "sha512", make([]byte, 64))
	for _, c := range []struct {
		name          string
		data          []byte
		reason, scope string
	}{
		{"login", login, "log in as mia", unknownHost},
		{"host", loginData("mia", methodHostBound, blob, host), "log in as mia to host key " + fp, "unproven " + fp},
		{"host certificate", loginData("mia", methodHostBound, blob, cert.Marshal()), "log in as mia to host key " + fp, "unproven " + fp},
		{"user with a realm", loginData("mia@EXAMPLE.ORG", methodPublicKey, blob, nil), "log in as mia@EXAMPLE.ORG", unknownHost},
		{"user that reads like a sentence", loginData("mia to host key "+fp, methodPublicKey, blob, nil),
			`log in as "mia to host key ` + fp[:64-len("mia to host key ")-1] + `…"`, unknownHost},
		{"user with escapes", loginData("mia\x1b[2J\n\"", methodPublicKey, blob, nil), "log in as \"mia\uFFFD[2J\uFFFD\\\"\"", unknownHost},
		{"no user", loginData("", methodPublicKey, blob, nil), `log in as ""`, unknownHost},
		{"another key", loginData("mia", methodPublicKey, host, nil), "sign a login request made for another key", unknownScope},
		{"commit", commit, `sign a git commit or tag`, `namespace "git"`},
		{"file", sshsigData("file", "sha256", make([]byte, 32)), `sign for namespace "file"`, `namespace "file"`},
		{"namespace with escapes", sshsigData("a\u202eb", "sha256", make([]byte, 32)), "sign for namespace \"a\uFFFDb\"", `namespace "a\u202eb"`},

		{"nothing", nil, unknown, unknownScope},
		{"text", []byte("hello"), unknown, unknownScope},
		{"login, one byte more", append(bytes.Clone(login), 0), unknown, unknownScope},
		{"login, one byte less", login[:len(login)-1], unknown, unknownScope},
		{"login with a host key it should not have", loginData("mia", methodPublicKey, blob, host), unknown, unknownScope},
		{"host bound without a host", loginData("mia", methodHostBound, blob, nil), unknown, unknownScope},
		{"host bound to an empty host key", loginData("mia", methodHostBound, blob, []byte{}), unknown, unknownScope},
		{"another service", bytes.Replace(login, []byte("ssh-connection"), []byte("ssh-disconnect"), 1), unknown, unknownScope},
		{"host-based login", bytes.Replace(login, []byte("publickey"), []byte("hostbased"), 1), unknown, unknownScope},
		{"unsigned login", bytes.Replace(login, []byte("publickey\x01"), []byte("publickey\x00"), 1), unknown, unknownScope},
		{"login with another true", bytes.Replace(login, []byte("publickey\x01"), []byte("publickey\x02"), 1), unknown, unknownScope},
		{"login without a session", bytes.Replace(login, str("session id"), str(""), 1), unknown, unknownScope},
		{"commit, one byte more", append(bytes.Clone(commit), 0), unknown, unknownScope},
		{"no namespace", sshsigData("", "sha256", make([]byte, 32)), unknown, unknownScope},
		{"endless namespace", sshsigData(strings.Repeat("x", maxNamespace+1), "sha256", make([]byte, 32)), unknown, unknownScope},
		{"unknown hash", sshsigData("git", "md5", make([]byte, 16)), unknown, unknownScope},
		{"short digest", sshsigData("git", "sha512", make([]byte, 32)), unknown, unknownScope},
	} {
		if got := (&session{server: &Server{}}).purposeOf(c.data, blob); got.reason != c.reason || got.scope != c.scope {
			t.Errorf("%s: %q for %q, want %q for %q", c.name, got.reason, got.scope, c.reason, c.scope)
		}
	}
}
