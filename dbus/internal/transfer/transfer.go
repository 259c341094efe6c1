// Package transfer is how secrets travel within a Secret Service session: a
// [Channel] is what both ends agreed on, and turns a secret into what goes over
// the bus and back.
//
// It follows the Secret Service API 0.2, "Transfer of Secrets". What the
// algorithms protect against is a bus that is listened to; nothing in them says
// who the other end is, and nothing authenticates what arrives. It deliberately
// knows no bus: values and their types are the caller's.
package transfer

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"

	"github.com/keyringd/keyringd/internal/secret"
)

// The algorithms.
const (
	Plain = "plain"
	DH    = "dh-ietf1024-sha256-aes128-cbc-pkcs7"
)

const (
	// primeSize is the length of the group's prime in bytes, and of everything
	// that is a number of the group.
	primeSize = 128
	// maxPublic is the longest peer's key that is looked at. Some add zeros.
	maxPublic = 2 * primeSize
	keySize   = 16
)

var (
	// ErrAlgorithm means that the algorithm is not known.
	ErrAlgorithm = errors.New("no such algorithm for the transfer of secrets")
	// ErrPeer means that the other end's public key is none.
	ErrPeer = errors.New("the public key is not one of the group")
	// ErrTransfer means that a secret arrived in a way that cannot be read. It
	// does not say what is wrong with it: each such answer would tell a little
	// of what is inside.
	ErrTransfer = errors.New("the secret was not encrypted as the session wants it")
)

// A Channel carries the secrets of one session. Its methods may be called
// concurrently.
type Channel struct {
	block cipher.Block // nil: as they are
}

// NewPlain returns a Channel that carries secrets as they are.
func NewPlain() *Channel { return &Channel{} }

// prime is the modulus of the second Oakley group: RFC 2409 §6.2. Its generator
// is 2.
const prime = "" +
	"FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74" +
	"020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437" +
	"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED" +
	"EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF"

// An Offer is the half of an agreement of whoever speaks first: a key pair for
// one session.
type Offer struct {
	private *big.Int
	public  []byte
}

// NewOffer makes a key pair.
func NewOffer() (*Offer, error) {
	p, _ := new(big.Int).SetString(prime, 16)
	x, err := rand.Int(rand.Reader, new(big.Int).Sub(p, big.NewInt(1)))
	if err != nil {
		return nil, fmt.Errorf("a key for the session: %w", err)
	}
	return &Offer{x, new(big.Int).Exp(big.NewInt(2), x, p).FillBytes(make([]byte, primeSize))}, nil
}

// Public returns the public key to give to the other end, big-endian.
func (o *Offer) Public() []byte { return o.public }

// Accept makes a Channel with whoever has the public key peer, big-endian, and
// was given ours. Errors wrap ErrPeer.
func (o *Offer) Accept(peer []byte) (*Channel, error) {
	p, _ := new(big.Int).SetString(prime, 16)
	last := new(big.Int).Sub(p, big.NewInt(1))
	y := new(big.Int)
	if len(peer) <= maxPublic {
		y.SetBytes(peer)
	}
	// 0, 1 and p-1 would make the shared secret one of two that everybody knows.
	if y.Cmp(big.NewInt(1)) <= 0 || y.Cmp(last) >= 0 {
		return nil, ErrPeer
	}
	// One in 256 shared secrets begins with a zero byte, which counts.
	shared := new(big.Int).Exp(y, o.private, p).FillBytes(make([]byte, primeSize))
	defer clear(shared)
	key, err := hkdf.Key(sha256.New, shared, nil, "", keySize)
	if err != nil {
		return nil, fmt.Errorf("a key for the session: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("a key for the session: %w", err)
	}
	return &Channel{block: block}, nil
}

// Agree makes a Channel with whoever has the public key peer, big-endian, and
// returns the public key to give to it. Errors wrap ErrPeer.
func Agree(peer []byte) (c *Channel, public []byte, err error) {
	o, err := NewOffer()
	if err != nil {
		return nil, nil, err
	}
	if c, err = o.Accept(peer); err != nil {
		return nil, nil, err
	}
	return c, o.public, nil
}

// Seal returns a secret as it travels. Both are the caller's; value holds the
// secret itself where the channel is plain.
func (c *Channel) Seal(plain secret.Bytes) (parameters, value []byte) {
	if c.block == nil {
		plain.Use(func(b []byte) { value = append(make([]byte, 0, len(b)), b...) })
		return []byte{}, value
	}
	parameters = make([]byte, aes.BlockSize)
	_, _ = rand.Read(parameters) // never fails
	plain.Use(func(b []byte) {
		pad := aes.BlockSize - len(b)%aes.BlockSize
		value = append(make([]byte, 0, len(b)+pad), b...)
		for range pad {
			value = append(value, byte(pad))
		}
	})
	cipher.NewCBCEncrypter(c.block, parameters).CryptBlocks(value, value)
	return parameters, value
}

// Unseal returns the secret that arrived, the caller's to Wipe. value is
// overwritten. Errors are ErrTransfer.
func (c *Channel) Unseal(parameters, value []byte) (secret.Bytes, error) {
	defer clear(value)
	if c.block == nil {
		if len(parameters) != 0 {
			return secret.Bytes{}, ErrTransfer
		}
		return secret.From(value), nil
	}
	if len(parameters) != aes.BlockSize || len(value) == 0 || len(value)%aes.BlockSize != 0 {
		return secret.Bytes{}, ErrTransfer
	}
	cipher.NewCBCDecrypter(c.block, parameters).CryptBlocks(value, value)
	n, ok := unpad(value[len(value)-aes.BlockSize:])
	if !ok {
		return secret.Bytes{}, ErrTransfer
	}
	return secret.From(value[:len(value)-n]), nil
}

// unpad returns how many bytes of padding the last block ends with: PKCS #7,
// RFC 5652 §6.3. It takes the same time whatever they are.
func unpad(block []byte) (n int, ok bool) {
	n = int(block[len(block)-1])
	good := subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, len(block))
	for i, b := range block {
		in := subtle.ConstantTimeLessOrEq(len(block)-n, i)
		good &= subtle.ConstantTimeSelect(in, subtle.ConstantTimeByteEq(b, byte(n)), 1)
	}
	return n, good == 1
}
