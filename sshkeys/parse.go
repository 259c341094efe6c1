package sshkeys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/caller"
)

const (
	// minRSA is the size below which OpenSSH and crypto/rsa refuse to work.
	minRSA = 1024
	// maxRSA is the largest that ssh-keygen makes; a larger one only costs time.
	maxRSA = 16384
	// maxBlocks is how many PEM blocks of one file are looked at. Real files
	// have a block of curve parameters or a chain of certificates before the key.
	maxBlocks = 16
)

// errNoKey: the file is nothing that this package reads.
var errNoKey = errors.New("not a private key")

// form is how a file holds its key.
type form int

const (
	formOpenSSH form = iota // openssh-key-v1
	formPKCS1               // RSA PRIVATE KEY
	formSEC1                // EC PRIVATE KEY
	formPKCS8               // PRIVATE KEY
	formPBES2               // ENCRYPTED PRIVATE KEY
)

// A sketch is what a file tells of its key without a passphrase.
type sketch struct {
	form      form
	public    crypto.PublicKey // nil where only the encrypted part has it
	comment   string           // not sanitised; empty where there is none in clear
	encrypted bool
}

// inspect finds the private key in a file's contents. errNoKey means that there
// is none; other errors say to a person what is wrong with it.
func inspect(data []byte) (sketch, error) {
	block, f, err := find(data)
	if err != nil {
		return sketch{}, err
	}
	defer clear(block.Bytes)
	s := sketch{form: f}
	switch {
	case f == formOpenSSH:
		s, err = inspectOpenSSH(block.Bytes)
	case f == formPBES2:
		s.encrypted = true
		_, err = parsePBES2(block.Bytes)
	case isLegacyEncrypted(block):
		s.encrypted = true
		err = checkLegacy(block)
	default:
		s.public, err = publicOf(f, block.Bytes)
	}
	if err == nil && s.public != nil {
		err = suitable(s.public)
	}
	if err != nil {
		return sketch{}, err
	}
	return s, nil
}

// find returns the first PEM block that is a private key of ours. What it
// decoded is the caller's to clear.
func find(data []byte) (*pem.Block, form, error) {
	rest := data
	for range maxBlocks {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "OPENSSH PRIVATE KEY":
			return block, formOpenSSH, nil
		case "RSA PRIVATE KEY":
			return block, formPKCS1, nil
		case "EC PRIVATE KEY":
			return block, formSEC1, nil
		case "PRIVATE KEY":
			return block, formPKCS8, nil
		case "ENCRYPTED PRIVATE KEY":
			return block, formPBES2, nil
		}
		clear(block.Bytes)
		switch {
		case block.Type == "DSA PRIVATE KEY":
			return nil, 0, errDSA
		case isTPM(block.Type):
			return nil, 0, errNoKey
		case bytes.HasSuffix([]byte(block.Type), []byte("PRIVATE KEY")):
			return nil, 0, fmt.Errorf("unknown kind of key file: %s", caller.Sanitize(block.Type, 40))
		}
	}
	return nil, 0, broken(data)
}

var errDSA = errors.New("DSA keys are no longer accepted by anybody")

// broken says what a file without a whole block is, as far as one can see.
func broken(data []byte) error {
	if bytes.HasPrefix(data, []byte("PuTTY-User-Key-File-")) {
		return errors.New("a PuTTY key file; convert it with puttygen -O private-openssh")
	}
	const begin, end = "-----BEGIN ", "PRIVATE KEY-----"
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, "\r\n \t")
		if name, ok := bytes.CutPrefix(line, []byte(begin)); ok && bytes.HasSuffix(name, []byte(end)) &&
			!isTPM(string(bytes.TrimSuffix(name, []byte("-----")))) {
			return errors.New("damaged or incomplete: the text after BEGIN … PRIVATE KEY cannot be decoded")
		}
	}
	return errNoKey
}

// isTPM reports whether a PEM block is a TPM key file, which is not ours.
func isTPM(kind string) bool {
	return kind == "TSS2 PRIVATE KEY" || kind == "TSS2 KEY BLOB" || kind == "TSS KEY BLOB"
}

// isLegacyEncrypted reports RFC 1421 encryption, which OpenSSL used for
// "traditional" key files.
func isLegacyEncrypted(block *pem.Block) bool {
	return block.Headers["DEK-Info"] != "" || block.Headers["Proc-Type"] != ""
}

// checkLegacy says why a file with RFC 1421 encryption cannot be read.
func checkLegacy(block *pem.Block) error {
	name, _, _ := strings.Cut(block.Headers["DEK-Info"], ",")
	switch name {
	case "DES-CBC", "DES-EDE3-CBC", "AES-128-CBC", "AES-192-CBC", "AES-256-CBC":
		return nil
	}
	return fmt.Errorf("encrypted with an unknown cipher: %q", caller.Sanitize(name, 40))
}

