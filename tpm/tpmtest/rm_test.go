package tpmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyringd/keyringd/tpm/link"
)

func rawDial(t *testing.T, f addressed) *net.UnixConn {
	t.Helper()
	conn, err := net.Dial("unix", f.Address().Target)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn)
}

func primary(l transport.TPM) (tpm2.NamedHandle, error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: h2}.Execute(l)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, nil
}

func handles(t *testing.T, l transport.TPM, first uint32) []tpm2.TPMHandle {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 100}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return list.Handle
}

func TestEveryConnectionHasATPMOfItsOwn(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	rm := tpm.ResourceManager()
	if !rm.Address().ResourceManager || tpm.Address().ResourceManager {
		t.Error("the addresses do not say who manages resources")
	}
	var links []*link.Link
	for range 4 { // 12 objects on a TPM with three slots
		l := dial(t, rm.Address())
		links = append(links, l)
		for i := range 3 {
			p, err := primary(l)
			if err != nil {
				t.Fatal(err)
			}
			if want := tpm2.TPMHandle(0x80FFFFFF - i); p.Handle != want {
				t.Errorf("handle %#x, want %#x", p.Handle, want)
			}
		}
	}
	flush(t, links[0], 0x80FFFFFE)
	for i, l := range links {
		want := []tpm2.TPMHandle{0x80FFFFFF, 0x80FFFFFE, 0x80FFFFFD}
		if i == 0 {
			want = []tpm2.TPMHandle{0x80FFFFFF, 0x80FFFFFD}
		}
		got := handles(t, l, 0x80000000)
		if len(got) != len(want) {
			t.Fatalf("connection %d has %x, want %x", i, got, want)
		}
		for _, h := range want {
			if _, err := (tpm2.ReadPublic{ObjectHandle: h}).Execute(l); err != nil {
				t.Errorf("connection %d, %#x: %v", i, h, err)
			}
		}
	}
	// The slot that was flushed is the next to be given.
	if p, err := primary(links[0]); err != nil || p.Handle != 0x80FFFFFE {
		t.Errorf("%#x, %v", p.Handle, err)
	}
	if left := handles(t, dial(t, tpm.Address()), 0x80000000); len(left) != 0 {
		t.Errorf("left in the TPM: %x", left)
	}
}

func TestTheTPMsOwnLimitsHoldWithinAConnection(t *testing.T) {
	t.Parallel()
	l := dial(t, Start(t).ResourceManager().Address())
	for i := range 4 {
		if _, err := primary(l); (i < 3) != (err == nil) || i == 3 && !errors.Is(err, tpm2.TPMRCObjectMemory) {
			t.Errorf("object %d: %v", i+1, err)
		}
	}
	for i := range 4 {
		if _, _, err := tpm2.HMACSession(l, tpm2.TPMAlgSHA256, 16); (i < 3) != (err == nil) || i == 3 && !errors.Is(err, tpm2.TPMRCSessionMemory) {
			t.Errorf("session %d: %v", i+1, err)
		}
	}
}

