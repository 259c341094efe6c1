package agent

import (
	"crypto"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// startWithCard serves the keys of a library.
func startWithCard(t *testing.T, keys ...keyring.Key) (a *agentTest, h *hardware, library string) {
	a, h = startWithHardware(t)
	dir := must(filepath.EvalSymlinks(t.TempDir()))
	library = filepath.Join(dir, "card.so")
	writeFile(t, library, "", 0o600)
	a.AllowProviders = dir + "/*"
	h.cards[library] = keys
	return a, h, library
}

func cardFrame(library string, constraints ...[]byte) []byte {
	return frame([]byte{msgAddCardConstr}, str(library), str("1234"), slices.Concat(constraints...))
}

// TestCardAddedAgain loads a library once more, which ends the process that had
// it before: its keys must be those of the new one.
func TestCardAddedAgain(t *testing.T) {
	old := keyringtest.NewFakeKey(edKey(1).signer, keyring.KindAdded, "card")
	fresh := keyringtest.NewFakeKey(edKey(1).signer, keyring.KindAdded, "card")
	a, h, library := startWithCard(t, old)
	c := a.dial(t)
	ours.want(t, c, "add", "yes", cardFrame(library, []byte{constrainConfirm}))
	h.cards[library] = []keyring.Key{fresh}
	ours.want(t, c, "add again", "no", cardFrame(library))
	a.allow()
	ours.want(t, c, "sign", "yes", signFrame(edKey(1).blob(), []byte("x"), 0))
	if old.Signed() != 0 || fresh.Signed() != 1 || len(a.prompter.Questions()) != 1 {
		t.Errorf("signed %d and %d times, %d questions", old.Signed(), fresh.Signed(), len(a.prompter.Questions()))
	}
	// With a certificate and a constraint that the key did not have.
	b, _, library := startWithCard(t, old)
	c = b.dial(t)
	ours.want(t, c, "add", "yes", cardFrame(library))
	cert := edKey(1).certify(ssh.UserCert, 200, nil)
	ours.want(t, c, "add again", "yes", cardFrame(library, constraint(constraintCertificates, []byte{0}, str(str(cert.Marshal()))), []byte{constrainConfirm}))
	b.answer(false)
	ours.want(t, c, "sign with the certificate", "no", signFrame(cert.Marshal(), []byte("x"), 0))
	if len(b.prompter.Questions()) != 1 {
		t.Errorf("%d questions", len(b.prompter.Questions()))
	}
}

// TestCardsKeyThatIsAddedToo has one key in a card and handed over.
func TestCardsKeyThatIsAddedToo(t *testing.T) {
	k := edKey(1)
	card := keyringtest.NewFakeKey(k.signer, keyring.KindAdded, "card")
	a, _, library := startWithCard(t, card)
	c := a.dial(t)
	cert := k.certify(ssh.UserCert, 200, nil)
	ours.want(t, c, "add", "yes", k.addFrame("k"))
	ours.want(t, c, "add the card", "yes", cardFrame(library, constraint(constraintCertificates, []byte{0}, str(str(cert.Marshal())))))
	wantComments(t, c, "both", "k", "card")
	ours.want(t, c, "remove the key", "yes", frame([]byte{msgRemoveIdentity}, str(k.blob())))
	ours.want(t, c, "sign with the card", "yes", signFrame(cert.Marshal(), []byte("x"), 0))
	if card.Signed() != 1 {
		t.Error("a key that was removed has signed")
	}

	// Handed over in place of the card's.
	ours.want(t, c, "remove the card", "yes", frame([]byte{msgRemoveCard}, str(library), str("")))
	ours.want(t, c, "add the card", "yes", cardFrame(library, []byte{constrainConfirm}))
	ours.want(t, c, "add", "yes", k.addFrame("k"))
	ours.want(t, c, "remove the card", "yes", frame([]byte{msgRemoveCard}, str(library), str("")))
	ours.want(t, c, "sign with the key", "yes", signFrame(k.blob(), []byte("x"), 0)) // and nobody is asked
	ours.want(t, c, "remove the key", "yes", frame([]byte{msgRemoveIdentity}, str(k.blob())))
	if n := len(a.Keys.List()); n != 0 {
		t.Errorf("%d keys are left in the core", n)
	}
}

// TestRemovedSecurityKeyIsForgotten wants the PIN asked for again.
func TestRemovedSecurityKeyIsForgotten(t *testing.T) {
	a, _ := startWithHardware(t)
	c := a.dial(t)
	request, blob := skAddFrame(edKey(1), "ssh:", "ed", flagPresence|flagVerification)
	a.prompter.Default = func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "1234"} }
	for range 2 {
		ours.want(t, c, "add", "yes", request)
		ours.want(t, c, "sign", "yes", signFrame(blob, []byte("x"), 0))
		ours.want(t, c, "remove", "yes", frame([]byte{msgRemoveIdentity}, str(blob)))
	}
	if n := len(a.prompter.Questions()); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// TestLockEndsApprovals wants a permission that stands until the user locks to
// end with ssh-add -x.
func TestLockEndsApprovals(t *testing.T) {
	k := edKey(1).fake()
	k.KeyInfo.Confirm = true
	a := start(t, []keyring.Key{k}, nil)
	a.prompter.Default = func(prompt.Question) keyringtest.Reply {
		return keyringtest.Reply{Term: prompt.UntilLock, Chosen: true}
	}
	c := a.dial(t)
	for range 2 {
		ours.want(t, c, "sign", "yes", signFrame(edKey(1).blob(), []byte("x"), 0))
	}
	if n := len(a.Keys.Gate().Approvals()); n != 1 {
		t.Fatalf("%d approvals", n)
	}
	ours.want(t, c, "lock", "yes", frame([]byte{msgLock}, str("x")))
	ours.want(t, c, "unlock", "yes", frame([]byte{msgUnlock}, str("x")))
	if n := len(a.Keys.Gate().Approvals()); n != 0 {
		t.Errorf("%d approvals", n)
	}
}

