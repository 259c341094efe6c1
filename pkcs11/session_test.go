package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
	"github.com/keyringd/keyringd/prompt"
)

const fileSlot = 2

var ecdsaMechanism = p11rpc.Mechanism{Type: p11rpc.MechECDSA}

func slotList(c *client, present byte) []uint64 {
	d := c.must(p11rpc.GetSlotList, func(e *p11rpc.Encoder) { e.Byte(present); e.Room(10) })
	return d.Ulongs().Values
}

// Every version is served, with the framing that its clients use.
func TestEveryVersionSigns(t *testing.T) {
	k := testKeys()["rsa"]
	s := start(t, softKeys("rsa"), Options{})
	for _, version := range []byte{0, 1, 2, 3, 255} {
		c := s.connect(t, version)
		c.initialize()
		session := c.openSession(fileSlot)
		key := c.one(session, p11rpc.ClassPrivateKey, k)
		for _, m := range []p11rpc.Mechanism{
			{Type: p11rpc.MechSHA256RSAPKCS},
			{Type: p11rpc.MechSHA256RSAPKCSPSS, PSS: &p11rpc.PSSParams{Hash: p11rpc.MechSHA256, MGF: p11rpc.MGF1SHA256, Salt: 32}},
		} {
			if sig, rv := c.sign(session, m, key, []byte("data")); rv != p11rpc.OK || len(sig) != 256 {
				t.Errorf("version %d, mechanism %#x: %d bytes, %v", version, m.Type, len(sig), rv)
			}
		}
	}
}

func TestNothingBeforeInitialize(t *testing.T) {
	s := start(t, softKeys("p256"), Options{})
	c := s.connect(t, 2)
	c.want(p11rpc.CryptokiNotInitialized, p11rpc.GetInfo, nil)
	c.want(p11rpc.GeneralError, p11rpc.Initialize, func(e *p11rpc.Encoder) {
		e.Data([]byte("another protocol"))
		e.Byte(0)
		e.Data(nil)
	})
	c.want(p11rpc.CryptokiNotInitialized, p11rpc.GetInfo, nil)
	c.initialize()
	c.want(p11rpc.CryptokiAlreadyInit, p11rpc.Initialize, handshake)
	session := c.openSession(fileSlot)
	c.must(p11rpc.Finalize, nil)
	c.want(p11rpc.CryptokiNotInitialized, p11rpc.GetInfo, nil)
	c.initialize()
	c.want(p11rpc.SessionHandleInvalid, p11rpc.GetSessionInfo, ulongs(session))
}

// A token comes with its first key and goes with the last, and slots that have
// one come first.
func TestTokensComeAndGo(t *testing.T) {
	k := testKeys()
	s := start(t, nil, Options{})
	c := s.connect(t, 2)
	c.initialize()
	list := func(want string, present byte) {
		t.Helper()
		if got := fmt.Sprint(slotList(c, present)); got != want {
			t.Errorf("slots %s, want %s", got, want)
		}
	}
	list("[]", 1)
	list("[1 2]", 0)
	c.want(p11rpc.TokenNotPresent, p11rpc.OpenSession, ulongs(fileSlot, flagSerial))
	c.want(p11rpc.TokenNotPresent, p11rpc.GetTokenInfo, ulongs(fileSlot))
	c.want(p11rpc.SlotIDInvalid, p11rpc.GetSlotInfo, ulongs(3))
	s.all.Replace("test", []keyring.Key{k["p256"].soft()})
	list("[2]", 1)
	list("[2 1]", 0)
	s.all.Replace("test", []keyring.Key{k["p256"].fake(keyring.KindTPM), k["rsa"].fake(keyring.KindAdded)})
	list("[1 2]", 1)
	if d := c.must(p11rpc.GetSlotList, func(e *p11rpc.Encoder) { e.Byte(1); e.Room(0) }); d.Ulongs().Length != 2 {
		t.Error("the length of the list is not 2")
	}
	if d := c.must(p11rpc.GetSlotList, func(e *p11rpc.Encoder) { e.Byte(1); e.Room(1) }); !d.Ulongs().LengthOnly {
		t.Error("too small a room is overrun")
	}
}

