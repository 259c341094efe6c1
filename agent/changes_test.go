package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/sshkeys"
)

var ours = contractAgent{name: "keyringd"}

// TestRemovedFileKeysComeBackWithTheirFile removes keys that files hold.
func TestRemovedFileKeysComeBackWithTheirFile(t *testing.T) {
	for name, remove := range map[string][]byte{
		"remove":        frame([]byte{18}, str(edKey(1).blob())),
		"remove all":    frame([]byte{19}),
		"remove all v1": frame([]byte{9}),
	} {
		one, two := edKey(1).fake(), edKey(2).fake()
		two.KeyInfo.Paths, two.KeyInfo.Label = []string{"/two"}, "two"
		a := start(t, []keyring.Key{one, two}, nil)
		c := a.dial(t)
		ours.want(t, c, name, "yes", remove)
		left := []string{"two"}
		if name != "remove" {
			left = nil
		}
		wantComments(t, c, name, append([]string{}, left...)...)
		ours.want(t, c, name+": sign", "no", signFrame(edKey(1).blob(), nil, 0))
		if n := one.Signed(); n != 0 {
			t.Errorf("%s: the key was used %d times", name, n)
		}
		a.Keys.Refresh()
		a.Keys.Replace("others", fakes(edKey(3)))
		wantComments(t, a.dial(t), name+": after something else changed", append([]string{"ed25519 key"}, left...)...)
		again := edKey(1).fake()
		again.KeyInfo.Label = "again"
		a.Keys.Replace("test", []keyring.Key{again, two})
		if got := comments(t, c); !slices.Contains(got, "again") {
			t.Errorf("%s: the file was replaced: %q", name, got)
		}
		ours.want(t, c, name+": sign with the replaced one", "yes", signFrame(edKey(1).blob(), nil, 0))
	}
}

// TestConstraintsCoverTheFile adds a key that a file holds, too: the file must
// not get round what was asked for, neither beside the added key nor after it.
func TestConstraintsCoverTheFile(t *testing.T) {
	file := edKey(1).fake()
	file.KeyInfo.NeedsAuth = true // with a passphrase, which nobody gives
	a := start(t, []keyring.Key{file}, func(s *Server) { s.Certificates = NewCertificates() })
	cert := edKey(1).certify(ssh.UserCert, 200, nil)
	data := append([]byte(cert.Type()+" "), ssh.MarshalAuthorizedKey(cert)[len(cert.Type())+1:]...)
	path := "/k-cert.pub"
	if err := a.Certificates.Load(folder.File{Path: path}, data); err != nil {
		t.Fatal(err)
	}
	a.Certificates.Scanned([]folder.File{{Path: path}}, nil)
	c := a.dial(t)
	wantComments(t, c, "the file and its certificate", "ed25519 key", "ed25519 key")
	id := file.KeyInfo.ID

	ours.want(t, c, "add with a destination", "yes", edKey(1).addFrame("k", restrict(testHop{}, testHop{"", "gate", []testKey{edKey(9)}, false})))
	wantComments(t, c, "restricted", "k")
	for what, blob := range map[string][]byte{"key": edKey(1).blob(), "certificate": cert.Marshal()} {
		ours.want(t, c, "sign anything with the "+what, "no", signFrame(blob, []byte("x"), 0))
	}
	_, err := a.Keys.Sign(t.Context(), keyring.SignRequest{Caller: keyring.Caller{FrontEnd: "D-Bus"}, Key: id, Digest: []byte("x"), Opts: noHash{}})
	if !errors.Is(err, keyring.ErrDenied) {
		t.Errorf("another front end: %v", err)
	}
	ours.want(t, c, "remove", "yes", frame([]byte{18}, str(edKey(1).blob())))
	wantComments(t, c, "removed")
	ours.want(t, c, "sign after that", "no", signFrame(edKey(1).blob(), []byte("x"), 0))
	if n := len(a.prompter.Questions()); n != 0 {
		t.Errorf("%d questions", n)
	}

	ours.want(t, c, "add without anything", "yes", edKey(1).addFrame("k"))
	wantComments(t, c, "free again", "k", "k")
	ours.want(t, c, "sign", "yes", signFrame(edKey(1).blob(), []byte("x"), 0))
	a.DropAdded()
	wantComments(t, c, "dropped: the certificate's file was never touched", "ed25519 key")
	info, err := a.Keys.Find(id)
	if err != nil || info.Kind != keyring.KindFile || info.Only != "" {
		t.Errorf("the core has %+v, %v", info, err)
	}
}

