package sshkeys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// variants are key files as real programs write them; each is told where to.
func variants() map[string]func(t testing.TB, path string) (pass string) {
	v := map[string]func(testing.TB, string) string{}
	add := func(name, pass string, mk func(t testing.TB, path string)) {
		v[name] = func(t testing.TB, path string) string { mk(t, path); return pass }
	}
	for kind, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"}, "p256": {"-t", "ecdsa", "-b", "256"}, "p384": {"-t", "ecdsa", "-b", "384"},
		"p521": {"-t", "ecdsa", "-b", "521"}, "rsa": {"-t", "rsa", "-b", "2048"},
	} {
		add("OpenSSH "+kind, "", func(t testing.TB, path string) { keygen(t, path, "", args...) })
		add("OpenSSH "+kind+" encrypted", passphrase, func(t testing.TB, path string) { keygen(t, path, passphrase, args...) })
	}
	add("OpenSSH aes256-cbc", passphrase, func(t testing.TB, path string) {
		keygen(t, path, passphrase, "-t", "ed25519", "-Z", "aes256-cbc")
	})
	for _, format := range []string{"PEM", "PKCS8"} {
		for _, kind := range []string{"ecdsa", "rsa"} {
			add(format+" "+kind, "", func(t testing.TB, path string) {
				keygen(t, path, "", "-t", kind, "-b", map[string]string{"rsa": "2048", "ecdsa": "256"}[kind], "-m", format)
			})
			add(format+" "+kind+" encrypted", passphrase, func(t testing.TB, path string) {
				keygen(t, path, passphrase, "-t", kind, "-b", map[string]string{"rsa": "2048", "ecdsa": "256"}[kind], "-m", format)
			})
		}
	}
	openssl := func(name, pass string, then ...string) {
		add("openssl "+name, pass, func(t testing.TB, path string) {
			d := filepath.Dir(path)
			run(t, d, "openssl", "genpkey", "-algorithm", "ed25519", "-out", path+".tmp")
			run(t, d, "openssl", append(then, "-in", path+".tmp", "-out", path)...)
			must(t, os.Remove(path+".tmp"))
			must(t, os.Chmod(path, 0o600))
			if pass != "" {
				k, err := open(read(t, path), []byte(pass))
				must(t, err)
				pub, err := ssh.NewPublicKey(k.Public())
				must(t, err)
				write(t, path+".pub", ssh.MarshalAuthorizedKey(pub))
			}
		})
	}
	pkcs8 := func(args ...string) []string {
		return append([]string{"pkcs8", "-topk8", "-passout", "pass:" + passphrase}, args...)
	}
	openssl("ed25519 PKCS#8", "", "pkey")
	openssl("aes-128-cbc SHA-1", passphrase, pkcs8("-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1")...)
	openssl("aes-192-cbc SHA-384", passphrase, pkcs8("-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA384")...)
	openssl("aes-256-cbc SHA-512", passphrase, pkcs8("-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512", "-iter", "4096")...)
	openssl("3DES", passphrase, pkcs8("-v2", "des3")...)
	openssl("scrypt", passphrase, pkcs8("-scrypt")...)
	return v
}

// Every kind of file that OpenSSH and OpenSSL write is found, by its contents
// and whatever its name, and keeps the contract of a key.
func TestContract(t *testing.T) {
	for name, mk := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := dir(t)
			path := filepath.Join(d, "some file.txt")
			pass := mk(t, path)
			s := serve(t, d)
			keyringtest.TestKey(t, func(t *testing.T) (keyring.Key, string) { return s.key(t, path), pass })
		})
	}
}

// Where the public half can be read, no .pub is needed.
func TestWithoutPublicKeyFile(t *testing.T) {
	for name, mk := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := dir(t)
			path := filepath.Join(d, "k")
			pass := mk(t, path)
			_ = os.Remove(path + ".pub")
			s := serve(t, d)
			if pass != "" && !strings.HasPrefix(name, "OpenSSH") {
				if len(s.List()) != 0 || !strings.Contains(s.reason(path), "ssh-keygen -y") {
					t.Errorf("listed %d keys; skipped because %q", len(s.List()), s.reason(path))
				}
				return
			}
			k := s.key(t, path)
			theirs, err := open(read(t, path), []byte(pass))
			must(t, err)
			if !samePublic(k.Info().Public, theirs.Public()) {
				t.Error("the public half is another's")
			}
		})
	}
}

// keeps reports whether the decrypted key is in memory.
func keeps(k *Key) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept != nil
}

func sign(ctx context.Context, k *Key, auth secret.Bytes) error {
	message := []byte("message")
	sig, err := k.Sign(ctx, auth, message, crypto.Hash(0))
	if err == nil && !ed25519.Verify(k.Info().Public.(ed25519.PublicKey), message, sig) {
		return errors.New("signature does not verify")
	}
	return err
}

// settle signs until the private key is kept: at once of an encrypted file, of
// another as soon as its last change is old enough.
func settle(t *testing.T, k *Key, auth secret.Bytes) {
	t.Helper()
	for give := time.Now().Add(time.Minute); !keeps(k); {
		must(t, sign(t.Context(), k, auth))
		if time.Now().After(give) {
			t.Fatal("never kept")
		}
	}
}

