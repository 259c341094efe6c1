package sshkeys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"  // for reading what older programs wrote
	"crypto/sha1" // PBKDF2's default, and safe in it
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/pbkdf2"
	"golang.org/x/crypto/scrypt"
)

// Limits on the work that an encrypted file may ask for before a wrong
// passphrase is known to be wrong: a few seconds, and a quarter of a gigabyte.
const (
	maxIterations   = 10_000_000
	maxScryptMemory = 256 << 20
	maxScryptP      = 16
)

var errPBES2 = errors.New("damaged: not a whole encrypted PKCS #8 key")

// pbes2 is an EncryptedPrivateKeyInfo (RFC 5958 §3) with PBES2 (RFC 8018 §6.2).
type pbes2 struct {
	derive func(passphrase []byte) ([]byte, error)
	block  func(key []byte) (cipher.Block, error)
	iv     []byte
	data   []byte
}

// A cipherSpec is a block cipher in CBC mode and the length of its key.
type cipherSpec struct {
	oid  asn1.ObjectIdentifier
	key  int // bytes
	size int // of a block, bytes
	make func(key []byte) (cipher.Block, error)
}

func ciphers() []cipherSpec {
	return []cipherSpec{
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, aes.BlockSize, aes.NewCipher},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, aes.BlockSize, aes.NewCipher},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, aes.BlockSize, aes.NewCipher},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, 24, des.BlockSize, des.NewTripleDESCipher},
	}
}

// prf returns the hash of an hmacWith… OID, RFC 8018 §B.1.
func prf(oid asn1.ObjectIdentifier) func() hash.Hash {
	base := asn1.ObjectIdentifier{1, 2, 840, 113549, 2}
	if len(oid) != len(base)+1 || !oid[:len(base)].Equal(base) {
		return nil
	}
	switch oid[len(base)] {
	case 7:
		return sha1.New
	case 8:
		return sha256.New224
	case 9:
		return sha256.New
	case 10:
		return sha512.New384
	case 11:
		return sha512.New
	}
	return nil
}

// parsePBES2 reads the parameters, and refuses those that ask for too much.
func parsePBES2(der []byte) (*pbes2, error) {
	s := cryptobyte.String(der)
	var outer, alg, params, kdf, enc, data cryptobyte.String
	var oid, kdfOID, encOID asn1.ObjectIdentifier
	if !s.ReadASN1(&outer, cryptobyte_asn1.SEQUENCE) ||
		!outer.ReadASN1(&alg, cryptobyte_asn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) ||
		!outer.ReadASN1(&data, cryptobyte_asn1.OCTET_STRING) {
		return nil, errPBES2
	}
	if !oid.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}) {
		return nil, fmt.Errorf("encrypted with an old method (%v); openssl pkcs8 -topk8 -v2 aes-256-cbc makes it one that is read", oid)
	}
	if !alg.ReadASN1(&params, cryptobyte_asn1.SEQUENCE) ||
		!params.ReadASN1(&kdf, cryptobyte_asn1.SEQUENCE) || !kdf.ReadASN1ObjectIdentifier(&kdfOID) ||
		!params.ReadASN1(&enc, cryptobyte_asn1.SEQUENCE) || !enc.ReadASN1ObjectIdentifier(&encOID) {
		return nil, errPBES2
	}
	p := &pbes2{data: data}
	size, blockSize := 0, 0
	for _, c := range ciphers() {
		if c.oid.Equal(encOID) {
			p.block, size, blockSize = c.make, c.key, c.size
		}
	}
	if p.block == nil {
		return nil, fmt.Errorf("encrypted with an unknown cipher (%v)", encOID)
	}
	var iv cryptobyte.String
	if !enc.ReadASN1(&iv, cryptobyte_asn1.OCTET_STRING) || len(iv) != blockSize ||
		len(data) == 0 || len(data)%blockSize != 0 {
		return nil, errPBES2
	}
	p.iv = iv
	var err error
	switch {
	case kdfOID.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}):
		p.derive, err = parsePBKDF2(kdf, size)
	case kdfOID.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}):
		p.derive, err = parseScrypt(kdf, size)
	default:
		err = fmt.Errorf("its key is derived in an unknown way (%v)", kdfOID)
	}
	return p, err
}

// parsePBKDF2 reads PBKDF2-params, RFC 8018 §A.2.
func parsePBKDF2(kdf cryptobyte.String, size int) (func([]byte) ([]byte, error), error) {
	var params, salt cryptobyte.String
	var iterations int64
	if !kdf.ReadASN1(&params, cryptobyte_asn1.SEQUENCE) ||
		!params.ReadASN1(&salt, cryptobyte_asn1.OCTET_STRING) ||
		!params.ReadASN1Integer(&iterations) || iterations < 1 || !skipLength(&params, size) {
		return nil, errPBES2
	}
	if iterations > maxIterations {
		return nil, fmt.Errorf("asks for %d rounds of key derivation; at most %d are done", iterations, maxIterations)
	}
	h := sha1.New
	if !params.Empty() {
		var alg cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !params.ReadASN1(&alg, cryptobyte_asn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) {
			return nil, errPBES2
		}
		if h = prf(oid); h == nil {
			return nil, fmt.Errorf("its key is derived with an unknown hash (%v)", oid)
		}
	}
	return func(passphrase []byte) ([]byte, error) {
		return pbkdf2.Key(passphrase, salt, int(iterations), size, h), nil
	}, nil
}

// parseScrypt reads scrypt-params, RFC 7914 §7.
func parseScrypt(kdf cryptobyte.String, size int) (func([]byte) ([]byte, error), error) {
	var params, salt cryptobyte.String
	var n, r, p int64
	if !kdf.ReadASN1(&params, cryptobyte_asn1.SEQUENCE) ||
		!params.ReadASN1(&salt, cryptobyte_asn1.OCTET_STRING) ||
		!params.ReadASN1Integer(&n) || !params.ReadASN1Integer(&r) || !params.ReadASN1Integer(&p) ||
		!skipLength(&params, size) || !params.Empty() || n < 2 || n&(n-1) != 0 || r < 1 || p < 1 {
		return nil, errPBES2
	}
	if n > maxScryptMemory || r > maxScryptMemory || n*r > maxScryptMemory/128 || p > maxScryptP {
		return nil, fmt.Errorf("asks for more memory or time to derive its key than is given: N=%d r=%d p=%d", n, r, p)
	}
	return func(passphrase []byte) ([]byte, error) {
		return scrypt.Key(passphrase, salt, int(n), int(r), int(p), size)
	}, nil
}

// skipLength reads an optional keyLength, which must be the cipher's.
func skipLength(params *cryptobyte.String, size int) bool {
	if !params.PeekASN1Tag(cryptobyte_asn1.INTEGER) {
		return true
	}
	var n int64
	return params.ReadASN1Integer(&n) && n == int64(size)
}

// errPassphrase: what came out is not a key.
var errPassphrase = errors.New("wrong passphrase")

// decrypt returns the PKCS #8 key inside, the caller's to clear.
func (p *pbes2) decrypt(passphrase []byte) ([]byte, error) {
	key, err := p.derive(passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := p.block(key)
	if err != nil {
		return nil, err
	}
	plain := bytes.Clone(p.data)
	cipher.NewCBCDecrypter(block, p.iv).CryptBlocks(plain, plain)
	// RFC 8018 §6.1.1: every byte of the padding is its length. Nobody outside
	// can tell this failure from that of the parse that follows.
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > len(p.iv) || !bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		clear(plain)
		return nil, errPassphrase
	}
	return plain[:len(plain)-pad], nil
}
