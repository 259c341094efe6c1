package agent

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// A stage is what is done on a new connection to an agent that holds one key,
// with destinations.
type stage struct {
	name  string
	binds [][]byte // all are to be accepted
	sees  bool     // the key is listed
	signs []signTry
}

type signTry struct {
	name string
	data []byte
	want string
}

// TestContractDestinations holds both agents to the rules of OpenSSH's
// PROTOCOL.agent §2, hop by hop.
func TestContractDestinations(t *testing.T) {
	k := edKey(1)
	gate, inner, stranger := edKey(11), edKey(12), edKey(13)
	hopGate := testHop{"", "gate", []testKey{gate}, false}
	login := func(session, user string, host testKey) []byte {
		return loginTo(session, user, k.blob(), "ssh-ed25519", host.blob())
	}
	plain := func(session, user string) []byte { return loginTo(session, user, k.blob(), "ssh-ed25519", nil) }
	commit := sshsigData("git", "sha512", make([]byte, 64))
	for _, c := range []struct {
		name   string
		hops   []testHop
		stages []stage
	}{
		{"one host", []testHop{{}, hopGate}, []stage{
			{"local", nil, true, []signTry{
				{"login", login("s", "mia", gate), "no"}, {"commit", commit, "no"}, {"anything", []byte("x"), "no"}}},
			{"login there", [][]byte{bindFrame(gate, nil, "s", false)}, true, []signTry{
				{"login", login("s", "mia", gate), "yes"},
				{"login without the host", plain("s", "mia"), "yes"},
				{"another session", login("t", "mia", gate), "no"},
				{"another host key", login("s", "mia", stranger), "no"},
				{"another key", loginTo("s", "mia", stranger.blob(), "ssh-ed25519", gate.blob()), "no"},
				{"another algorithm", loginTo("s", "mia", k.blob(), "ssh-rsa", gate.blob()), "no"},
				{"a user with a NUL", login("s", "mi\x00a", gate), "no"},
				{"commit", commit, "no"}}},
			{"login elsewhere", [][]byte{bindFrame(stranger, nil, "s", false)}, false, []signTry{
				{"login", login("s", "mia", stranger), "no"}}},
			{"forwarded there", [][]byte{bindFrame(gate, nil, "s", true)}, false, []signTry{
				{"login there", login("s", "mia", gate), "no"}}},
			{"from there on", [][]byte{bindFrame(gate, nil, "s", true), bindFrame(inner, nil, "t", false)}, false, []signTry{
				{"login", login("t", "mia", inner), "no"}}},
		}},
		{"user", []testHop{{}, {"m*a", "gate", []testKey{gate}, false}}, []stage{
			{"login", [][]byte{bindFrame(gate, nil, "s", false)}, true, []signTry{
				{"mia", login("s", "mia", gate), "yes"}, {"ma", login("s", "ma", gate), "yes"},
				{"root", login("s", "root", gate), "no"}, {"none", login("s", "", gate), "no"}}},
		}},
		{"two hops", []testHop{{}, hopGate, hopGate, {"mia", "inner", []testKey{inner}, false}}, []stage{
			{"at the gate", [][]byte{bindFrame(gate, nil, "s", false)}, true, []signTry{{"login", login("s", "anybody", gate), "yes"}}},
			{"forwarded", [][]byte{bindFrame(gate, nil, "s", true)}, true, []signTry{{"login at the gate", login("s", "mia", gate), "no"}}},
			{"inside", [][]byte{bindFrame(gate, nil, "s", true), bindFrame(inner, nil, "t", false)}, true, []signTry{
				{"mia", login("t", "mia", inner), "yes"}, {"root", login("t", "root", inner), "no"},
				{"without the host", plain("t", "mia"), "no"}, {"the outer session", login("s", "mia", inner), "no"},
				{"commit", commit, "no"}}},
			{"inside, directly", [][]byte{bindFrame(inner, nil, "t", false)}, false, []signTry{{"mia", login("t", "mia", inner), "no"}}},
			{"through a stranger", [][]byte{bindFrame(stranger, nil, "s", true), bindFrame(inner, nil, "t", false)}, false, []signTry{
				{"mia", login("t", "mia", inner), "no"}}},
			{"three hops", [][]byte{bindFrame(gate, nil, "s", true), bindFrame(inner, nil, "t", true)}, false, nil},
		}},
		{"certificate authority", []testHop{{}, {"", "gate.example.org", []testKey{edKey(200)}, true}}, []stage{
			{"its host", [][]byte{bindFrame(gate, hostCert("gate.example.org"), "s", false)}, true, []signTry{
				{"login", loginTo("s", "mia", k.blob(), "ssh-ed25519", hostCert("gate.example.org").Marshal()), "no"}, // another certificate
				{"login without the host", plain("s", "mia"), "yes"}}},
			{"pattern in the certificate", [][]byte{bindFrame(gate, hostCert("*.example.org"), "s", false)}, false, nil},
			{"another name", [][]byte{bindFrame(gate, hostCert("other.example.org"), "s", false)}, false, nil},
			{"user certificate", [][]byte{bindFrame(gate, gate.certify(ssh.UserCert, 200, nil), "s", false)}, false, nil},
			{"expired", [][]byte{bindFrame(gate, gate.certify(ssh.HostCert, 200, func(c *ssh.Certificate) {
				c.ValidPrincipals, c.ValidBefore = []string{"gate.example.org"}, 1
			}), "s", false)}, false, nil},
			{"another authority", [][]byte{bindFrame(gate, gate.certify(ssh.HostCert, 201, func(c *ssh.Certificate) {
				c.ValidPrincipals = []string{"gate.example.org"}
			}), "s", false)}, false, nil},
			{"the authority's own key", [][]byte{bindFrame(edKey(200), nil, "s", false)}, false, nil},
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			onBoth(t, func(t *testing.T, a contractAgent) {
				local := dial(t, a.socket)
				a.want(t, local, "add", "yes", k.addFrame("k", restrict(c.hops...)))
				a.want(t, local, "add a free one", "yes", edKey(2).addFrame("free"))
				for _, s := range c.stages {
					conn := dial(t, a.socket)
					for i, b := range s.binds {
						a.want(t, conn, fmt.Sprintf("%s: bind %d", s.name, i+1), "yes", b)
					}
					want := []string{"free"}
					if s.sees {
						want = []string{"k", "free"}
					}
					wantComments(t, conn, s.name, want...)
					for _, try := range s.signs {
						a.want(t, conn, s.name+": "+try.name, try.want, signFrame(k.blob(), try.data, 0))
					}
					a.want(t, conn, s.name+": the free one", "yes", signFrame(edKey(2).blob(), []byte("x"), 0))
					if !s.sees {
						a.want(t, conn, s.name+": remove what is not seen", "no", frame([]byte{18}, str(k.blob())))
						a.want(t, conn, s.name+": replace what is not seen", "no", k.addFrame("k"))
					}
				}
			})
		})
	}
}

