package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/keyringd/keyringd/keyring"
)

// noHash says that the message itself is signed.
type noHash struct{}

func (noHash) HashFunc() crypto.Hash { return 0 }

func TestSignEveryTypeAndFlag(t *testing.T) {
	a := start(t, fakes(testKeys()...), nil)
	client := sshagent.NewClient(a.dial(t))
	listed, err := client.List()
	if err != nil || len(listed) != len(testKeys()) {
		t.Fatalf("listed %d keys, %v", len(listed), err)
	}
	algorithms := map[string][]string{ // by flags 0 to 7
		"ed25519": {"ssh-ed25519"},
		"p256":    {"ecdsa-sha2-nistp256"},
		"p384":    {"ecdsa-sha2-nistp384"},
		"p521":    {"ecdsa-sha2-nistp521"},
		"rsa": {"ssh-rsa", "ssh-rsa", "rsa-sha2-256", "rsa-sha2-256",
			"rsa-sha2-512", "rsa-sha2-512", "rsa-sha2-256", "rsa-sha2-256"},
	}
	data := []byte("the data")
	for _, k := range testKeys() {
		pub := must(ssh.NewPublicKey(k.signer.Public()))
		for flags := range uint32(8) {
			for _, extra := range []uint32{0, 8, 1 << 31} {
				sig, err := client.SignWithFlags(pub, data, sshagent.SignatureFlags(flags|extra))
				if err != nil {
					t.Fatalf("%s, flags %d: %v", k.name, flags|extra, err)
				}
				want := algorithms[k.name][int(flags)%len(algorithms[k.name])]
				if sig.Format != want || len(sig.Rest) > 0 {
					t.Errorf("%s, flags %d: algorithm %q, want %q", k.name, flags|extra, sig.Format, want)
				}
				if err := pub.Verify(data, sig); err != nil {
					t.Errorf("%s, flags %d: %v", k.name, flags|extra, err)
				}
			}
		}
	}
}

func TestSignEmptyAndLargestData(t *testing.T) {
	k := edKey(1)
	a := start(t, fakes(k), nil)
	c := a.dial(t)
	room := maxRequest - (len(signFrame(k.blob(), nil, 0)) - 4)
	for _, n := range []int{0, room} {
		wantType(t, roundTrip(t, c, signFrame(k.blob(), make([]byte, n), 0)), msgSignResponse)
	}
	if _, err := c.Write(signFrame(k.blob(), make([]byte, room+1), 0)[:headerSize]); err != nil {
		t.Fatal(err)
	}
	wantDropped(t, c)
}

func TestRefusedSignKeepsConnection(t *testing.T) {
	k := edKey(1).fake()
	var fail error
	k.Hook = func(context.Context) error { return fail }
	a := start(t, []keyring.Key{k}, nil)
	c := a.dial(t)
	for _, fail = range keyring.Errors {
		fail = fmt.Errorf("device: %w", fail)
		if reply := roundTrip(t, c, signFrame(edKey(1).blob(), nil, 0)); !bytes.Equal(reply, []byte{msgFailure}) {
			t.Errorf("%v: reply %x", fail, reply)
		}
	}
	fail = nil
	wantType(t, roundTrip(t, c, signFrame(edKey(1).blob(), nil, 0)), msgSignResponse)
}

// TestGateIsToldWhoAndWhy sees what a prompt will show.
func TestGateIsToldWhoAndWhy(t *testing.T) {
	k := edKey(1).fake()
	k.KeyInfo.Confirm = true
	a := start(t, []keyring.Key{k}, nil)
	a.allow()
	host := edKey(9).blob()
	data := loginData("mia", methodHostBound, edKey(1).blob(), host)
	wantType(t, roundTrip(t, a.dial(t), signFrame(edKey(1).blob(), data, 0)), msgSignResponse)
	asked := a.prompter.Questions()
	if len(asked) != 1 {
		t.Fatalf("asked %d times", len(asked))
	}
	want := "log in as mia to host key " + ssh.FingerprintSHA256(must(ssh.ParsePublicKey(host)))
	if asked[0].Reason != want {
		t.Errorf("reason %q, want %q", asked[0].Reason, want)
	}
	if pid := fmt.Sprintf("(%d", os.Getpid()); !strings.Contains(asked[0].Caller, pid) {
		t.Errorf("caller %q does not name this process, %s", asked[0].Caller, pid)
	}
}

func TestMalformedSignaturesAreCaught(t *testing.T) {
	keys := map[string]*identity{}
	for _, k := range testKeys() {
		keys[k.name] = must(newIdentity(k.fake().KeyInfo))
	}
	n := keys["p256"].info.Public.(*ecdsa.PublicKey).Params().N.Bytes()
	order := append([]byte{0x30, 38, 0x02, 33, 0}, n...) // r = N, s = 1
	order = append(order, 0x02, 1, 1)
	for name, sig := range map[string][]byte{
		"empty":    nil,
		"trailing": {0x30, 6, 2, 1, 1, 2, 1, 1, 0},
		"zero":     {0x30, 6, 2, 1, 0, 2, 1, 1},
		"negative": {0x30, 6, 2, 1, 0xff, 2, 1, 1},
		"order":    order,
	} {
		if v, err := keys["p256"].signatureValue(sig); !errors.Is(err, errSignature) {
			t.Errorf("p256, %s: %x, %v", name, v, err)
		}
	}
	size := keys["rsa"].info.Public.(*rsa.PublicKey).Size()
	if _, err := keys["rsa"].signatureValue(make([]byte, size+1)); !errors.Is(err, errSignature) {
		t.Errorf("rsa, too long: %v", err)
	}
	short, err := keys["rsa"].signatureValue([]byte{1, 2, 3})
	if err != nil || len(short) != size || !bytes.HasSuffix(short, []byte{0, 1, 2, 3}) {
		t.Errorf("rsa, short: %x, %v", short, err)
	}
	if _, err := keys["ed25519"].signatureValue(make([]byte, 63)); !errors.Is(err, errSignature) {
		t.Errorf("ed25519, short: %v", err)
	}
}
