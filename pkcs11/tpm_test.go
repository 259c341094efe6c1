package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/tpmtest"
	"github.com/keyringd/keyringd/tpmkeys"
)

// A tpmServer serves a folder of key files with a software TPM behind it, and
// makes more of them.
type tpmServer struct {
	*serverTest
	dir     string
	sim     *tpmtest.TPM
	relay   *tpmtest.Relay
	folders *folder.Folders
}

const tpmSlot = 1

func startTPM(tb testing.TB) *tpmServer {
	tb.Helper()
	sim := tpmtest.Start(tb)
	relay := sim.Relay()
	dev := tpm.New(relay.Address(), tpm.Options{})
	tb.Cleanup(func() { _ = dev.Close() })
	maker, certs := &tpmkeys.Maker{Device: dev}, NewCertificates()
	s := &tpmServer{sim: sim, relay: relay, dir: filepath.Join(tb.TempDir(), "keys")}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	s.serverTest = start(tb, nil, Options{Certificates: certs, Maker: maker, Random: dev.Random}, func(server *Server) {
		log := slog.New(slog.DiscardHandler)
		var err error
		s.folders, err = folder.Watch(tb.Context(), folder.Options{Dirs: []string{s.dir}, Log: log},
			tpmkeys.New(dev, server.keys, log), certs)
		if err != nil {
			tb.Fatal(err)
		}
		maker.Keys, maker.Dirs, maker.Rescan, maker.Log = server.keys, []string{s.dir}, s.folders.Rescan, log
		maker.Gate, certs.Rescan = server.keys.Gate(), s.folders.Rescan
	})
	return s
}

// pinned answers every question with a PIN.
func pinned(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: "12345678"} }

func yes(t p11rpc.AttributeType) p11rpc.Attribute { return attr(t, p11rpc.BoolValue(true)) }
func no(t p11rpc.AttributeType) p11rpc.Attribute  { return attr(t, p11rpc.BoolValue(false)) }

func curveAttr(c elliptic.Curve) p11rpc.Attribute {
	return attr(p11rpc.AttrECParams, must(curveName(c)))
}

func (c *client) generate(session uint64, m p11rpc.MechanismType, public, private []p11rpc.Attribute) (pub, priv uint64, rv p11rpc.RV) {
	c.tb.Helper()
	rv, d := c.call(p11rpc.GenerateKeyPair, func(e *p11rpc.Encoder) {
		e.Ulong(session)
		e.Mechanism(p11rpc.Mechanism{Type: m})
		e.Attributes(public)
		e.Attributes(private)
	})
	if rv == p11rpc.OK {
		pub, priv = d.Ulong(), d.Ulong()
	}
	return pub, priv, rv
}

