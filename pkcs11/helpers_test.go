package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// patience is how long a test waits for something that happens at once.
const patience = time.Minute

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A testKey is one of a test's private keys, by the name of its type.
type testKey struct {
	name   string
	signer crypto.Signer
}

func edKey(n byte) testKey {
	return testKey{"ed25519", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))}
}

// testKeys is one key of every type that is served, made once.
var testKeys = sync.OnceValue(func() map[string]testKey {
	return map[string]testKey{
		"ed25519": edKey(1),
		"p256":    {"p256", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))},
		"p384":    {"p384", must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))},
		"p521":    {"p521", must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))},
		"rsa":     {"rsa", must(rsa.GenerateKey(rand.Reader, 2048))},
	}
})

// fake returns k as a key of the core that counts what it signs; its label tells
// its type.
func (k testKey) fake(kind keyring.Kind) *keyringtest.FakeKey {
	return keyringtest.NewFakeKey(k.signer, kind, k.name+" key", "/home/mia/.ssh/"+k.name)
}

// A softKey signs whatever crypto.Signer does, padded content without a hash
// included, as keys from ordinary files do.
type softKey struct {
	*keyringtest.FakeKey
	signer crypto.Signer
}

func (k testKey) soft() softKey { return softKey{k.fake(keyring.KindFile), k.signer} }

func (k softKey) Sign(_ context.Context, _ secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.signer.Sign(rand.Reader, digest, opts)
}

func softKeys(names ...string) []keyring.Key {
	var keys []keyring.Key
	for _, name := range names {
		keys = append(keys, testKeys()[name].soft())
	}
	return keys
}

// certificateOf makes a certificate for a key, signed by itself.
func certificateOf(tb testing.TB, k testKey, name string, serial int64) *x509.Certificate {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Duration(serial) * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageEmailProtection},
		EmailAddresses:        []string{"mia@example.org"},
		SubjectKeyId:          []byte{byte(serial)},
		DNSNames:              []string{"localhost"},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.signer.Public(), k.signer)
	if err != nil {
		tb.Fatal(err)
	}
	return must(x509.ParseCertificate(der))
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// showing returns Certificates that have seen one file for each certificate.
func showing(tb testing.TB, certs ...*x509.Certificate) *Certificates {
	tb.Helper()
	c := NewCertificates()
	var files []folder.File
	for i, cert := range certs {
		f := folder.File{Path: filepath.Join("/keys", string(rune('a'+i))+".crt")}
		if err := c.Load(f, pemOf(cert)); err != nil {
			tb.Fatal(err)
		}
		files = append(files, f)
	}
	c.Scanned(files, nil)
	return c
}

// A serverTest is a running Server.
type serverTest struct {
	*Server
	all      *keyring.Keys
	prompter *keyringtest.FakePrompter
	socket   string
	log      *logtest.Buffer
	stop     func() // ends Serve and waits for it; may be called again
}

// start serves keys until the test ends.
func start(tb testing.TB, keys []keyring.Key, o Options, change ...func(*Server)) *serverTest {
	tb.Helper()
	s := &serverTest{prompter: &keyringtest.FakePrompter{}, log: &logtest.Buffer{}}
	s.all = keyring.NewKeys(keyring.NewGate(s.prompter))
	s.all.Replace("test", keys)
	s.Server = New(s.all, slog.New(slog.NewTextHandler(s.log, nil)), o)
	for _, f := range change {
		f(s.Server)
	}
	dir := must(os.MkdirTemp("", "kr"))
	tb.Cleanup(func() { os.RemoveAll(dir) })
	s.socket = filepath.Join(dir, "pkcs11")
	l := must(net.Listen("unix", s.socket))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			tb.Error("Serve does not return")
		}
	})
	tb.Cleanup(s.stop)
	return s
}

// A client speaks the protocol as p11-kit's does, one call after the other.
type client struct {
	tb      testing.TB
	conn    net.Conn
	framing p11rpc.Framing
	frames  *p11rpc.FrameReader
	code    uint32
}

// connect greets with a version and is answered.
func (s *serverTest) connect(tb testing.TB, version byte) *client {
	tb.Helper()
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	if _, err := conn.Write([]byte{version}); err != nil {
		tb.Fatal(err)
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		tb.Fatal(err)
	}
	if answer[0] != p11rpc.Negotiate(version) {
		tb.Fatalf("offered version %d, answered %d", version, answer[0])
	}
	return &client{tb: tb, conn: conn, framing: p11rpc.FramingOf(version), frames: p11rpc.NewFrameReader(conn, nil)}
}

// open connects, initializes, and opens a session in a slot.
func (s *serverTest) open(tb testing.TB, slot uint64) (*client, uint64) {
	tb.Helper()
	c := s.connect(tb, 2)
	c.initialize()
	return c, c.openSession(slot)
}

func (c *client) send(call p11rpc.Call, fill func(*p11rpc.Encoder)) uint32 {
	c.tb.Helper()
	e := p11rpc.NewRequest(call, c.framing)
	if fill != nil {
		fill(e)
	}
	c.code++
	if _, err := c.conn.Write(p11rpc.AppendFrame(nil, p11rpc.Frame{Code: c.code, Body: e.Message()})); err != nil {
		c.tb.Fatal(err)
	}
	return c.code
}

