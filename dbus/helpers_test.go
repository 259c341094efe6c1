package dbus

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

// A house is a bus with a server on it.
type house struct {
	*testing.T
	bus      *bustest.Bus
	server   *Server
	keys     *keyring.Keys
	gate     *keyring.Gate
	prompter *keyringtest.FakePrompter
	log      *logtest.Buffer
}

// serve starts a bus and a server of these keys.
func serve(t *testing.T, keys ...keyring.Key) *house {
	t.Helper()
	return serveWith(t, func(*Server) {}, keys...)
}

// serveWith is serve with something done to the server before it begins.
func serveWith(t *testing.T, before func(*Server), keys ...keyring.Key) *house {
	t.Helper()
	h := &house{T: t, bus: bustest.Start(t), prompter: &keyringtest.FakePrompter{}, log: &logtest.Buffer{}}
	h.gate = keyring.NewGate(h.prompter)
	h.keys = keyring.NewKeys(h.gate)
	h.keys.Replace("test", keys)
	h.server = New(h.keys, h.gate, slog.New(slog.NewTextHandler(h.log, nil)))
	h.server.Version = "1.2.3"
	before(h.server)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.server.Serve(ctx, h.bus.Address) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Serve does not return")
		}
		if t.Failed() {
			t.Logf("journal:\n%s", h.log)
		}
	})
	h.awaitName()
	return h
}

// client connects to the bus as another program.
func (h *house) client() *godbus.Conn {
	h.Helper()
	c, err := godbus.Connect(h.bus.Address)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { c.Close() })
	return c
}

// awaitName waits until the server has its name, and returns how long it took.
func (h *house) awaitName() time.Duration {
	h.Helper()
	begin := time.Now()
	c, err := godbus.Connect(h.bus.Address)
	if err != nil {
		h.Fatal(err)
	}
	defer c.Close()
	signals := make(chan *godbus.Signal, 100)
	c.Signal(signals)
	if err := c.AddMatchSignal(godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, busName)); err != nil {
		h.Fatal(err)
	}
	var has bool
	if err := c.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&has); err != nil {
		h.Fatal(err)
	}
	if has {
		return time.Since(begin)
	}
	timeout := time.After(time.Minute)
	for {
		select {
		case s := <-signals:
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" && s.Body[2] != "" {
				return time.Since(begin)
			}
		case <-timeout:
			h.Fatal("the name is not there")
		}
	}
}

// await waits until cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		if cond() {
			return
		}
	}
	t.Fatalf("%s: not within 10 s", what)
}

func errorName(err error) string {
	var e godbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	if err == nil {
		return "no error"
	}
	return err.Error()
}

func newSigner(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var s crypto.Signer
	var err error
	switch kind {
	case "p256":
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		s, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		s, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "p224":
		s, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "rsa":
		s, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, k, genErr := ed25519.GenerateKey(rand.Reader)
		s, err = k, genErr
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newKey(t testing.TB, kind, label string, paths ...string) *keyringtest.FakeKey {
	t.Helper()
	return keyringtest.NewFakeKey(newSigner(t, kind), keyring.KindTPM, label, paths...)
}

func pathOf(k *keyringtest.FakeKey) godbus.ObjectPath { return keyPath(k.KeyInfo.ID) }

// options makes the options of a Sign from pairs.
func options(pairs ...any) map[string]godbus.Variant {
	o := map[string]godbus.Variant{}
	for i := 0; i < len(pairs); i += 2 {
		o[pairs[i].(string)] = godbus.MakeVariant(pairs[i+1])
	}
	return o
}

func sign(c *godbus.Conn, at godbus.ObjectPath, data []byte, scheme string, o map[string]godbus.Variant) ([]byte, error) {
	var sig []byte
	err := c.Object(busName, at).Call(keyInterface+".Sign", 0, data, scheme, o).Store(&sig)
	return sig, err
}

type (
	question  = prompt.Question
	slogLevel = slog.Level
)

// signerOf is a signer whose public key is all that a test needs.
type signerOf struct{ pub crypto.PublicKey }

func (s signerOf) Public() crypto.PublicKey { return s.pub }
func (signerOf) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("this key only has a public half")
}

func testLog(b *logtest.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }
