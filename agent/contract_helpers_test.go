package agent

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"io"
	"math/big"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func mpint(n *big.Int) []byte { return appendMpint(nil, n) }

// privateParts are what follows the type in a request to add k; of a
// certificate what it does not tell.
func (k testKey) privateParts(withPublic bool) []byte {
	switch p := k.signer.(type) {
	case ed25519.PrivateKey:
		return slices.Concat(str([]byte(p.Public().(ed25519.PublicKey))), str([]byte(p)))
	case *ecdsa.PrivateKey:
		scalar := mpint(new(big.Int).SetBytes(must(p.Bytes())))
		if !withPublic {
			return scalar
		}
		curve := map[int]string{256: "nistp256", 384: "nistp384", 521: "nistp521"}[p.Params().BitSize]
		return slices.Concat(str(curve), str(must(p.PublicKey.Bytes())), scalar)
	case *rsa.PrivateKey:
		rest := slices.Concat(mpint(p.D), mpint(p.Precomputed.Qinv), mpint(p.Primes[0]), mpint(p.Primes[1]))
		if !withPublic {
			return rest
		}
		return slices.Concat(mpint(p.N), mpint(big.NewInt(int64(p.E))), rest)
	}
	panic("unknown key")
}

// addFrame is a request to add k.
func (k testKey) addFrame(comment string, constraints ...[]byte) []byte {
	kind := must(ssh.NewPublicKey(k.signer.Public())).Type()
	message := byte(msgAddIdentity)
	if len(constraints) > 0 {
		message = msgAddConstrained
	}
	return frame([]byte{message}, str(kind), k.privateParts(true), str(comment), bytes.Join(constraints, nil))
}

// addCertFrame is a request to add k under the name of its certificate.
func (k testKey) addCertFrame(cert *ssh.Certificate, comment string, constraints ...[]byte) []byte {
	return frame([]byte{msgAddConstrained}, str(cert.Type()), str(cert.Marshal()), k.privateParts(false), str(comment),
		bytes.Join(constraints, nil))
}

// certify makes a certificate for k, signed by the key n.
func (k testKey) certify(kind uint32, n byte, set func(*ssh.Certificate)) *ssh.Certificate {
	cert := &ssh.Certificate{Key: must(ssh.NewPublicKey(k.signer.Public())), CertType: kind, KeyId: "test",
		ValidPrincipals: []string{"mia"}, ValidBefore: ssh.CertTimeInfinity}
	if set != nil {
		set(cert)
	}
	if err := cert.SignCert(rand.Reader, must(ssh.NewSignerFromSigner(edKey(n).signer))); err != nil {
		panic(err)
	}
	return cert
}

var lifetimeOf = func(seconds uint32) []byte { return append([]byte{constrainLifetime}, u32(seconds)...) }

func constraint(name string, contents ...[]byte) []byte {
	return slices.Concat([]byte{constrainExtension}, str(name), bytes.Join(contents, nil))
}

// A testHop is one end of a destination.
type testHop struct {
	user, host string
	keys       []testKey
	ca         bool
}

func (h testHop) encode() []byte {
	b := slices.Concat(str(h.user), str(h.host), str(""))
	for _, k := range h.keys {
		ca := byte(0)
		if h.ca {
			ca = 1
		}
		b = slices.Concat(b, str(k.blob()), []byte{ca})
	}
	return b
}

// restrict is a restrict-destination constraint: pairs of from and to.
func restrict(hops ...testHop) []byte {
	var list []byte
	for pair := range slices.Chunk(hops, 2) {
		list = append(list, str(slices.Concat(str(pair[0].encode()), str(pair[1].encode()), str("")))...)
	}
	return constraint(constraintDestination, str(list))
}

// bindFrame is a session-bind by a host's key, or by its certificate.
func bindFrame(host testKey, cert *ssh.Certificate, session string, forwarding bool) []byte {
	blob := host.blob()
	if cert != nil {
		blob = cert.Marshal()
	}
	return bindWith(blob, host, session, session, forwarding)
}

