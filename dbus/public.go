package dbus

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
)

// algorithm is what kind of key it is, as a person names it.
func algorithm(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecdsa-p%d", k.Curve.Params().BitSize)
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", k.N.BitLen())
	case ed25519.PublicKey:
		return "ed25519"
	}
	return "unknown"
}

// sshCurve is SSH's name for the curve, or "": RFC 5656 §10.1.
func sshCurve(k *ecdsa.PublicKey) string {
	switch bits := k.Curve.Params().BitSize; bits {
	case 256, 384, 521:
		return fmt.Sprintf("nistp%d", bits)
	}
	return ""
}

// sshBlob is the public key in SSH's format: RFC 4253 §6.6, RFC 5656 §3.1 and
// RFC 8709 §4. It is empty where SSH has none.
func sshBlob(pub crypto.PublicKey) []byte {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		curve := sshCurve(k)
		point, err := k.Bytes()
		if curve == "" || err != nil {
			return []byte{}
		}
		b := appendString(appendString(nil, "ecdsa-sha2-"+curve), curve)
		return appendString(b, point)
	case *rsa.PublicKey:
		b := appendMpint(appendString(nil, "ssh-rsa"), big.NewInt(int64(k.E)))
		return appendMpint(b, k.N)
	case ed25519.PublicKey:
		return appendString(appendString(nil, "ssh-ed25519"), k)
	}
	return []byte{}
}

// fingerprint is how ssh-keygen prints it.
func fingerprint(blob []byte) string {
	if len(blob) == 0 {
		return ""
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func appendString[T string | []byte | ed25519.PublicKey](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// appendMpint appends a number that is not negative: RFC 4251 §5.
func appendMpint(b []byte, n *big.Int) []byte {
	size := n.BitLen()/8 + 1 // with room for a sign bit of 0
	if n.Sign() == 0 {
		size = 0
	}
	return appendString(b, n.FillBytes(make([]byte, size)))
}
