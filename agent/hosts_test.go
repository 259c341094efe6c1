package agent

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	sshknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"github.com/keyringd/keyringd/agent/knownhosts"
	"github.com/keyringd/keyringd/keyring"
)

func knownLine(hosts string, k testKey) string { return hosts + " " + k.authorized() }

// TestPurposeNamesTheHost binds a session in every way and wants the question
// to say where a login leads, and how much of that is certain.
func TestPurposeNamesTheHost(t *testing.T) {
	gate, git, hashed, bad, stranger := edKey(11), edKey(12), edKey(13), edKey(14), edKey(15)
	known := filepath.Join(t.TempDir(), "known_hosts")
	writeFile(t, known, knownLine("gate.example.org", gate)+knownLine("git.example.org,192.0.2.7", git)+
		knownLine(sshknownhosts.HashHostname("hidden.example.org"), hashed)+
		"@revoked "+knownLine("*", bad)+
		"@cert-authority "+knownLine("*.example.org", edKey(200)), 0o600)
	blob := edKey(1).blob()
	fp := func(k testKey) string { return ssh.FingerprintSHA256(must(ssh.NewPublicKey(k.signer.Public()))) }
	to := func(session string, host testKey) []byte {
		return loginTo(session, "mia", blob, "ssh-ed25519", host.blob())
	}
	const unproven = "not verified: the program has not shown that it is connected to this host"
	cert := stranger.certify(ssh.HostCert, 200, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"ca.example.org"} })
	for _, c := range []struct {
		name   string
		binds  [][]byte
		data   []byte
		reason string
		scope  string
		want   keyring.Purpose
	}{
		{"bound", [][]byte{bindFrame(git, nil, "s", false)}, to("s", git), "log in as mia to git.example.org, 192.0.2.7",
			"git.example.org, 192.0.2.7 " + fp(git), keyring.Purpose{Host: "git.example.org, 192.0.2.7"}},
		{"bound, without the host", [][]byte{bindFrame(gate, nil, "s", false)}, loginTo("s", "mia", blob, "ssh-ed25519", nil),
			"log in as mia to gate.example.org", "gate.example.org " + fp(gate), keyring.Purpose{Host: "gate.example.org"}},
		{"bound to a certificate", [][]byte{bindFrame(stranger, cert, "s", false)},
			loginTo("s", "mia", blob, "ssh-ed25519", cert.Marshal()),
			"log in as mia to ca.example.org", "ca.example.org " + fp(stranger), keyring.Purpose{Host: "ca.example.org"}},
		{"bound to an unknown host", [][]byte{bindFrame(stranger, nil, "s", false)}, to("s", stranger),
			"log in as mia to host key " + fp(stranger), fp(stranger),
			keyring.Purpose{Host: fp(stranger), HostWarning: "not verified: this host key is in no known_hosts file"}},
		{"bound to a hashed name", [][]byte{bindFrame(hashed, nil, "s", false)}, to("s", hashed),
			"log in as mia to a host in known_hosts whose name is hashed", "a host in known_hosts whose name is hashed " + fp(hashed),
			keyring.Purpose{Host: "a host in known_hosts whose name is hashed"}},
		{"bound to a revoked key", [][]byte{bindFrame(bad, nil, "s", false)}, to("s", bad),
			"log in as mia to host key " + fp(bad), fp(bad),
			keyring.Purpose{Host: fp(bad), HostWarning: "this host key is marked as revoked in known_hosts"}},
		{"not bound", nil, to("s", git), "log in as mia to host key " + fp(git), "unproven " + fp(git),
			keyring.Purpose{Host: "git.example.org, 192.0.2.7", HostWarning: unproven}},
		{"bound to another session", [][]byte{bindFrame(git, nil, "t", false)}, to("s", git),
			"log in as mia to host key " + fp(git), "unproven " + fp(git),
			keyring.Purpose{Host: "git.example.org, 192.0.2.7", HostWarning: unproven}},
		{"bound to another host", [][]byte{bindFrame(gate, nil, "s", false)}, to("s", git),
			"log in as mia to host key " + fp(git), "unproven " + fp(git),
			keyring.Purpose{Host: "git.example.org, 192.0.2.7", HostWarning: unproven}},
		{"host not named", nil, loginTo("s", "mia", blob, "ssh-ed25519", nil), "log in as mia", unknownHost,
			keyring.Purpose{Host: "an unknown host", HostWarning: "not verified: the program does not say which host"}},
		{"forwarded", [][]byte{bindFrame(gate, nil, "s", true), bindFrame(git, nil, "t", false)}, to("t", git),
			"log in as mia to git.example.org, 192.0.2.7", "git.example.org, 192.0.2.7 " + fp(git),
			keyring.Purpose{Host: "git.example.org, 192.0.2.7", Through: "gate.example.org", Forwarded: true}},
		{"forwarded twice", [][]byte{bindFrame(gate, nil, "s", true), bindFrame(stranger, nil, "t", true), bindFrame(git, nil, "u", false)},
			to("u", git), "log in as mia to git.example.org, 192.0.2.7", "git.example.org, 192.0.2.7 " + fp(git),
			keyring.Purpose{Host: "git.example.org, 192.0.2.7", Through: "gate.example.org → " + fp(stranger), Forwarded: true}},
		{"commit, forwarded", [][]byte{bindFrame(gate, nil, "s", true)}, sshsigData("git", "sha512", make([]byte, 64)),
			"sign a git commit or tag", `namespace "git"`, keyring.Purpose{Through: "gate.example.org", Forwarded: true}},
		{"login at the forwarding host", [][]byte{bindFrame(gate, nil, "s", true)}, to("s", gate),
			"log in as mia to host key " + fp(gate), "unproven " + fp(gate),
			keyring.Purpose{Host: "gate.example.org", HostWarning: unproven, Through: "gate.example.org", Forwarded: true}},
	} {
		s, _ := newSession(t, nil)
		s.server.KnownHosts = knownhosts.New(known)
		for _, b := range c.binds {
			if reply := s.answer(b[headerSize:]); reply[4] != msgSuccess {
				t.Fatalf("%s: bind: %x", c.name, reply)
			}
		}
		got := s.purposeOf(c.data, blob)
		if got.reason != c.reason || got.scope != c.scope || got.Purpose != c.want {
			t.Errorf("%s:\ngot  %q %q %+v\nwant %q %q %+v", c.name, got.reason, got.scope, got.Purpose, c.reason, c.scope, c.want)
		}
	}
}

