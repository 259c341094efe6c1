package sshkeys

import (
	"crypto/rsa"
	"crypto/subtle"
	"fmt"
	"math/big"

	"filippo.io/bigmod"

	"github.com/keyringd/keyringd/internal/emsa"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// rawRSA is the bare operation, RFC 8017 §5.1.2 and §5.2.1, which crypto/rsa
// does without giving it away. It is the same arithmetic: the time that it takes
// tells the sizes of the numbers and nothing of their values, and the answer is
// checked, so that a fault of the machine does not give the key away. An input
// that is not below the modulus is a *keyring.CiphertextError.
func rawRSA(k *rsa.PrivateKey, input []byte) (secret.Bytes, error) {
	n, err := modulus(k.N)
	if err != nil {
		return secret.Bytes{}, err
	}
	c, err := bigmod.NewNat().SetBytes(input, n)
	if err != nil || len(input) > k.Size() {
		return secret.Bytes{}, &keyring.CiphertextError{}
	}
	m, err := power(k, n, c)
	if err != nil {
		return secret.Bytes{}, err
	}
	if bigmod.NewNat().ExpShortVarTime(m, uint(k.E), n).Equal(c) != 1 {
		return secret.Bytes{}, fmt.Errorf("%w: the RSA operation went wrong", keyring.ErrUnavailable)
	}
	return secret.From(m.Bytes(n)), nil
}

// power is c to the private exponent.
func power(k *rsa.PrivateKey, n *bigmod.Modulus, c *bigmod.Nat) (*bigmod.Nat, error) {
	if len(k.Primes) != 2 || k.Precomputed.Dp == nil || k.Precomputed.Dq == nil || k.Precomputed.Qinv == nil {
		d := k.D.FillBytes(make([]byte, k.Size()))
		defer clear(d)
		return bigmod.NewNat().Exp(c, d, n), nil
	}
	p, err := modulus(k.Primes[0])
	if err != nil {
		return nil, err
	}
	q, err := modulus(k.Primes[1])
	if err != nil {
		return nil, err
	}
	dp := k.Precomputed.Dp.FillBytes(make([]byte, p.Size()))
	dq := k.Precomputed.Dq.FillBytes(make([]byte, q.Size()))
	inverse := k.Precomputed.Qinv.FillBytes(make([]byte, p.Size()))
	defer func() { clear(dp); clear(dq); clear(inverse) }()
	qinv, err := bigmod.NewNat().SetBytes(inverse, p)
	if err != nil {
		return nil, fmt.Errorf("%w: not an RSA private key", keyring.ErrUnsupported)
	}
	// RFC 8017 §5.1.2, step 2b: m = m2 + q * (qInv * (m1 - m2) mod p).
	t := bigmod.NewNat()
	m := bigmod.NewNat().Exp(t.Mod(c, p), dp, p)
	m2 := bigmod.NewNat().Exp(t.Mod(c, q), dq, q)
	m.Sub(t.Mod(m2, p), p).Mul(qinv, p)
	m.ExpandFor(n).Mul(t.Mod(q.Nat(), n), n)
	return m.Add(m2.ExpandFor(n), n), nil
}

func modulus(n *big.Int) (*bigmod.Modulus, error) {
	b := n.Bytes()
	defer clear(b)
	m, err := bigmod.NewModulus(b)
	if err != nil {
		return nil, fmt.Errorf("%w: not an RSA private key", keyring.ErrUnsupported)
	}
	return m, nil
}

// signUnsalted signs with PSS without a salt, which crypto/rsa cannot be asked
// for: 0 is any length to it.
func signUnsalted(k *rsa.PrivateKey, digest []byte, o *rsa.PSSOptions) ([]byte, error) {
	padded, err := emsa.PSS(&k.PublicKey, o.Hash, digest, 0)
	if err != nil {
		return nil, err
	}
	out, err := rawRSA(k, padded)
	if err != nil {
		return nil, err
	}
	defer out.Wipe()
	sig := make([]byte, k.Size())
	out.Use(func(b []byte) { subtle.ConstantTimeCopy(1, sig, b) })
	return sig, nil
}
