package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// hardware is Providers made of software keys.
type hardware struct {
	mu       sync.Mutex
	requests []SKRequest
	pins     []string
	cards    map[string][]keyring.Key
	tokens   map[string]crypto.Signer // by handle
	garbage  bool
	loading  chan struct{} // where set, AddCard says that it has begun, and
	goOn     chan struct{} // waits for this
}

func (h *hardware) note(pin secret.Bytes) string {
	text := ""
	pin.Use(func(p []byte) { text = string(p) })
	h.pins = append(h.pins, text)
	return text
}

func (h *hardware) AddCard(_ context.Context, library string, pin secret.Bytes) ([]keyring.Key, error) {
	if h.loading != nil {
		h.loading <- struct{}{}
		<-h.goOn
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	keys, ok := h.cards[library]
	switch {
	case !ok:
		return nil, keyring.ErrNotFound
	case h.note(pin) != "1234":
		return nil, keyring.ErrAuthFailed
	}
	return keys, nil
}

func (h *hardware) RemoveCard(_ context.Context, library string) error {
	if _, ok := h.cards[library]; !ok {
		return keyring.ErrNotFound
	}
	return nil
}

func (h *hardware) SignSK(_ context.Context, r SKRequest) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Data, r.Handle = slices.Clone(r.Data), slices.Clone(r.Handle)
	h.requests = append(h.requests, r)
	if r.Flags&flagVerification != 0 && h.note(r.PIN) != "1234" {
		return nil, keyring.ErrAuthFailed
	}
	if h.garbage {
		return ssh.Marshal(ssh.Signature{Format: r.Type, Blob: make([]byte, 64), Rest: make([]byte, 5)}), nil
	}
	app, data := sha256.Sum256([]byte(r.Application)), sha256.Sum256(r.Data)
	signed := slices.Concat(app[:], []byte{1, 0, 0, 0, 7}, data[:])
	var blob []byte
	switch k := h.tokens[string(r.Handle)].(type) {
	case ed25519.PrivateKey:
		blob = ed25519.Sign(k, signed)
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(signed)
		id := &identity{info: keyring.KeyInfo{Public: k.Public()}}
		blob = must(id.signatureValue(must(k.Sign(nil, sum[:], crypto.SHA256))))
	default:
		return nil, keyring.ErrUnavailable
	}
	return slices.Concat(str(r.Type), str(blob), []byte{1, 0, 0, 0, 7}), nil
}

// skAddFrame is a request to add a security key, and its public half.
func skAddFrame(k testKey, application, handle string, flags byte, constraints ...[]byte) (request, blob []byte) {
	kind := "sk-ssh-ed25519@openssh.com"
	var public []byte
	switch p := k.signer.Public().(type) {
	case ed25519.PublicKey:
		public = str([]byte(p))
	case *ecdsa.PublicKey:
		kind = "sk-ecdsa-sha2-nistp256@openssh.com"
		public = slices.Concat(str("nistp256"), str(must(p.Bytes())))
	}
	request = frame([]byte{25}, str(kind), public, str(application), []byte{flags}, str(handle), str(""), str("token"),
		slices.Concat(constraints...))
	return request, slices.Concat(str(kind), public, str(application))
}

func startWithHardware(t *testing.T) (*agentTest, *hardware) {
	h := &hardware{tokens: map[string]crypto.Signer{"ed": edKey(1).signer, "ec": testKeys()[1].signer}, cards: map[string][]keyring.Key{}}
	a := start(t, nil, func(s *Server) { s.Providers = h })
	return a, h
}