// Handles are stable while the object is, and never mean another one.
func TestHandlesAreNeverStale(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("p256", "rsa", "p384"), Options{})
	c, session := s.open(t, fileSlot)
	rsa := c.one(session, p11rpc.ClassPrivateKey, k["rsa"])
	gone := c.one(session, p11rpc.ClassPrivateKey, k["p256"])
	if rv := c.signInit(session, ecdsaMechanism, gone); rv != p11rpc.OK {
		t.Fatal(rv)
	}
	c.must(p11rpc.FindObjectsInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Attributes(nil) })
	s.all.Replace("test", softKeys("rsa", "p384"))
	found := c.must(p11rpc.FindObjects, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(100) }).Ulongs().Values
	if len(found) != 4 || slices.Contains(found, gone) {
		t.Errorf("a search finds %v, with the removed %d", found, gone)
	}
	c.want(p11rpc.OperationActive, p11rpc.FindObjectsInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Attributes(nil) })
	c.must(p11rpc.FindObjectsFinal, ulongs(session))
	c.want(p11rpc.OperationNotInitialized, p11rpc.FindObjectsFinal, ulongs(session))
	c.want(p11rpc.OperationNotInitialized, p11rpc.FindObjects, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(1) })
	// A key that goes between SignInit and Sign signs nothing.
	c.want(p11rpc.ObjectHandleInvalid, p11rpc.Sign, signArgs(session, make([]byte, 32), 100))
	if rv := c.signInit(session, ecdsaMechanism, gone); rv != p11rpc.KeyHandleInvalid {
		t.Errorf("a removed key begins to sign: %v", rv)
	}
	s.all.Replace("test", softKeys("p256", "rsa"))
	if again := c.one(session, p11rpc.ClassPrivateKey, k["p256"]); again == gone {
		t.Error("a handle comes back to life")
	}
	if again := c.one(session, p11rpc.ClassPrivateKey, k["rsa"]); again != rsa {
		t.Error("a key that stayed has another handle")
	}
	c.want(p11rpc.ObjectHandleInvalid, p11rpc.GetObjectSize, ulongs(session, gone))
}

func TestSessions(t *testing.T) {
	s := start(t, softKeys("p256"), Options{})
	c, session := s.open(t, fileSlot)
	c.want(p11rpc.SessionParallelNotSupp, p11rpc.OpenSession, ulongs(fileSlot, 0))
	info := func(id uint64) string {
		d := c.must(p11rpc.GetSessionInfo, ulongs(id))
		return fmt.Sprint(d.Ulong(), d.Ulong(), d.Ulong())
	}
	if got := info(session); got != "2 2 6" {
		t.Errorf("a new session: %s", got)
	}
	reading := c.must(p11rpc.OpenSession, ulongs(fileSlot, flagSerial)).Ulong()
	if got := info(reading); got != "2 0 4" {
		t.Errorf("a reading session: %s", got)
	}
	login := func(user uint64) func(*p11rpc.Encoder) {
		return func(e *p11rpc.Encoder) { e.Ulong(session); e.Ulong(user); e.Data([]byte("1234")) }
	}
	c.must(p11rpc.Login, login(userUser))
	c.want(p11rpc.UserAlreadyLoggedIn, p11rpc.Login, login(userUser))
	c.want(p11rpc.TokenWriteProtected, p11rpc.Login, login(userSO))
	c.want(p11rpc.UserTypeInvalid, p11rpc.Login, login(9))
	c.want(p11rpc.OperationNotInitialized, p11rpc.Login, login(userContextSpecific))
	if a, b := info(session), info(reading); a != "2 3 6" || b != "2 1 4" {
		t.Errorf("after a login: %s, %s", a, b)
	}
	c.must(p11rpc.Logout, ulongs(session))
	c.want(p11rpc.UserNotLoggedIn, p11rpc.Logout, ulongs(session))
	c.must(p11rpc.Login, func(e *p11rpc.Encoder) {
		e.Ulong(session)
		e.Ulong(userUser)
		e.Bytes(p11rpc.Bytes{}) // a program that leaves the PIN to the token passes NULL
	})
	c.must(p11rpc.CloseSession, ulongs(session))
	c.want(p11rpc.SessionHandleInvalid, p11rpc.CloseSession, ulongs(session))
	c.must(p11rpc.CloseAllSessions, ulongs(fileSlot))
	c.want(p11rpc.SessionHandleInvalid, p11rpc.GetSessionInfo, ulongs(reading))
	session = c.openSession(fileSlot)
	if got := info(session); got != "2 2 6" {
		t.Errorf("a login outlives the last session: %s", got)
	}
	for range maxSessions - 1 {
		c.openSession(fileSlot)
	}
	c.want(p11rpc.SessionCount, p11rpc.OpenSession, ulongs(fileSlot, flagSerial))
	// Sessions are a connection's own.
	other := s.connect(t, 2)
	other.initialize()
	other.want(p11rpc.SessionHandleInvalid, p11rpc.GetSessionInfo, ulongs(session))
}

