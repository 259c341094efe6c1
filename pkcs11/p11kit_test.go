package pkcs11

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/sshdtest"
	"github.com/keyringd/keyringd/keyring"
)

// A peer runs programs that reach the server through a module: p11-kit's own
// client, or ours.
type peer struct {
	*serverTest
	tb     testing.TB
	module string
	dir    string
	env    []string
}

// eachModule runs a test with p11-kit's client and with our module.
func eachModule(t *testing.T, s *serverTest, test func(t *testing.T, p *peer)) {
	t.Helper()
	for name, module := range map[string]func(testing.TB) string{"p11-kit-client": p11kitClient, "keyringd-pkcs11": ourModule} {
		t.Run(name, func(t *testing.T) {
			test(t, (&peer{serverTest: s, module: module(t)}).again(t))
		})
	}
}

// again returns a peer with the same module and a folder of its own.
func (p *peer) again(tb testing.TB) *peer {
	tb.Helper()
	n := &peer{serverTest: p.serverTest, module: p.module, tb: tb, dir: tb.TempDir()}
	n.env = append(os.Environ(), "P11_KIT_SERVER_ADDRESS=unix:path="+p.socket, "KEYRINGD_PKCS11_SOCKET="+p.socket,
		"HOME="+n.dir, "XDG_CONFIG_HOME="+n.dir+"/.config", "LC_ALL=C")
	return n
}

// ours reports whether the peer has our module, which lets every mechanism
// through.
func (p *peer) ours() bool { return strings.HasSuffix(p.module, ourName) }

func p11kitClient(tb testing.TB) string {
	tb.Helper()
	return library(tb, "/usr/lib/*/pkcs11/p11-kit-client.so", "/usr/lib*/pkcs11/p11-kit-client.so")
}

const ourName = "keyringd-pkcs11.so"

// moduleDir is where our module is built, once for all tests.
var moduleDir string

func TestMain(m *testing.M) {
	var err error
	if moduleDir, err = os.MkdirTemp("", "kr"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(moduleDir)
	os.Exit(code)
}

var built = sync.OnceValues(func() (string, error) {
	path := filepath.Join(moduleDir, ourName)
	out, err := exec.Command("make", "-s", "-C", "module", "BUILD="+moduleDir, "OUT="+path, "all").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make: %w\n%s", err, out)
	}
	return path, nil
})

func ourModule(tb testing.TB) string {
	tb.Helper()
	program(tb, "make")
	program(tb, "cc")
	path, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// try runs a program and returns what it printed.
func (p *peer) try(name string, args ...string) (string, error) {
	p.tb.Helper()
	return p.tryWithInput("", name, args...)
}

func (p *peer) tryWithInput(input, name string, args ...string) (string, error) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(p.tb, name), args...)
	cmd.Dir, cmd.Env, cmd.Stdin = p.dir, p.env, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (p *peer) run(name string, args ...string) string {
	p.tb.Helper()
	out, err := p.try(name, args...)
	if err != nil {
		p.tb.Fatal(err)
	}
	return out
}

func (p *peer) file(name string, data []byte) string {
	p.tb.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		p.tb.Fatal(err)
	}
	return path
}

