package tpmkeys

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// maxPIN is the longest that the TPM takes, in bytes.
const maxPIN = tpm.MaxAuth

// SealFile writes a secret as a sealed file; see keyring.FileSealer.
func (m *Maker) SealFile(ctx context.Context, r keyring.SealRequest) (keyring.Made, error) {
	dev, err := m.device()
	if err != nil {
		return keyring.Made{}, err
	}
	tmpl, err := template(r.Target, "")
	if err != nil {
		return keyring.Made{}, err
	}
	path, err := m.place(r.Path)
	if err != nil {
		return keyring.Made{}, err
	}
	release, err := m.claim(path)
	if err != nil {
		return keyring.Made{}, err
	}
	defer release()
	if err := free(path, r.Force, ""); err != nil {
		return keyring.Made{}, err
	}
	auth, err := m.choose(ctx, r.Caller, r.Target, path, "to read the sealed file again")
	if err != nil {
		return keyring.Made{}, err
	}
	defer auth.Wipe()
	tell(r.Progress, keyring.ProgressMaking)
	file, err := dev.Seal(ctx, tmpl, auth, r.Data)
	if err != nil {
		return keyring.Made{}, translate(path, err)
	}
	if err := ctx.Err(); err != nil {
		return keyring.Made{}, err
	}
	tell(r.Progress, keyring.ProgressWriting)
	data, err := file.PEM()
	if err != nil {
		return keyring.Made{}, translate(path, err)
	}
	if err := m.put(atomicfile.File{Path: path, Data: data, Perm: 0o600, Replace: r.Force}); err != nil {
		return keyring.Made{}, err
	}
	made := keyring.Made{Path: path}
	if !r.PIN && r.PCRs == "" {
		made.Notes = append(made.Notes, "It has neither PIN nor registers that it is bound to: whoever has the file and may use this TPM can read it.")
	}
	m.log().Info("secret sealed", "caller", r.Caller.String(), "key", path)
	return made, nil
}

// UnsealFile reads a sealed file; see keyring.FileSealer.
func (m *Maker) UnsealFile(ctx context.Context, r keyring.UnsealRequest) (secret.Bytes, error) {
	dev, err := m.device()
	if err != nil {
		return secret.Bytes{}, err
	}
	data, err := load(r.Path, true)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer data.Wipe()
	var file *keyfile.File
	var sum [sha256.Size]byte
	data.Use(func(b []byte) {
		sum = sha256.Sum256(b)
		file, err = keyfile.Parse(b)
	})
	if err != nil {
		return secret.Bytes{}, problem(keyring.ErrUnsupported, "%s: %w", r.Path, err)
	}
	if file.Type != keyfile.Sealed {
		return secret.Bytes{}, problem(keyring.ErrUnsupported, "%s holds a key, which never leaves the TPM, and not sealed data", r.Path)
	}
	var plain secret.Bytes
	err = m.Gate.Use(ctx, keyring.Use{
		// Another file at the same path is not opened with the PIN of this one.
		ID: "sealed " + hex.EncodeToString(sum[:]), Subject: pubfile.Label(r.Path, filepath.Base(r.Path)), NeedsAuth: file.NeedsAuth(),
		PIN: true, Caller: r.Caller, Reason: "to read the sealed file", Guard: counter{dev, r.Path, file},
	}, func(auth secret.Bytes) error {
		got, err := dev.Unseal(ctx, file, auth)
		if err != nil {
			return translate(r.Path, err)
		}
		plain = got
		return nil
	})
	if err != nil {
		plain.Wipe()
		return secret.Bytes{}, err
	}
	return plain, nil
}

// A counter is the TPM's count of wrong tries as it concerns one file. It
// implements keyring.Guarded.
type counter struct {
	dev  *tpm.Device
	path string
	file *keyfile.File
}

// Tries reports the count, which is not asked for where it does not matter.
func (c counter) Tries(ctx context.Context) (keyring.Tries, error) {
	if !c.file.NeedsAuth() || !c.file.DAProtected() {
		return keyring.Tries{}, nil
	}
	l, err := c.dev.Lockout(ctx)
	if err != nil {
		return keyring.Tries{}, translate(c.path, err)
	}
	if l.Interval == 0 && !l.Locked {
		return keyring.Tries{}, nil
	}
	return keyring.Tries{Limited: true, Left: l.Left(), Wait: l.Wait()}, nil
}

// A Sealer binds small secrets to this machine's TPM, for a store. It implements
// keyring.Sealer; what it makes are sealed key files in DER, of some 250 bytes
// for a secret of 32, with an auth value under the TPM's lockout.
type Sealer struct {
	Device   *tpm.Device
	Template tpm.Template // PCRs and parent, if other than usual
}

var _ keyring.Sealer = Sealer{}

// Seal seals up to tpm.MaxSealed bytes; see keyring.Sealer.
func (s Sealer) Seal(ctx context.Context, auth, plain secret.Bytes) ([]byte, error) {
	file, err := s.Device.Seal(ctx, s.Template, auth, plain)
	if err != nil {
		return nil, translate("seal", err)
	}
	return file.DER()
}

// SealPCRs is Seal for as long as some registers have the values that they have
// now, instead of those of the Template; pcrs is as tpm.ParsePCRs reads it.
func (s Sealer) SealPCRs(ctx context.Context, auth, plain secret.Bytes, pcrs string) ([]byte, error) {
	banks, err := tpm.ParsePCRs(pcrs)
	if err != nil {
		return nil, problem(keyring.ErrUnsupported, "%w", err)
	}
	s.Template.PCRs = banks
	return s.Seal(ctx, auth, plain)
}

// Unseal returns what was sealed; see keyring.Sealer.
func (s Sealer) Unseal(ctx context.Context, auth secret.Bytes, sealed []byte) (secret.Bytes, error) {
	file, err := keyfile.Parse(sealed)
	if err != nil {
		return secret.Bytes{}, problem(keyring.ErrUnsupported, "unseal: %w", err)
	}
	plain, err := s.Device.Unseal(ctx, file, auth)
	if err != nil {
		return secret.Bytes{}, translate("unseal", err)
	}
	return plain, nil
}

// What a Maker is to those who do not know it.
var (
	_ keyring.Maker      = (*Maker)(nil)
	_ keyring.Keeper     = (*Maker)(nil)
	_ keyring.FileSealer = (*Maker)(nil)
)
