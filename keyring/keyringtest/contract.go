package keyringtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for digests to be refused or signed
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// TestKey checks that what newKey makes keeps the contract of keyring.Key, and of
// keyring.Decrypter, keyring.Deriver, keyring.Guarded and keyring.Forgetter where
// it implements them. newKey is
// called once for each subtest; all its keys may be on one device, and may be
// one key. auth is the right authorization value, empty where none is needed.
//
// At most two wrong values are spent in all, so that a device which locks at
// three does not; they come last.
func TestKey(t *testing.T, newKey func(t *testing.T) (k keyring.Key, auth string)) {
	t.Helper()
	run := func(name string, f func(t *testing.T, k keyring.Key, auth secret.Bytes)) {
		t.Run(name, func(t *testing.T) {
			k, auth := newKey(t)
			b := secret.Copy([]byte(auth))
			t.Cleanup(b.Wipe)
			f(t, k, b)
		})
	}
	run("Info", testInfo)
	run("Sign", testSign)
	run("Unsupported", testUnsupported)
	run("WrongLength", testWrongLength)
	run("Cancelled", testCancelled)
	run("BorrowsArguments", testBorrows)
	run("Concurrent", testConcurrent)
	run("Decrypt", testDecrypt)
	run("Derive", testDerive)
	run("Tries", testTries)
	run("Forget", testForget)
	run("WrongAuth", testWrongAuth)
	run("EmptyAuth", testEmptyAuth)
}

// A scheme is one way to sign.
type scheme struct {
	name string
	opts crypto.SignerOpts
	must bool // every key of the type can; others may be ErrUnsupported
}

func schemes(pub crypto.PublicKey) []scheme {
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return []scheme{{"ed25519", crypto.Hash(0), true}}
	case *ecdsa.PublicKey:
		natural := map[elliptic.Curve]crypto.Hash{
			elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384, elliptic.P521(): crypto.SHA512,
		}[pub.Curve]
		var list []scheme
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			list = append(list, scheme{"ECDSA " + h.String(), h, h == natural})
		}
		// The one that must work comes first, as the tests that need just one use it.
		slices.SortStableFunc(list, func(a, b scheme) int { return bool2int(b.must) - bool2int(a.must) })
		return list
	case *rsa.PublicKey:
		list := []scheme{{"PKCS1 SHA-256", crypto.SHA256, true}}
		for _, h := range []crypto.Hash{crypto.SHA512, crypto.SHA384, crypto.SHA1} {
			list = append(list, scheme{"PKCS1 " + h.String(), h, false})
		}
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			list = append(list, scheme{"PSS " + h.String(), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}, false})
		}
		return list
	}
	return nil
}

func bool2int(b bool) int {
	if b {
		return 1
	}
	return 0
}

// digest returns something new to sign.
func digest(opts crypto.SignerOpts) []byte {
	message := make([]byte, 100)
	_, _ = rand.Read(message)
	if opts.HashFunc() == 0 {
		return message
	}
	h := opts.HashFunc().New()
	h.Write(message)
	return h.Sum(nil)
}

// Verify checks a signature as keyring.Key's Sign makes it.
func Verify(pub crypto.PublicKey, digest, sig []byte, opts crypto.SignerOpts) error {
	ok := false
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, digest, sig)
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(pub, digest, sig)
	case *rsa.PublicKey:
		if pss, isPSS := opts.(*rsa.PSSOptions); isPSS {
			return rsa.VerifyPSS(pub, opts.HashFunc(), digest, sig, pss)
		}
		return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig)
	default:
		return fmt.Errorf("public key is a %T", pub)
	}
	if !ok {
		return errors.New("signature does not verify")
	}
	return nil
}

// signOnce signs with the scheme that must work, and verifies.
func signOnce(ctx context.Context, k keyring.Key, auth secret.Bytes) error {
	pub := k.Info().Public
	opts := schemes(pub)[0].opts
	d := digest(opts)
	sig, err := k.Sign(ctx, auth, d, opts)
	if err != nil {
		return err
	}
	return Verify(pub, d, sig, opts)
}

func testInfo(t *testing.T, k keyring.Key, auth secret.Bytes) {
	info := k.Info()
	id, err := keyring.NewKeyID(info.Public)
	if err != nil {
		t.Fatalf("public key %T: %v", info.Public, err)
	}
	if id != info.ID {
		t.Errorf("ID is %s, the public key's is %s", info.ID, id)
	}
	if info.Label == "" {
		t.Error("the label is empty")
	}
	if !slices.Contains([]keyring.Kind{keyring.KindTPM, keyring.KindFile, keyring.KindAdded}, info.Kind) {
		t.Errorf("kind is %q", info.Kind)
	}
	if !slices.IsSorted(info.Paths) {
		t.Errorf("paths are not sorted: %q", info.Paths)
	}
	if info.Kind == keyring.KindAdded && len(info.Paths) > 0 {
		t.Errorf("an added key has paths: %q", info.Paths)
	}
	if len(schemes(info.Public)) == 0 {
		t.Fatalf("public key is a %T", info.Public)
	}
	if info.NeedsAuth != (auth.Len() > 0) {
		t.Errorf("NeedsAuth is %v, the test has a value of %d bytes", info.NeedsAuth, auth.Len())
	}
	if err := signOnce(t.Context(), k, auth); err != nil {
		t.Fatal(err)
	}
	if after := k.Info(); !reflect.DeepEqual(info, after) {
		t.Errorf("Info changed by signing:\nbefore %+v\nafter  %+v", info, after)
	}
}