// TestExpiryWipesByTimer wants a key gone without anybody asking, and what its
// file holds with it.
func TestExpiryWipesByTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSession(t, fakes(edKey(1)))
		add := func(n byte, seconds uint32) {
			if reply := s.answer(edKey(n).addFrame("k", lifetimeOf(seconds))[headerSize:]); reply[4] != msgSuccess {
				t.Fatalf("add: %x", reply)
			}
		}
		id := edKey(1).fake().KeyInfo.ID
		kind := func() keyring.Kind {
			info, _ := s.server.Keys.Find(id)
			return info.Kind
		}
		add(1, 10)
		add(2, 60)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if kind() != keyring.KindAdded {
			t.Fatal("gone too early")
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if kind() != keyring.KindFile {
			t.Error("the timer did not wipe the key")
		}
		if reply := s.answer([]byte{msgRequestIdentities}); reply[8] != 1 {
			t.Errorf("listed: %x", reply)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(s.server.Keys.List()); n != 1 {
			t.Errorf("%d keys in the core", n)
		}
		s.server.DropAdded()
	})
}

// TestLifetimeCountsSuspendedTime uses clocks that disagree.
func TestLifetimeCountsSuspendedTime(t *testing.T) {
	now := time.Now()
	a := &added{from: now.Add(-time.Minute), constraints: constraints{limited: true, lifetime: time.Hour}}
	if a.expired(now) {
		t.Error("after a minute")
	}
	// The wall clock went on for two hours in which the monotonic one stood still.
	if !a.expired(now.Round(0).Add(2 * time.Hour)) {
		t.Error("not after two hours of sleep")
	}
}

// TestRemovedDuringAQuestion removes, locks and replaces while the user thinks.
func TestRemovedDuringAQuestion(t *testing.T) {
	for name, change := range map[string]func(a *agentTest, c contractAgent){
		"removed": func(a *agentTest, c contractAgent) {
			c.want(t, a.dial(t), "remove", "yes", frame([]byte{18}, str(edKey(1).blob())))
		},
		"locked":   func(a *agentTest, c contractAgent) { c.want(t, a.dial(t), "lock", "yes", frame([]byte{22}, str("x"))) },
		"replaced": func(a *agentTest, c contractAgent) { c.want(t, a.dial(t), "add", "yes", edKey(1).addFrame("k")) },
	} {
		k := newBlockingKey(edKey(1))
		a := start(t, []keyring.Key{k}, nil)
		c := a.dial(t)
		if _, err := c.Write(signFrame(edKey(1).blob(), []byte("x"), 0)); err != nil {
			t.Fatal(err)
		}
		receive(t, k.entered, "the sign to begin")
		change(a, ours)
		close(k.release)
		reply, err := readReply(c)
		if err != nil || outcomeOf(reply) != "no" {
			t.Errorf("%s meanwhile: %x, %v", name, reply, err)
		}
	}
}

// TestWrongUnlocksCostTime wants guesses to take longer and longer, also for
// those who hang up, and nothing else to wait.
func TestWrongUnlocksCostTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLock()
		if err := l.lock(t.Context(), []byte("right")); err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= 120; i++ {
			begin := time.Now()
			if err := l.unlock(t.Context(), []byte("wrong")); !errors.Is(err, keyring.ErrAuthFailed) {
				t.Fatal(err)
			}
			want := min(time.Duration(i)*unlockDelay, maxDelay)
			if took := time.Since(begin); took != want {
				t.Fatalf("wrong try %d took %v, want %v", i, took, want)
			}
			if i > 3 && i < 99 {
				l.wrong = 98 // the rest is slow enough to compute
				i = 98
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		hurried := make(chan error)
		go func() { hurried <- l.unlock(gone, []byte("wrong")) }()
		synctest.Wait()
		cancel()
		if err := <-hurried; !errors.Is(err, context.Canceled) {
			t.Errorf("who hangs up: %v", err)
		}
		begin := time.Now()
		if err := l.unlock(t.Context(), []byte("right")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != maxDelay {
			t.Errorf("the next try came %v after one that hung up, want %v", took, maxDelay)
		}
		if l.locked.Load() || !bytes.Equal(l.hash[:], make([]byte, lockHash)) {
			t.Error("still locked, or the hash is kept")
		}
	})
}

func TestLockedHidesFileKeys(t *testing.T) {
	a := start(t, fakes(edKey(1)), nil)
	c := a.dial(t)
	ours.want(t, c, "lock", "yes", frame([]byte{22}, str("x")))
	wantComments(t, c, "locked")
	ours.want(t, c, "sign", "no", signFrame(edKey(1).blob(), nil, 0))
	// A connection that is bound while locked is bound afterwards.
	ours.want(t, c, "bind", "yes", bindFrame(edKey(11), nil, "s", true))
	ours.want(t, a.dial(t), "unlock", "yes", frame([]byte{23}, str("x")))
	wantComments(t, c, "unlocked", "ed25519 key")
	ours.want(t, c, "remote", "no", frame([]byte{19}))
}