func TestStrictHidesPrivateKeysUntilLogin(t *testing.T) {
	k := testKeys()["p256"]
	s := start(t, softKeys("p256"), Options{Strict: true})
	c, session := s.open(t, fileSlot)
	if found := c.find(session, class(p11rpc.ClassPrivateKey)); len(found) != 0 {
		t.Errorf("private keys %v before a login", found)
	}
	c.one(session, p11rpc.ClassPublicKey, k)
	d := c.must(p11rpc.GetTokenInfo, ulongs(fileSlot))
	for range 4 {
		d.Text()
	}
	if flags := d.Ulong(); flags&flagLoginRequired == 0 || flags&flagProtectedAuthPath == 0 {
		t.Errorf("flags %#x", flags)
	}
	c.must(p11rpc.Login, func(e *p11rpc.Encoder) { e.Ulong(session); e.Ulong(userUser); e.Bytes(p11rpc.Bytes{}) })
	key := c.one(session, p11rpc.ClassPrivateKey, k)
	if list, _ := c.attributes(session, key, p11rpc.AttrPrivate); list[0].Value[0] != 1 {
		t.Error("a key that needs a login is not private")
	}
	c.must(p11rpc.Logout, ulongs(session))
	if rv := c.signInit(session, ecdsaMechanism, key); rv != p11rpc.KeyHandleInvalid {
		t.Errorf("signs after the logout: %v", rv)
	}
}

// Asking for a length, or giving too little room, uses no key and asks nobody,
// and the operation goes on.
func TestLengthQueryDoesNotSign(t *testing.T) {
	k := testKeys()["p256"]
	fake := k.fake(keyring.KindTPM)
	fake.KeyInfo.Confirm = true
	s := start(t, []keyring.Key{fake}, Options{})
	c, session := s.open(t, 1)
	key := c.one(session, p11rpc.ClassPrivateKey, k)
	if rv := c.signInit(session, ecdsaMechanism, key); rv != p11rpc.OK {
		t.Fatal(rv)
	}
	for _, room := range []uint32{0, 0, 1, 63} {
		d := c.must(p11rpc.Sign, signArgs(session, make([]byte, 32), room))
		if b := d.Bytes(); !b.LengthOnly || b.Length != 64 {
			t.Errorf("room for %d: %+v", room, b)
		}
	}
	if fake.Signed() != 0 || len(s.prompter.Questions()) != 0 {
		t.Errorf("%d signatures, %d questions", fake.Signed(), len(s.prompter.Questions()))
	}
	s.prompter.Script(keyringtest.Reply{})
	if b := c.must(p11rpc.Sign, signArgs(session, make([]byte, 32), 64)).Bytes(); len(b.Data) != 64 {
		t.Errorf("signature of %d bytes", len(b.Data))
	}
	if fake.Signed() != 1 {
		t.Errorf("%d signatures", fake.Signed())
	}
	c.want(p11rpc.OperationNotInitialized, p11rpc.Sign, signArgs(session, make([]byte, 32), 64))
	q := s.prompter.Questions()
	if len(q) != 1 || !strings.Contains(q[0].Reason, "PKCS#11") || !strings.HasPrefix(q[0].Caller, filepath.Base(must(os.Executable()))+" (") {
		t.Errorf("the user was asked %+v", q)
	}
}

// A thread whose key waits for the user does not hold up the others, on the same
// connection, and answers come as they are ready.
func TestPromptDoesNotHoldUpOthers(t *testing.T) {
	k := testKeys()
	asks := k["p384"].fake(keyring.KindFile)
	asks.KeyInfo.Confirm = true
	s := start(t, []keyring.Key{k["p256"].soft(), asks}, Options{})
	c, busy := s.open(t, fileSlot)
	if rv := c.signInit(busy, ecdsaMechanism, c.one(busy, p11rpc.ClassPrivateKey, k["p384"])); rv != p11rpc.OK {
		t.Fatal(rv)
	}
	yes := make(chan struct{})
	s.prompter.Script(keyringtest.Reply{When: yes})
	slow := c.send(p11rpc.Sign, signArgs(busy, make([]byte, 48), 200))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.prompter.Await(ctx, 1); err != nil {
		t.Fatal(err)
	}
	session := c.openSession(fileSlot)
	key := c.one(session, p11rpc.ClassPrivateKey, k["p256"])
	for range 50 {
		if _, rv := c.sign(session, ecdsaMechanism, key, make([]byte, 32)); rv != p11rpc.OK {
			t.Fatal(rv)
		}
	}
	// What is under way in its session cannot be begun twice.
	c.want(p11rpc.OperationActive, p11rpc.Sign, signArgs(busy, make([]byte, 48), 200))
	if rv := c.signInit(busy, ecdsaMechanism, key); rv != p11rpc.OperationActive {
		t.Error(rv)
	}
	close(yes)
	if code, rv, d := c.receive(); code != slow || rv != p11rpc.OK || len(d.Bytes().Data) != 96 {
		t.Errorf("answer %d to request %d: %v", code, slow, rv)
	}
	if _, rv := c.sign(busy, ecdsaMechanism, key, make([]byte, 32)); rv != p11rpc.OK {
		t.Errorf("the session is stuck: %v", rv)
	}
}

// Whoever hangs up, closes the session or finalizes takes the question off the
// screen.
func TestPromptGoesWithItsAsker(t *testing.T) {
	k := testKeys()["p256"]
	for name, leave := range map[string]func(*client, uint64){
		"hang up":       func(c *client, _ uint64) { c.conn.Close() },
		"close session": func(c *client, s uint64) { c.send(p11rpc.CloseSession, ulongs(s)) },
		"finalize":      func(c *client, _ uint64) { c.send(p11rpc.Finalize, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			fake := k.fake(keyring.KindFile)
			fake.KeyInfo.Confirm = true
			s := start(t, []keyring.Key{fake}, Options{})
			s.prompter.Always(func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{When: make(chan struct{})} })
			c, session := s.open(t, fileSlot)
			if rv := c.signInit(session, ecdsaMechanism, c.one(session, p11rpc.ClassPrivateKey, k)); rv != p11rpc.OK {
				t.Fatal(rv)
			}
			sign := c.send(p11rpc.Sign, signArgs(session, make([]byte, 32), 64))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := s.prompter.Await(ctx, 1); err != nil {
				t.Fatal(err)
			}
			leave(c, session)
			if err := s.prompter.Await(ctx, 0); err != nil {
				t.Fatal(err)
			}
			if name == "hang up" {
				return
			}
			answers := map[uint32]p11rpc.RV{}
			for range 2 {
				code, rv, _ := c.receive()
				answers[code] = rv
			}
			if answers[sign] != p11rpc.SessionClosed || answers[sign+1] != p11rpc.OK {
				t.Errorf("answers %v", answers)
			}
		})
	}
}

// Serve ends while a question is open, and a stopped server leaves nothing.
func TestServeEndsDuringPrompt(t *testing.T) {
	k := testKeys()["p256"]
	fake := k.fake(keyring.KindFile)
	fake.KeyInfo.Confirm = true
	s := start(t, []keyring.Key{fake}, Options{})
	s.prompter.Always(func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{When: make(chan struct{})} })
	c, session := s.open(t, fileSlot)
	c.signInit(session, ecdsaMechanism, c.one(session, p11rpc.ClassPrivateKey, k))
	c.send(p11rpc.Sign, signArgs(session, make([]byte, 32), 64))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.prompter.Await(ctx, 1); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if s.prompter.Open() != 0 {
		t.Error("a question is left open")
	}
}

// A refusal, a wrong PIN and a locked TPM are told apart.
func TestRefusalsAreToldApart(t *testing.T) {
	k := testKeys()["p256"]
	device := &keyringtest.FakeDevice{Max: 3}
	s := start(t, []keyring.Key{k.fake(keyring.KindTPM).Locked("1234", device)}, Options{})
	c, session := s.open(t, 1)
	key := c.one(session, p11rpc.ClassPrivateKey, k)
	sign := func() p11rpc.RV {
		_, rv := c.sign(session, ecdsaMechanism, key, make([]byte, 32))
		return rv
	}
	s.prompter.Script(keyringtest.Reply{Err: prompt.ErrDismissed})
	if rv := sign(); rv != p11rpc.FunctionRejected {
		t.Errorf("a refusal: %v", rv)
	}
	s.prompter.Script(keyringtest.Reply{Err: prompt.ErrUnavailable})
	if rv := sign(); rv != p11rpc.DeviceError {
		t.Errorf("nobody to ask: %v", rv)
	}
	s.prompter.Script(keyringtest.Reply{Passphrase: "1234"})
	if rv := sign(); rv != p11rpc.OK {
		t.Errorf("the right PIN: %v", rv)
	}
	s.all.Replace("test", []keyring.Key{k.fake(keyring.KindTPM).Locked("1234", device)})
	device.Spoil(3)
	if rv := sign(); rv != p11rpc.PINLocked {
		t.Errorf("a locked TPM: %v", rv)
	}
}