// TestGenerateKeyPair makes keys in the TPM, named and guarded as the program
// and the user want.
func TestGenerateKeyPair(t *testing.T) {
	s := startTPM(t)
	s.prompter.Always(pinned)
	c, session := s.open(t, tpmSlot) // before there is any key
	slotList := func() []uint64 {
		return c.must(p11rpc.GetSlotList, func(e *p11rpc.Encoder) { e.Byte(1); e.Room(4) }).Ulongs().Values
	}
	if got := slotList(); !slices.Equal(got, []uint64{tpmSlot}) {
		t.Errorf("slots %v", got)
	}
	// Whoever takes the first slot of the list is better off with keys.
	s.all.Replace("files", softKeys("p384"))
	if got := slotList(); !slices.Equal(got, []uint64{fileSlot, tpmSlot}) {
		t.Errorf("slots %v, with no key in the TPM", got)
	}
	label := attr(p11rpc.AttrLabel, []byte("VPN key / ü"))
	id := attr(p11rpc.AttrID, []byte{1})
	public, private, rv := c.generate(session, p11rpc.MechECKeyPairGen,
		[]p11rpc.Attribute{curveAttr(elliptic.P256()), yes(p11rpc.AttrToken), label, id},
		[]p11rpc.Attribute{yes(p11rpc.AttrToken), yes(p11rpc.AttrPrivate), yes(p11rpc.AttrSensitive), yes(p11rpc.AttrSign), yes(p11rpc.AttrDerive), label, id})
	if rv != p11rpc.OK {
		t.Fatal(rv)
	}
	asked := s.prompter.Questions()
	if len(asked) != 1 || asked[0].Kind != prompt.NewPassphrase || !asked[0].PIN {
		t.Errorf("asked %+v", asked)
	}
	line := must(os.ReadFile(filepath.Join(s.dir, "VPN-key---ü.pub")))
	if !strings.HasPrefix(string(line), "ecdsa-sha2-nistp256 ") || !strings.HasSuffix(string(line), " VPN key / ü\n") {
		t.Errorf("public key file: %s", line)
	}
	list, rv := c.attributes(session, private, p11rpc.AttrLocal, p11rpc.AttrNeverExtractable, p11rpc.AttrAlwaysSensitive,
		p11rpc.AttrDerive, p11rpc.AttrSign, p11rpc.AttrDecrypt, p11rpc.AttrLabel, p11rpc.AttrKeyGenMechanism)
	if rv != p11rpc.OK || string(list[6].Value) != "VPN key / ü" || !bytes.Equal(list[7].Value, p11rpc.UlongValue(uint64(p11rpc.MechECKeyPairGen))) {
		t.Errorf("%v: %v", rv, list)
	}
	for i, want := range []byte{1, 1, 1, 1, 1, 0} {
		if list[i].Value[0] != want {
			t.Errorf("attribute %#x is %d", uint32(list[i].Type), list[i].Value[0])
		}
	}
	pub := publicOf(t, c, session, public).(*ecdsa.PublicKey)
	digest := sha256.Sum256([]byte("message"))
	sig, rv := c.sign(session, ecdsaMechanism, private, digest[:])
	if rv != p11rpc.OK || !(&operation{object: &object{key: must(newPublicKey(pub))}}).good(digest[:], crypto.SHA256, sig) {
		t.Errorf("signature: %v", rv)
	}
	other := must(ecdh.P256().GenerateKey(rand.Reader))
	handle, rv := c.derive(session, &p11rpc.ECDHParams{KDF: p11rpc.KDFNull, Public: other.PublicKey().Bytes()}, private, nil)
	want := must(other.ECDH(must(pub.ECDH())))
	if list, _ := c.attributes(session, handle, p11rpc.AttrValue); rv != p11rpc.OK || !bytes.Equal(list[0].Value, want) {
		t.Errorf("derive: %v", rv)
	}

	// The name is taken, and no PIN is wanted: nobody is asked, now or later.
	n := len(s.prompter.Questions())
	_, private, rv = c.generate(session, p11rpc.MechRSAPKCSKeyPairGen,
		[]p11rpc.Attribute{attr(p11rpc.AttrModulusBits, p11rpc.UlongValue(2048)), attr(p11rpc.AttrPublicExponent, []byte{1, 0, 1})},
		[]p11rpc.Attribute{label, no(p11rpc.AttrPrivate)})
	if _, err := os.Stat(filepath.Join(s.dir, "VPN-key---ü-2")); rv != p11rpc.OK || err != nil {
		t.Errorf("the second of its name: %v, %v", rv, err)
	}
	if _, rv := c.sign(session, p11rpc.Mechanism{Type: p11rpc.MechSHA256RSAPKCS}, private, []byte("x")); rv != p11rpc.OK || len(s.prompter.Questions()) != n {
		t.Errorf("%v after %d questions", rv, len(s.prompter.Questions())-n)
	}
}

func publicOf(t *testing.T, c *client, session, object uint64) any {
	t.Helper()
	list, rv := c.attributes(session, object, p11rpc.AttrPublicKeyInfo)
	if rv != p11rpc.OK {
		t.Fatal(rv)
	}
	return must(x509.ParsePKIXPublicKey(list[0].Value))
}

