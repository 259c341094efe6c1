package keyring

import (
	"context"
	"crypto"
	"crypto/x509"

	"github.com/keyringd/keyringd/internal/secret"
)

// A Maker makes keys in files that only this machine's TPM can use. PINs and
// passphrases are asked by its Gate's prompter, never handed in: a request holds
// nothing secret, so that it may come over any bus.
//
// Each method returns when its files are on disk, complete and proven, and the
// key is listed if its folder is watched; or leaves everything as it was. All
// methods may be called concurrently; two that would write the same file are not
// both let through (ErrUnavailable). If ctx ends, questions go away, nothing is
// written, and what a TPM is busy with is thrown away when it is done.
//
// Errors wrap one of [Errors] or are ctx's: ErrDenied (the user dismissed a
// question), ErrAuthFailed (a wrong passphrase too often), ErrLockedOut,
// ErrUnsupported (no such algorithm, a key that no TPM takes, a file that is
// there already (also fs.ErrExist), a request that makes no sense),
// ErrUnavailable (no TPM, nobody to ask, the disk is full), ErrNotFound (no such
// file to import).
type Maker interface {
	// Create makes a new key, whose private half never leaves the TPM.
	Create(ctx context.Context, r CreateRequest) (Made, error)

	// Import makes a TPM key file of the private key in another file, which
	// stays as it is: see Made.Notes for how to retire it.
	Import(ctx context.Context, r ImportRequest) (Made, error)

	// Wrap is Import for the TPM of another machine: the file that it makes is
	// of use there only.
	Wrap(ctx context.Context, r WrapRequest) (Made, error)

	// Parent returns what another machine's Wrap needs of this TPM, as text. 0 is
	// the usual parent; others are as in Target.Parent.
	Parent(ctx context.Context, parent uint32) ([]byte, error)
}

// A Keeper looks after the keys in files. Its methods are as those of a [Maker].
type Keeper interface {
	// ChangeAuth gives a TPM key another PIN, or one at all, or none. The old one
	// is asked for even where it is remembered, by the rules of the Gate: wrong
	// tries count. The file is replaced only once the new one is proven.
	ChangeAuth(ctx context.Context, r ChangeAuthRequest) (Made, error)

	// SetLabel writes the label into the public key file beside a key.
	SetLabel(ctx context.Context, r LabelRequest) error

	// Remove deletes the files of a TPM key, after it asked the user, whatever is
	// remembered. Nothing brings the key back.
	Remove(ctx context.Context, r RemoveRequest) error

	// Attest has the TPM certify that a key lives in it. The answer is JSON for
	// whoever wants to check it, elsewhere and without a TPM.
	Attest(ctx context.Context, r AttestRequest) ([]byte, error)
}

// A FileSealer keeps small secrets in files that only this machine's TPM can
// read. Its methods are as those of a [Maker].
type FileSealer interface {
	// SealFile writes r.Data, which is borrowed, as a sealed file.
	SealFile(ctx context.Context, r SealRequest) (Made, error)
	// UnsealFile returns what is in a sealed file, the caller's to Wipe.
	UnsealFile(ctx context.Context, r UnsealRequest) (secret.Bytes, error)
}

// A Sealer binds a small secret to this machine (TPM) or to a passphrase. All
// methods may be called concurrently. Arguments are borrowed.
type Sealer interface {
	// Seal returns plain in a form that only Unseal with the same auth gives
	// back. How large plain may be is the implementation's affair; 32 bytes
	// always fit. An empty auth is none.
	Seal(ctx context.Context, auth, plain secret.Bytes) ([]byte, error)
	// Unseal returns what was sealed, the caller's to Wipe. A wrong auth is
	// ErrAuthFailed; other errors are those of [Key.Sign].
	Unseal(ctx context.Context, auth secret.Bytes, sealed []byte) (secret.Bytes, error)
}

// A Progress is what a [Maker] is at, for a person who waits.
type Progress string

// The steps of making a key, in their order; not all of them happen each time.
const (
	ProgressAsking  Progress = "waiting for your answer"
	ProgressMaking  Progress = "the TPM is working" // up to minutes for RSA
	ProgressWriting Progress = "writing the file"
)

// A Target is what to make, and where.
type Target struct {
	// Path is absolute, or a bare name for the first key folder. The public key
	// goes to Path.pub.
	Path  string
	Force bool // files that are there are replaced, and with them perhaps a key for ever

	Comment string // label of the key, written into Path.pub
	PIN     bool   // the user chooses a PIN; wrong tries count towards the TPM's lockout
	PCRs    string // "sha256:0,7": of use only while these registers are as they are now; "": always
	Parent  uint32 // 0x81…… or 0x40……; 0: the owner hierarchy's storage root key

	// Progress is called as the work goes on, on any goroutine, and returns soon.
	// Nil: nobody wants to know.
	Progress func(Progress)
}

// A CreateRequest is the wish for a new key.
type CreateRequest struct {
	Caller Caller
	Target
	Algorithm string // "ecdsa-p256", … or "rsa-2048", …; "": the usual one
	Derive    bool   // an EC key agrees on secrets, too; RSA keys decrypt in any case

	// CertificateRequest, if not nil, is what the new key signs a PKCS #10
	// request for, with the fields that x509.CreateCertificateRequest takes.
	CertificateRequest *x509.CertificateRequest
}

// An ImportRequest is the wish to use another file's key through the TPM.
type ImportRequest struct {
	Caller Caller
	Target        // Path "": the source's name with .tpm, in the first key folder
	Source string // absolute
}

// A WrapRequest is the wish to bring another file's key to another TPM.
type WrapRequest struct {
	Caller Caller
	Target        // without PCRs and Parent; Path is absolute
	Source string // absolute
	For    []byte // what Parent returned there, or what other tools write of a parent
}

// A ChangeAuthRequest is the wish for another PIN.
type ChangeAuthRequest struct {
	Caller   Caller
	Key      KeyID
	Path     string // which of the key's files; "": the only one
	NoPIN    bool   // none from now on
	Progress func(Progress)
}

// A LabelRequest is the wish for another label.
type LabelRequest struct {
	Caller Caller
	Key    KeyID
	Path   string // which of the key's files; "": the first
	Label  string // "": none; the file's name is shown then
}

// A RemoveRequest is the wish to be rid of a key.
type RemoveRequest struct {
	Caller Caller
	Key    KeyID
	Path   string // which of the key's files; "": all of them
}

// An AttestRequest is the wish for a statement about a key.
type AttestRequest struct {
	Caller Caller
	Key    KeyID
	Path   string // which of the key's files; "": the first that the TPM takes
	Nonce  []byte // of the verifier's, at most 32 bytes; may be empty
}

// A SealRequest is the wish to seal a secret into a file.
type SealRequest struct {
	Caller Caller
	Target // without Comment
	Data   secret.Bytes
}

// An UnsealRequest is the wish to read a sealed file.
type UnsealRequest struct {
	Caller Caller
	Path   string // absolute
}

// Made is what came of a request.
type Made struct {
	ID         KeyID
	Public     crypto.PublicKey // nil: sealed data
	Path       string
	PublicPath string // "": none was written
	PublicLine []byte // what is in it: one line in OpenSSH's form

	CertificateRequest []byte // DER; nil: none was asked for

	// Notes are what the user must know about it, in whole sentences: how to
	// retire an original, what a change does not do.
	Notes []string
}