// edKey makes and serves one ed25519 key.
func edKey(t *testing.T, pass string, args ...string) (served, string, *Key) {
	d := dir(t)
	path := filepath.Join(d, "k")
	keygen(t, path, pass, append([]string{"-t", "ed25519"}, args...)...)
	s := serve(t, d)
	return s, path, s.key(t, path)
}

func TestFileThatIsNoLongerWhatItWas(t *testing.T) {
	for _, pass := range []string{"", passphrase} {
		_, path, k := edKey(t, pass)
		auth := bytesOf(t, pass)
		original := read(t, path)
		other := filepath.Join(dir(t), "other")
		keygen(t, other, pass, "-t", "ed25519")
		for what, change := range map[string]func(){
			"another key":  func() { write(t, path, read(t, other)) },
			"cut short":    func() { write(t, path, original[:100]) },
			"removed":      func() { must(t, os.Remove(path)) },
			"open to all":  func() { write(t, path, original); must(t, os.Chmod(path, 0o644)) },
			"a link to it": func() { must(t, os.Remove(path)); must(t, os.Symlink(path, path)) },
		} {
			settle(t, k, auth)
			change()
			if err := sign(t.Context(), k, auth); !errors.Is(err, keyring.ErrUnavailable) {
				t.Errorf("passphrase %q, %s: %v; want ErrUnavailable", pass, what, err)
			}
			if keeps(k) {
				t.Errorf("passphrase %q, %s: the decrypted key is still kept", pass, what)
			}
			_ = os.Remove(path)
			write(t, path, original)
			if err := sign(t.Context(), k, auth); err != nil {
				t.Errorf("passphrase %q, restored after %s: %v", pass, what, err)
			}
		}
	}
}