func TestGenerateKeyPairRefuses(t *testing.T) {
	s := startTPM(t)
	s.prompter.Always(func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Err: prompt.ErrDismissed} })
	c, session := s.open(t, tpmSlot)
	reading := c.must(p11rpc.OpenSession, ulongs(tpmSlot, flagSerial)).Ulong()
	ec, bits := []p11rpc.Attribute{curveAttr(elliptic.P256())}, func(n uint64) []p11rpc.Attribute {
		return []p11rpc.Attribute{attr(p11rpc.AttrModulusBits, p11rpc.UlongValue(n))}
	}
	for name, x := range map[string]struct {
		session         uint64
		m               p11rpc.MechanismType
		public, private []p11rpc.Attribute
		want            p11rpc.RV
	}{
		"dismissed":         {session, p11rpc.MechECKeyPairGen, ec, nil, p11rpc.FunctionRejected},
		"a session to read": {reading, p11rpc.MechECKeyPairGen, ec, nil, p11rpc.SessionReadOnly},
		"no curve":          {session, p11rpc.MechECKeyPairGen, nil, nil, p11rpc.TemplateIncomplete},
		"another curve":     {session, p11rpc.MechECKeyPairGen, []p11rpc.Attribute{curveAttr(elliptic.P224())}, nil, p11rpc.CurveNotSupported},
		"no size":           {session, p11rpc.MechRSAPKCSKeyPairGen, nil, nil, p11rpc.TemplateIncomplete},
		"a small RSA key":   {session, p11rpc.MechRSAPKCSKeyPairGen, bits(1024), nil, p11rpc.KeySizeRange},
		"a size the TPM lacks": {session, p11rpc.MechRSAPKCSKeyPairGen, bits(4096),
			[]p11rpc.Attribute{no(p11rpc.AttrPrivate)}, p11rpc.MechanismInvalid},
		"exponent 3":          {session, p11rpc.MechRSAPKCSKeyPairGen, append(bits(2048), attr(p11rpc.AttrPublicExponent, []byte{3})), nil, p11rpc.AttributeValueInvalid},
		"to be read":          {session, p11rpc.MechECKeyPairGen, ec, []p11rpc.Attribute{yes(p11rpc.AttrExtractable)}, p11rpc.TemplateInconsistent},
		"for the session":     {session, p11rpc.MechECKeyPairGen, ec, []p11rpc.Attribute{no(p11rpc.AttrToken)}, p11rpc.TemplateInconsistent},
		"RSA that derives":    {session, p11rpc.MechRSAPKCSKeyPairGen, bits(2048), []p11rpc.Attribute{yes(p11rpc.AttrDerive)}, p11rpc.TemplateInconsistent},
		"a signing mechanism": {session, p11rpc.MechECDSA, ec, nil, p11rpc.MechanismInvalid},
	} {
		if _, _, rv := c.generate(x.session, x.m, x.public, x.private); rv != x.want {
			t.Errorf("%s: %v, want %v", name, rv, x.want)
		}
	}
	if files, err := os.ReadDir(s.dir); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

// selfSigned has the token sign a certificate for one of its keys.
func selfSigned(t *testing.T, k testKey, pub any, serial int64) *x509.Certificate {
	t.Helper()
	issuer := certificateOf(t, k, "issuer", 1)
	template := certificateOf(t, k, "mia", serial)
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, issuer, pub, k.signer))))
}

