package transfer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"math/big"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
)

// A peer is the other end, made from the words of the specification.
type peer struct {
	private *big.Int
	public  []byte
}

func group() *big.Int {
	p, _ := new(big.Int).SetString(prime, 16)
	return p
}

func newPeer(private int64) peer {
	x := big.NewInt(private)
	return peer{x, new(big.Int).Exp(big.NewInt(2), x, group()).Bytes()}
}

// agree returns the peer's key, and how the shared secret begins.
func (p peer) agree(t testing.TB, public []byte) (key []byte, first byte) {
	t.Helper()
	shared := new(big.Int).Exp(new(big.Int).SetBytes(public), p.private, group()).FillBytes(make([]byte, primeSize))
	key, err := hkdf.Key(sha256.New, shared, nil, "", 16)
	if err != nil {
		t.Fatal(err)
	}
	return key, shared[0]
}

func open(t testing.TB, key, parameters, value []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, len(value))
	cipher.NewCBCDecrypter(block, parameters).CryptBlocks(plain, value)
	return plain[:len(plain)-int(plain[len(plain)-1])]
}

// TestGroupIsPrime: the number was not mistyped.
func TestGroupIsPrime(t *testing.T) {
	p := group()
	half := new(big.Int).Rsh(p, 1)
	if p.BitLen() != 1024 || !p.ProbablyPrime(20) || !half.ProbablyPrime(20) {
		t.Error("not the safe prime of RFC 2409 §6.2")
	}
}

// TestSharedSecretIsPadded: sessions whose shared secret begins with zero work
// like all others.
func TestSharedSecretIsPadded(t *testing.T) {
	zeros := 0
	for i := int64(3); zeros == 0 && i < 5000; i++ {
		p := newPeer(i)
		c, public, err := Agree(p.public)
		if err != nil {
			t.Fatal(err)
		}
		key, first := p.agree(t, public)
		if first != 0 && i > 20 {
			continue
		}
		if first == 0 {
			zeros++
		}
		parameters, value := c.Seal(secret.Copy([]byte("correct horse")))
		if got := open(t, key, parameters, value); string(got) != "correct horse" {
			t.Fatalf("session %d, shared secret beginning with %#x: %q", i, first, got)
		}
		back, err := c.Unseal(parameters, value)
		if err != nil {
			t.Fatal(err)
		}
		if !back.Equal(secret.Copy([]byte("correct horse"))) {
			t.Error("it came back as something else")
		}
	}
	if zeros == 0 {
		t.Error("no shared secret began with zero")
	}
}

func TestPeersKeyIsChecked(t *testing.T) {
	p := group()
	less := func(n int64) []byte { return new(big.Int).Sub(p, big.NewInt(n)).Bytes() }
	for name, c := range map[string]struct {
		key []byte
		ok  bool
	}{
		"none":           {nil, false},
		"zero":           {make([]byte, primeSize), false},
		"one":            {[]byte{1}, false},
		"two":            {[]byte{2}, true},
		"p-1":            {less(1), false},
		"p-2":            {less(2), true},
		"p":              {less(0), false},
		"p+2":            {new(big.Int).Add(p, big.NewInt(2)).Bytes(), false},
		"leading zeros":  {append(make([]byte, 3), less(2)...), true},
		"far too long":   {append(make([]byte, 1<<20), 2), false},
		"large and long": {bytes.Repeat([]byte{0xff}, maxPublic), false},
	} {
		_, public, err := Agree(c.key)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrPeer) {
			t.Errorf("%s: %v", name, err)
		}
		if c.ok && len(public) != primeSize {
			t.Errorf("%s: a public key of %d bytes", name, len(public))
		}
	}
}

