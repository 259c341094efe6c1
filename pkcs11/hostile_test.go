package pkcs11

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// rss is this process's resident memory in bytes, once it has given back what it
// does not need.
func rss(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	fields := strings.Fields(string(must(os.ReadFile("/proc/self/statm"))))
	return must(strconv.Atoi(fields[1])) * os.Getpagesize()
}

// nestedTemplates is a search whose template lies in a template, and so on.
func nestedTemplates(depth int) []byte {
	e := p11rpc.NewRequest(p11rpc.FindObjectsInit, p11rpc.FramingNew)
	e.Ulong(1)
	body := e.Message()
	for range depth {
		body = append(body, 0, 0, 0, 1, 0x40, 0, 2, 0x11, 1, 0, 0, 0, 24)
	}
	return append(body, 0, 0, 0, 0)
}

func rawRequest(call p11rpc.Call, fields ...byte) []byte {
	return append(p11rpc.NewRequest(call, p11rpc.FramingNew).Message(), fields...)
}

// Messages that announce the impossible are refused one by one, cost little, and
// the connection goes on, as do those of others.
func TestHostileMessages(t *testing.T) {
	s := start(t, softKeys("p256"), Options{})
	bystander, session := s.open(t, fileSlot)
	key := bystander.one(session, p11rpc.ClassPrivateKey, testKeys()["p256"])
	eight := make([]byte, 8)
	max32 := []byte{0xff, 0xff, 0xff, 0xff}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	before := rss(t)
	c, _ := s.open(t, fileSlot)
	for round := range 20 {
		for name, m := range map[string]struct {
			body []byte
			want p11rpc.RV
		}{
			"50,000 nested templates": {nestedTemplates(50_000), p11rpc.DeviceError},
			"4 G attributes":          {rawRequest(p11rpc.FindObjectsInit, cat(eight, max32)...), p11rpc.DeviceError},
			"4 G rooms":               {rawRequest(p11rpc.GetAttributeValue, cat(eight, eight, max32)...), p11rpc.DeviceError},
			"1 GiB of data":           {rawRequest(p11rpc.SignUpdate, cat(eight, []byte{1, 0x40, 0, 0, 0})...), p11rpc.DeviceError},
			"4 G slots":               {rawRequest(p11rpc.GetSlotList, cat([]byte{1}, max32)...), p11rpc.OK},
			"4 GiB of random":         {rawRequest(p11rpc.GenerateRandom, cat([]byte{0, 0, 0, 0, 0, 0, 0, 1}, max32)...), p11rpc.ArgumentsBad},
			"unknown call":            {[]byte{0, 0, 0xff, 0xff, 0, 0, 0, 0}, p11rpc.FunctionNotSupported},
			"nothing":                 {nil, p11rpc.DeviceError},
			"unknown mechanism":       {rawRequest(p11rpc.SignInit, cat(eight, []byte{0x80, 1, 2, 3}, max32)...), p11rpc.MechanismInvalid},
		} {
			c.code++
			if _, err := c.conn.Write(p11rpc.AppendFrame(nil, p11rpc.Frame{Code: c.code, Body: m.body})); err != nil {
				t.Fatal(err)
			}
			if code, rv, _ := c.receive(); rv != m.want || code != c.code {
				t.Errorf("%s: %v, want %v", name, rv, m.want)
			}
		}
		if _, rv := bystander.sign(session, ecdsaMechanism, key, make([]byte, 32)); rv != p11rpc.OK {
			t.Fatalf("round %d: another client is refused: %v", round, rv)
		}
	}
	// A frame whose length cannot be believed ends its connection.
	for name, header := range map[string][]byte{
		"1 GiB body":    {0, 0, 0, 1, 0, 0, 0, 0, 0x40, 0, 0, 0},
		"4 GiB options": {0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
	} {
		c := s.connect(t, 2)
		if _, err := c.conn.Write(header); err != nil {
			t.Fatal(err)
		}
		if n, err := c.conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	if grown := rss(t) - before; grown > 8<<20 && !raceEnabled {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	if _, rv := bystander.sign(session, ecdsaMechanism, key, make([]byte, 32)); rv != p11rpc.OK {
		t.Errorf("another client is refused: %v", rv)
	}
}

// basePoint is a point on P-256.
var basePoint = must(ecdh.P256().NewPrivateKey(append(make([]byte, 31), 1))).PublicKey().Bytes()

// conversation is a run of valid requests of many kinds, as bodies.
func conversation(framing p11rpc.Framing) [][]byte {
	var all [][]byte
	add := func(call p11rpc.Call, fill func(*p11rpc.Encoder)) {
		e := p11rpc.NewRequest(call, framing)
		if fill != nil {
			fill(e)
		}
		all = append(all, e.Message())
	}
	template := []p11rpc.Attribute{class(p11rpc.ClassPrivateKey), p11rpc.NewAttribute(p11rpc.AttrSign, p11rpc.BoolValue(true))}
	pss := p11rpc.Mechanism{Type: p11rpc.MechSHA256RSAPKCSPSS, PSS: &p11rpc.PSSParams{Hash: p11rpc.MechSHA256, MGF: p11rpc.MGF1SHA256, Salt: 32}}
	add(p11rpc.Initialize, handshake)
	add(p11rpc.GetInfo, nil)
	add(p11rpc.GetSlotList, func(e *p11rpc.Encoder) { e.Byte(1); e.Room(4) })
	add(p11rpc.GetTokenInfo, ulongs(fileSlot))
	add(p11rpc.GetMechanismList, func(e *p11rpc.Encoder) { e.Ulong(fileSlot); e.Room(40) })
	add(p11rpc.OpenSession, ulongs(fileSlot, flagSerial))
	add(p11rpc.Login, func(e *p11rpc.Encoder) { e.Ulong(1); e.Ulong(userUser); e.Data([]byte("1234")) })
	add(p11rpc.FindObjectsInit, func(e *p11rpc.Encoder) { e.Ulong(1); e.Attributes(template) })
	add(p11rpc.FindObjects, func(e *p11rpc.Encoder) { e.Ulong(1); e.Room(16) })
	add(p11rpc.FindObjectsFinal, ulongs(1))
	add(p11rpc.GetAttributeValue, func(e *p11rpc.Encoder) {
		e.Ulong(1)
		e.Ulong(2)
		e.Rooms([]p11rpc.Room{{Type: p11rpc.AttrID, Length: 32}, {Type: p11rpc.AttrModulus}, {Type: p11rpc.AttrWrapTemplate, Length: 24, Nested: []p11rpc.Room{{Type: p11rpc.AttrSign}}}})
	})
	add(p11rpc.SignInit, func(e *p11rpc.Encoder) { e.Ulong(1); e.Mechanism(pss); e.Ulong(2) })
	add(p11rpc.Sign, signArgs(1, []byte("data"), 512))
	add(p11rpc.SignInit, func(e *p11rpc.Encoder) {
		e.Ulong(1)
		e.Mechanism(p11rpc.Mechanism{Type: p11rpc.MechRSAPKCS})
		e.Ulong(2)
	})
	add(p11rpc.SignUpdate, func(e *p11rpc.Encoder) { e.Ulong(1); e.Data([]byte("data")) })
	add(p11rpc.VerifyInit, func(e *p11rpc.Encoder) { e.Ulong(1); e.Mechanism(pss); e.Ulong(1) })
	add(p11rpc.Verify, func(e *p11rpc.Encoder) { e.Ulong(1); e.Data([]byte("data")); e.Data(make([]byte, 256)) })
	add(p11rpc.DigestInit, func(e *p11rpc.Encoder) { e.Ulong(1); e.Mechanism(p11rpc.Mechanism{Type: p11rpc.MechSHA512}) })
	add(p11rpc.Digest, signArgs(1, []byte("data"), 64))
	add(p11rpc.GenerateRandom, func(e *p11rpc.Encoder) { e.Ulong(1); e.Room(16) })
	add(p11rpc.GenerateKeyPair, func(e *p11rpc.Encoder) {
		e.Ulong(1)
		e.Mechanism(p11rpc.Mechanism{Type: p11rpc.MechECKeyPairGen})
		e.Attributes(template)
		e.Attributes(template)
	})
	oaep := p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSOAEP, OAEP: &p11rpc.OAEPParams{Hash: p11rpc.MechSHA1, MGF: 1, Source: 1, Data: []byte("label")}}
	add(p11rpc.DecryptInit, func(e *p11rpc.Encoder) { e.Ulong(1); e.Mechanism(oaep); e.Ulong(2) })
	add(p11rpc.DecryptUpdate, signArgs(1, make([]byte, 100), 256))
	add(p11rpc.DecryptFinal, func(e *p11rpc.Encoder) { e.Ulong(1); e.Room(256) })
	add(p11rpc.DecryptInit, func(e *p11rpc.Encoder) { e.Ulong(1); e.Mechanism(rsaMechanism); e.Ulong(2) })
	add(p11rpc.Decrypt, signArgs(1, make([]byte, 256), 256))
	ecdh := p11rpc.Mechanism{Type: p11rpc.MechECDH1Derive, ECDH: &p11rpc.ECDHParams{KDF: 1, Public: basePoint}}
	add(p11rpc.DeriveKey, func(e *p11rpc.Encoder) {
		e.Ulong(1)
		e.Mechanism(ecdh)
		e.Ulong(4)
		e.Attributes(secretTemplate())
	})
	add(p11rpc.UnwrapKey, func(e *p11rpc.Encoder) {
		e.Ulong(1)
		e.Mechanism(oaep)
		e.Ulong(2)
		e.Data(make([]byte, 256))
		e.Attributes(secretTemplate())
	})
	add(p11rpc.CreateObject, func(e *p11rpc.Encoder) {
		e.Ulong(1)
		e.Attributes([]p11rpc.Attribute{class(p11rpc.ClassCertificate), yes(p11rpc.AttrToken), attr(p11rpc.AttrValue, []byte{0x30, 0})})
	})
	add(p11rpc.GetAttributeValue, func(e *p11rpc.Encoder) {
		e.Ulong(1)
		e.Ulong(5)
		e.Rooms([]p11rpc.Room{{Type: p11rpc.AttrValue, Length: 100}, {Type: p11rpc.AttrValueLen, Length: 8}})
	})
	add(p11rpc.DestroyObject, ulongs(1, 5))
	add(p11rpc.CloseSession, ulongs(1))
	add(p11rpc.Finalize, nil)
	return all
}

// mutate changes a few bytes of a message, or its length.
func mutate(r *rand.Rand, body []byte) []byte {
	body = bytes.Clone(body)
	for range 1 + r.IntN(4) {
		switch i := r.IntN(len(body)); r.IntN(5) {
		case 0:
			body[i] ^= 1 << r.IntN(8)
		case 1:
			body[i] = byte(r.Uint32())
		case 2:
			for j := i; j < min(len(body), i+4); j++ {
				body[j] = 0xff
			}
		case 3:
			body = append(body[:i:i], append([]byte{byte(r.Uint32())}, body[i:]...)...)
		case 4:
			body = body[:max(1, i)]
		}
	}
	return body
}

// A hundred thousand mutated messages: every one is answered, nobody is the worse
// for it.
func TestMutatedMessages(t *testing.T) {
	s := start(t, softKeys("rsa", "p256"), Options{})
	bystander, session := s.open(t, fileSlot)
	key := bystander.one(session, p11rpc.ClassPrivateKey, testKeys()["p256"])
	before := rss(t)
	messages := 100_000
	if raceEnabled {
		messages = 20_000
	}
	var wg sync.WaitGroup
	for version := range byte(3) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(version)))
			all := conversation(p11rpc.FramingOf(version))
			c := s.connect(t, version)
			if err := c.conn.SetDeadline(time.Now().Add(10 * patience)); err != nil {
				t.Error(err)
				return
			}
			for i := range messages/3 + 1 {
				body := all[i%len(all)]
				if r.IntN(8) > 0 { // the others keep the conversation alive
					body = mutate(r, body)
				}
				if _, err := c.conn.Write(p11rpc.AppendFrame(nil, p11rpc.Frame{Code: uint32(i + 1), Body: body})); err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
				frame, err := c.frames.Next()
				if err != nil {
					t.Errorf("no answer to message %d, %x: %v", i, body, err)
					return
				}
				if _, _, err := p11rpc.ParseResponse(frame.Body, c.framing); err != nil {
					t.Errorf("answer to message %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if strings.Contains(s.log.String(), "panic") {
		t.Errorf("a panic:\n%s", s.log.String())
	}
	grown := rss(t) - before
	t.Logf("memory grew by %d KiB", grown>>10)
	if grown > 8<<20 && !raceEnabled {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	if _, rv := bystander.sign(session, ecdsaMechanism, key, make([]byte, 32)); rv != p11rpc.OK {
		t.Errorf("another client is refused: %v", rv)
	}
}

// Those who connect and say half a word leave nothing behind.
func TestHalfMessagesLeaveNothing(t *testing.T) {
	s := start(t, softKeys("p256"), Options{})
	before := runtime.NumGoroutine()
	whole := append([]byte{2}, p11rpc.AppendFrame(nil, p11rpc.Frame{Code: 1, Body: conversation(p11rpc.FramingNew)[0]})...)
	for i := range 1000 {
		c, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(whole[:i%len(whole)]); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	until(t, "goroutines gone", func() bool { return runtime.NumGoroutine() <= before })
}

// A client that is slow in the middle of a request, or does not greet, is let
// go; one that is idle between requests is not.
func TestSlowClients(t *testing.T) {
	s := start(t, softKeys("p256"), Options{}, func(s *Server) { s.frameTimeout = 50 * time.Millisecond })
	silent := must(net.Dial("unix", s.socket))
	defer silent.Close()
	idle, session := s.open(t, fileSlot)
	slow := s.connect(t, 0)
	if _, err := slow.conn.Write([]byte{0, 0, 0, 1, 0}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]net.Conn{"silent": silent, "slow": slow.conn} {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	idle.must(p11rpc.GetSessionInfo, ulongs(session))
}

// A client that asks and does not read is let go, and holds up nobody.
func TestClientThatDoesNotRead(t *testing.T) {
	s := start(t, softKeys("p256"), Options{}, func(s *Server) { s.writeTimeout = 50 * time.Millisecond })
	c, session := s.open(t, fileSlot)
	body := p11rpc.NewRequest(p11rpc.GenerateRandom, p11rpc.FramingNew)
	body.Ulong(session)
	body.Room(maxRandom)
	frame := p11rpc.AppendFrame(nil, p11rpc.Frame{Code: 9, Body: body.Message()})
	var err error
	for range 100_000 {
		if _, err = c.conn.Write(frame); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("answers are kept for a client that does not read them")
	}
	other, _ := s.open(t, fileSlot)
	other.must(p11rpc.GetInfo, nil)
}

// FuzzServer gives a server a whole conversation.
func FuzzServer(f *testing.F) {
	for version := range byte(3) {
		var stream []byte
		for i, body := range conversation(p11rpc.FramingOf(version)) {
			stream = p11rpc.AppendFrame(stream, p11rpc.Frame{Code: uint32(i + 1), Body: body})
		}
		f.Add(version, stream)
	}
	s := start(f, softKeys("p256"), Options{})
	f.Fuzz(func(t *testing.T, version byte, stream []byte) {
		c := must(net.Dial("unix", s.socket)).(*net.UnixConn)
		defer c.Close()
		answers := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(c)
			answers <- all
		}()
		if _, err := c.Write(append([]byte{version}, stream...)); err != nil {
			<-answers // it was let go, with bytes unread
			return
		}
		if err := c.CloseWrite(); err != nil {
			<-answers
			return
		}
		all := <-answers
		if len(all) == 0 || all[0] != p11rpc.Negotiate(version) {
			return // a reset takes answers with it
		}
		for all = all[1:]; len(all) >= 12; {
			n := binary.BigEndian.Uint32(all[8:])
			if uint64(n) > uint64(len(all)-12) {
				break
			}
			if _, _, err := p11rpc.ParseResponse(all[12:12+n], p11rpc.FramingOf(version)); err != nil {
				t.Errorf("answer %x: %v", all[:12+n], err)
			}
			all = all[12+n:]
		}
		if strings.Contains(s.log.String(), "panic") {
			t.Fatal(s.log.String())
		}
	})
}

// Eight threads of one program sign with eight keys: seven do not wait for the
// question about the eighth's.
func TestSevenThreadsDoNotWait(t *testing.T) {
	const threads = 8
	var keys []keyring.Key
	for n := range byte(threads) {
		fake := edKey(n + 1).fake(keyring.KindFile)
		fake.KeyInfo.Confirm = n == 0
		keys = append(keys, fake)
	}
	s := start(t, keys, Options{})
	answer := make(chan struct{})
	s.prompter.Script(keyringtest.Reply{When: answer})
	c := s.connect(t, 2)
	c.initialize()
	eddsa := p11rpc.Mechanism{Type: p11rpc.MechEDDSA}
	var sessions []uint64
	for n := range byte(threads) {
		session := c.openSession(fileSlot)
		if rv := c.signInit(session, eddsa, c.one(session, p11rpc.ClassPrivateKey, edKey(n+1))); rv != p11rpc.OK {
			t.Fatal(rv)
		}
		sessions = append(sessions, session)
	}
	waiting := map[uint32]int{}
	for n, session := range sessions {
		waiting[c.send(p11rpc.Sign, signArgs(session, []byte("x"), 64))] = n
	}
	for range threads - 1 {
		code, rv, _ := c.receive()
		if n, ok := waiting[code]; !ok || n == 0 || rv != p11rpc.OK {
			t.Errorf("answer %d, of thread %d: %v", code, n, rv)
		}
		delete(waiting, code)
	}
	close(answer)
	if code, rv, _ := c.receive(); waiting[code] != 0 || rv != p11rpc.OK {
		t.Errorf("the one that waited: %v", rv)
	}
}