func TestSecurityKeys(t *testing.T) {
	for name, k := range map[string]testKey{"ed": edKey(1), "ec": testKeys()[1]} {
		a, h := startWithHardware(t)
		c := a.dial(t)
		request, blob := skAddFrame(k, "ssh:", name, flagPresence, constraint(constraintProvider, str("internal")))
		ours.want(t, c, "add", "yes", request)
		wantComments(t, c, "listed", "token")
		pub, err := ssh.ParsePublicKey(blob)
		if err != nil {
			t.Fatal(err)
		}
		reply := roundTrip(t, c, signFrame(blob, []byte("anything"), 0))
		d := decoder{rest: reply[1:]}
		var sig ssh.Signature
		if err := ssh.Unmarshal(d.string(), &sig); err != nil || pub.Verify([]byte("anything"), &sig) != nil {
			t.Errorf("%s: %x, %v", name, reply, err)
		}
		if r := h.requests[0]; r.Provider != "internal" || r.Application != "ssh:" || r.Type != pub.Type() || string(r.PublicKey) != string(blob) {
			t.Errorf("%s: asked for %+v", name, r)
		}
		if past := a.Keys.Gate().History(); len(past) != 1 || past[0].Subject != "token" {
			t.Errorf("%s: history %+v", name, past)
		}
		h.garbage = true
		ours.want(t, c, "a signature that is none", "no", signFrame(blob, []byte("anything"), 0))
		ours.want(t, c, "remove", "yes", frame([]byte{18}, str(blob)))
		wantComments(t, c, "removed")

		// With the token's PIN, asked for and remembered by the Gate.
		h.garbage = false
		request, blob = skAddFrame(k, "ssh:work", name, flagPresence|flagVerification)
		ours.want(t, c, "add with PIN", "yes", request)
		a.prompter.Default = func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "1234"} }
		ours.want(t, c, "sign with PIN", "yes", signFrame(blob, []byte("x"), 0))
		if q := a.prompter.Questions(); len(q) != 1 || !q[0].PIN {
			t.Errorf("%s: asked %+v", name, q)
		}

		// A key for a web site signs nothing but SSH's own.
		request, blob = skAddFrame(k, "https://example.org", name, flagPresence)
		ours.want(t, c, "add a web key", "yes", request)
		ours.want(t, c, "anything", "no", signFrame(blob, []byte("a challenge"), 0))
		ours.want(t, c, "a commit", "yes", signFrame(blob, sshsigData("git", "sha512", make([]byte, 64)), 0))
		ours.want(t, c, "a login", "yes", signFrame(blob, loginTo("s", "mia", blob, pub.Type(), nil), 0))
	}
}

func TestSecurityKeysAreRefusedHonestly(t *testing.T) {
	a := start(t, nil, nil)
	request, _ := skAddFrame(edKey(1), "ssh:", "ed", 1)
	ours.want(t, a.dial(t), "without providers", "no", request)
	b, h := startWithHardware(t)
	dir := t.TempDir()
	library := filepath.Join(dir, "lib.so")
	writeFile(t, library, "", 0o600)
	for name, c := range map[string]struct{ provider, want string }{
		"internal": {"internal", "yes"}, "Internal": {"INTERNAL", "yes"}, "not there": {"/usr/lib/none.so", "no"},
		"not allowed": {library, "no"}, "relative": {"lib.so", "no"},
	} {
		request, blob := skAddFrame(edKey(1), "ssh:", "ed", 1, constraint(constraintProvider, str(c.provider)))
		ours.want(t, b.dial(t), name, c.want, request)
		ours.want(t, b.dial(t), name, c.want, frame([]byte{18}, str(blob)))
	}
	b.AllowProviders = dir + "/*"
	request, blob := skAddFrame(edKey(1), "ssh:", "ed", 1, constraint(constraintProvider, str(library)))
	ours.want(t, b.dial(t), "allowed", "yes", request)
	ours.want(t, b.dial(t), "sign", "yes", signFrame(blob, []byte("x"), 0))
	if got := h.requests[len(h.requests)-1].Provider; got != library {
		t.Errorf("provider %q", got)
	}
	b.AllowRemoteChanges = true
	remote := b.dial(t)
	ours.want(t, remote, "bind", "yes", bindFrame(edKey(11), nil, "s", true))
	ours.want(t, remote, "a library for a remote asker", "no", request)
}