// receive returns the next answer, whose body stays valid.
func (c *client) receive() (uint32, p11rpc.RV, *p11rpc.Decoder) {
	c.tb.Helper()
	frame, err := c.frames.Next()
	if err != nil {
		c.tb.Fatal(err)
	}
	call, d, err := p11rpc.ParseResponse(bytes.Clone(frame.Body), c.framing)
	if err != nil {
		c.tb.Fatal(err)
	}
	if call == p11rpc.CallError {
		rv := p11rpc.RV(d.Ulong())
		return frame.Code, rv, nil
	}
	return frame.Code, p11rpc.OK, d
}

// call makes a call and returns its answer.
func (c *client) call(call p11rpc.Call, fill func(*p11rpc.Encoder)) (p11rpc.RV, *p11rpc.Decoder) {
	c.tb.Helper()
	code := c.send(call, fill)
	got, rv, d := c.receive()
	if got != code {
		c.tb.Fatalf("%v: answer %d to request %d", call, got, code)
	}
	return rv, d
}

// must makes a call that succeeds.
func (c *client) must(call p11rpc.Call, fill func(*p11rpc.Encoder)) *p11rpc.Decoder {
	c.tb.Helper()
	rv, d := c.call(call, fill)
	if rv != p11rpc.OK {
		c.tb.Fatalf("%v: %v", call, rv)
	}
	return d
}

// want makes a call that is answered with rv.
func (c *client) want(want p11rpc.RV, call p11rpc.Call, fill func(*p11rpc.Encoder)) {
	c.tb.Helper()
	if rv, _ := c.call(call, fill); rv != want {
		c.tb.Errorf("%v: %v, want %v", call, rv, want)
	}
}

func handshake(e *p11rpc.Encoder) {
	e.Data([]byte(p11rpc.Handshake))
	e.Byte(0)
	e.Data([]byte{0})
}

func (c *client) initialize() { c.tb.Helper(); c.must(p11rpc.Initialize, handshake) }

func ulongs(list ...uint64) func(*p11rpc.Encoder) {
	return func(e *p11rpc.Encoder) {
		for _, n := range list {
			e.Ulong(n)
		}
	}
}

func (c *client) openSession(slot uint64) uint64 {
	c.tb.Helper()
	return c.must(p11rpc.OpenSession, ulongs(slot, flagSerial|flagRW)).Ulong()
}

func (c *client) find(session uint64, template ...p11rpc.Attribute) []uint64 {
	c.tb.Helper()
	c.must(p11rpc.FindObjectsInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Attributes(template) })
	var found []uint64
	for {
		some := c.must(p11rpc.FindObjects, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(3) }).Ulongs().Values
		if len(some) == 0 {
			break
		}
		found = append(found, some...)
	}
	c.must(p11rpc.FindObjectsFinal, ulongs(session))
	return found
}

func class(c p11rpc.Class) p11rpc.Attribute {
	return p11rpc.NewAttribute(p11rpc.AttrClass, p11rpc.UlongValue(uint64(c)))
}

// one finds the only object of a class, or of those of a key.
func (c *client) one(session uint64, cl p11rpc.Class, k testKey) uint64 {
	c.tb.Helper()
	id := must(keyring.NewKeyID(k.signer.Public()))
	found := c.find(session, class(cl), p11rpc.NewAttribute(p11rpc.AttrID, id[:]))
	if len(found) != 1 {
		c.tb.Fatalf("%d objects of class %d for the %s key", len(found), cl, k.name)
	}
	return found[0]
}

func (c *client) attributes(session, object uint64, types ...p11rpc.AttributeType) ([]p11rpc.Attribute, p11rpc.RV) {
	c.tb.Helper()
	d := c.must(p11rpc.GetAttributeValue, func(e *p11rpc.Encoder) {
		e.Ulong(session)
		e.Ulong(object)
		var rooms []p11rpc.Room
		for _, t := range types {
			rooms = append(rooms, p11rpc.Room{Type: t, Length: 4096})
		}
		e.Rooms(rooms)
	})
	list, rv := d.Attributes(), p11rpc.RV(d.Ulong())
	if err := d.End(); err != nil {
		c.tb.Fatal(err)
	}
	return list, rv
}

func (c *client) signInit(session uint64, m p11rpc.Mechanism, key uint64) p11rpc.RV {
	c.tb.Helper()
	rv, _ := c.call(p11rpc.SignInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(m); e.Ulong(key) })
	return rv
}

func signArgs(session uint64, data []byte, room uint32) func(*p11rpc.Encoder) {
	return func(e *p11rpc.Encoder) { e.Ulong(session); e.Data(data); e.Room(room) }
}

// sign signs in one go.
func (c *client) sign(session uint64, m p11rpc.Mechanism, key uint64, data []byte) ([]byte, p11rpc.RV) {
	c.tb.Helper()
	if rv := c.signInit(session, m, key); rv != p11rpc.OK {
		return nil, rv
	}
	rv, d := c.call(p11rpc.Sign, signArgs(session, data, 4096))
	if rv != p11rpc.OK {
		return nil, rv
	}
	return d.Bytes().Data, p11rpc.OK
}

// until polls for something that another goroutine or process brings about.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("never: %s", what)
		}
	}
}

// program returns a program's path, or skips or fails the test.
func program(tb testing.TB, name string) string {
	tb.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p
		}
	}
	bustest.Missing(tb, name)
	return ""
}

// library returns the path of a library that one of the patterns names.
func library(tb testing.TB, patterns ...string) string {
	tb.Helper()
	for _, p := range patterns {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			return found[0]
		}
	}
	bustest.Missing(tb, patterns[0])
	return ""
}
