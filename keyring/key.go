package keyring

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// A KeyID names a key by its public half: the SHA-256 of its DER-encoded
// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7). It is the same on every front end
// and after every restart.
type KeyID [sha256.Size]byte

// NewKeyID returns the KeyID of a public key that crypto/x509 can encode:
// *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey.
func NewKeyID(pub crypto.PublicKey) (KeyID, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return KeyID{}, fmt.Errorf("key id: %w", err)
	}
	return sha256.Sum256(der), nil
}

// String returns the ID in lower-case hex, 64 characters.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// A Kind says where a key's private half lives.
type Kind string

const (
	KindTPM   Kind = "tpm"   // in a key file that only this machine's TPM can use
	KindFile  Kind = "file"  // in an ordinary key file
	KindAdded Kind = "added" // in this daemon's memory, added at run time
)

// KeyInfo is all that may be said of a key without using it: nothing secret,
// and nothing that needs a device to find out.
type KeyInfo struct {
	ID        KeyID
	Label     string           // what the user calls the key; sanitised, never empty
	Kind      Kind             //
	Public    crypto.PublicKey // *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey
	Paths     []string         // the files it was found in, sorted; empty for KindAdded
	NeedsAuth bool             // Sign wants an authorization value
	Confirm   bool             // each use wants the user's permission
	Usages    Usages           // what the key is for; the zero value is signing alone
	Origin    Origin           // what is certain of where it was made and has been

	// Only names the one front end that may use the key, as Caller.FrontEnd does,
	// because it alone can keep a promise that was made about the key; "": all may.
	Only string
	// Revision is another number whenever a file in Paths was replaced; 0 of a
	// key without files.
	Revision uint64
}

// A Key can sign. Implementations do not prompt, cache or judge: by the time
// Sign is called, the [Gate] has done all that. All methods may be called
// concurrently.
type Key interface {
	// Info returns what is known of the key. It is cheap and never blocks.
	Info() KeyInfo

	// Sign signs digest as [crypto.Signer] does: ASN.1 DER for ECDSA,
	// PKCS #1 v1.5 for RSA unless opts is *rsa.PSSOptions; for ed25519 digest is
	// the message and opts.HashFunc() is 0. auth is borrowed, and empty where
	// Info says that none is needed.
	//
	// Errors wrap one of the package's sentinels: ErrAuthFailed for a wrong
	// auth, ErrLockedOut (as *[LockoutError] where the time is known),
	// ErrUnsupported for a scheme the key cannot do, ErrUnavailable when the
	// device cannot be reached. A context error is ctx's. ErrTryWithheld is said
	// to the Gate alone.
	Sign(ctx context.Context, auth secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// A Guarded key's authorization value is protected against guessing by a
// counter of wrong tries that other keys may share, as a TPM's does.
type Guarded interface {
	// Tries reports how many wrong tries are left. The Gate calls it before it
	// asks for an authorization value and again before it uses one, so it
	// answers from memory wherever it can. An answer is never older than the
	// last ErrAuthFailed that a Sign on the same device has returned.
	Tries(ctx context.Context) (Tries, error)
}

// Tries is the state of a [Guarded] key's counter.
type Tries struct {
	Limited bool          // false: wrong tries are not counted for this key
	Left    int           // wrong tries left before the device locks; 0: locked
	Wait    time.Duration // until the device gives one try back; 0: not known
	Counter string        // names the counter, where keys do not all share one; it may stay empty on a machine with one TPM
}

// A Forgetter keeps something derived from an authorization value, such as a
// decrypted private key. The Gate calls Forget when it forgets the value.
type Forgetter interface {
	Forget()
}
