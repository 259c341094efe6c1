package systemprompter

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/keyringd/keyringd/internal/secret"
)

const (
	// protocol is the group of the key file that an exchange is written as.
	protocol = "[sx-aes-1]"
	// maxExchange is more than one with the longest answer takes.
	maxExchange = 64 << 10
	primeSize   = 192
)

// primeDigits is the prime of the 1536-bit MODP group, RFC 3526 §2; its generator
// is 2.
const primeDigits = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74" +
	"020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437" +
	"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED" +
	"EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05" +
	"98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB" +
	"9ED529077096966D670C354E4ABC9804F1746C08CA237327FFFFFFFFFFFFFFFF"

func prime() *big.Int {
	p, _ := new(big.Int).SetString(primeDigits, 16)
	return p
}

// errExchange is every fault of an exchange: which one is nobody's business.
var errExchange = errors.New("the prompter's answer cannot be read")

// An exchange is our side of a key agreement.
type exchange struct {
	private *big.Int
}

func newExchange() (*exchange, error) {
	// RFC 3526 §8: twice the strength of the group is enough; all of it is free.
	private, err := rand.Int(rand.Reader, new(big.Int).Sub(prime(), big.NewInt(3)))
	if err != nil {
		return nil, err
	}
	return &exchange{private.Add(private, big.NewInt(2))}, nil
}

// offer is what begins an exchange: our public half.
func (e *exchange) offer() string {
	public := new(big.Int).Exp(big.NewInt(2), e.private, prime())
	return fmt.Sprintf("%s\npublic=%s\n", protocol, base64.StdEncoding.EncodeToString(public.FillBytes(make([]byte, primeSize))))
}

// open returns the secret in the other side's answer, the caller's to Wipe.
func (e *exchange) open(text string) (secret.Bytes, error) {
	fields, err := parse(text)
	if err != nil {
		return secret.Bytes{}, err
	}
	key, err := e.agree(fields["public"])
	if err != nil {
		return secret.Bytes{}, err
	}
	defer clear(key)
	sealed, iv := fields["secret"], fields["iv"]
	if len(sealed) == 0 || len(sealed)%aes.BlockSize != 0 || len(iv) != aes.BlockSize {
		return secret.Bytes{}, errExchange
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return secret.Bytes{}, errExchange
	}
	plain := make([]byte, len(sealed))
	defer clear(plain)
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, sealed)
	// PKCS #7, RFC 5652 §6.3.
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize {
		return secret.Bytes{}, errExchange
	}
	for _, b := range plain[len(plain)-pad:] {
		if int(b) != pad {
			return secret.Bytes{}, errExchange
		}
	}
	return secret.Copy(plain[:len(plain)-pad]), nil
}

// agree returns the key that both sides have: HKDF-SHA256 of the shared number,
// with neither salt nor info.
func (e *exchange) agree(public []byte) ([]byte, error) {
	peer := new(big.Int).SetBytes(public)
	// 1 and p-1 would make the key one that everybody knows.
	if len(public) > primeSize+1 || peer.Cmp(big.NewInt(1)) <= 0 || peer.Cmp(new(big.Int).Sub(prime(), big.NewInt(1))) >= 0 {
		return nil, errExchange
	}
	shared := peer.Exp(peer, e.private, prime()).FillBytes(make([]byte, primeSize))
	defer clear(shared)
	key, err := hkdf.Key(sha256.New, shared, nil, "", 16)
	if err != nil {
		return nil, errExchange
	}
	return key, nil
}

// parse reads an exchange: a key file of one group, whose values are base64.
func parse(text string) (map[string][]byte, error) {
	if len(text) > maxExchange {
		return nil, errExchange
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if strings.TrimSpace(lines[0]) != protocol {
		return nil, errExchange
	}
	fields := map[string][]byte{}
	for _, line := range lines[1:] {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, errExchange
		}
		data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
		if err != nil {
			return nil, errExchange
		}
		fields[strings.TrimSpace(name)] = data
	}
	return fields, nil
}