func (p *peer) publicKey(k testKey) string {
	der := must(x509.MarshalPKIXPublicKey(k.signer.Public()))
	return p.file(k.name+".pub.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// idOf is a key's CKA_ID as programs take it.
func idOf(k testKey) string { return must(keyring.NewKeyID(k.signer.Public())).String() }

func contains(tb testing.TB, out string, wants ...string) {
	tb.Helper()
	for _, want := range wants {
		if !strings.Contains(out, want) {
			tb.Errorf("%q is not in:\n%s", want, out)
		}
	}
}

func TestPKCS11ToolLists(t *testing.T) {
	k := testKeys()
	cert := certificateOf(t, k["rsa"], "mia", 7)
	s := start(t, []keyring.Key{k["rsa"].soft(), k["p256"].fake(keyring.KindTPM), k["ed25519"].soft()}, Options{Certificates: showing(t, cert)})
	eachModule(t, s, func(t *testing.T, p *peer) {
		contains(t, p.run("pkcs11-tool", "--module", p.module, "-L"),
			"keyringd TPM", "keyringd keys", "token initialized", "PIN pad present", "readonly")
		contains(t, p.run("pkcs11-tool", "--module", p.module, "-M", "--token-label", "keyringd keys"),
			"RSA-PKCS, keySize={1024,16384}, decrypt, sign, verify", "RSA-PKCS-OAEP, keySize={1024,16384}, decrypt",
			"ECDSA, keySize={256,521}, sign, verify", "SHA256-RSA-PKCS", "SHA512, digest")
		out := p.run("pkcs11-tool", "--module", p.module, "-O", "--token-label", "keyringd keys")
		id := idOf(k["rsa"])
		contains(t, out, "Private Key Object; RSA", "Public Key Object; RSA 2048 bits", "Certificate Object; type = X.509 cert",
			"label:      rsa key", "subject:    DN: CN=mia", "ID:         "+id, "ed25519 key", "Access:     sensitive")
		if n := strings.Count(out, id); n != 3 {
			t.Errorf("the RSA key's ID is printed %d times, not for key, public key and certificate:\n%s", n, out)
		}
		out = p.run("pkcs11-tool", "--module", p.module, "-O", "--token-label", "keyringd TPM")
		contains(t, out, "Private Key Object; EC", "Public Key Object; EC  EC_POINT 256 bits", "p256 key",
			"EC_POINT:   044104", "EC_PARAMS:  06082a8648ce3d030107")
		if strings.Contains(out, "rsa key") {
			t.Errorf("the TPM's token shows another key:\n%s", out)
		}
	})
}

// Every signing mechanism that p11-kit 0.24's client lets through, and openssl's
// word on the signature.
func TestPKCS11ToolSigns(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("rsa", "p256", "p384", "p521"), Options{})
	eachModule(t, s, func(t *testing.T, p *peer) {
		message := bytes.Repeat([]byte("the quick brown fox "), 500) // pkcs11-tool gives it in parts
		for _, c := range []struct {
			key, mechanism string
			tool           []string
			hash           string // of the data as it is given; empty: the message itself
			openssl        []string
		}{
			{"p256", "ECDSA", []string{"--signature-format", "openssl"}, "sha256", nil},
			{"p384", "ECDSA", []string{"--signature-format", "openssl"}, "sha384", nil},
			{"p521", "ECDSA", []string{"--signature-format", "openssl"}, "sha512", nil},
			{"p384", "ECDSA", []string{"--signature-format", "openssl"}, "sha1", nil},
			{"p256", "ECDSA-SHA1", []string{"--signature-format", "openssl"}, "", []string{"-sha1"}},
			{"rsa", "SHA1-RSA-PKCS", nil, "", []string{"-sha1"}},
			{"rsa", "SHA256-RSA-PKCS", nil, "", []string{"-sha256"}},
			{"rsa", "SHA384-RSA-PKCS", nil, "", []string{"-sha384"}},
			{"rsa", "SHA512-RSA-PKCS", nil, "", []string{"-sha512"}},
			{"rsa", "RSA-PKCS-PSS", []string{"--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256", "--salt-len", "32"}, "sha256",
				[]string{"-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_pss_saltlen:32"}},
			{"rsa", "RSA-PKCS-PSS", []string{"--hash-algorithm", "SHA384", "--mgf", "MGF1-SHA384", "--salt-len", "20"}, "sha384",
				[]string{"-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "digest:sha384", "-pkeyopt", "rsa_pss_saltlen:20"}},
		} {
			t.Run(c.key+"/"+c.mechanism+"/"+c.hash, func(t *testing.T) {
				p := p.again(t)
				in, pub := p.file("in", message), p.publicKey(k[c.key])
				if c.hash != "" {
					p.run("openssl", "dgst", "-"+c.hash, "-binary", "-out", "digest", in)
					in = "digest"
				}
				_, err := p.try("pkcs11-tool", append([]string{"--module", p.module, "--sign", "--id", idOf(k[c.key]),
					"-m", c.mechanism, "-i", in, "-o", "sig"}, c.tool...)...)
				if err != nil && strings.Contains(err.Error(), "CKR_MECHANISM_INVALID") && strings.HasPrefix(c.mechanism, "ECDSA-") {
					t.Skip("this p11-kit's client does not let the mechanism through")
				}
				if err != nil {
					t.Fatal(err)
				}
				if c.hash != "" {
					p.run("openssl", append([]string{"pkeyutl", "-verify", "-pubin", "-inkey", pub, "-in", in, "-sigfile", "sig"}, c.openssl...)...)
				} else {
					p.run("openssl", append(append([]string{"dgst"}, c.openssl...), "-verify", pub, "-signature", "sig", in)...)
				}
			})
		}
		t.Run("rsa/RSA-PKCS", func(t *testing.T) {
			p := p.again(t)
			pub := p.publicKey(k["rsa"])
			p.file("in", message)
			p.run("openssl", "dgst", "-sha256", "-binary", "-out", "digest", "in")
			digest := must(os.ReadFile(filepath.Join(p.dir, "digest")))
			p.file("info", append([]byte(digestInfos[0].prefix), digest...))
			p.file("raw", []byte("no digest of anything"))
			for in, openssl := range map[string][]string{"info": {"-in", "digest", "-pkeyopt", "digest:sha256"}, "raw": {"-in", "raw"}} {
				p.run("pkcs11-tool", "--module", p.module, "--sign", "--id", idOf(k["rsa"]), "-m", "RSA-PKCS", "-i", in, "-o", "sig")
				p.run("openssl", append([]string{"pkeyutl", "-verify", "-pubin", "-inkey", pub, "-sigfile", "sig"}, openssl...)...)
			}
		})
		t.Run("verify", func(t *testing.T) {
			p.file("in", message[:100])
			p.run("pkcs11-tool", "--module", p.module, "--sign", "--id", idOf(k["rsa"]), "-m", "SHA256-RSA-PKCS", "-i", "in", "-o", "sig")
			contains(t, p.run("pkcs11-tool", "--module", p.module, "--verify", "--id", idOf(k["rsa"]), "-m", "SHA256-RSA-PKCS",
				"-i", "in", "--signature-file", "sig"), "Signature is valid")
		})
		t.Run("hash and random", func(t *testing.T) {
			p.file("in", message)
			p.run("pkcs11-tool", "--module", p.module, "--hash", "-m", "SHA256", "-i", "in", "-o", "got")
			p.run("openssl", "dgst", "-sha256", "-binary", "-out", "want", "in")
			p.run("cmp", "got", "want")
			p.run("pkcs11-tool", "--module", p.module, "--generate-random", "64", "-o", "random")
			if n := len(must(os.ReadFile(filepath.Join(p.dir, "random")))); n != 64 {
				t.Errorf("%d random bytes", n)
			}
		})
	})
}

// pkcs11-tool's own tests of a token, as far as they concern what is offered.
func TestPKCS11ToolTest(t *testing.T) {
	s := start(t, softKeys("rsa"), Options{})
	eachModule(t, s, func(t *testing.T, p *peer) {
		out := p.run("pkcs11-tool", "--module", p.module, "--test", "--login", "--pin", "ignored")
		contains(t, out, "C_SeedRandom() and C_GenerateRandom():", "seems to be OK", "No errors")
	})
}

// In strict mode programs that log in see the private keys, with whatever PIN.
func TestStrictPrograms(t *testing.T) {
	s := start(t, softKeys("p256"), Options{Strict: true})
	eachModule(t, s, func(t *testing.T, p *peer) {
		contains(t, p.run("pkcs11-tool", "--module", p.module, "-L"), "login required", "PIN pad present")
		if out := p.run("pkcs11-tool", "--module", p.module, "-O"); strings.Contains(out, "Private Key") || !strings.Contains(out, "Public Key") {
			t.Errorf("without a login:\n%s", out)
		}
		contains(t, p.run("pkcs11-tool", "--module", p.module, "-O", "--login"), "Private Key Object; EC")
		contains(t, p.run("p11tool", "--provider", p.module, "--login", "--set-pin=ignored", "--test-sign", URI(s.all.List()[0])), "ok")
	})
}

// p11tool is GnuTLS's.
func TestP11Tool(t *testing.T) {
	k := testKeys()
	cert := certificateOf(t, k["p256"], "mia", 7)
	s := start(t, []keyring.Key{k["rsa"].soft(), k["p256"].soft()}, Options{Certificates: showing(t, cert)})
	eachModule(t, s, func(t *testing.T, p *peer) {
		out := p.run("p11tool", "--provider", p.module, "--list-tokens")
		contains(t, out, TokenURI(keyring.KindFile))
		out = p.run("p11tool", "--provider", p.module, "--list-all", "pkcs11:token=keyringd%20keys")
		contains(t, out, "object=p256%20key;type=private", "object=p256%20key;type=public", "object=p256%20key;type=cert", "object=rsa%20key;type=private")
		out = p.run("p11tool", "--provider", p.module, "--export", "pkcs11:token=keyringd%20keys;object=p256%20key;type=cert")
		contains(t, out, strings.TrimSpace(string(pemOf(cert))))
		// It signs and checks with a PIN it was not asked for.
		for _, key := range []string{"p256", "rsa"} {
			contains(t, p.run("p11tool", "--provider", p.module, "--test-sign", "pkcs11:token=keyringd%20keys;object="+key+"%20key"), "ok")
		}
	})
}

// OpenSSH lists the keys, and logs in with one of them.
func TestOpenSSH(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("rsa", "p256", "p384"), Options{})
	eachModule(t, s, func(t *testing.T, p *peer) {
		out := p.run("ssh-keygen", "-D", p.module)
		for _, name := range []string{"rsa", "p256", "p384"} {
			line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(must(ssh.NewPublicKey(k[name].signer.Public())))))
			contains(t, out, line+" "+name+" key")
		}
		if strings.Contains(out, "fail") {
			t.Errorf("ssh-keygen complains:\n%s", out)
		}
		for _, name := range []string{"p256", "rsa"} {
			t.Run(name, func(t *testing.T) {
				sshd := sshdtest.Start(t, string(ssh.MarshalAuthorizedKey(must(ssh.NewPublicKey(k[name].signer.Public())))))
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				out, err := sshd.LoginWith(ctx, p.env, "-I", p.module, "-o", "IdentitiesOnly=no", "-o", "IdentityAgent=none")
				if err != nil || out != "logged in" {
					t.Errorf("ssh -I: %v\n%s", err, out)
				}
			})
		}
	})
}