func hostCert(name string) *ssh.Certificate {
	return edKey(11).certify(ssh.HostCert, 200, func(c *ssh.Certificate) { c.ValidPrincipals = []string{name} })
}

// TestDestinationsBeyondOpenSSH are where ours is stricter, or has no fault that
// some versions of OpenSSH have.
func TestDestinationsBeyondOpenSSH(t *testing.T) {
	a := start(t, nil, nil)
	c := a.dial(t)
	agent := contractAgent{name: "keyringd"}
	host := testHop{"", "gate", []testKey{edKey(11)}, false}
	agent.want(t, c, "an empty list of destinations", "no", edKey(1).addFrame("k", constraint(constraintDestination, str(""))))
	agent.want(t, c, "an endless user", "no", edKey(1).addFrame("k", restrict(testHop{}, testHop{strings.Repeat("a", maxUserPattern+1), "gate", host.keys, false})))
	agent.want(t, c, "add", "yes", edKey(1).addFrame("k", restrict(testHop{}, host)))
	agent.want(t, c, "a session of 129 bytes", "no", bindFrame(edKey(11), nil, strings.Repeat("x", maxSessionID+1), false))
	// After a bind that failed nobody knows where the asker is.
	wantComments(t, c, "after a bind that failed")
	// A key by which nobody can bind does not spoil the others.
	later := append(str("ssh-mldsa44-ed25519@openssh.com"), str("x")...)
	hop := append(host.encode(), append(str(later), 0)...)
	list := str(append(append(str((testHop{}).encode()), str(hop)...), str("")...))
	agent.want(t, a.dial(t), "a host key of a later type", "yes", edKey(2).addFrame("l", constraint(constraintDestination, str(list))))
}

// TestRemoteAskersChangeNothing binds connections in every way, and wants
// changes refused, unless the user allows them.
func TestRemoteAskersChangeNothing(t *testing.T) {
	requests := map[string][]byte{
		"add": edKey(2).addFrame("l"), "add constrained": edKey(2).addFrame("l", []byte{constrainConfirm}),
		"remove": frame([]byte{18}, str(edKey(1).blob())), "remove all": frame([]byte{19}), "remove all v1": frame([]byte{9}),
		"lock": frame([]byte{22}, str("x")),
	}
	for name, bind := range map[string][]byte{
		"forwarded": bindFrame(edKey(11), nil, "s", true),
		"login":     bindFrame(edKey(11), nil, "s", false),
		"failed":    bindWith(edKey(11).blob(), edKey(11), "s", "t", true),
	} {
		for what, request := range requests {
			for _, allowed := range []bool{false, true} {
				a := start(t, nil, func(s *Server) { s.AllowRemoteChanges = allowed })
				agent := contractAgent{name: "keyringd"}
				agent.want(t, a.dial(t), "add", "yes", edKey(1).addFrame("k"))
				c := a.dial(t)
				roundTrip(t, c, bind)
				want := map[bool]string{false: "no", true: "yes"}[allowed]
				agent.want(t, c, fmt.Sprintf("%s, %s, allowed %v", name, what, allowed), want, request)
				if !allowed {
					wantComments(t, a.dial(t), name+", "+what, "k")
				}
				a.stop()
			}
		}
	}
}