// publicOf returns the public half of an unencrypted DER private key.
func publicOf(f form, der []byte) (crypto.PublicKey, error) {
	switch f {
	case formPKCS1:
		return rsaPublicOf(der)
	case formPKCS8:
		if inner, ok := rsaInPKCS8(der); ok {
			return rsaPublicOf(inner)
		}
	}
	k, err := privateOf(f, der)
	if err != nil {
		return nil, err
	}
	return k.Public(), nil
}

// privateOf parses an unencrypted DER private key.
func privateOf(f form, der []byte) (crypto.Signer, error) {
	var k any
	var err error
	switch f {
	case formPKCS1:
		k, err = x509.ParsePKCS1PrivateKey(der)
	case formSEC1:
		k, err = x509.ParseECPrivateKey(der)
	default:
		k, err = x509.ParsePKCS8PrivateKey(der)
	}
	if err != nil {
		return nil, fmt.Errorf("damaged: %s", caller.Sanitize(err.Error(), 120))
	}
	switch k := k.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return k.(crypto.Signer), nil
	}
	return nil, fmt.Errorf("a key that cannot sign (%T)", k)
}

// rsaInPKCS8 returns the PKCS #1 structure inside RFC 5208's.
func rsaInPKCS8(der []byte) ([]byte, bool) {
	s := cryptobyte.String(der)
	var outer, alg, inner cryptobyte.String
	var version int
	var oid asn1.ObjectIdentifier
	ok := s.ReadASN1(&outer, cryptobyte_asn1.SEQUENCE) && outer.ReadASN1Integer(&version) &&
		outer.ReadASN1(&alg, cryptobyte_asn1.SEQUENCE) && alg.ReadASN1ObjectIdentifier(&oid) &&
		outer.ReadASN1(&inner, cryptobyte_asn1.OCTET_STRING)
	return inner, ok && oid.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1})
}

// rsaPublicOf reads the two numbers it needs of RFC 8017's RSAPrivateKey: a
// whole parse checks the primes, which is too slow for a folder of keys.
func rsaPublicOf(der []byte) (crypto.PublicKey, error) {
	s := cryptobyte.String(der)
	var seq cryptobyte.String
	var version int
	var e int64
	n := new(big.Int)
	if !s.ReadASN1(&seq, cryptobyte_asn1.SEQUENCE) || !s.Empty() || !seq.ReadASN1Integer(&version) ||
		!seq.ReadASN1Integer(n) || !seq.ReadASN1Integer(&e) {
		return nil, errors.New("damaged: not an RSA private key")
	}
	for range 6 { // d, p, q, dp, dq, qinv
		if !seq.SkipASN1(cryptobyte_asn1.INTEGER) {
			return nil, errors.New("damaged: not an RSA private key")
		}
	}
	if n.Sign() <= 0 || e < 3 || e&1 == 0 || e >= 1<<31 {
		return nil, errors.New("damaged: not an RSA public key")
	}
	return &rsa.PublicKey{N: n, E: int(e)}, nil
}

// suitable says why a key of this kind is not served, nil if it is.
func suitable(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		switch bits := k.N.BitLen(); {
		case bits < minRSA:
			return fmt.Errorf("RSA with %d bits is too weak; at least %d are needed", bits, minRSA)
		case bits > maxRSA:
			return fmt.Errorf("RSA with %d bits is too large; at most %d are served", bits, maxRSA)
		}
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("unknown curve %s", k.Curve.Params().Name)
	}
	return fmt.Errorf("unknown kind of key (%T)", pub)
}

// parseWire reads a public key in SSH wire form.
func parseWire(blob []byte) (crypto.PublicKey, error) {
	kind, _, ok := cutString(blob)
	switch {
	case !ok:
		return nil, errors.New("damaged: no public key")
	case string(kind) == "ssh-dss":
		return nil, errDSA
	case bytes.HasPrefix(kind, []byte("sk-")), bytes.HasPrefix(kind, []byte("webauthn-sk-")):
		return nil, errors.New("the private key is in a security key, and this is only its handle")
	}
	// An ed25519 key would share blob's memory, which is wiped.
	pub, err := ssh.ParsePublicKey(bytes.Clone(blob))
	if err != nil {
		return nil, fmt.Errorf("unknown or damaged public key of type %q", caller.Sanitize(string(kind), 40))
	}
	c, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return nil, fmt.Errorf("public key of type %q is not for signing", caller.Sanitize(string(kind), 40))
	}
	return c.CryptoPublicKey(), nil
}

// samePublic reports whether two public keys are one.
func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