// TestCreateCertificate writes certificates beside their keys, and never over
// anything.
func TestCreateCertificate(t *testing.T) {
	s := startTPM(t)
	c, session := s.open(t, tpmSlot)
	public, _, rv := c.generate(session, p11rpc.MechECKeyPairGen, []p11rpc.Attribute{curveAttr(elliptic.P256())},
		[]p11rpc.Attribute{attr(p11rpc.AttrLabel, []byte("web")), no(p11rpc.AttrPrivate)})
	if rv != p11rpc.OK {
		t.Fatal(rv)
	}
	issuer := testKeys()["p384"]
	first, second := selfSigned(t, issuer, publicOf(t, c, session, public), 7), selfSigned(t, issuer, publicOf(t, c, session, public), 8)
	create := func(session uint64, more ...p11rpc.Attribute) (uint64, p11rpc.RV) {
		rv, d := c.call(p11rpc.CreateObject, func(e *p11rpc.Encoder) {
			e.Ulong(session)
			e.Attributes(append([]p11rpc.Attribute{class(p11rpc.ClassCertificate)}, more...))
		})
		if rv != p11rpc.OK {
			return 0, rv
		}
		return d.Ulong(), rv
	}
	taken := filepath.Join(s.dir, "web.crt")
	if err := os.WriteFile(taken, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	value := func(cert *x509.Certificate) p11rpc.Attribute { return attr(p11rpc.AttrValue, cert.Raw) }
	handles := map[uint64]bool{}
	for _, cert := range []*x509.Certificate{first, second, first} {
		handle, rv := create(session, value(cert), yes(p11rpc.AttrToken), attr(p11rpc.AttrLabel, []byte("whatever")))
		if rv != p11rpc.OK {
			t.Fatal(rv)
		}
		handles[handle] = true
		if list, rv := c.attributes(session, handle, p11rpc.AttrValue); rv != p11rpc.OK || !bytes.Equal(list[0].Value, cert.Raw) {
			t.Errorf("another certificate: %v", rv)
		}
	}
	if len(handles) != 2 {
		t.Errorf("%d objects", len(handles))
	}
	for name, want := range map[string][]byte{"web.crt": []byte("mine"), "web.2.crt": pemOf(first), "web.3.crt": pemOf(second)} {
		if got := must(os.ReadFile(filepath.Join(s.dir, name))); !bytes.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	reading := c.must(p11rpc.OpenSession, ulongs(tpmSlot, flagSerial)).Ulong()
	stranger := certificateOf(t, testKeys()["p521"], "nobody", 3)
	for name, x := range map[string]struct {
		session uint64
		list    []p11rpc.Attribute
		want    p11rpc.RV
	}{
		"for no key here":   {session, []p11rpc.Attribute{value(stranger), yes(p11rpc.AttrToken)}, p11rpc.TemplateInconsistent},
		"for the session":   {session, []p11rpc.Attribute{value(first)}, p11rpc.TokenWriteProtected},
		"a session to read": {reading, []p11rpc.Attribute{value(first), yes(p11rpc.AttrToken)}, p11rpc.SessionReadOnly},
		"no value":          {session, []p11rpc.Attribute{yes(p11rpc.AttrToken)}, p11rpc.TemplateIncomplete},
		"garbage":           {session, []p11rpc.Attribute{attr(p11rpc.AttrValue, []byte("x")), yes(p11rpc.AttrToken)}, p11rpc.AttributeValueInvalid},
		"trusted":           {session, []p11rpc.Attribute{value(first), yes(p11rpc.AttrToken), yes(p11rpc.AttrTrusted)}, p11rpc.TemplateInconsistent},
	} {
		if _, rv := create(x.session, x.list...); rv != x.want {
			t.Errorf("%s: %v, want %v", name, rv, x.want)
		}
	}
	if files := must(filepath.Glob(filepath.Join(s.dir, "*.crt"))); len(files) != 3 {
		t.Errorf("files: %q", files)
	}
}

// TestBareRSA uses a TPM key without the TPM's padding, and what rests on it.
func TestBareRSA(t *testing.T) {
	s := startTPM(t)
	file := filepath.Join(s.dir, "rsa")
	if err := os.WriteFile(file, s.sim.OpenSSLKey(t, tpmtest.RSA2048, "", 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.folders.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
	bareRSA(t, s.serverTest, tpmSlot)
}

// TestRandomIsTheTPMs asks the TPM for random numbers, and the kernel when it
// does not answer.
func TestRandomIsTheTPMs(t *testing.T) {
	s := startTPM(t)
	c, session := s.open(t, tpmSlot)
	ask := func() []byte {
		return c.must(p11rpc.GenerateRandom, func(e *p11rpc.Encoder) { e.Ulong(session); e.Room(40) }).Bytes().Data
	}
	before := s.relay.Total()
	if a, b := ask(), ask(); len(a) != 40 || bytes.Equal(a, b) || s.relay.Total()-before != 4 {
		t.Errorf("%x, %x, %d commands", a, b, s.relay.Total()-before)
	}
	s.sim.Kill()
	if b := ask(); len(b) != 40 || bytes.Count(b, []byte{0}) > 10 {
		t.Errorf("without a TPM: %x", b)
	}
	c.want(p11rpc.RandomSeedNotSupported, p11rpc.SeedRandom, ulongs(session))
}

// Real programs make keys, add certificates, decrypt and derive.
func TestProgramsMakeAndDecrypt(t *testing.T) {
	s := startTPM(t)
	s.prompter.Always(pinned)
	eachModule(t, s.serverTest, func(t *testing.T, p *peer) {
		tool := func(args ...string) string {
			t.Helper()
			return p.run("pkcs11-tool", append([]string{"--module", p.module, "--token-label", "keyringd TPM"}, args...)...)
		}
		name := filepath.Base(filepath.Dir(p.module)) // another one for each module
		for _, c := range []struct{ typ, label string }{{"EC:prime256v1", "ec " + name}, {"rsa:2048", "rsa " + name}} {
			contains(t, tool("--keypairgen", "--key-type", c.typ, "--label", c.label, "--usage-sign", "--usage-derive", "--usage-decrypt"),
				"Key pair generated", c.label)
		}
		list := s.all.List()
		keys := map[string]keyring.KeyInfo{}
		for _, info := range list {
			keys[info.Label] = info
		}
		rsaKey, ecKey := keys["rsa "+name], keys["ec "+name]
		pub := p.file("rsa.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(rsaKey.Public))}))
		p.file("plain", []byte("a few words"))
		for mechanism, openssl := range map[string][]string{
			"RSA-PKCS":      nil,
			"RSA-PKCS-OAEP": {"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"},
		} {
			p.run("openssl", append([]string{"pkeyutl", "-encrypt", "-pubin", "-inkey", pub, "-in", "plain", "-out", "cipher"}, openssl...)...)
			args := []string{"--decrypt", "--id", rsaKey.ID.String(), "-m", mechanism, "-i", "cipher", "-o", "got"}
			if openssl != nil {
				args = append(args, "--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256")
			}
			tool(args...)
			p.run("cmp", "got", "plain")
		}

		if p.ours() { // p11-kit 0.24's client lets no derivation through
			p.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "other.pem")
			p.run("openssl", "pkey", "-in", "other.pem", "-pubout", "-outform", "DER", "-out", "other.der")
			p.file("own.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(ecKey.Public))}))
			p.run("openssl", "pkeyutl", "-derive", "-inkey", "other.pem", "-peerkey", "own.pem", "-out", "want")
			tool("--derive", "--id", ecKey.ID.String(), "-m", "ECDH1-DERIVE", "-i", "other.der", "-o", "got")
			p.run("cmp", "got", "want")
		}

		cert := selfSigned(t, testKeys()["p384"], ecKey.Public, 9)
		p.file("cert.der", cert.Raw)
		contains(t, tool("--write-object", "cert.der", "--type", "cert", "--label", "mia"), "Created certificate")
		if got := must(os.ReadFile(ecKey.Paths[0] + ".crt")); !bytes.Equal(got, pemOf(cert)) {
			t.Errorf("written: %s", got)
		}
		contains(t, tool("-O", "--type", "cert"), ecKey.ID.String())

		// GnuTLS's tool makes a key, too, with an ID of its own wishes.
		contains(t, p.run("p11tool", "--provider", p.module, "--generate-privkey=ECDSA", "--curve=secp256r1", "--label=gnutls "+name, "--login",
			"--set-pin=ignored", "pkcs11:token=keyringd%20TPM"), "BEGIN PUBLIC KEY")
		if _, err := os.Stat(filepath.Join(s.dir, "gnutls-"+name)); err != nil {
			t.Error(err)
		}
		if out, err := p.try("pkcs11-tool", "--module", p.module, "--token-label", "keyringd TPM", "--delete-object", "--type", "privkey", "--id", ecKey.ID.String()); err == nil {
			t.Errorf("a key was deleted:\n%s", out)
		}
	})
}

// pkcs11-tool's own tests, of a TPM's keys.
func TestPKCS11ToolTestOfTPM(t *testing.T) {
	s := startTPM(t)
	for name, file := range map[string][]byte{
		"rsa": s.sim.OpenSSLKey(t, tpmtest.RSA2048, "", 0),
		"ec":  s.sim.OpenSSLKey(t, tpmtest.EC256, "", 0),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.folders.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
	eachModule(t, s.serverTest, func(t *testing.T, p *peer) {
		out := p.run("pkcs11-tool", "--module", p.module, "--token-label", "keyringd TPM", "--test", "--login", "--pin", "ignored")
		contains(t, out, "C_SeedRandom() and C_GenerateRandom():", "No errors")
		if !strings.Contains(out, "RSA-X-509: OK") || !strings.Contains(out, "RSA-PKCS: OK") {
			t.Errorf("it did not decrypt:\n%s", out)
		}
	})
}
