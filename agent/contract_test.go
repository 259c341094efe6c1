package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestContractAdd(t *testing.T) {
	onBoth(t, func(t *testing.T, a contractAgent) {
		c := dial(t, a.socket)
		var names []string
		for _, k := range testKeys() {
			a.want(t, c, "add "+k.name, "yes", k.addFrame(k.name))
			names = append(names, k.name)
		}
		wantComments(t, c, "in the order of adding", names...)
		for _, k := range testKeys() {
			for _, flags := range []uint32{0, 2, 4, 6, 8} {
				format := verifyReply(t, roundTrip(t, c, signFrame(k.blob(), []byte("data"), flags)), k.signer.Public(), []byte("data"))
				want := must(ssh.NewPublicKey(k.signer.Public())).Type()
				if k.name == "rsa" {
					want = map[uint32]string{0: "ssh-rsa", 2: "rsa-sha2-256", 4: "rsa-sha2-512", 6: "rsa-sha2-256", 8: "ssh-rsa"}[flags]
				}
				if format != want {
					t.Errorf("%s, flags %d: %s, want %s", k.name, flags, format, want)
				}
			}
		}
		a.want(t, c, "add again", "yes", testKeys()[1].addFrame("again"))
		names[1] = "again"
		wantComments(t, c, "replaced in its place", names...)
		a.want(t, c, "remove", "yes", frame([]byte{18}, str(testKeys()[1].blob())))
		names = slices.Delete(names, 1, 2)
		wantComments(t, c, "after remove", names...)
		a.want(t, c, "sign with it", "no", signFrame(testKeys()[1].blob(), nil, 0))
		a.want(t, c, "remove once more", "no", frame([]byte{18}, str(testKeys()[1].blob())))
		a.want(t, c, "remove all", "yes", frame([]byte{19}))
		wantComments(t, c, "after remove all")
		a.want(t, c, "add", "yes", edKey(1).addFrame(""))
		a.want(t, c, "remove all of protocol 1", "yes", frame([]byte{9}))
		wantComments(t, c, "after remove all of protocol 1")
	})
}

func TestContractCertificates(t *testing.T) {
	onBoth(t, func(t *testing.T, a contractAgent) {
		c := dial(t, a.socket)
		var want []string
		var first []byte
		for _, k := range testKeys() {
			cert := k.certify(ssh.UserCert, 200, nil)
			if first == nil {
				first = cert.Marshal()
			}
			a.want(t, c, "add "+k.name, "yes", k.addFrame(k.name))
			a.want(t, c, "add certificate of "+k.name, "yes", k.addCertFrame(cert, k.name+" cert"))
			want = append(want, k.name, k.name+" cert")
			for _, flags := range []uint32{0, 2, 4} {
				verifyReply(t, roundTrip(t, c, signFrame(cert.Marshal(), []byte("data"), flags)), k.signer.Public(), []byte("data"))
			}
			other := edKey(3)
			if k.name == "ed25519" {
				a.want(t, c, "certificate of another key", "no", other.addCertFrame(cert, ""))
			}
			bad := cert.Marshal()
			bad[len(bad)-1] ^= 1
			a.want(t, c, "certificate with a wrong signature", "no",
				frame([]byte{17}, str(cert.Type()), str(bad), k.privateParts(false), str("")))
		}
		wantComments(t, c, "keys and certificates", want...)
		k := testKeys()[0]
		a.want(t, c, "remove the key", "yes", frame([]byte{18}, str(k.blob())))
		wantComments(t, c, "its certificate stays", want[1:]...)
		verifyReply(t, roundTrip(t, c, signFrame(first, nil, 0)), k.signer.Public(), nil)
	})
}

