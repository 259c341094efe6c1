package keyring

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"fmt"

	"github.com/keyringd/keyringd/internal/secret"
)

// Usages say what a key can be used for. The zero value is signing alone.
type Usages uint8

// The usages that a key can have. A front end that wants another one than a key
// has gets ErrUnsupported, and the user is not asked.
const (
	UsageSign    Usages = 1 << iota // Sign
	UsageDecrypt                    // it is a [Decrypter]
	UsageDerive                     // it is a [Deriver]
)

// Has reports whether all of want is among u.
func (u Usages) Has(want Usages) bool {
	if u == 0 {
		u = UsageSign
	}
	return u&want == want
}

// Origin is what is certain of a private key's past. The zero value claims
// nothing.
type Origin struct {
	Bound bool // it cannot leave its device, by the device's own rules
	Born  bool // the device itself has made it
}

// A Decrypter is a Key that decrypts.
type Decrypter interface {
	// Decrypt decrypts as [crypto.Decrypter] does with an RSA key: opts is nil for
	// RSAES-PKCS1-v1_5, a *rsa.OAEPOptions for RSAES-OAEP, and [RawRSA] for what is
	// under any padding, as many bytes as the modulus has. The answer is the caller's to
	// Wipe; all else is borrowed.
	//
	// Errors are those of [Key.Sign], or a [*CiphertextError], always the same,
	// where the ciphertext is not one for this key, padding and label.
	Decrypt(ctx context.Context, auth secret.Bytes, ciphertext []byte, opts crypto.DecrypterOpts) (secret.Bytes, error)
}

// A Deriver is a Key that agrees on a secret with another one.
type Deriver interface {
	// Derive returns the x coordinate of the point that both keys lead to, as
	// long as the curve's field is wide (SEC 1 §3.3.1, NIST SP 800-56A §5.7.1.2).
	// peer is on the key's own curve, or the error is ErrUnsupported; other errors
	// are those of [Key.Sign]. The answer is the caller's to Wipe.
	Derive(ctx context.Context, auth secret.Bytes, peer *ecdh.PublicKey) (secret.Bytes, error)
}

// RawRSA asks [Decrypter] for the bare RSA operation. It is for protocols that
// pad by themselves, for signatures too.
type RawRSA struct{}

// PSSNoSalt is the SaltLength of a *rsa.PSSOptions that asks [Key.Sign] for PSS
// without any salt; 0, which would be the natural value, asks crypto/rsa for any
// length. A key that cannot do it says ErrUnsupported.
const PSSNoSalt = -2

// A CiphertextError says that something did not decrypt. It tells no more,
// because every detail helps who has the ciphertext and wants the plaintext.
type CiphertextError struct{}

// Error says that it does not decrypt.
func (*CiphertextError) Error() string { return "the data cannot be decrypted with this key" }

// Unwrap makes errors.Is(err, ErrUnsupported) true, for who does not look closer.
func (*CiphertextError) Unwrap() error { return ErrUnsupported }

// A DecryptRequest is one wish to have something decrypted.
type DecryptRequest struct {
	Caller     Caller
	Key        KeyID
	Reason     string // what for, as the user is told
	Scope      string // as in SignRequest; "": decrypting, or for RawRSA the bare operation
	Ciphertext []byte
	Opts       crypto.DecrypterOpts // as Decrypter.Decrypt wants it
	Purpose
}

// A DeriveRequest is one wish for a shared secret.
type DeriveRequest struct {
	Caller Caller
	Key    KeyID
	Reason string // what for, as the user is told
	Scope  string // as in SignRequest; "": deriving
	Peer   *ecdh.PublicKey
	Purpose
}

// Decrypt decrypts with a key after the Gate let the caller through, by the
// rules of [Keys.Sign]. Permission to sign is none to decrypt. The answer is the
// caller's to Wipe. A key that does not decrypt is ErrUnsupported, and nobody is
// asked about it.
func (k *Keys) Decrypt(ctx context.Context, r DecryptRequest) (plain secret.Bytes, err error) {
	if err := k.serves(r.Key, UsageDecrypt, "decrypt"); err != nil {
		return secret.Bytes{}, err
	}
	what := "decrypt"
	if _, bare := r.Opts.(RawRSA); bare {
		what = "bare operation" // it signs as well, which permission to decrypt does not cover
	}
	w := wish{r.Caller, r.Key, r.Reason, scope(r.Scope, what), r.Purpose}
	err = k.use(ctx, w, func(key Key, auth secret.Bytes) (err error) {
		d, ok := key.(Decrypter)
		if !ok {
			return cannot(r.Key, "decrypt")
		}
		plain, err = d.Decrypt(ctx, auth, r.Ciphertext, r.Opts)
		return err
	})
	return settled(plain, err)
}

// Derive agrees on a secret by the rules of [Keys.Decrypt].
func (k *Keys) Derive(ctx context.Context, r DeriveRequest) (shared secret.Bytes, err error) {
	if err := k.serves(r.Key, UsageDerive, "derive"); err != nil {
		return secret.Bytes{}, err
	}
	w := wish{r.Caller, r.Key, r.Reason, scope(r.Scope, "derive"), r.Purpose}
	err = k.use(ctx, w, func(key Key, auth secret.Bytes) (err error) {
		d, ok := key.(Deriver)
		if !ok {
			return cannot(r.Key, "derive")
		}
		shared, err = d.Derive(ctx, auth, r.Peer)
		return err
	})
	return settled(shared, err)
}

// serves reports whether a key is for a usage.
func (k *Keys) serves(id KeyID, u Usages, verb string) error {
	h, err := k.find(id)
	if err != nil {
		return err
	}
	if !h.info.Usages.Has(u) {
		return cannot(id, verb)
	}
	return nil
}

func cannot(id KeyID, verb string) error {
	return fmt.Errorf("key %.12s does not %s: %w", id, verb, ErrUnsupported)
}

func scope(given, otherwise string) string {
	if given == "" {
		return otherwise
	}
	return given
}

// settled returns a secret only where there was no error.
func settled(b secret.Bytes, err error) (secret.Bytes, error) {
	if err != nil {
		b.Wipe()
		return secret.Bytes{}, err
	}
	return b, nil
}