// A key that panics costs one call, and its value is not told.
func TestPanicCostsOneCall(t *testing.T) {
	k := testKeys()["p256"]
	fake := k.fake(keyring.KindFile)
	fake.Hook = func(context.Context) error { panic("a secret") }
	s := start(t, []keyring.Key{fake}, Options{})
	c, session := s.open(t, fileSlot)
	key := c.one(session, p11rpc.ClassPrivateKey, k)
	for range 3 {
		if _, rv := c.sign(session, ecdsaMechanism, key, make([]byte, 32)); rv != p11rpc.GeneralError {
			t.Errorf("a panic: %v", rv)
		}
	}
	if log := s.log.String(); !strings.Contains(log, "panic of type string at") || strings.Contains(log, "a secret") || strings.Count(log, "\n") != 1 {
		t.Errorf("log: %s", log)
	}
}

func TestMultiPart(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("p256", "rsa", "ed25519"), Options{})
	c, session := s.open(t, fileSlot)
	key, public := c.one(session, p11rpc.ClassPrivateKey, k["p256"]), c.one(session, p11rpc.ClassPublicKey, k["p256"])
	m := p11rpc.Mechanism{Type: p11rpc.MechECDSASHA256}
	if rv := c.signInit(session, m, key); rv != p11rpc.OK {
		t.Fatal(rv)
	}
	parts := []string{"in ", "three ", "parts"}
	whole := []byte(strings.Join(parts, ""))
	update := func(call p11rpc.Call, part string) {
		t.Helper()
		c.must(call, func(e *p11rpc.Encoder) { e.Ulong(session); e.Data([]byte(part)) })
	}
	for _, part := range parts {
		update(p11rpc.SignUpdate, part)
	}
	c.want(p11rpc.OperationActive, p11rpc.Sign, signArgs(session, nil, 64))
	final := func(room uint32) p11rpc.Bytes {
		return c.must(p11rpc.SignFinal, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(room) }).Bytes()
	}
	if b := final(0); !b.LengthOnly || b.Length != 64 {
		t.Errorf("length %+v", b)
	}
	sig := final(64).Data
	digest := sha256.Sum256(whole)
	pub := k["p256"].signer.Public().(*ecdsa.PublicKey)
	if len(sig) != 64 || !ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Errorf("signature %x", sig)
	}
	verify := func(m p11rpc.Mechanism, key uint64) {
		t.Helper()
		c.must(p11rpc.VerifyInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(m); e.Ulong(key) })
	}
	verify(m, public)
	for _, part := range parts {
		update(p11rpc.VerifyUpdate, part)
	}
	c.must(p11rpc.VerifyFinal, func(e *p11rpc.Encoder) { e.Ulong(session); e.Data(sig) })
	// Mechanisms that do not hash take their data whole.
	edKey := c.one(session, p11rpc.ClassPrivateKey, k["ed25519"])
	if rv := c.signInit(session, p11rpc.Mechanism{Type: p11rpc.MechEDDSA}, edKey); rv != p11rpc.OK {
		t.Fatal(rv)
	}
	c.want(p11rpc.FunctionNotSupported, p11rpc.SignUpdate, func(e *p11rpc.Encoder) { e.Ulong(session); e.Data(whole) })
	c.want(p11rpc.OperationNotInitialized, p11rpc.SignFinal, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(64) })
	// No mechanism ends an operation.
	if rv := c.signInit(session, m, key); rv != p11rpc.OK {
		t.Fatal(rv)
	}
	if rv := c.signInit(session, p11rpc.Mechanism{Type: p11rpc.MechNone}, 0); rv != p11rpc.OK {
		t.Error(rv)
	}
	if rv := c.signInit(session, m, key); rv != p11rpc.OK {
		t.Errorf("an ended operation is active: %v", rv)
	}
	// A digest in parts.
	c.must(p11rpc.DigestInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(p11rpc.Mechanism{Type: p11rpc.MechSHA256}) })
	for _, part := range parts {
		update(p11rpc.DigestUpdate, part)
	}
	got := c.must(p11rpc.DigestFinal, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(32) }).Bytes().Data
	if !bytes.Equal(got, digest[:]) {
		t.Errorf("digest %x", got)
	}
}
