// Package pubfile knows the one-line public key files that lie beside private
// keys: NAME.pub beside NAME, as ssh-keygen writes them.
//
// A [Set] remembers those that a folder scan came across; [Wire] gives a public
// key the form in which they hold it (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709
// §4), so that a comment is only believed where the key is the same. Nothing
// here is secret.
package pubfile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"math/big"
	"path/filepath"
	"strings"

	"github.com/keyringd/keyringd/internal/caller"
)

// Suffix is what the public key file's name has after the private one's.
const Suffix = ".pub"

// A Public is what a public key file says.
type Public struct {
	Blob    []byte // SSH wire form, not checked
	Comment string // what follows the key on its line; not sanitised
}

// A Set is the public key files seen, by path. The zero value is empty. It may
// not be used concurrently.
type Set struct{ seen map[string]Public }

// Load remembers the file at path if that is a public key file's name, and
// forgets what was there before. It reports whether it is one.
func (s *Set) Load(path string, data []byte) bool {
	delete(s.seen, path)
	if !strings.HasSuffix(path, Suffix) {
		return false
	}
	p, ok := Parse(data)
	if !ok {
		return false
	}
	if s.seen == nil {
		s.seen = map[string]Public{}
	}
	s.seen[path] = p
	return true
}

// Keep forgets every file for which there is false.
func (s *Set) Keep(there func(path string) bool) {
	for path := range s.seen {
		if !there(path) {
			delete(s.seen, path)
		}
	}
}

// Beside returns the public key file of the private key file at path.
func (s *Set) Beside(path string) (Public, bool) {
	p, ok := s.seen[path+Suffix]
	return p, ok
}

// Comment returns the comment beside the private key file at path if it is
// about the same key, else "".
func (s *Set) Comment(path string, wire []byte) string {
	p, ok := s.Beside(path)
	if !ok || len(wire) == 0 || !bytes.Equal(p.Blob, wire) {
		return ""
	}
	return p.Comment
}

// MaxLabel is how many characters of a label are shown; longer ones are cut.
const MaxLabel = 100

// Label returns the first of texts, or else the name of the file at path, that
// has anything to show. It is sanitised and never empty.
func Label(path string, texts ...string) string {
	for _, text := range append(texts, filepath.Base(path)) {
		if text = caller.Sanitize(text, MaxLabel); text != "" {
			return text
		}
	}
	return "key file" // its name is nothing but spaces
}

// maxLine is far above any public key's line, RSA-16384's being 2.8 KiB.
const maxLine = 16 << 10

// Parse reads "TYPE BASE64 [COMMENT]" from the first line that has no "#".
// Options before the type, as in authorized_keys, are not accepted.
func Parse(data []byte) (Public, bool) {
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		data = rest
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) > maxLine {
			return Public{}, false
		}
		return parseLine(line)
	}
	return Public{}, false
}

func parseLine(line []byte) (Public, bool) {
	kind, rest := word(line)
	text, comment := word(rest)
	blob := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(blob, text)
	if err != nil || n < 4 {
		return Public{}, false
	}
	blob = blob[:n]
	// The blob begins with its own type, which must be the one before it.
	size := binary.BigEndian.Uint32(blob)
	if uint64(size) > uint64(n-4) || !bytes.Equal(blob[4:4+size], kind) {
		return Public{}, false
	}
	return Public{Blob: blob, Comment: string(comment)}, true
}

// word cuts the first word off a line.
func word(line []byte) (first, rest []byte) {
	i := bytes.IndexAny(line, " \t")
	if i < 0 {
		return line, nil
	}
	return line[:i], bytes.TrimLeft(line[i:], " \t")
}

// Wire returns the SSH wire form of an RSA, ECDSA (P-256, P-384, P-521) or
// ed25519 public key, nil for any other.
func Wire(pub crypto.PublicKey) []byte {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		b := str(nil, []byte("ssh-rsa"))
		b = mpint(b, big.NewInt(int64(k.E)))
		return mpint(b, k.N)
	case *ecdsa.PublicKey:
		var curve string
		switch k.Curve {
		case elliptic.P256():
			curve = "nistp256"
		case elliptic.P384():
			curve = "nistp384"
		case elliptic.P521():
			curve = "nistp521"
		default:
			return nil
		}
		point, err := k.Bytes()
		if err != nil {
			return nil
		}
		b := str(nil, []byte("ecdsa-sha2-"+curve))
		b = str(b, []byte(curve))
		return str(b, point)
	case ed25519.PublicKey:
		return str(str(nil, []byte("ssh-ed25519")), k)
	}
	return nil
}

func str(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s))) // parts of a key are short
	return append(b, s...)
}

// mpint appends a positive number (RFC 4251 §5): no leading zero byte but where
// the highest bit would make it negative.
func mpint(b []byte, n *big.Int) []byte {
	p := n.Bytes()
	if len(p) > 0 && p[0]&0x80 != 0 {
		p = append([]byte{0}, p...)
	}
	return str(b, p)
}