func testSign(t *testing.T, k keyring.Key, auth secret.Bytes) {
	pub := k.Info().Public
	for _, s := range schemes(pub) {
		d := digest(s.opts)
		sig, err := k.Sign(t.Context(), auth, d, s.opts)
		switch {
		case err == nil:
			if err := Verify(pub, d, sig, s.opts); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
			d[0] ^= 1
			if Verify(pub, d, sig, s.opts) == nil {
				t.Errorf("%s: the signature fits another digest", s.name)
			}
		case s.must || !errors.Is(err, keyring.ErrUnsupported):
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

func testUnsupported(t *testing.T, k keyring.Key, auth secret.Bytes) {
	bad := []crypto.Hash{crypto.BLAKE2b_256, crypto.BLAKE2s_256}
	if _, ok := k.Info().Public.(ed25519.PublicKey); ok {
		bad = append(bad, crypto.SHA256)
	}
	for _, hash := range bad {
		sig, err := k.Sign(t.Context(), auth, make([]byte, hash.Size()), hash)
		if !errors.Is(err, keyring.ErrUnsupported) || sig != nil {
			t.Errorf("hash %d: %d bytes, error %v; want ErrUnsupported", hash, len(sig), err)
		}
	}
	// A refused scheme has cost nothing.
	if err := signOnce(t.Context(), k, auth); err != nil {
		t.Error(err)
	}
}

func testWrongLength(t *testing.T, k keyring.Key, auth secret.Bytes) {
	opts := schemes(k.Info().Public)[0].opts
	if opts.HashFunc() == 0 {
		return // ed25519 signs messages of any length
	}
	for _, n := range []int{0, opts.HashFunc().Size() - 1, opts.HashFunc().Size() + 1} {
		if sig, err := k.Sign(t.Context(), auth, make([]byte, n), opts); err == nil || sig != nil {
			t.Errorf("a digest of %d bytes was signed as %v", n, opts.HashFunc())
		}
	}
}

func testCancelled(t *testing.T, k keyring.Key, auth secret.Bytes) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := signOnce(ctx, k, auth); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v; want context.Canceled", err)
	}
	if err := signOnce(t.Context(), k, auth); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func testBorrows(t *testing.T, k keyring.Key, auth secret.Bytes) {
	before := auth.Clone()
	defer before.Wipe()
	opts := schemes(k.Info().Public)[0].opts
	d := digest(opts)
	kept := bytes.Clone(d)
	if _, err := k.Sign(t.Context(), auth, d, opts); err != nil {
		t.Fatal(err)
	}
	if !auth.Equal(before) {
		t.Error("Sign changed or wiped auth, which is its caller's")
	}
	if !bytes.Equal(d, kept) {
		t.Error("Sign changed the digest")
	}
}

func testConcurrent(t *testing.T, k keyring.Key, auth secret.Bytes) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2 {
				if err := signOnce(t.Context(), k, auth); err != nil {
					t.Error(err)
				}
				_ = k.Info()
			}
		})
	}
	wg.Wait()
}

func testTries(t *testing.T, k keyring.Key, auth secret.Bytes) {
	g, ok := k.(keyring.Guarded)
	if !ok {
		t.Skip("not keyring.Guarded")
	}
	before, err := g.Tries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before.Left < 0 || before.Wait < 0 || before.Limited && before.Left == 0 {
		t.Errorf("tries of a key that was never used: %+v", before)
	}
	if err := signOnce(t.Context(), k, auth); err != nil {
		t.Fatal(err)
	}
	after, err := g.Tries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.Left < before.Left || after.Limited != before.Limited || after.Counter != before.Counter {
		t.Errorf("tries after a right value: %+v, before: %+v", after, before)
	}
}

func testForget(t *testing.T, k keyring.Key, auth secret.Bytes) {
	f, ok := k.(keyring.Forgetter)
	if !ok {
		t.Skip("not keyring.Forgetter")
	}
	f.Forget() // before there is anything to forget
	for range 2 {
		if err := signOnce(t.Context(), k, auth); err != nil {
			t.Fatal(err)
		}
		f.Forget()
		f.Forget()
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := signOnce(t.Context(), k, auth); err != nil {
				t.Errorf("while another forgets: %v", err)
			}
		})
		wg.Go(f.Forget)
	}
	wg.Wait()
}

func testWrongAuth(t *testing.T, k keyring.Key, auth secret.Bytes) {
	if !k.Info().NeedsAuth {
		t.Skip("needs no value")
	}
	// A key that keeps what it derived must not take it for the value's proof.
	if err := signOnce(t.Context(), k, auth); err != nil {
		t.Fatal(err)
	}
	wrong := secret.Copy([]byte("not the right value"))
	defer wrong.Wipe()
	if err := signOnce(t.Context(), k, wrong); !errors.Is(err, keyring.ErrAuthFailed) {
		t.Errorf("with a wrong value: %v; want ErrAuthFailed", err)
	}
	if err := signOnce(t.Context(), k, auth); err != nil {
		t.Errorf("with the right value after a wrong one: %v", err)
	}
}

func testEmptyAuth(t *testing.T, k keyring.Key, auth secret.Bytes) {
	if !k.Info().NeedsAuth {
		t.Skip("needs no value")
	}
	if err := signOnce(t.Context(), k, secret.Bytes{}); !errors.Is(err, keyring.ErrAuthFailed) {
		t.Errorf("with an empty value: %v; want ErrAuthFailed", err)
	}
	if err := signOnce(t.Context(), k, auth); err != nil {
		t.Errorf("with the right value after an empty one: %v", err)
	}
}
