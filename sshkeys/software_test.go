package sshkeys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// pfx makes PKCS #12 files of one key with OpenSSL, in all the ways it has.
func pfx(t testing.TB, alg ...string) (files map[string][]byte, key any) {
	t.Helper()
	d := dir(t)
	run(t, d, "openssl", append([]string{"req", "-x509", "-newkey"}, append(alg, "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=mia")...)...)
	files = map[string][]byte{}
	for name, args := range map[string][]string{
		"usual":    nil,
		"3DES":     {"-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"},
		"AES-128":  {"-keypbe", "AES-128-CBC", "-certpbe", "AES-128-CBC", "-macalg", "sha512"},
		"no chain": {"-nodes"},
	} {
		run(t, d, "openssl", append([]string{"pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem", "-out", "out.p12",
			"-passout", "pass:" + passphrase}, args...)...)
		files[name] = read(t, filepath.Join(d, "out.p12"))
	}
	block, _ := pem.Decode(read(t, filepath.Join(d, "key.pem")))
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	return files, k
}

func TestOpenPKCS12(t *testing.T) {
	for _, alg := range [][]string{{"rsa:2048"}, {"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}} {
		files, want := pfx(t, alg...)
		for name, data := range files {
			s, err := Sketch(data)
			if err != nil || !s.Encrypted {
				t.Errorf("%s: %+v, %v", name, s, err)
			}
			k, err := Open(data, []byte(passphrase))
			if err != nil {
				t.Fatalf("%s %s: %v", alg, name, err)
			}
			if e, ok := k.(interface{ Equal(any) bool }); ok && !e.Equal(want) {
				t.Errorf("%s: another key", name)
			}
			if _, err := Open(data, []byte("wrong")); !errors.Is(err, ErrPassphrase) {
				t.Errorf("%s: a wrong password: %v", name, err)
			}
		}
	}
}

// A file that would keep the daemon deriving for hours is refused at once.
func TestPKCS12ThatAsksForTooMuch(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	data, err := pkcs12.LegacyRC2.Encode(key, cert, nil, passphrase)
	must(t, err)
	if _, err := Open(data, []byte(passphrase)); err != nil {
		t.Fatal(err)
	}
	// The MAC's number of rounds is the last thing in the file.
	var p struct {
		Version  int
		AuthSafe asn1.RawValue
		Mac      struct {
			Digest asn1.RawValue
			Salt   []byte
			Rounds int `asn1:"optional,default:1"`
		}
	}
	_, err = asn1.Unmarshal(data, &p)
	must(t, err)
	p.Mac.Rounds = 1 << 40
	data, err = asn1.Marshal(p)
	must(t, err)
	start := time.Now()
	if _, err := Open(data, []byte(passphrase)); err == nil || !strings.Contains(err.Error(), "rounds") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("after %v", took)
	}
}

// What ssh-keygen and openssl write is opened, in PEM and as bare DER.
func TestOpenWhatIsServedAndMore(t *testing.T) {
	for name, mk := range variants() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir(t), "k")
			pass := mk(t, path)
			data := read(t, path)
			forms := map[string][]byte{"as it is": data}
			if block, _ := pem.Decode(data); block != nil && block.Type != "OPENSSH PRIVATE KEY" && len(block.Headers) == 0 {
				forms["DER"] = block.Bytes
			}
			for form, data := range forms {
				s, err := Sketch(data)
				if err != nil || s.Encrypted != (pass != "") {
					t.Errorf("%s: %+v, %v", form, s, err)
				}
				k, err := Open(data, []byte(pass))
				if err != nil {
					t.Fatalf("%s: %v", form, err)
				}
				if s.Public != nil && !samePublic(s.Public, k.Public()) {
					t.Errorf("%s: the sketch shows another key", form)
				}
				if pass != "" {
					if _, err := Open(data, []byte("wrong")); !errors.Is(err, ErrPassphrase) {
						t.Errorf("%s: a wrong passphrase: %v", form, err)
					}
				}
			}
		})
	}
}

func TestOpenWhatIsNoKey(t *testing.T) {
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "zeros": make([]byte, 100), "a sequence": {0x30, 0x03, 0x02, 0x01, 0x00},
		"a TPM key": []byte("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"),
	} {
		if _, err := Sketch(data); err == nil {
			t.Errorf("%s: a sketch", name)
		}
		if _, err := Open(data, nil); err == nil {
			t.Errorf("%s: a key", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x03})
	f.Add(bytes.Repeat([]byte{0x30, 0x80}, 40))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Sketch(data)
		if err != nil || s.Encrypted {
			return // deriving keys is slow, and fuzzed elsewhere
		}
		k, err := Open(data, nil)
		if err == nil && s.Public != nil && !samePublic(s.Public, k.Public()) {
			t.Error("the sketch shows another key")
		}
	})
}