func TestWhatTheKernelRefusesEndsTheConnection(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	rm := tpm.ResourceManager()
	for name, wrong := range map[string]func(l transport.TPM) error{
		"a handle not given": func(l transport.TPM) error {
			_, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x80FFFFFE)}.Execute(l)
			return err
		},
		"a handle of the TPM": func(l transport.TPM) error {
			_, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x80000000)}.Execute(l)
			return err
		},
	} {
		l := dial(t, rm.Address())
		if _, err := primary(l); err != nil {
			t.Fatal(err)
		}
		if _, _, err := tpm2.HMACSession(l, tpm2.TPMAlgSHA256, 16); err != nil {
			t.Fatal(err)
		}
		if err := wrong(l); !errors.Is(err, link.ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw := dial(t, tpm.Address())
	if left := handles(t, raw, 0x80000000); len(left) != 0 {
		t.Errorf("objects left in the TPM: %x", left)
	}
	waitForNoSessions(t, raw)
}

// waitForNoSessions waits until the last connection's end was dealt with.
func waitForNoSessions(t *testing.T, l transport.TPM) {
	t.Helper()
	const loaded, saved = 0x02000000, 0x03000000
	for range 10000 {
		if len(handles(t, l, loaded)) == 0 && len(handles(t, l, saved)) == 0 {
			return
		}
	}
	t.Error("sessions are left in the TPM")
}

func TestSessionsEndWithTheConnection(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	rm := tpm.ResourceManager()
	raw := dial(t, tpm.Address())
	for range 5 {
		l := dial(t, rm.Address())
		for range 3 {
			if _, _, err := tpm2.HMACSession(l, tpm2.TPMAlgSHA256, 16); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
	}
	waitForNoSessions(t, raw)
}

func TestUnknownCommandIsAnsweredByTheRM(t *testing.T) {
	t.Parallel()
	rm := Start(t).ResourceManager()
	l := dial(t, rm.Address())
	rsp, err := l.Send(command(0x1FFF))
	if err != nil || binary.BigEndian.Uint32(rsp[6:]) != 0xB0143 {
		t.Errorf("% x, %v", rsp, err)
	}
	if rm.PhysicalTotal() != 0 {
		t.Errorf("the TPM was asked: %v", rm.Physical())
	}
}

func TestConnectionOutlivesARestartButItsObjectsDoNot(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	rm := tpm.ResourceManager()
	empty, full := dial(t, rm.Address()), dial(t, rm.Address())
	if _, err := random(empty); err != nil {
		t.Fatal(err)
	}
	if _, err := primary(full); err != nil {
		t.Fatal(err)
	}
	tpm.Kill()
	tpm.Restart()
	if _, err := random(empty); err != nil {
		t.Errorf("without objects: %v", err)
	}
	if _, err := random(full); !errors.Is(err, link.ErrGone) {
		t.Errorf("with an object: %v", err)
	}
	if _, err := primary(dial(t, rm.Address())); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	tpm.Kill()
	if _, err := random(empty); !errors.Is(err, link.ErrGone) {
		t.Errorf("without a TPM: %v", err)
	}
}

func TestSavedContextsWorkThroughTheRM(t *testing.T) {
	t.Parallel()
	rm := Start(t).ResourceManager()
	l := dial(t, rm.Address())
	p, err := primary(l)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := tpm2.ContextSave{SaveHandle: p.Handle}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	flush(t, l, p.Handle)
	other := dial(t, rm.Address())
	loaded, err := tpm2.ContextLoad{Context: saved.Context}.Execute(other)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.ReadPublic{ObjectHandle: loaded.LoadedHandle}.Execute(other)
	if err != nil || !bytes.Equal(public.Name.Buffer, p.Name.Buffer) {
		t.Errorf("%v", err)
	}
}

func TestManyConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	rm := tpm.ResourceManager()
	raw := dial(t, tpm.Address())
	rawKey := resident(t, raw)
	var wg sync.WaitGroup
	for range 8 {
		l := dial(t, rm.Address())
		wg.Go(func() {
			for range 3 {
				p, err := primary(l)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := (tpm2.FlushContext{FlushHandle: p.Handle}).Execute(l); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 10 {
		if err := sign(raw, rawKey, tpm2.PasswordAuth(nil)); err != nil {
			t.Error("beside them:", err)
		}
	}
	wg.Wait()
}

// FuzzSpace lets a hostile client and a broken TPM loose on a space.
func FuzzSpace(f *testing.F) {
	handle := []byte{0x80, 0xFF, 0xFF, 0xFF}
	f.Add(command(tpm2.TPMCCFlushContext, handle...), []byte{0, 0, 0})
	f.Add(command(tpm2.TPMCCCreatePrimary, 0x40, 0, 0, 1), append([]byte{4, 0}, handle...))
	f.Add(command(tpm2.TPMCCStartAuthSession, make([]byte, 8)...), []byte{4, 0, 2, 0, 0, 0})
	f.Add(command(tpm2.TPMCCGetCapability), []byte{13, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0, 0, 0})
	f.Add(command(tpm2.TPMCCSign, handle...), []byte{0, 1, 4, 0, 0x80, 0, 0, 1})
	attributes := map[tpm2.TPMCC]handleCount{
		tpm2.TPMCCFlushContext:     {command: 1},
		tpm2.TPMCCCreatePrimary:    {command: 1, response: true},
		tpm2.TPMCCStartAuthSession: {command: 2, response: true},
		tpm2.TPMCCGetCapability:    {},
		tpm2.TPMCCSign:             {command: 1},
		tpm2.TPMCCContextLoad:      {response: true},
	}
	f.Fuzz(func(t *testing.T, client, answers []byte) {
		if _, err := parseAttributes(append(respond(0), answers...)); err == nil && len(answers)%4 != 1 {
			t.Errorf("% x is taken for a list of attributes", answers)
		}
		var s space
		// Each answer takes from the input its length, its failure, its body.
		do := func(cmd []byte) ([]byte, error) {
			if commandCode(cmd) == 0 || len(cmd) < headerSize || int(binary.BigEndian.Uint32(cmd[2:])) != len(cmd) {
				t.Fatalf("the TPM got % x", cmd)
			}
			if len(answers) < 2 {
				return nil, errDown
			}
			n, rc := int(answers[0]), tpm2.TPMRC(0)
			if answers[1] != 0 {
				rc = []tpm2.TPMRC{tpm2.TPMRCHandle, tpm2.TPMRCReferenceH0, tpm2.TPMRCIntegrity, tpm2.TPMRCFailure}[answers[1]%4]
			}
			answers = answers[2:]
			n = min(n, len(answers))
			rsp := append(respond(rc), answers[:n]...)
			answers = answers[n:]
			binary.BigEndian.PutUint32(rsp[2:], uint32(len(rsp)))
			return rsp, nil
		}
		for {
			cmd, err := readFrame(bytes.NewReader(client))
			if err != nil {
				break
			}
			client = client[len(cmd):]
			sent := bytes.Clone(cmd)
			before := s
			rsp, err := s.transmit(cmd, attributes, do)
			if !bytes.Equal(cmd, sent) {
				t.Fatal("the client's command was changed")
			}
			if err != nil {
				for i := range s.objects {
					if s.objects[i].used != before.objects[i].used || !bytes.Equal(s.objects[i].saved, before.objects[i].saved) {
						t.Fatal("a command that failed changed the space")
					}
				}
				continue
			}
			if int(binary.BigEndian.Uint32(rsp[2:])) != len(rsp) {
				t.Fatalf("the client got % x", rsp)
			}
			for _, o := range s.objects {
				if o.handle != 0 || o.used != (o.saved != nil) {
					t.Fatalf("%+v is not at rest", o)
				}
			}
		}
		s.end(do)
	})
}
