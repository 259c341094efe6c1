package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
)

// Fingerprint is the name of a public key that ssh-keygen -l prints, and that
// people compare: "SHA256:" and the base64 of the SHA-256 of its SSH encoding
// (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4). It is "" for a key that SSH does
// not have.
func Fingerprint(pub crypto.PublicKey) string {
	var blob []byte
	field := func(p []byte) {
		blob = binary.BigEndian.AppendUint32(blob, uint32(len(p)))
		blob = append(blob, p...)
	}
	// number is an mpint, RFC 4251 §5: one more byte where the first bit is set.
	number := func(p []byte) {
		if len(p) > 0 && p[0]&0x80 != 0 {
			p = append([]byte{0}, p...)
		}
		field(p)
	}
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		field([]byte("ssh-ed25519"))
		field(pub)
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil || pub.Params().BitSize < 256 {
			return "" // OpenSSH knows the three curves of RFC 5656 §10.1 alone
		}
		curve := fmt.Sprintf("nistp%d", pub.Params().BitSize)
		field([]byte("ecdsa-sha2-" + curve))
		field([]byte(curve))
		field(point)
	case *rsa.PublicKey:
		field([]byte("ssh-rsa"))
		e := binary.BigEndian.AppendUint64(nil, uint64(pub.E))
		for len(e) > 0 && e[0] == 0 {
			e = e[1:]
		}
		number(e)
		number(pub.N.Bytes())
	default:
		return ""
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
