package sshkeys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/keyringd/keyringd/internal/caller"
)

// OpenSSH's private key format, as its PROTOCOL.key says:
//
//	"openssh-key-v1\0" string cipher, kdf, kdfoptions; uint32 number of keys;
//	string public key …; string private section
//
// and the private section, once decrypted:
//
//	uint32 check, check; (string type, … private fields, string comment) …; 1 2 3 …
const opensshMagic = "openssh-key-v1\x00"

// maxRounds bounds the work that a file may ask for before a wrong passphrase
// is known to be wrong: 128 times ssh-keygen's default, some 20 s.
const maxRounds = 2048

var errOpenSSH = errors.New("damaged: not a whole OpenSSH private key")

type opensshFile struct {
	cipher, kdf string
	rounds      uint32
	public      []byte // wire form
	private     []byte // the private section, perhaps encrypted
}

// parseOpenSSH splits a file; its parts share raw's memory.
func parseOpenSSH(raw []byte) (opensshFile, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(opensshMagic))
	if !ok {
		return opensshFile{}, errOpenSSH
	}
	var f opensshFile
	var cipher, kdf, options []byte
	var count uint32
	if cipher, rest, ok = cutString(rest); !ok {
		return f, errOpenSSH
	}
	if kdf, rest, ok = cutString(rest); !ok {
		return f, errOpenSSH
	}
	if options, rest, ok = cutString(rest); !ok {
		return f, errOpenSSH
	}
	if count, rest, ok = cutUint32(rest); !ok {
		return f, errOpenSSH
	}
	if count != 1 {
		return f, fmt.Errorf("holds %d keys; only files with one are in use", count)
	}
	if f.public, rest, ok = cutString(rest); !ok {
		return f, errOpenSSH
	}
	// Authenticated ciphers put their tag behind the private section.
	if f.private, _, ok = cutString(rest); !ok {
		return f, errOpenSSH
	}
	f.cipher, f.kdf = string(cipher), string(kdf)
	if f.kdf == "bcrypt" {
		salt, rest, ok := cutString(options)
		if !ok || len(salt) == 0 {
			return f, errOpenSSH
		}
		if f.rounds, _, ok = cutUint32(rest); !ok || f.rounds == 0 {
			return f, errOpenSSH
		}
	}
	return f, nil
}

func inspectOpenSSH(raw []byte) (sketch, error) {
	f, err := parseOpenSSH(raw)
	if err != nil {
		return sketch{}, err
	}
	s := sketch{form: formOpenSSH, encrypted: f.cipher != "none"}
	if s.public, err = parseWire(f.public); err != nil {
		return sketch{}, err
	}
	switch {
	case !s.encrypted:
		p, err := parseSection(f.private)
		if err != nil {
			return sketch{}, err
		}
		s.comment = string(p.comment)
	case f.kdf != "bcrypt":
		return sketch{}, fmt.Errorf("encrypted with an unknown method: %q", caller.Sanitize(f.kdf, 40))
	case f.cipher != "aes256-ctr" && f.cipher != "aes256-cbc":
		return sketch{}, fmt.Errorf("encrypted with %q; ssh-keygen -p -Z aes256-ctr makes it one that is read", caller.Sanitize(f.cipher, 40))
	case f.rounds > maxRounds:
		return sketch{}, fmt.Errorf("asks for %d rounds of key derivation; at most %d are done", f.rounds, maxRounds)
	}
	return s, nil
}

// section is a decrypted private section, in the memory it was parsed from.
type section struct {
	kind    string
	fields  [][]byte
	comment []byte
}