func TestChangedPassphraseCountsAtOnce(t *testing.T) {
	_, path, k := edKey(t, passphrase)
	must(t, sign(t.Context(), k, bytesOf(t, passphrase)))
	run(t, filepath.Dir(path), "ssh-keygen", "-q", "-p", "-f", path, "-P", passphrase, "-N", "another one", "-a", "1")
	if err := sign(t.Context(), k, bytesOf(t, passphrase)); !errors.Is(err, keyring.ErrAuthFailed) {
		t.Errorf("with the old passphrase: %v", err)
	}
	must(t, sign(t.Context(), k, bytesOf(t, "another one")))
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The work that guards a passphrase against guessing is paid once, by however
// many signatures at once, and again after Forget.
func TestDerivationIsPaidOnce(t *testing.T) {
	_, _, k := edKey(t, passphrase, "-a", "40")
	auth := bytesOf(t, passphrase)
	start := cpu()
	must(t, sign(t.Context(), k, auth))
	once := cpu() - start
	k.Forget()
	if keeps(k) {
		t.Fatal("kept after Forget")
	}
	start = cpu()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := sign(t.Context(), k, auth); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ten := cpu() - start; ten > 4*once {
		t.Errorf("ten signatures cost %v, one costs %v", ten, once)
	}
}

// A passphrase that is forgotten while the key is being decrypted leaves no key.
func TestForgottenWhileDecrypting(t *testing.T) {
	_, _, k := edKey(t, passphrase)
	s, f, err := k.read(bytesOf(t, passphrase))
	must(t, err)
	before := k.forgot
	k.Forget()
	must(t, k.keep(s, f, bytesOf(t, passphrase), before))
	if keeps(k) {
		t.Error("kept after all")
	}
}

func TestWaitForDecryptionEndsWithItsAsker(t *testing.T) {
	_, _, k := edKey(t, passphrase)
	k.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- sign(ctx, k, bytesOf(t, passphrase)) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-k.turn
}

// An ed25519 signature with a wrong public half gives the private half away.
func TestPublicHalfIsNotBelieved(t *testing.T) {
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	forged := bytes.Clone(priv)
	copy(forged[ed25519.SeedSize:], make([]byte, 32))
	block, err := ssh.MarshalPrivateKey(priv, "")
	must(t, err)
	block.Bytes = bytes.ReplaceAll(block.Bytes, pub, forged[ed25519.SeedSize:])
	d := dir(t)
	write(t, filepath.Join(d, "k"), pem.EncodeToMemory(block))
	k := serve(t, d).key(t, filepath.Join(d, "k"))
	if err := sign(t.Context(), k, secret.Bytes{}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

// What was read of one private half is not taken for another's, nor is what a
// file says of its public half.
func TestPublicHalfIsComputed(t *testing.T) {
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	other, otherPriv, _ := ed25519.GenerateKey(rand.Reader)
	block, err := ssh.MarshalPrivateKey(priv, "")
	must(t, err)
	d := dir(t)
	path := filepath.Join(d, "k")
	write(t, path, pem.EncodeToMemory(block))
	k := serve(t, d).key(t, path)
	settle(t, k, secret.Bytes{})
	said := bytes.Clone(block.Bytes)
	at := bytes.LastIndex(said, pub) // behind the seed
	copy(said[at:], other)
	write(t, path, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: said}))
	sig, err := k.Sign(t.Context(), secret.Bytes{}, []byte("x"), crypto.Hash(0))
	if err != nil || !ed25519.Verify(pub, []byte("x"), sig) {
		t.Errorf("with another public half behind the seed: %v", err)
	}
	settle(t, k, secret.Bytes{})
	copy(block.Bytes[at-ed25519.SeedSize:], otherPriv.Seed())
	write(t, path, pem.EncodeToMemory(block))
	if err := sign(t.Context(), k, secret.Bytes{}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("with another seed: %v", err)
	}
}

// A key whose file has been left alone for a moment is read once, not for each
// signature, and the signatures are the same.
func TestFileIsReadOnce(t *testing.T) {
	_, _, k := edKey(t, "")
	message := []byte("message")
	first, err := k.Sign(t.Context(), secret.Bytes{}, message, crypto.Hash(0))
	must(t, err)
	settle(t, k, secret.Bytes{})
	k.mu.Lock()
	have := k.kept
	k.mu.Unlock()
	for range 3 {
		sig, err := k.Sign(t.Context(), secret.Bytes{}, message, crypto.Hash(0))
		if err != nil || !bytes.Equal(sig, first) {
			t.Fatalf("signature %x, %v; want %x", sig, err, first)
		}
	}
	k.mu.Lock()
	if k.kept != have {
		t.Error("the file was read again")
	}
	k.mu.Unlock()
	const most = 14 // with crypto/ed25519's own; reading the file makes it 30
	if n := testing.AllocsPerRun(200, func() { _, _ = k.Sign(t.Context(), secret.Bytes{}, message, crypto.Hash(0)) }); n > most {
		t.Errorf("a signature costs %v allocations, at most %d are expected", n, most)
	}
	if k.Forget(); keeps(k) {
		t.Error("kept after Forget")
	}
	must(t, sign(t.Context(), k, secret.Bytes{}))
}

// A file that has just changed may change again and look the same.
func TestChangingFileIsNotKept(t *testing.T) {
	_, _, k := edKey(t, "")
	s, from, err := k.read(secret.Bytes{})
	must(t, err)
	from.fuzzy = true
	must(t, k.keep(s, from, secret.Bytes{}, k.forgot))
	if keeps(k) {
		t.Error("kept")
	}
	from.fuzzy = false
	if must(t, k.keep(s, from, secret.Bytes{}, k.forgot)); !keeps(k) {
		t.Error("not kept")
	}
}

func TestPublicKeyFileOfAnotherKey(t *testing.T) {
	d := dir(t)
	path := filepath.Join(d, "k")
	keygen(t, path, passphrase, "-t", "ecdsa", "-m", "PKCS8")
	other := filepath.Join(dir(t), "o")
	keygen(t, other, "", "-t", "ecdsa")
	write(t, path+".pub", read(t, other+".pub"))
	k := serve(t, d).key(t, path)
	_, err := k.Sign(t.Context(), bytesOf(t, passphrase), make([]byte, 32), crypto.SHA256)
	if !errors.Is(err, keyring.ErrUnavailable) || keeps(k) {
		t.Errorf("error %v", err)
	}
}

func benchmarkSign(b *testing.B, k crypto.Signer, pass string) {
	var block *pem.Block
	var err error
	if pass == "" {
		block, err = ssh.MarshalPrivateKey(k, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(k, "", []byte(pass))
	}
	must(b, err)
	benchmarkFile(b, pem.EncodeToMemory(block), k.Public(), pass)
}

func benchmarkFile(b *testing.B, file []byte, pub crypto.PublicKey, pass string) {
	d := dir(b)
	path := filepath.Join(d, "k")
	write(b, path, file)
	key := serve(b, d).key(b, path)
	auth := bytesOf(b, pass)
	var opts crypto.SignerOpts = crypto.SHA256
	if _, ok := pub.(ed25519.PublicKey); ok {
		opts = crypto.Hash(0)
	}
	digest := make([]byte, 32)
	_, err := key.Sign(b.Context(), auth, digest, opts)
	must(b, err)
	start := cpu()
	for b.Loop() {
		_, err := key.Sign(b.Context(), auth, digest, opts)
		must(b, err)
	}
	b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkSign(b *testing.B) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	r, err := rsa.GenerateKey(rand.Reader, 3072)
	must(b, err)
	for _, pass := range []string{"", passphrase} {
		b.Run(fmt.Sprintf("ed25519/passphrase=%t", pass != ""), func(b *testing.B) { benchmarkSign(b, ed, pass) })
		b.Run(fmt.Sprintf("rsa3072/passphrase=%t", pass != ""), func(b *testing.B) { benchmarkSign(b, r, pass) })
	}
	der := x509.MarshalPKCS1PrivateKey(r)
	b.Run("rsa3072/PEM", func(b *testing.B) {
		benchmarkFile(b, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der}), r.Public(), "")
	})
}