func TestContractRefusals(t *testing.T) {
	ed, p256 := edKey(1), testKeys()[1]
	edKind := str("ssh-ed25519")
	host := testHop{"", "there", []testKey{edKey(9)}, false}
	many := make([]testHop, 0, 2*maxDestinations+2)
	for range maxDestinations + 1 {
		many = append(many, testHop{}, host)
	}
	confirm := []byte{constrainConfirm}
	for _, r := range []struct {
		name string
		add  []byte
		want string
	}{
		{"nothing", frame([]byte{17}), "no"},
		{"no private half", frame([]byte{17}, edKind), "no"},
		{"no comment", frame([]byte{17}, edKind, ed.privateParts(true)), "no"},
		{"unknown type", frame([]byte{17}, str("ssh-none"), ed.privateParts(true), str("")), "no"},
		{"post-quantum type", frame([]byte{17}, str("ssh-mldsa44-ed25519@openssh.com"), ed.privateParts(true), str("")), "no"},
		{"another type", frame([]byte{17}, str("ecdsa-sha2-nistp256"), ed.privateParts(true), str("")), "no"},
		{"another curve", frame([]byte{17}, str("ecdsa-sha2-nistp384"), p256.privateParts(true), str("")), "no"},
		{"comment with a NUL", ed.addFrame("a\x00b"), "no"},
		{"comment with a NUL at its end", ed.addFrame("a\x00"), "yes"},
		{"half of a key", frame(edKey(1).addFrame("x")[4:40]), "no"},
		{"unconstrained, with a constraint", frame(ed.addFrame("x")[4:], confirm), "yes"},
		{"constrained, without a constraint", frame([]byte{25}, ed.addFrame("x")[5:]), "yes"},
		{"lifetime cut short", ed.addFrame("x", []byte{1, 0, 0}), "no"},
		{"lifetime twice", ed.addFrame("x", lifetimeOf(100), lifetimeOf(100)), "no"},
		{"confirm twice", ed.addFrame("x", confirm, confirm), "no"},
		{"all three", ed.addFrame("x", lifetimeOf(100), confirm, restrict(testHop{}, host)), "yes"},
		{"constraint 0", ed.addFrame("x", []byte{0}), "no"},
		{"constraint 3", ed.addFrame("x", append([]byte{3}, u32(1)...)), "no"},
		{"constraint 254", ed.addFrame("x", []byte{254}), "no"},
		{"unknown extension", ed.addFrame("x", constraint("none@example.org")), "no"},
		{"extension without a name", ed.addFrame("x", []byte{255}), "no"},
		{"provider of a key that needs none", ed.addFrame("x", constraint(constraintProvider, str("internal"))), "no"},
		{"certificates of a card", ed.addFrame("x", constraint(constraintCertificates, []byte{0}, str(""))), "no"},
		{"destinations twice", ed.addFrame("x", restrict(testHop{}, host), restrict(testHop{}, host)), "no"},
		{"destination without a host", ed.addFrame("x", restrict(testHop{}, testHop{keys: host.keys})), "no"},
		{"destination without a key", ed.addFrame("x", restrict(testHop{}, testHop{host: "there"})), "no"},
		{"origin without a key", ed.addFrame("x", restrict(testHop{host: "there"}, host)), "no"},
		{"origin with a key and no name", ed.addFrame("x", restrict(testHop{keys: host.keys}, host)), "no"},
		{"origin with a user", ed.addFrame("x", restrict(testHop{"mia", "there", host.keys, false}, host)), "no"},
		{"destinations cut short", ed.addFrame("x", constraint(constraintDestination, str("x"))), "no"},
		{"most destinations", ed.addFrame("x", restrict(many[2:]...)), "yes"},
		{"one destination more", ed.addFrame("x", restrict(many...)), "no"},
		{"lock without a passphrase", frame([]byte{22}, str("")), "no"},
		{"unlock what is not locked", frame([]byte{23}, str("x")), "no"},
		{"card that is not there", frame([]byte{20}, str("/usr/lib/none.so"), str("")), "no"},
		{"card that may not be", frame([]byte{20}, str("/etc/passwd"), str("")), "no"},
		{"remove card that is not there", frame([]byte{21}, str("/usr/lib/none.so"), str("")), "no"},
	} {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			onBoth(t, func(t *testing.T, a contractAgent) {
				c := dial(t, a.socket)
				a.want(t, c, r.name, r.want, r.add)
				n := 0
				if r.want == "yes" {
					n = 1
				}
				if got := comments(t, c); len(got) != n {
					t.Errorf("%s: lists %q", r.name, got)
				}
			})
		})
	}
}

func TestContractLifetime(t *testing.T) {
	onBoth(t, func(t *testing.T, a contractAgent) {
		c := dial(t, a.socket)
		a.want(t, c, "add for no time", "yes", edKey(1).addFrame("never", lifetimeOf(0)))
		await(t, "a key without a lifetime to go", func() bool { return len(comments(t, c)) == 0 })
		a.want(t, c, "add for a second", "yes", edKey(2).addFrame("short", lifetimeOf(1)))
		a.want(t, c, "add for an hour", "yes", edKey(3).addFrame("long", lifetimeOf(3600)))
		await(t, "the key to expire", func() bool { return slices.Equal(comments(t, c), []string{"long"}) })
		a.want(t, c, "sign with what expired", "no", signFrame(edKey(2).blob(), nil, 0))
		a.want(t, c, "sign with what did not", "yes", signFrame(edKey(3).blob(), nil, 0))
		a.want(t, c, "add it without a lifetime", "yes", edKey(3).addFrame("for ever"))
		wantComments(t, c, "replaced", "for ever")
	})
}

