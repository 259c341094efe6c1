package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
	"github.com/keyringd/keyringd/sshkeys"
)

// TestBareRSAInSoftware is TestBareRSA with an ordinary key.
func TestBareRSAInSoftware(t *testing.T) {
	s := start(t, nil, Options{})
	if err := sshkeys.NewAdded(s.all).Hold(testKeys()["rsa"].signer, keyring.KeyInfo{Label: "rsa"}); err != nil {
		t.Fatal(err)
	}
	bareRSA(t, s, fileSlot)
}

// OpenSSL takes what pkcs11-tool has the token make without padding, and with
// PSS without salt.
func TestProgramsSignWithoutPadding(t *testing.T) {
	s := start(t, nil, Options{})
	k := testKeys()["rsa"]
	if err := sshkeys.NewAdded(s.all).Hold(k.signer, keyring.KeyInfo{Label: "rsa"}); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	block := append([]byte{0, 2}, bytes.Repeat([]byte{0x5a}, 254)...)
	eachModule(t, s, func(t *testing.T, p *peer) {
		sig, out := filepath.Join(p.dir, "sig"), filepath.Join(p.dir, "out")
		tool := func(args ...string) {
			t.Helper()
			p.run("pkcs11-tool", append([]string{"--module", p.module, "--label", "rsa", "-o", sig, "-s"}, args...)...)
		}
		public := p.publicKey(k)
		openssl := func(args ...string) {
			t.Helper()
			p.run("openssl", append([]string{"pkeyutl", "-pubin", "-inkey", public}, args...)...)
		}
		tool("-m", "RSA-X-509", "-i", p.file("block", block))
		openssl("-verifyrecover", "-in", sig, "-out", out, "-pkeyopt", "rsa_padding_mode:none")
		if got := must(os.ReadFile(out)); !bytes.Equal(got, block) {
			t.Errorf("without padding: %x", got)
		}
		tool("-m", "RSA-PKCS-PSS", "--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256", "--salt-len", "0", "-i", p.file("digest", digest[:]))
		openssl("-verify", "-in", filepath.Join(p.dir, "digest"), "-sigfile", sig, "-pkeyopt", "digest:sha256",
			"-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:0")
	})
}

// bareRSA uses a slot's only key without its padding, and what rests on it.
func bareRSA(t *testing.T, s *serverTest, slot uint64) {
	t.Helper()
	c, session := s.open(t, slot)
	private := c.find(session, class(p11rpc.ClassPrivateKey))[0]
	public := c.find(session, class(p11rpc.ClassPublicKey))[0]
	pub := publicOf(t, c, session, public).(*rsa.PublicKey)
	verify := func(m p11rpc.Mechanism, data, sig []byte) p11rpc.RV {
		c.must(p11rpc.VerifyInit, func(e *p11rpc.Encoder) { e.Ulong(session); e.Mechanism(m); e.Ulong(public) })
		rv, _ := c.call(p11rpc.Verify, func(e *p11rpc.Encoder) { e.Ulong(session); e.Data(data); e.Data(sig) })
		return rv
	}
	digest := sha256.Sum256([]byte("message"))
	raw := p11rpc.Mechanism{Type: p11rpc.MechRSAX509}
	block := append([]byte{1}, bytes.Repeat([]byte{0x5a}, 254)...)
	sig, rv := c.sign(session, raw, private, block)
	if rv != p11rpc.OK || !bytes.Equal(bare(pub, sig), append([]byte{0}, block...)) {
		t.Errorf("raw: %v", rv)
	}
	if rv := verify(raw, block, sig); rv != p11rpc.OK {
		t.Errorf("raw, verify: %v", rv)
	}
	c.decryptInit(session, raw, private)
	if b := c.must(p11rpc.Decrypt, signArgs(session, bare(pub, block), 256)).Bytes(); !bytes.Equal(b.Data, append([]byte{0}, block...)) {
		t.Errorf("raw, decrypt: %x", b.Data)
	}
	if _, rv := c.sign(session, raw, private, bytes.Repeat([]byte{0xff}, 256)); rv != p11rpc.DataInvalid {
		t.Errorf("more than the modulus: %v", rv)
	}
	for salt, other := range map[uint64]uint64{0: 32, 32: 0} {
		pss := func(salt uint64) p11rpc.Mechanism {
			return p11rpc.Mechanism{Type: p11rpc.MechRSAPKCSPSS, PSS: &p11rpc.PSSParams{Hash: p11rpc.MechSHA256, MGF: p11rpc.MGF1SHA256, Salt: salt}}
		}
		sig, rv := c.sign(session, pss(salt), private, digest[:])
		if rv != p11rpc.OK {
			t.Errorf("PSS with %d bytes of salt: %v", salt, rv)
			continue
		}
		if err := rsa.VerifyPSS(pub, crypto.SHA256, digest[:], sig, nil); err != nil {
			t.Errorf("PSS with %d bytes of salt: %v", salt, err)
		}
		if rv := verify(pss(salt), digest[:], sig); rv != p11rpc.OK {
			t.Errorf("verify with %d bytes of salt: %v", salt, rv)
		}
		if rv := verify(pss(other), digest[:], sig); rv != p11rpc.SignatureInvalid {
			t.Errorf("%d bytes of salt pass for %d: %v", salt, other, rv)
		}
	}
	for _, m := range []p11rpc.Mechanism{
		{Type: p11rpc.MechSHA224RSAPKCS},
		{Type: p11rpc.MechSHA224RSAPKCSPSS, PSS: &p11rpc.PSSParams{Hash: p11rpc.MechSHA224, MGF: p11rpc.MGF1SHA224, Salt: 28}},
	} {
		sig, rv := c.sign(session, m, private, []byte("message"))
		if rv != p11rpc.OK || verify(m, []byte("message"), sig) != p11rpc.OK {
			t.Errorf("%#x: %v", uint32(m.Type), rv)
		}
	}
}