func bindWith(blob []byte, host testKey, session, signed string, forwarding bool) []byte {
	sig := must(must(ssh.NewSignerFromSigner(host.signer)).Sign(rand.Reader, []byte(signed)))
	forward := byte(0)
	if forwarding {
		forward = 1
	}
	return frame([]byte{msgExtension}, str(extensionBind), str(blob), str(session), str(ssh.Marshal(sig)), []byte{forward})
}

// loginTo is what is signed to log in as user, with the host key bound or not.
func loginTo(session, user string, key []byte, algorithm string, host []byte) []byte {
	method := methodPublicKey
	if host != nil {
		method = methodHostBound
	}
	b := slices.Concat(str(session), []byte{msgUserauthRequest}, str(user), str(serviceConnection), str(method), []byte{1},
		str(algorithm), str(key))
	if host != nil {
		b = append(b, str(host)...)
	}
	return b
}

// outcomeOf is what a reply says, the same for all that a client takes for no.
func outcomeOf(reply []byte) string {
	switch {
	case len(reply) == 0:
		return "dropped"
	case reply[0] == msgFailure, reply[0] == msgExtensionFailure:
		return "no"
	case reply[0] == msgSuccess, reply[0] == msgSignResponse:
		return "yes"
	}
	return "other"
}

// A contractAgent is one of the agents that the contract is for.
type contractAgent struct {
	name   string
	socket string
	// answer sets how the user answers questions from now on.
	answer func(yes bool)
}

// onBoth runs a test against the installed ssh-agent and against ours, each of
// them new and without a key.
func onBoth(t *testing.T, f func(t *testing.T, a contractAgent)) {
	t.Run("OpenSSH", func(t *testing.T) {
		t.Parallel()
		socket, answer := startSSHAgentAsking(t)
		f(t, contractAgent{"OpenSSH", socket, answer})
	})
	t.Run("keyringd", func(t *testing.T) {
		t.Parallel()
		a := start(t, nil, func(s *Server) { s.AllowRemoteChanges = true })
		f(t, contractAgent{"keyringd", a.socket, a.answer})
	})
}

// want sends a request and wants an outcome.
func (a contractAgent) want(t *testing.T, c io.ReadWriter, what, outcome string, request []byte) {
	t.Helper()
	if _, err := c.Write(request); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	reply, err := readReply(c)
	if err != nil {
		reply = nil
	}
	if got := outcomeOf(reply); got != outcome {
		t.Errorf("%s: %s (%.20x), want %s", what, got, reply, outcome)
	}
}

// comments lists the comments of the identities that a connection sees.
func comments(t *testing.T, c io.ReadWriter) []string {
	t.Helper()
	if _, err := c.Write(listFrame); err != nil {
		t.Fatal(err)
	}
	reply, err := readReply(c)
	if err != nil || reply[0] != msgIdentitiesAnswer {
		t.Fatalf("list: %x, %v", reply, err)
	}
	d := decoder{rest: reply[1:]}
	list := []string{}
	for n := d.uint32(); n > 0; n-- {
		d.string()
		list = append(list, string(d.string()))
	}
	if !d.done() {
		t.Fatalf("malformed list %x", reply)
	}
	return list
}

func wantComments(t *testing.T, c io.ReadWriter, what string, want ...string) {
	t.Helper()
	if got := comments(t, c); !slices.Equal(got, want) {
		t.Errorf("%s: lists %q, want %q", what, got, want)
	}
}

// verifyReply checks a SIGN_RESPONSE, and returns its algorithm.
func verifyReply(t *testing.T, reply []byte, pub crypto.PublicKey, data []byte) string {
	t.Helper()
	if len(reply) == 0 || reply[0] != msgSignResponse {
		t.Fatalf("no signature: %.20x", reply)
	}
	d := decoder{rest: reply[1:]}
	var sig ssh.Signature
	if err := ssh.Unmarshal(d.string(), &sig); err != nil || !d.done() {
		t.Fatalf("malformed signature %x", reply)
	}
	if err := must(ssh.NewPublicKey(pub)).Verify(data, &sig); err != nil {
		t.Errorf("signature: %v", err)
	}
	return sig.Format
}
