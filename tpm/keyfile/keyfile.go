package keyfile

import (
	"crypto"
	"errors"
	"fmt"
)

// MaxSize is the most that [Parse] reads and [File.DER] and [File.PEM] write,
// in bytes. The largest real files, RSA-4096 with a page of signed policies,
// are under 8 KiB; a TPM's own structures end at 64 KiB.
const MaxSize = 64 << 10

// A Type says what the TPM must do with a file's private area.
type Type int

const (
	Loadable   Type = iota // TPM2_Load under the parent
	Importable             // TPM2_Import under the parent first, with the file's secret
	Sealed                 // data rather than a key: TPM2_Load, then TPM2_Unseal
)

// String returns the word that the draft uses.
func (t Type) String() string {
	switch t {
	case Loadable:
		return "loadable"
	case Importable:
		return "importable"
	case Sealed:
		return "sealed"
	}
	return fmt.Sprintf("keyfile.Type(%d)", int(t))
}

// A File is one TPM key file. Its fields may be changed before it is written
// again; fields that are left alone are written as they were read, and so are
// fields this package does not know. Methods do not change the File, so they
// may be called concurrently with each other.
//
// draft-bottomley-tpm2-keys-00, section 3.1.
type File struct {
	Type Type

	// Legacy: the old "TSS2 KEY BLOB" layout. It has no Secret, AuthPolicy,
	// Description or RSAParent, and a permanent parent of such a file is a
	// primary key with fixedTPM and fixedParent clear.
	Legacy bool

	// EmptyAuth: the authorization value is empty, nothing needs asking. Nil
	// means that the file does not say, which the draft reads as false; a File
	// made in code writes false as nil. See [File.NeedsAuth].
	EmptyAuth *bool

	// Policy is what has to be executed, in this order, to use the key.
	Policy []PolicyStep

	// Secret is the marshalled TPM2B_ENCRYPTED_SECRET for TPM2_Import.
	// Importable files have it, loadable ones never, sealed ones may (and must
	// then be imported first).
	Secret []byte

	// AuthPolicy holds the signed alternatives, any of which satisfies the
	// PolicyAuthorize that is then the first step of Policy.
	AuthPolicy []AuthPolicy

	// Description is the writer's text for people: untrusted, to be shown and
	// nothing else. It is written only when set, and should be set only when
	// the user asks for it, because tpm2-openssl, tpm2-tss-engine and others
	// cannot read a file that has one.
	Description string

	// RSAParent: the primary under a permanent Parent is the RSA-2048 one
	// (template H-1) rather than the P-256 one (H-2).
	RSAParent bool

	// Parent is a persistent handle (0x81……) or a permanent one (0x40……, the
	// hierarchy whose primary key is the parent).
	Parent uint32

	Public  []byte // marshalled TPM2B_PUBLIC
	Private []byte // marshalled TPM2B_PRIVATE; for TPM2_Import, its duplicate parameter

	read *form // how it was written; nil for a File made in code
}

// A PolicyStep is one policy command.
type PolicyStep struct {
	Code uint32 // TPM_CC
	// Body is the marshalled command after the policy session's handle. For
	// PolicyAuthorize it is TPM2B_PUBLIC keySign, TPM2B_DIGEST policyRef,
	// TPMT_SIGNATURE; for PolicySecret TPM_HANDLE hint, TPM2B_NAME object,
	// TPM2B_DIGEST policyRef (section 4.1).
	Body []byte
}

// An AuthPolicy is one signed alternative. Its last step is the
// PolicyAuthorize that holds the signature over the steps before.
type AuthPolicy struct {
	Name   string // for people; may be empty
	Policy []PolicyStep
}

// ErrNotKeyFile is returned by [Parse] for data that does not claim to be a
// TPM key file. A file that claims it and is wrong gives another error.
var ErrNotKeyFile = errors.New("not a TPM key file")

// An UnsupportedError is returned by [Parse] for a TPM key of a kind that this
// package knows by name only.
type UnsupportedError struct {
	What string // "TPM 1.2 key"

	// PublicKey is its public half, if that could be read: *rsa.PublicKey or
	// nil.
	PublicKey crypto.PublicKey
}

// Error names the kind.
func (e *UnsupportedError) Error() string { return "unsupported: " + e.What }

// NeedsAuth reports whether using the key takes an authorization value (a
// PIN). The file's own word is all there is: nothing in the public area tells.
func (f *File) NeedsAuth() bool { return f.EmptyAuth == nil || !*f.EmptyAuth }