func TestFailedForwardingCountsAsForwarded(t *testing.T) {
	s, _ := newSession(t, nil)
	s.answer(bindWith(edKey(11).blob(), edKey(11), "s", "t", true)[headerSize:])
	if p := s.purposeOf([]byte("x"), nil); !p.Forwarded || p.Through != "an unknown host" {
		t.Errorf("%+v", p)
	}
	// ssh with a host key that cannot be verified here logs in all the same.
	s, _ = newSession(t, nil)
	s.answer(bindWith(edKey(11).blob(), edKey(11), "s", "t", false)[headerSize:])
	if p := s.purposeOf([]byte("x"), nil); p.Forwarded || p.Through != "" {
		t.Errorf("%+v", p)
	}
}

func TestNamesFromOutsideAreSanitised(t *testing.T) {
	host := edKey(11)
	known := filepath.Join(t.TempDir(), "known_hosts")
	writeFile(t, known, knownLine("evil\x1b[2J\u202e.example.org", host), 0o600)
	s, _ := newSession(t, nil)
	s.server.KnownHosts = knownhosts.New(known)
	s.answer(bindFrame(host, nil, "s", false)[headerSize:])
	name, _ := s.nameOf(&s.bound.list[0].key)
	if strings.ContainsAny(name, "\x1b\u202e") || !strings.Contains(name, "example.org") {
		t.Errorf("%q", name)
	}
}
