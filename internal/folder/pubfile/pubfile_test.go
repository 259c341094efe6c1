package pubfile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"

	"golang.org/x/crypto/ssh"
)

func publics(t testing.TB) []crypto.PublicKey {
	t.Helper()
	list := []crypto.PublicKey{
		ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)),
		// The highest bit set and clear: the number needs a zero byte or none.
		&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2047, 1), E: 65537},
		&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2046, 1), E: 3},
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &k.PublicKey)
	}
	return list
}

func TestWireIsSSHs(t *testing.T) {
	for _, pub := range publics(t) {
		theirs, err := ssh.NewPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(Wire(pub), theirs.Marshal()) {
			t.Errorf("%T: %x, want %x", pub, Wire(pub), theirs.Marshal())
		}
		p, ok := Parse(append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(theirs)), " mia@home  laptop \n"...))
		if !ok || !bytes.Equal(p.Blob, Wire(pub)) || p.Comment != "mia@home  laptop" {
			t.Errorf("%T: parsed as %v %q", pub, ok, p.Comment)
		}
	}
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if Wire(&p224.PublicKey) != nil || Wire("key") != nil {
		t.Error("a form for keys that have none")
	}
}

func TestSet(t *testing.T) {
	list := publics(t)
	key, _ := ssh.NewPublicKey(list[0])
	line := append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)), " mia"...)
	var s Set
	if s.Load("/k", line) || !s.Load("/k.pub", append([]byte("# by hand\n\n"), line...)) {
		t.Fatal("a public key file is told by its name and its contents")
	}
	for path, pub := range map[string]crypto.PublicKey{"/k": list[0], "/other": list[0]} {
		want := map[string]string{"/k": "mia"}[path]
		if got := s.Comment(path, Wire(pub)); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := s.Comment("/k", Wire(list[1])); got != "" {
		t.Errorf("the comment of another key: %q", got)
	}
	if s.Load("/k.pub", []byte("-----BEGIN")); s.Comment("/k", Wire(list[0])) != "" {
		t.Error("what was replaced is still there")
	}
	s.Load("/k.pub", line)
	if s.Keep(func(string) bool { return false }); len(s.seen) != 0 {
		t.Error("what is gone is still there")
	}
}

func FuzzParse(f *testing.F) {
	for _, pub := range publics(f) {
		key, _ := ssh.NewPublicKey(pub)
		f.Add(ssh.MarshalAuthorizedKey(key))
	}
	f.Add([]byte("ssh-rsa AAAA"))
	f.Add([]byte("ssh-rsa /////w== x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, ok := Parse(data)
		if ok && (len(p.Blob) < 4 || len(p.Blob)+len(p.Comment) > len(data)) {
			t.Errorf("more than was there: %d, %d of %d", len(p.Blob), len(p.Comment), len(data))
		}
	})
}
