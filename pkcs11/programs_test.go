package pkcs11

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/sshdtest"
)

// ssh-add -s gives the token to OpenSSH's own agent, which logs in with it. No
// PIN is needed where it asks for one.
func TestSSHAddProvider(t *testing.T) {
	k := testKeys()["p256"]
	s := start(t, softKeys("p256"), Options{})
	eachModule(t, s, func(t *testing.T, p *peer) {
		dir := must(os.MkdirTemp("", "kr"))
		t.Cleanup(func() { os.RemoveAll(dir) })
		socket := filepath.Join(dir, "agent")
		agent := exec.Command(program(t, "ssh-agent"), "-D", "-a", socket, "-P", p.module)
		agent.Env = p.env
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
		until(t, "agent is there", func() bool { return exec.Command("test", "-S", socket).Run() == nil })
		askpass := p.file("askpass", []byte("#!/bin/sh\necho\n"))
		if err := os.Chmod(askpass, 0o700); err != nil {
			t.Fatal(err)
		}
		p.env = append(p.env, "SSH_AUTH_SOCK="+socket, "SSH_ASKPASS="+askpass, "SSH_ASKPASS_REQUIRE=force")
		contains(t, p.run("ssh-add", "-s", p.module), "Card added")
		pub := must(ssh.NewPublicKey(k.signer.Public()))
		contains(t, p.run("ssh-add", "-L"), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))))
		sshd := sshdtest.Start(t, string(ssh.MarshalAuthorizedKey(pub)))
		if out, err := sshd.Login(t.Context(), socket, p.file("key.pub", ssh.MarshalAuthorizedKey(pub))); err != nil || out != "logged in" {
			t.Errorf("login: %q, %v", out, err)
		}
	})
}

// opensslConf makes openssl load libp11's engine with our module.
func (p *peer) opensslConf() {
	engine := library(p.tb, "/usr/lib/*/engines-3/pkcs11.so", "/usr/lib/*/engines-1.1/pkcs11.so", "/usr/lib*/engines-3/pkcs11.so")
	p.env = append(p.env, "OPENSSL_CONF="+p.file("openssl.cnf", fmt.Appendf(nil, `openssl_conf = init
[init]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
dynamic_path = %s
MODULE_PATH = %s
init = 0
`, engine, p.module)))
}

// A TLS server and a client, each with a key on the token, through OpenSSL's
// engine.
func TestOpenSSLEngineTLS(t *testing.T) {
	k := testKeys()
	s := start(t, softKeys("rsa", "p256"), Options{})
	eachModule(t, s, func(t *testing.T, p *peer) {
		for _, key := range []string{"rsa", "p256"} {
			t.Run(key, func(t *testing.T) {
				p := p.again(t)
				p.opensslConf()
				cert := p.file("cert.pem", pemOf(certificateOf(t, k[key], "localhost", 3)))
				uri := URI(s.all.List()[0])
				for _, info := range s.all.List() {
					if info.Label == key+" key" {
						uri = URI(info)
					}
				}
				address := freeAddress(t)
				var log bytes.Buffer
				server := exec.Command(program(t, "openssl"), "s_server", "-accept", address, "-engine", "pkcs11", "-keyform", "engine",
					"-key", uri, "-cert", cert, "-CAfile", cert, "-Verify", "1", "-verify_return_error", "-www")
				server.Env, server.Stdout, server.Stderr = p.env, &log, &log
				if err := server.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					_ = server.Process.Kill()
					_ = server.Wait()
					if t.Failed() {
						t.Logf("s_server said:\n%s", &log)
					}
				})
				until(t, "server listens", func() bool {
					c, err := net.DialTimeout("tcp", address, time.Second)
					if err == nil {
						c.Close()
					}
					return err == nil
				})
				before := len(s.log.String())
				out, err := p.tryWithInput("GET / HTTP/1.0\r\n\r\n", "openssl", "s_client", "-connect", address, "-engine", "pkcs11", "-keyform", "engine",
					"-key", uri, "-cert", cert, "-CAfile", cert, "-verify_return_error", "-ign_eof")
				if err != nil {
					t.Fatal(err)
				}
				contains(t, out, "Verify return code: 0 (ok)", "HTTP/1.0 200 ok")
				// curl shows its certificate to a server that demands one.
				_, port, err := net.SplitHostPort(address)
				if err != nil {
					t.Fatal(err)
				}
				contains(t, p.run("curl", "-sS", "--cacert", cert, "--cert", cert, "--engine", "pkcs11", "--key-type", "ENG", "--key", uri,
					"--resolve", "localhost:"+port+":127.0.0.1", "https://localhost:"+port+"/"), "s_server")
				if text := s.log.String()[before:]; strings.Contains(text, "level=ERROR") {
					t.Errorf("log: %s", text)
				}
			})
		}
	})
}