// TestEveryFaultIsTheSame: what is wrong with an encrypted secret, nobody can
// tell from the answer.
func TestEveryFaultIsTheSame(t *testing.T) {
	c, _, err := Agree([]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	parameters, value := c.Seal(secret.Copy(make([]byte, 40)))
	padded := func(last ...byte) []byte {
		b := append(make([]byte, 16-len(last)), last...)
		cipher.NewCBCEncrypter(c.block, parameters).CryptBlocks(b, b)
		return b
	}
	for name, f := range map[string]struct{ parameters, value []byte }{
		"no value":         {parameters, nil},
		"half a block":     {parameters, value[:24]},
		"no parameters":    {nil, value},
		"short parameters": {parameters[:15], value},
		"padding of 0":     {parameters, padded(0)},
		"padding of 17":    {parameters, padded(17)},
		"padding of 255":   {parameters, padded(255)},
		"uneven padding":   {parameters, padded(1, 3, 3)},
	} {
		if s, err := c.Unseal(f.parameters, bytes.Clone(f.value)); err != ErrTransfer || s.Len() != 0 {
			t.Errorf("%s: %d bytes, %v", name, s.Len(), err)
		}
	}
	for n := 1; n <= 16; n++ {
		s, err := c.Unseal(parameters, padded(bytes.Repeat([]byte{byte(n)}, n)...))
		if err != nil || s.Len() != 16-n {
			t.Errorf("padding of %d: %d bytes, %v", n, s.Len(), err)
		}
	}
}

func TestPlain(t *testing.T) {
	c := NewPlain()
	parameters, value := c.Seal(secret.Copy([]byte("x\x00y")))
	if len(parameters) != 0 || string(value) != "x\x00y" {
		t.Errorf("%q, %q", parameters, value)
	}
	if _, value := c.Seal(secret.Bytes{}); len(value) != 0 {
		t.Errorf("%q", value)
	}
	s, err := c.Unseal(nil, value)
	if err != nil || !s.Equal(secret.Copy([]byte("x\x00y"))) {
		t.Error(err)
	}
	if string(value) != "\x00\x00\x00" {
		t.Errorf("%q is still there", value)
	}
	if _, err := c.Unseal([]byte{1}, []byte("x")); err != ErrTransfer {
		t.Error(err)
	}
}

// FuzzUnseal: what decrypts, encrypts and decrypts to the same; what does not
// is one error, and nothing panics.
func FuzzUnseal(f *testing.F) {
	p := newPeer(12345)
	c, public, err := Agree(p.public)
	if err != nil {
		f.Fatal(err)
	}
	key, _ := p.agree(f, public)
	for _, n := range []int{0, 1, 15, 16, 17, 1000} {
		parameters, value := c.Seal(secret.Copy(make([]byte, n)))
		f.Add(parameters, value)
	}
	f.Add([]byte{}, []byte("plain"))
	f.Fuzz(func(t *testing.T, parameters, value []byte) {
		s, err := c.Unseal(parameters, bytes.Clone(value))
		if err != nil {
			if err != ErrTransfer || s.Len() != 0 {
				t.Fatalf("%d bytes, %v", s.Len(), err)
			}
			return
		}
		again, sealed := c.Seal(s)
		s.Use(func(b []byte) {
			if got := open(t, key, again, sealed); !bytes.Equal(got, b) {
				t.Fatalf("%x became %x", b, got)
			}
			if got := open(t, key, parameters, value); !bytes.Equal(got, b) {
				t.Fatalf("%x was read, %x sent", b, got)
			}
		})
	})
}

// FuzzAgree: no public key makes it panic, and each that is taken gives both
// ends the same key.
func FuzzAgree(f *testing.F) {
	f.Add([]byte{2})
	f.Add(group().Bytes())
	f.Add(newPeer(99).public)
	f.Fuzz(func(t *testing.T, peer []byte) {
		c, public, err := Agree(peer)
		if err != nil {
			if !errors.Is(err, ErrPeer) {
				t.Fatal(err)
			}
			return
		}
		if c.block == nil || len(public) != primeSize {
			t.Fatalf("%d bytes", len(public))
		}
	})
}