// parseSection splits a decrypted private section without copying from it.
func parseSection(p []byte) (section, error) {
	check1, rest, ok1 := cutUint32(p)
	check2, rest, ok2 := cutUint32(rest)
	kind, rest, ok3 := cutString(rest)
	if !ok1 || !ok2 || !ok3 || check1 != check2 {
		return section{}, errOpenSSH
	}
	s := section{kind: string(kind)}
	n, ok := sectionFields(s.kind)
	if !ok {
		return section{}, fmt.Errorf("unknown kind of private key: %q", caller.Sanitize(s.kind, 40))
	}
	for range n {
		var field []byte
		if field, rest, ok = cutString(rest); !ok {
			return section{}, errOpenSSH
		}
		s.fields = append(s.fields, field)
	}
	if s.comment, rest, ok = cutString(rest); !ok {
		return section{}, errOpenSSH
	}
	for i, b := range rest {
		if int(b) != (i+1)&0xff {
			return section{}, errOpenSSH
		}
	}
	return s, nil
}

// sectionFields is how many private fields a key of this SSH name has.
func sectionFields(kind string) (n int, ok bool) {
	switch kind {
	case "ssh-rsa":
		return 6, true // n, e, d, iqmp, p, q
	case "ssh-ed25519":
		return 2, true // public, private || public
	case "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521":
		return 3, true // curve, point, scalar
	}
	return 0, false
}

// signer makes the private key. Public halves are computed, not believed: an
// ed25519 signature made with the wrong one gives the private key away.
func (s section) signer() (crypto.Signer, error) {
	switch s.kind {
	case "ssh-ed25519":
		if len(s.fields[1]) != ed25519.PrivateKeySize {
			return nil, errOpenSSH
		}
		return ed25519.NewKeyFromSeed(s.fields[1][:ed25519.SeedSize]), nil
	case "ssh-rsa":
		return s.rsa()
	}
	var curve elliptic.Curve
	switch string(s.fields[0]) {
	case "nistp256":
		curve = elliptic.P256()
	case "nistp384":
		curve = elliptic.P384()
	case "nistp521":
		curve = elliptic.P521()
	default:
		return nil, errOpenSSH
	}
	scalar := bytes.TrimLeft(s.fields[2], "\x00")
	fixed := make([]byte, (curve.Params().BitSize+7)/8)
	defer clear(fixed)
	if len(scalar) > len(fixed) {
		return nil, errOpenSSH
	}
	copy(fixed[len(fixed)-len(scalar):], scalar)
	k, err := ecdsa.ParseRawPrivateKey(curve, fixed)
	if err != nil {
		return nil, errOpenSSH
	}
	return k, nil
}

// rsa rebuilds the numbers that the format leaves out, so that crypto/rsa need
// not find them anew with ten times the work.
func (s section) rsa() (crypto.Signer, error) {
	num := func(i int) *big.Int { return new(big.Int).SetBytes(s.fields[i]) }
	n, e, d, qinv, p, q := num(0), num(1), num(2), num(3), num(4), num(5)
	one := big.NewInt(1)
	if n.BitLen() > maxRSA || p.BitLen() > maxRSA/2+1 || q.BitLen() > maxRSA/2+1 || d.BitLen() > maxRSA || qinv.BitLen() > maxRSA ||
		e.BitLen() > 31 || p.Cmp(one) <= 0 || q.Cmp(one) <= 0 {
		return nil, errOpenSSH
	}
	k := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: n, E: int(e.Int64())},
		D:         d,
		Primes:    []*big.Int{p, q},
	}
	k.Precomputed.Dp = new(big.Int).Mod(d, new(big.Int).Sub(p, one))
	k.Precomputed.Dq = new(big.Int).Mod(d, new(big.Int).Sub(q, one))
	k.Precomputed.Qinv = qinv
	k.Precompute()
	if err := k.Validate(); err != nil {
		return nil, errOpenSSH
	}
	return k, nil
}

// cutString cuts a length-prefixed string off p.
func cutString(p []byte) (s, rest []byte, ok bool) {
	n, rest, ok := cutUint32(p)
	if !ok || uint64(n) > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:n:n], rest[n:], true
}

func cutUint32(p []byte) (n uint32, rest []byte, ok bool) {
	if len(p) < 4 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(p), p[4:], true
}