// TestCertificatesInFolders watches a real folder.
func TestCertificatesInFolders(t *testing.T) {
	dir := t.TempDir()
	all := keyring.NewKeys(keyring.NewGate(&keyringtest.FakePrompter{}))
	private := filepath.Join(dir, "id")
	run(t, "", "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mia", "-f", private)
	ca := filepath.Join(t.TempDir(), "ca")
	run(t, "", "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ca)
	certs := NewCertificates()
	ctx, cancel := context.WithCancel(t.Context())
	f := must(folder.Watch(ctx, folder.Options{Dirs: []string{dir}, Settle: time.Millisecond}, sshkeys.New(all, nil), certs))
	defer func() { cancel(); <-f.Done() }()
	a := start(t, nil, nil)
	a.Server.Keys, a.Certificates = all, certs
	a.added.keys = all
	c := a.dial(t)
	wantComments(t, c, "no certificate yet", "mia")
	sign := func(name string, args ...string) string {
		t.Helper()
		pub := filepath.Join(t.TempDir(), "k.pub")
		writeFile(t, pub, string(must(os.ReadFile(private+".pub"))), 0o600)
		args = append([]string{"-q", "-s", ca, "-I", name, "-n", "mia"}, append(args, pub)...)
		if out, status := run(t, "", "", "ssh-keygen", args...); status != 0 {
			t.Fatalf("ssh-keygen: %s", out)
		}
		return string(must(os.ReadFile(filepath.Join(filepath.Dir(pub), "k-cert.pub"))))
	}
	expect := func(what string, n int) {
		t.Helper()
		await(t, what, func() bool { return len(comments(t, c)) == 1+n })
	}
	first := sign("first")
	writeFile(t, private+"-cert.pub", first, 0o644)
	expect("the certificate to be offered", 1)
	writeFile(t, filepath.Join(dir, "more-cert.pub"), sign("second", "-V", "+1h"), 0o644)
	expect("a second one", 2)
	writeFile(t, filepath.Join(dir, "bad-cert.pub"), "ssh-ed25519-cert-v01@openssh.com AAAA\n", 0o644)
	writeFile(t, filepath.Join(dir, "host-cert.pub"), sign("host", "-h"), 0o644)
	writeFile(t, filepath.Join(dir, "old-cert.pub"), sign("old", "-V", "20200101:20200102"), 0o644)
	if err := f.Rescan(ctx); err != nil {
		t.Fatal(err)
	}
	expect("bad ones to be left out", 2)
	skipped := map[string]bool{}
	for _, s := range f.Skipped() {
		skipped[filepath.Base(s.Path)] = !s.Ordinary
	}
	if !skipped["bad-cert.pub"] || !skipped["host-cert.pub"] || skipped["old-cert.pub"] {
		t.Errorf("skipped: %v", f.Skipped())
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(first))
	if err != nil {
		t.Fatal(err)
	}
	verifyReply(t, roundTrip(t, c, signFrame(pub.Marshal(), []byte("x"), 0)), pub.(*ssh.Certificate).Key.(ssh.CryptoPublicKey).CryptoPublicKey(), []byte("x"))
	writeFile(t, private+"-cert.pub", sign("third", "-V", "+2h"), 0o644)
	await(t, "the certificate to be replaced", func() bool {
		return outcomeOf(roundTrip(t, c, signFrame(pub.Marshal(), nil, 0))) == "no"
	})
	expect("as many as before", 2)
}

// A file with more certificates than anybody has is not taken whole, and its rest
// is not silently left out.
func TestCertificatesOfAFileHaveAnEnd(t *testing.T) {
	line := ssh.MarshalAuthorizedKey(edKey(1).certify(ssh.UserCert, 200, nil))
	found, err := readCertificates(bytes.Repeat(line, maxCertificates))
	if len(found) != maxCertificates || err != nil {
		t.Errorf("%d certificates, %v", len(found), err)
	}
	found, err = readCertificates(bytes.Repeat(line, maxCertificates+1))
	if len(found) != maxCertificates || err == nil {
		t.Errorf("one more: %d certificates, %v", len(found), err)
	}
}

// TestCertificatesComeAndGoWithTime uses certificates that are valid for a while.
func TestCertificatesComeAndGoWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSession(t, fakes(edKey(1)))
		s.server.Certificates = NewCertificates()
		now := time.Now().Unix()
		cert := edKey(1).certify(ssh.UserCert, 200, func(c *ssh.Certificate) {
			c.ValidAfter, c.ValidBefore = uint64(now+100), uint64(now+200)
		})
		if err := s.server.Certificates.Load(folder.File{Path: "/k-cert.pub"}, ssh.MarshalAuthorizedKey(cert)); err != nil {
			t.Fatal(err)
		}
		s.server.Certificates.Scanned([]folder.File{{Path: "/k-cert.pub"}}, nil)
		for _, step := range []struct {
			wait time.Duration
			want byte
		}{{0, 1}, {99 * time.Second, 1}, {2 * time.Second, 2}, {98 * time.Second, 2}, {2 * time.Second, 1}, {time.Hour, 1}} {
			time.Sleep(step.wait)
			if reply := s.answer([]byte{msgRequestIdentities}); reply[8] != step.want {
				t.Errorf("at %d s: %d identities, want %d", time.Now().Unix()-now, reply[8], step.want)
			}
		}
	})
}