func TestSmartCards(t *testing.T) {
	a, h := startWithHardware(t)
	dir := must(filepath.EvalSymlinks(t.TempDir()))
	library, other := filepath.Join(dir, "card.so"), filepath.Join(dir, "other.so")
	link := filepath.Join(dir, "link.so")
	for _, path := range []string{library, other} {
		writeFile(t, path, "", 0o600)
	}
	if err := os.Symlink(library, link); err != nil {
		t.Fatal(err)
	}
	a.AllowProviders = dir + "/*"
	card := func(k testKey, label string) keyring.Key {
		return keyringtest.NewFakeKey(k.signer, keyring.KindAdded, label)
	}
	h.cards[library] = []keyring.Key{card(testKeys()[1], "PIV AUTH"), card(testKeys()[4], "")}
	c := a.dial(t)
	add := func(path, pin string, constraints ...[]byte) []byte {
		return frame([]byte{26}, str(path), str(pin), slices.Concat(constraints...))
	}
	ours.want(t, c, "wrong PIN", "no", add(library, "0000"))
	ours.want(t, c, "no card behind it", "no", add(other, "1234"))
	ours.want(t, c, "add", "yes", add(link, "1234"))
	wantComments(t, c, "listed", "PIV AUTH", library)
	verifyReply(t, roundTrip(t, c, signFrame(testKeys()[1].blob(), []byte("x"), 0)), testKeys()[1].signer.Public(), []byte("x"))
	ours.want(t, c, "add again", "no", add(library, "1234"))
	ours.want(t, c, "remove", "yes", frame([]byte{21}, str(library), str("")))
	wantComments(t, c, "removed")
	if n := len(a.Keys.List()); n != 0 {
		t.Errorf("%d keys are left in the core", n)
	}
	ours.want(t, c, "remove what is not there", "no", frame([]byte{21}, str(other), str("")))

	cert := testKeys()[1].certify(ssh.UserCert, 200, nil)
	associated := func(only byte) []byte {
		return constraint(constraintCertificates, []byte{only}, str(str(cert.Marshal())))
	}
	ours.want(t, c, "with a certificate", "yes", add(library, "1234", associated(0)))
	wantComments(t, c, "both", "PIV AUTH", "PIV AUTH", library)
	verifyReply(t, roundTrip(t, c, signFrame(cert.Marshal(), []byte("x"), 0)), testKeys()[1].signer.Public(), []byte("x"))
	ours.want(t, c, "remove all", "yes", frame([]byte{19}))
	ours.want(t, c, "certificates only", "yes", add(library, "1234", associated(1), []byte{constrainConfirm}))
	wantComments(t, c, "certificate only", "PIV AUTH")
	a.answer(false)
	ours.want(t, c, "user says no", "no", signFrame(cert.Marshal(), []byte("x"), 0))
	a.DropAdded()
	for what, bad := range map[string][]byte{
		"certificates twice": add(library, "1234", associated(0), associated(0)),
		"a provider":         add(library, "1234", constraint(constraintProvider, str("internal"))),
		"no certificate":     add(library, "1234", constraint(constraintCertificates, []byte{0}, str(str(edKey(1).blob())))),
		"no PIN":             frame([]byte{20}, str(library)),
	} {
		ours.want(t, c, what, "no", bad)
	}
	if log := a.log.String(); strings.Contains(log, "1234") || strings.Contains(log, "0000") {
		t.Errorf("the journal tells a PIN: %s", log)
	}
	if _, err := h.AddCard(t.Context(), other, secret.Bytes{}); !errors.Is(err, keyring.ErrNotFound) {
		t.Error(err)
	}
}

// Of those who load a library at the same time, each waits for the one before:
// what the first was given must not take the place of what the second was.
func TestSmartCardIsLoadedInTurn(t *testing.T) {
	a, h := startWithHardware(t)
	dir := must(filepath.EvalSymlinks(t.TempDir()))
	library, other := filepath.Join(dir, "card.so"), filepath.Join(dir, "other.so")
	h.loading, h.goOn = make(chan struct{}), make(chan struct{})
	for i, path := range []string{library, other} {
		writeFile(t, path, "", 0o600)
		h.cards[path] = []keyring.Key{keyringtest.NewFakeKey(testKeys()[i].signer, keyring.KindAdded, path)}
	}
	a.AllowProviders = dir + "/*"
	send := func(kind byte, path string) net.Conn {
		c := a.dial(t)
		if _, err := c.Write(frame([]byte{kind}, str(path), str("1234"))); err != nil {
			t.Fatal(err)
		}
		return c
	}
	waiting := func(n int) func() bool {
		return func() bool {
			a.cards.mu.Lock()
			defer a.cards.mu.Unlock()
			return a.cards.lines[library] != nil && a.cards.lines[library].in == n
		}
	}
	outcome := func(c net.Conn) string { return outcomeOf(must(readReply(c))) }
	first := send(msgAddCard, library)
	<-h.loading
	gone := send(msgAddCard, library)
	await(t, "the second asker", waiting(2))
	gone.Close()
	await(t, "it to hang up", waiting(1))
	second := send(msgRemoveCard, library)
	await(t, "the next asker", waiting(2))
	third := send(msgAddCard, other) // has nothing to do with them
	<-h.loading
	h.goOn <- struct{}{}
	h.goOn <- struct{}{}
	for who, c := range map[string]net.Conn{"first": first, "second": second, "third": third} {
		if got := outcome(c); got != "yes" {
			t.Errorf("%s: %s", who, got)
		}
	}
	wantComments(t, a.dial(t), "removed after it was added", other)
	a.cards.mu.Lock()
	defer a.cards.mu.Unlock()
	if n := len(a.cards.lines); n != 0 {
		t.Errorf("%d libraries are waited for", n)
	}
}