func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// NSS, Firefox's library, sees the certificates and their keys, and signs with
// one.
func TestNSS(t *testing.T) {
	k := testKeys()
	all := map[string]*x509.Certificate{"p256": certificateOf(t, k["p256"], "mia", 7), "rsa": certificateOf(t, k["rsa"], "mia too", 8)}
	s := start(t, softKeys("p256", "rsa"), Options{Certificates: showing(t, all["p256"], all["rsa"])})
	eachModule(t, s, func(t *testing.T, p *peer) {
		db := "sql:" + p.dir
		p.run("certutil", "-N", "-d", db, "--empty-password")
		p.run("modutil", "-dbdir", db, "-add", "keyringd", "-libfile", p.module, "-force")
		contains(t, p.run("modutil", "-dbdir", db, "-list"), "keyringd keys", "Private keys in files")
		contains(t, p.run("certutil", "-L", "-d", db, "-h", "keyringd keys"), "keyringd keys:p256 key", "keyringd keys:rsa key", "u,u,u")
		out := p.run("certutil", "-K", "-d", db, "-h", "keyringd keys")
		contains(t, out, "   p256 key", "   rsa key")
		if strings.Contains(out, "orphan") {
			t.Errorf("keys without their certificates:\n%s", out)
		}
		// A signed message, checked by openssl.
		for key, cert := range all {
			p.file("text", []byte("hello\n"))
			p.run("certutil", "-A", "-d", db, "-n", key, "-t", ",P,", "-a", "-i", p.file("cert.pem", pemOf(cert)))
			p.run("cmsutil", "-S", "-d", db, "-N", "keyringd keys:"+key+" key", "-H", "SHA256", "-i", "text", "-o", "signed")
			contains(t, p.run("openssl", "cms", "-verify", "-inform", "DER", "-in", "signed", "-noverify"), "hello")
		}
	})
}

// Java lists one entry for each key with a certificate, and signs with it.
func TestJava(t *testing.T) {
	k := testKeys()
	certs := showing(t, certificateOf(t, k["p256"], "mia", 7), certificateOf(t, k["rsa"], "mia too", 8))
	s := start(t, softKeys("p256", "rsa", "p384"), Options{Certificates: certs})
	eachModule(t, s, func(t *testing.T, p *peer) {
		conf := p.file("java.cfg", []byte("name = keyringd\nlibrary = "+p.module+"\n"))
		base := []string{"-J-Xshare:auto", "-keystore", "NONE", "-storetype", "PKCS11", "-storepass", "",
			"-providerClass", "sun.security.pkcs11.SunPKCS11", "-providerArg", conf}
		out := p.run("keytool", append([]string{"-list"}, base...)...)
		contains(t, out, "contains 2 entries", "p256 key, PrivateKeyEntry", "rsa key, PrivateKeyEntry")
		for _, key := range []string{"p256", "rsa"} {
			p.run("keytool", append([]string{"-certreq", "-alias", key + " key", "-file", "request.pem"}, base...)...)
			contains(t, p.run("openssl", "req", "-in", "request.pem", "-verify", "-noout"), "verify OK")
		}
	})
}

// p11-kit itself sees the tokens where its configuration names the socket.
func TestP11KitRemote(t *testing.T) {
	s := start(t, softKeys("p256"), Options{})
	p := (&peer{serverTest: s}).again(t)
	dir := filepath.Join(p.dir, ".config", "pkcs11", "modules")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.file(".config/pkcs11/pkcs11.conf", []byte("user-config: only\n"))
	p.file(".config/pkcs11/modules/keyringd.module", []byte("remote: unix:path="+s.socket+"\n"))
	out, err := p.try("p11-kit", "list-modules")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 && !strings.Contains(out, "keyringd") {
		t.Skip("p11-kit reads no user's configuration as root")
	}
	contains(t, out, "token: keyringd keys", "serial-number: 2", "rng", "token-initialized")
}