// TestExpireAfterSleep has a key's time pass while its timer stood still.
func TestExpireAfterSleep(t *testing.T) {
	s, _ := newSession(t, nil)
	if reply := s.answer(edKey(1).addFrame("k", lifetimeOf(3600))[headerSize:]); reply[4] != msgSuccess {
		t.Fatalf("add: %x", reply)
	}
	s.server.Expire()
	if n := len(s.server.Keys.List()); n != 1 {
		t.Errorf("%d keys before", n)
	}
	s.server.added.mu.Lock()
	s.server.added.list[0].from = time.Now().Round(0).Add(-2 * time.Hour)
	s.server.added.mu.Unlock()
	s.server.Expire()
	if n := len(s.server.Keys.List()); n != 0 {
		t.Errorf("%d keys after", n)
	}
}

// TestRemovedKeysCertificateIsNotToCome removes all keys while a certificate of one
// is not valid yet: its day must not bring the key back.
func TestRemovedKeysCertificateIsNotToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSession(t, fakes(edKey(1)))
		s.server.Certificates = NewCertificates()
		cert := edKey(1).certify(ssh.UserCert, 200, func(c *ssh.Certificate) {
			c.ValidAfter, c.ValidBefore = uint64(time.Now().Unix())+60, ssh.CertTimeInfinity
		})
		path := "/k-cert.pub"
		data := append([]byte(cert.Type()+" "), ssh.MarshalAuthorizedKey(cert)[len(cert.Type())+1:]...)
		if err := s.server.Certificates.Load(folder.File{Path: path}, data); err != nil {
			t.Fatal(err)
		}
		s.server.Certificates.Scanned([]folder.File{{Path: path}}, nil)
		if reply := s.answer([]byte{msgRemoveAll}); reply[4] != msgSuccess {
			t.Fatalf("remove all: %x", reply)
		}
		time.Sleep(time.Hour)
		if reply := s.answer([]byte{msgRequestIdentities}); string(reply) != string(nothingReply) {
			t.Errorf("listed: %.60x", reply)
		}
	})
}

// TestHostCertificateForNobody is one that names no host at all, which is none
// for the hosts of a destination, as in OpenSSH since 10.3.
func TestHostCertificateForNobody(t *testing.T) {
	a := start(t, nil, nil)
	ours.want(t, a.dial(t), "add", "yes", edKey(1).addFrame("k", restrict(testHop{}, testHop{"", "gate.example.org", []testKey{edKey(200)}, true})))
	for name, sees := range map[string]bool{"gate.example.org": true, "": false} {
		cert := edKey(11).certify(ssh.HostCert, 200, func(c *ssh.Certificate) {
			if c.ValidPrincipals = nil; name != "" {
				c.ValidPrincipals = []string{name}
			}
		})
		c := a.dial(t)
		ours.want(t, c, "bind", "yes", bindFrame(edKey(11), cert, "s", false))
		if got := comments(t, c); len(got) == 1 != sees {
			t.Errorf("certificate for %q: lists %q", name, got)
		}
	}
}

// TestUpstreamLearnsOfRefusedBinds wants the agent behind ours to know that the
// asker tried to be bound, as it would without us.
func TestUpstreamLearnsOfRefusedBinds(t *testing.T) {
	binds := make(chan []byte, 10)
	socket := silentAgent(t, func(request []byte) []byte {
		if request[0] == msgExtension {
			binds <- request
			return failureReply
		}
		return nothingReply
	})
	a := start(t, nil, withUpstream(socket))
	c := a.dial(t)
	bind := bindWith(edKey(11).blob(), edKey(11), "s", "t", true)
	if reply := roundTrip(t, c, bind); reply[0] != msgExtensionFailure {
		t.Fatalf("bound: %x", reply)
	}
	comments(t, c)
	if len(binds) != 1 || string(<-binds) != string(bind[headerSize:]) {
		t.Error("the other agent takes the asker for a local one")
	}
}

// TestDemandCoversWhatTheCoreDoesNotKnow wants the user's wish to be asked about
// every key to be kept for those of tokens and of another agent, too.
func TestDemandCoversWhatTheCoreDoesNotKnow(t *testing.T) {
	k := edKey(21)
	socket := silentAgent(t, func(request []byte) []byte {
		if request[0] == msgSignRequest {
			return frame([]byte{msgSignResponse}, str("a signature"))
		}
		return frame([]byte{msgIdentitiesAnswer}, u32(1), str(k.blob()), str("theirs"))
	})
	h := &hardware{tokens: map[string]crypto.Signer{"ed": edKey(1).signer}}
	asked := map[string]bool{"theirs": true, "token": true}
	a := start(t, nil, func(s *Server) {
		withUpstream(socket)(s)
		s.Providers = h
		s.Keys.Demand = func(info keyring.KeyInfo) bool { return asked[info.Label] }
	})
	a.answer(false)
	c := a.dial(t)
	request, blob := skAddFrame(edKey(1), "ssh:", "ed", flagPresence)
	ours.want(t, c, "add", "yes", request)
	for name, blob := range map[string][]byte{"theirs": k.blob(), "token": blob} {
		ours.want(t, c, name, "no", signFrame(blob, []byte("x"), 0))
		asked[name] = false
		ours.want(t, c, name, "yes", signFrame(blob, []byte("x"), 0))
	}
	if n := len(a.prompter.Questions()); n != 2 {
		t.Errorf("%d questions", n)
	}
}