func TestContractConfirm(t *testing.T) {
	onBoth(t, func(t *testing.T, a contractAgent) {
		c := dial(t, a.socket)
		a.answer(true)
		a.want(t, c, "add", "yes", edKey(1).addFrame("k", []byte{constrainConfirm}))
		a.want(t, c, "sign, user says yes", "yes", signFrame(edKey(1).blob(), []byte("one"), 0))
		a.answer(false)
		a.want(t, c, "add another", "yes", edKey(2).addFrame("l", []byte{constrainConfirm}))
		a.want(t, c, "sign, user says no", "no", signFrame(edKey(2).blob(), []byte("two"), 0))
		a.want(t, c, "add it without", "yes", edKey(2).addFrame("l"))
		a.want(t, c, "sign, nobody is asked", "yes", signFrame(edKey(2).blob(), []byte("two"), 0))
	})
}

func TestContractLock(t *testing.T) {
	onBoth(t, func(t *testing.T, a contractAgent) {
		c := dial(t, a.socket)
		a.want(t, c, "add", "yes", edKey(1).addFrame("k"))
		a.want(t, c, "lock", "yes", frame([]byte{22}, str("secret")))
		for what, request := range map[string][]byte{
			"sign": signFrame(edKey(1).blob(), nil, 0), "add": edKey(2).addFrame("l"), "lock": frame([]byte{22}, str("other")),
			"remove": frame([]byte{18}, str(edKey(1).blob())), "remove all": frame([]byte{19}), "query": frame([]byte{27}, str("query")),
			"unlock with an empty passphrase": frame([]byte{23}, str("")), "unlock with a wrong one": frame([]byte{23}, str("Secret")),
		} {
			a.want(t, c, what+" while locked", "no", request)
		}
		wantComments(t, c, "while locked")
		wantComments(t, dial(t, a.socket), "on another connection")
		a.want(t, c, "unlock", "yes", frame([]byte{23}, str("secret")))
		wantComments(t, c, "unlocked", "k")
		a.want(t, c, "sign", "yes", signFrame(edKey(1).blob(), nil, 0))
	})
}

func TestContractSessionBind(t *testing.T) {
	host, other := edKey(9), edKey(10)
	for name, steps := range map[string][]struct {
		want    string
		request []byte
	}{
		"login": {{"yes", bindFrame(host, nil, "one", false)}, {"no", bindFrame(host, nil, "one", false)}, {"no", bindFrame(host, nil, "two", true)}},
		"forwarding": {{"yes", bindFrame(host, nil, "one", true)}, {"yes", bindFrame(host, nil, "one", true)},
			{"no", bindFrame(other, nil, "one", true)}, {"yes", bindFrame(host, nil, "two", true)}, {"yes", bindFrame(other, nil, "three", false)},
			{"no", bindFrame(other, nil, "four", true)}},
		"signature of another session": {{"no", bindWith(host.blob(), host, "one", "two", false)}},
		"signature by another key":     {{"no", bindWith(other.blob(), host, "one", "one", false)}},
		"longest session":              {{"yes", bindFrame(host, nil, strings.Repeat("x", maxSessionID), false)}},
		"host certificate":             {{"yes", bindFrame(host, host.certify(ssh.HostCert, 200, nil), "one", false)}},
		"rsa host":                     {{"yes", bindFrame(testKeys()[4], nil, "one", false)}},
		"ecdsa host":                   {{"yes", bindFrame(testKeys()[2], nil, "one", false)}},
		"cut short":                    {{"no", frame([]byte{27}, str(extensionBind), str(host.blob()), str("one"))}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			onBoth(t, func(t *testing.T, a contractAgent) {
				c := dial(t, a.socket)
				for i, s := range steps {
					a.want(t, c, fmt.Sprintf("%s, step %d", name, i+1), s.want, s.request)
				}
			})
		})
	}
	onBoth(t, func(t *testing.T, a contractAgent) {
		c := dial(t, a.socket)
		for i := range maxBindings {
			a.want(t, c, "bind", "yes", bindFrame(host, nil, fmt.Sprint("session ", i), true))
		}
		a.want(t, c, "one bind too many", "no", bindFrame(host, nil, "one more", true))
	})
}
